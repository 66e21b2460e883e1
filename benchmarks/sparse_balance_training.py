"""Balanced training against the simulator and against equal work, on four devices of a CPU.

    python benchmarks/sparse_balance_training.py --workdir=runs/balance [--seeds=3] [--minutes=9]
    python benchmarks/sparse_balance_training.py --workdir=runs/balance --report

Trains the four policies of configs/sparse_balance_text.py:demo with several seeds; what has ended
is not run again, so that a study can be done in pieces of some minutes. Then prints how even the
ranks were, in predicted time and in blocks that the devices counted, beside what the simulator
says of the same lengths, and loss and recall. `--text=FILE` trains on a text instead of needles.
"""

import argparse
import json
import os
import pathlib
import sys
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]
DEVICES = "--xla_force_host_platform_device_count=4"
if "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES}".strip()

from configs import sparse_balance_text as study  # noqa: E402
from jaxlab import train  # noqa: E402
from jaxlab.balance import policies, workloads  # noqa: E402
from jaxlab.interop import models  # noqa: E402
from jaxlab.trainers import latencies  # noqa: E402

# Policy of the config -> of the simulator.
SIMULATED = {"in_turn": "round robin", "packed": "SAB", "tuned": "SAB + DST", "control": "SAB"}
MEANS = (
    "straggler", "counted", "imbalance", "coverage", "base_coverage", "budget", "work", "padding",
    "floored", "microbatches", "programs",
)  # fmt: skip


def config(policy: str, seed: int, steps: int, text: str | None) -> dict:
    """A run of the demo's size, under another seed."""
    run = study.small(policy, seed, steps, suffix=f"_{seed}")
    if text is not None:
        run.data = {
            "task": "text",
            "options": {"train": text, "tokenizer": "char", "length": 1024},
            "mixture": run.data.mixture,
        }
        run.eval.update({"examples": 64, "settings": []})
        run.train.eval_every = steps
    return run.to_dict()


def run_all(args: argparse.Namespace) -> bool:
    """Trains what has not ended; False where time ran out."""
    begun = time.monotonic()
    for seed in range(args.seeds):
        for policy in study.POLICIES:
            workdir = args.workdir / f"{policy}_{seed}"
            if (workdir / "done").exists():
                continue
            if time.monotonic() - begun > 60 * args.minutes:
                return False
            cpu = time.process_time()
            one = config(policy, seed, args.steps, args.text)
            if "path" in (one["balance"].get("control") or {}):
                one["balance"]["control"]["path"] = str(args.workdir / f"tuned_{seed}")
            train.train(one, workdir)
            (workdir / "done").write_text(f"{time.process_time() - cpu:.0f}\n")
    return True


def read(workdir: pathlib.Path) -> dict[str, float]:
    """Means over the second half of a run's steps, and its last evaluation."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "loss" in row]
    later = steps[len(steps) // 2 :]
    found = {name: float(np.mean([row[f"balance/{name}"] for row in later])) for name in MEANS}
    last = [row for row in rows if "eval/loss" in row][-1]
    found |= {name: value for name, value in last.items() if name.startswith("eval/")}
    # Blocks of all ranks beside those of equal work: what the devices counted.
    found["blocks"] = float(np.mean([row["balance/blocks"] for row in later]))
    return found


def simulated(workdir: pathlib.Path, policy: str, seed: int, budget: float | None) -> float:
    """The straggler ratio of 100 simulated steps with the lengths, ranks and FLOPs of a run."""
    run = train.settings(json.loads((workdir / "config.json").read_text()))
    lengths = np.asarray([part.options["length"] for part in run.data.mixture])
    parts = 4 * run.balance.microbatches
    work = workloads.Workload(
        "trained", lambda generator, count: generator.choice(lengths, count), ranks=4, stages=1,
        microbatches=run.balance.microbatches, sequences=run.batch_size // parts,
    )  # fmt: skip
    decoder = models.read_run(workdir)
    given = policies.Settings(
        work, latencies.formula(decoder), run.balance.tuner,
        block=decoder.layers[0].mixer.block_size, seed=seed, history=True, equal_size=False,
    )  # fmt: skip
    return policies.run(given, policies.POLICIES[SIMULATED[policy]], budget).straggler


def report(args: argparse.Namespace) -> None:
    """Prints the tables."""
    found = {
        policy: [
            read(args.workdir / f"{policy}_{seed}")
            for seed in range(args.seeds)
            if (args.workdir / f"{policy}_{seed}" / "done").exists()
        ]
        for policy in study.POLICIES
    }

    def cell(policy: str, name: str, digits: int = 3) -> str:
        values = [row[name] for row in found[policy] if name in row]
        if not values:
            return ""
        spread = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
        return f"{np.mean(values):.{digits}f} ± {spread:.{digits}f}"

    print("| policy | seeds | straggler, simulated | straggler, trained | counted | imbalance | "
          "work | blocks | budget | coverage | at the base budget | at floor | padding | "
          "microbatches | programs |")  # fmt: skip
    print("|---" * 15 + "|")
    base = np.mean([row["work"] for row in found["packed"]])
    blocks = np.mean([row["blocks"] for row in found["packed"]])
    for policy, rows in found.items():
        if not rows:
            continue
        budget = np.mean([row["budget"] for row in rows]) if policy == "control" else None
        workdir = args.workdir / f"{policy}_0"
        straggler = np.mean([simulated(workdir, policy, seed, budget) for seed in range(3)])
        work = np.mean([row["work"] for row in rows]) / base
        pairs = np.mean([row["blocks"] for row in rows]) / blocks
        cells = [policy, str(len(rows)), f"{straggler:.3f}", cell(policy, "straggler"),
                 cell(policy, "counted"), cell(policy, "imbalance"), f"{work:.3f}",
                 f"{pairs:.3f}", cell(policy, "budget", 2), cell(policy, "coverage"),
                 cell(policy, "base_coverage"), cell(policy, "floored", 2),
                 cell(policy, "padding", 2), cell(policy, "microbatches", 1),
                 cell(policy, "programs", 0)]  # fmt: skip
        print("| " + " | ".join(cells) + " |")
    names = sorted({name for rows in found.values() for row in rows for name in row
                    if name.startswith(("eval/loss", "eval/accuracy"))})  # fmt: skip
    print("\n| policy | " + " | ".join(name.removeprefix("eval/") for name in names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for policy in found:
        print(f"| {policy} | " + " | ".join(cell(policy, name) for name in names) + " |")
    for name in names:
        pairs = zip(found["tuned"], found["control"], strict=False)
        ours = [tuned[name] - control[name] for tuned, control in pairs]
        fixed = [t[name] - p[name] for t, p in zip(found["tuned"], found["packed"], strict=False)]
        print(f"{name}: tuned - packed {np.round(fixed, 3).tolist()}, "
              f"tuned - control {np.round(ours, 3).tolist()}")  # fmt: skip


def main() -> None:
    """Train, then report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=9, help="no new run is begun after them")
    parser.add_argument("--text", help="a text file, in the place of needles")
    parser.add_argument("--report", action="store_true", help="train nothing")
    args = parser.parse_args()
    if args.report or run_all(args):
        report(args)


if __name__ == "__main__":
    main()
