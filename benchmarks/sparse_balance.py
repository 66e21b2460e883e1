"""SparseBalance's table and lessons, simulated: which part of the speed is balance.

    python benchmarks/sparse_balance.py [--seeds=3] [--steps=100]
    python benchmarks/sparse_balance.py --measure [--table=FILE]

Prints one Markdown table over workloads, with the equal-compute control, and the numbers behind the
six lessons of docs/sparse_balance.md. Seconds come from Qwen2.5-3B's FLOPs, so that the result is
the same on every machine; two minutes on one core. With --measure it profiles a layer on this
device instead and prints how far the table is from what is measured between its grid points.
"""

import argparse
import dataclasses
import pathlib
import sys
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from jaxlab.balance import BudgetTuner, policies, simulate, workloads  # noqa: E402
from jaxlab.balance.latency import qwen25_3b  # noqa: E402
from jaxlab.balance.policies import POLICIES, Outcome, Settings  # noqa: E402

TUNED, PACKED = "SAB + DST", "SAB"


def settings(name: str, slowdown: float, steps: int, **changed: object) -> Settings:
    """A simulation of a workload; `ranks` and the tuner's fields may be changed."""
    work = workloads.WORKLOADS[name]
    if "ranks" in changed:
        work = dataclasses.replace(work, ranks=changed.pop("ranks"))
    tuner = BudgetTuner(**changed)  # type: ignore[arg-type]
    return Settings(work, qwen25_3b(slowdown), tuner, steps=steps)


def outcomes(given: Settings, policy: str, seeds: int) -> dict[str, float]:
    """Means over seeds of one policy."""
    found = [
        dataclasses.asdict(policies.run(dataclasses.replace(given, seed=seed), POLICIES[policy]))
        for seed in range(seeds)
    ]
    fields = dataclasses.fields(Outcome)
    return {field.name: float(np.mean([row[field.name] for row in found])) for field in fields}


def table(seeds: int, steps: int) -> None:
    """Speeds over round robin, coverage, compute, and the control, per workload."""
    rows = [
        ("bimodal, DP2 PP4 mbs2", settings("bimodal", 1.0, steps)),
        ("bimodal, sparse FLOPs 3x as slow", settings("bimodal", 3.0, steps)),
        ("long tail, DP4 PP4", settings("long_tail", 1.0, steps)),
        ("long tail, 3x as slow", settings("long_tail", 3.0, steps)),
        ("lognormal, DP8 PP1", settings("lognormal", 1.0, steps)),
        ("lognormal, DP8 PP1, band", settings("lognormal", 1.0, steps, coverage="band")),
        ("lognormal, DP64 PP1, band", settings("lognormal", 1.0, steps, coverage="band", ranks=64)),
    ]
    print("| workload | DST | LBB | SAB | SAB + DST | (coverage; by token; compute) | control "
          "| (coverage; by token) | less work |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    for name, given in rows:
        found = [simulate.simulate(dataclasses.replace(given, seed=n)) for n in range(seeds)]

        def mean(policy: str, key: str, found: list = found) -> float:
            return float(np.mean([result["policies"][policy][key] for result in found]))

        def speed(policy: str, found: list = found) -> str:
            values = [result["policies"][policy]["speed"] for result in found]
            return f"{np.mean(values):.2f} ± {np.std(values):.2f}"

        before = mean(PACKED, "coverage"), mean(PACKED, "token_coverage")
        cells = [
            name, speed("DST"), speed("LBB"), speed(PACKED), speed(TUNED),
            f"{before[0]:.3f} -> {mean(TUNED, 'coverage'):.3f}; "
            f"{before[1]:.3f} -> {mean(TUNED, 'token_coverage'):.3f}; "
            f"{mean(TUNED, 'relative_compute'):.3f}",
            speed(simulate.CONTROL),
            f"{mean(simulate.CONTROL, 'coverage'):.3f}; "
            f"{mean(simulate.CONTROL, 'token_coverage'):.3f}",
            f"{np.mean([result['less_work'] for result in found]):.0%}",
        ]  # fmt: skip
        print("| " + " | ".join(cells) + " |", flush=True)


def lessons(seeds: int, steps: int) -> None:
    """What the lessons of docs/sparse_balance.md stand on."""
    print("\n| what | numbers |\n|---|---|")
    for name in ("bimodal", "long_tail"):
        turn = outcomes(settings(name, 3.0, steps), "DST", seeds)
        packed = outcomes(settings(name, 3.0, steps), TUNED, seeds)
        print(f"| budget of sequences beyond 8,192 tokens, {name}, 3x: DST; SAB + DST (base 32) | "
              f"{turn['long_budget']:.1f}; {packed['long_budget']:.1f} |")  # fmt: skip
        for anchor in ("mean", "min", "max"):
            given = settings(name, 1.0, steps, anchor=anchor)
            base = outcomes(given, "round robin", seeds)
            row = outcomes(given, TUNED, seeds)
            print(f"| {name}, anchor {anchor}: speed; coverage; at the floor | "
                  f"{base['seconds'] / row['seconds']:.2f}; {row['coverage']:.3f}; "
                  f"{row['floored']:.0%} |")  # fmt: skip
    for ranks in (8, 64):
        given = settings("lognormal", 1.0, steps, ranks=ranks)
        in_turn, packed, tuned = (
            outcomes(given, name, seeds) for name in ("round robin", PACKED, TUNED)
        )
        stragglers = "; ".join(f"{row['straggler']:.2f}" for row in (in_turn, packed, tuned))
        print(f"| lognormal, DP{ranks}: most loaded rank over the mean: in turn; SAB; SAB + DST | "
              f"{stragglers} |")  # fmt: skip
        print(f"| the same: steps in which one sequence outlasts the mean rank | "
              f"{packed['single']:.0%} |", flush=True)  # fmt: skip
    for ranks in (8, 32):
        for scope in ("microbatch", "rank"):
            given = settings("lognormal", 1.0, steps, anchor_scope=scope, ranks=ranks)
            base, row = outcomes(given, "round robin", seeds), outcomes(given, TUNED, seeds)
            print(f"| lognormal, DP{ranks}, anchor by {scope}: speed; coverage; by token | "
                  f"{base['seconds'] / row['seconds']:.2f}; {row['coverage']:.3f}; "
                  f"{row['token_coverage']:.3f} |", flush=True)  # fmt: skip
    for history in (False, True):
        given = dataclasses.replace(settings("long_tail", 3.0, steps), history=history)
        base, row = outcomes(given, "round robin", seeds), outcomes(given, TUNED, seeds)
        source = "the length bucket's last step" if history else "the microbatch's own router"
        print(f"| long tail, 3x, coverage from {source}: speed; coverage | "
              f"{base['seconds'] / row['seconds']:.2f}; {row['coverage']:.3f} |")  # fmt: skip


def measured(path: pathlib.Path | None) -> None:
    """Profiles a small layer, and prints the table's errors between its points."""
    from jaxlab.balance import LatencyTable, measure
    from jaxlab.models.sizes import Sizes
    from jaxlab.models.sparse import SparseMixer

    sizes = Sizes(vocab_size=64, hidden_size=128, intermediate_size=256, num_layers=1, num_heads=2,
                  num_kv_heads=1, head_dim=64)  # fmt: skip
    config = SparseMixer(block_size=64).apply(sizes.decoder())
    # Processor time, which other programs on the machine disturb less.
    clock = time.process_time if measure.jax.default_backend() == "cpu" else time.perf_counter
    table = LatencyTable.profile(
        config, (512, 1024, 2048), (2, 4, 8, 16), repeats=4, progress=print, clock=clock
    )
    print(f"{table.device}; {table.model}; {table.raised} of 12 entries raised to be monotone")
    if path is not None:
        table.save(path)
    points = [(length, budget) for length in (768, 1536) for budget in (3, 6, 12)]
    rows = measure.errors(table, config, points, repeats=4, clock=clock)
    for row in rows:
        print(f"{row['length']:>6} tokens, budget {row['budget']:>2}: measured "
              f"{1e3 * row['measured']:7.2f} ms, predicted {1e3 * row['predicted']:7.2f} ms, "
              f"{row['error']:+.0%}")  # fmt: skip
    off = np.abs([row["error"] for row in rows])
    print(f"relative error: mean {off.mean():.0%}, largest {off.max():.0%}")


def main() -> None:
    """Print both tables, or measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--table", type=pathlib.Path, help="where --measure saves its table")
    args = parser.parse_args()
    if args.measure:
        measured(args.table)
        return
    table(args.seeds, args.steps)
    lessons(args.seeds, args.steps)


if __name__ == "__main__":
    main()
