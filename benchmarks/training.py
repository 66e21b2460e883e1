"""Time and memory of on-policy distillation steps, beside TRL; and where the time goes.

    python benchmarks/training.py --trl-python=/path/to/bin/python --json=out.json

1. Whole steps (rollout, teacher, update, grading): a process for each contender and vocabulary,
   one step of each in turn (`peers/turns.py`). Medians, ratios round by round, CPU time of all
   threads, peak resident memory of each process. The peer is TRL's DistillationTrainer with the
   reverse KL over the full vocabulary; without an environment that has trl it is "not installed".
2. Pieces of our step, with the rate of model FLOPs (2 N per token forward, 6 N forward and
   backward, N without the embedding table, plus attention) as a share of the rate of one f32
   matmul of 2048 x 2048 x 2048 measured in between.

Before anything is timed, the losses are compared with float64 NumPy; what differs is not timed.
"""

import argparse
import contextlib
import dataclasses
import datetime
import functools
import importlib.util
import json
import pathlib
import subprocess
import sys
from typing import Any

from peers import turns
from peers.distillation_work import work

PEERS = pathlib.Path(__file__).resolve().parent / "peers"
LOSSES = ("reverse_kl", "aopd")
PEER = "TRL reverse_kl"
MATMUL = "matmul 2048^3"


# Whole steps ------------------------------------------------------------------------------------


def whole_steps(vocab: int, losses: list[str], trl_python: str | None, steps: int) -> list[dict]:
    """One row per contender at this vocabulary; they take turns."""
    ours = [sys.executable, str(PEERS / "jaxlab_training.py"), f"--vocab={vocab}"]
    commands = {f"jaxlab {loss}": [*ours, f"--loss={loss}"] for loss in losses}
    if trl_python is not None:
        commands[PEER] = [trl_python, str(PEERS / "trl_distillation.py"), json.dumps(work(vocab))]
    with contextlib.ExitStack() as stack:
        contenders = [
            stack.enter_context(turns.Contender(name, command))
            for name, command in commands.items()
        ]
        found = turns.alternate({each.name: each.ask for each in contenders}, steps)
    rows = []
    for contender in contenders:
        each = found[contender.name]
        row = {
            "vocab": vocab,
            "contender": contender.name,
            "versions": contender.versions,
            "note": turns.summary(each).note,
            "turns": [dataclasses.asdict(turn) for turn in each],
            **dataclasses.asdict(turns.summary(each)),
        }
        if PEER in found and contender.name != PEER:
            row["speed_ratio"] = turns.ratio(found[PEER], each)
            row["memory_ratio"] = row["peak_mib"] / turns.summary(found[PEER]).peak_mib
        rows.append(row)
    return rows


def print_steps(rows: list[dict], has_peer: bool) -> None:
    """The rows of one vocabulary, and ratios to the peer."""
    for row in rows:
        line = f"{row['vocab']:>7} {row['contender']:<20}"
        if row["seconds"] is None:
            print(f"{line}disturbed in all {row['count']} turns: {row['why']}", flush=True)
            continue
        line += f"{row['seconds']:>9.3f}{row['cpu_seconds']:>9.3f}{row['peak_mib']:>10.0f}"
        if row.get("speed_ratio"):
            line += f"{row['speed_ratio']:>11.2f}x{row['memory_ratio']:>10.2f}"
        print(f"{line}{row['note']}", flush=True)
    if not has_peer:
        print(f"{rows[0]['vocab']:>7} {PEER:<20}{'not installed':>18}")


# Pieces -----------------------------------------------------------------------------------------


def pieces(vocab: int, repeats: int) -> list[dict]:
    """Median seconds of the parts of a step, in turn, and the rates of those with a FLOP count."""
    command = [sys.executable, str(PEERS / "jaxlab_training_pieces.py"), f"--vocab={vocab}"]
    with turns.Contender("jaxlab", command) as worker:
        flops = worker.ask().reply
        calls = {name: functools.partial(worker.ask, piece=name) for name in flops}
        found = {
            name: turns.summary(each) for name, each in turns.alternate(calls, repeats).items()
        }
    rate = {
        name: count / found[name].seconds if count and found[name].seconds else None
        for name, count in flops.items()
    }
    return [
        {
            "vocab": vocab,
            "piece": name,
            "median_s": each.seconds,
            "note": str(each),
            "gflops": rate[name] and rate[name] / 1e9,
            "share_of_matmul": rate[name] and rate[MATMUL] and rate[name] / rate[MATMUL],
        }
        for name, each in found.items()
    ]


def print_pieces(rows: list[dict]) -> None:
    """One line per piece."""
    for row in rows:
        line = f"{row['vocab']:>7} {row['piece']:<20}"
        if row["median_s"] is None:
            print(f"{line}{row['note']}", flush=True)
            continue
        line += f"{1e3 * row['median_s']:>10.1f}"
        if row["gflops"] is not None:
            line += f"{row['gflops']:>10.0f}"
        if row["share_of_matmul"] is not None:
            line += f"{100 * row['share_of_matmul']:>9.0f} %"
        print(line, flush=True)


# Command line -----------------------------------------------------------------------------------


def find_trl(given: str | None) -> str | None:
    """The interpreter that has trl: the one given, else this one, else None."""
    if given is not None:
        if not pathlib.Path(given).exists():
            raise SystemExit(f"error: --trl-python: there is no {given}")
        return given
    return sys.executable if importlib.util.find_spec("trl") else None


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vocab", default="512,32768", help="vocabulary sizes")
    parser.add_argument("--loss", default=",".join(LOSSES), help="our losses")
    parser.add_argument("--steps", type=int, default=5, help="steps of each contender that count")
    parser.add_argument("--repeats", type=int, default=7, help="runs of each piece")
    parser.add_argument("--trl-python", help="interpreter of an environment with trl 1.16")
    parser.add_argument("--no-pieces", action="store_true", help="whole steps only")
    parser.add_argument("--no-steps", action="store_true", help="pieces only")
    parser.add_argument("--json", type=pathlib.Path, metavar="OUT", help="also write the rows here")
    args = parser.parse_args()
    vocabs = [int(vocab) for vocab in args.vocab.split(",")]
    losses = args.loss.split(",")
    for loss in losses:
        if loss not in LOSSES:
            parser.error(f"--loss={loss!r} is not one of {', '.join(LOSSES)}")
    trl_python = find_trl(args.trl_python)
    # It raises unless the losses agree.
    subprocess.run([sys.executable, str(PEERS / "jaxlab_training.py"), "--check"], check=True)
    about = {"date": datetime.date.today().isoformat()} | turns.machine()
    print("  ".join(f"{key} {value}" for key, value in about.items()))
    print("Losses agree with float64 NumPy.")
    result: dict[str, Any] = {"about": about, "steps": [], "pieces": []}
    if not args.no_steps:
        print(
            f"\n{'vocab':>7} {'whole step':<20}{'median s':>9}{'CPU s':>9}"
            f"{'peak MiB':>10}{'speed':>12}{'memory':>10}"
        )
        for vocab in vocabs:
            rows = whole_steps(vocab, losses, trl_python, args.steps)
            print_steps(rows, trl_python is not None)
            result["steps"] += rows
    if not args.no_pieces:
        print(f"\n{'vocab':>7} {'piece':<20}{'median ms':>10}{'GFLOP/s':>10}{'of matmul':>11}")
        for vocab in vocabs:
            rows = pieces(vocab, args.repeats)
            print_pieces(rows)
            result["pieces"] += rows
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
