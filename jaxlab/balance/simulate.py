"""What balanced sparsity would bring on a cluster, simulated from a latency table or a formula.

    python -m jaxlab.balance.simulate --workload=bimodal
    python -m jaxlab.balance.simulate --lengths=lengths.txt --ranks=1024 --stages=1 \\
        --table=table.json --out=runs/simulation

Prints, for each policy, the speed over dealing sequences in turn, the compute, the coverage and the
imbalance; and always the equal-compute control: the same packing with one fixed budget that spends
as much as the tuned ones. What tuning gains over the control is balance, the rest is less work.
With --out it writes report.json, report.md and simulation.png there.

Exit codes: 0 done, 2 bad input.
"""

import argparse
import dataclasses
import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxlab.balance import workloads
from jaxlab.balance.budget import BudgetTuner
from jaxlab.balance.latency import Latency, LatencyTable, qwen25_3b
from jaxlab.balance.policies import POLICIES, Outcome, Settings, control_budget, run

CONTROL = "SAB, equal compute"
COLUMNS = {
    "policy": "{}",
    "speed": "{:.2f}",
    "compute": "{:.3f}",
    "coverage": "{:.3f}",
    "by token": "{:.3f}",
    "imbalance": "{:.2f}",
    "straggler": "{:.2f}",
    "at floor": "{:.0%}",
    "budget": "{:.1f}",
    "of long": "{:.1f}",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line, simulates and reports; returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        settings = _settings(args)
        if args.out is not None:
            args.out.mkdir(parents=True, exist_ok=True)
        results = [
            simulate(dataclasses.replace(settings, seed=seed), progress=not args.quiet)
            for seed in range(args.seed, args.seed + args.seeds)
        ]
    except (ValueError, OSError) as error:
        print(f"jaxlab.balance.simulate: {error}", file=sys.stderr)
        return 2
    report = _report(settings, results, sys.argv[1:] if argv is None else list(argv))
    print(report)
    if args.out is not None:
        (args.out / "report.md").write_text(report + "\n")
        (args.out / "report.json").write_text(json.dumps(results, indent=1) + "\n")
        _draw(results[0], args.out / "simulation.png")
        print(f"written to {args.out}")
    return 0


def simulate(settings: Settings, progress: bool = False) -> dict[str, Any]:
    """Runs all policies and the control on the same steps.

    Returns:
        "seed", "control_budget", and "policies": name -> fields of `Outcome`, with "speed" and
        "relative_compute" over round robin, NaN as None. Of the extra speed of SAB + DST over SAB,
        "less_work" is the share that the control has too; None where there is none.
    """
    found: dict[str, Outcome] = {}
    for number, (name, policy) in enumerate(POLICIES.items(), 1):
        if progress:
            _tell(f"seed {settings.seed}: {number} of {len(POLICIES) + 1}, {name}")
        found[name] = run(settings, policy)
    if progress:
        _tell(f"seed {settings.seed}: {len(POLICIES) + 1} of {len(POLICIES) + 1}, {CONTROL}")
    budget = control_budget(settings, found["SAB + DST"].compute)
    found[CONTROL] = run(settings, POLICIES["SAB"], budget)
    first = found["round robin"]
    policies = {}
    for name, outcome in found.items():
        fields = dataclasses.asdict(outcome)
        fields["speed"] = first.seconds / outcome.seconds
        fields["relative_compute"] = outcome.compute / first.compute
        policies[name] = {k: None if math.isnan(v) else v for k, v in fields.items()}
    speed = {name: first.seconds / outcome.seconds for name, outcome in found.items()}
    gain = speed["SAB + DST"] - speed["SAB"]
    less = (speed[CONTROL] - speed["SAB"]) / gain if gain > 1e-9 else None
    return {
        "seed": settings.seed,
        "control_budget": budget,
        "less_work": less,
        "policies": policies,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jaxlab.balance.simulate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--workload", choices=list(workloads.WORKLOADS), default="bimodal")
    add("--lengths", type=Path, help="a file of lengths, one per line, in the workload's place")
    add("--ranks", help="data-parallel ranks; default: the workload's", type=int)
    add("--stages", help="pipeline stages; default: the workload's", type=int)
    add("--microbatches", help="per rank; default: the workload's", type=int)
    add("--sequences", help="per microbatch; default: the workload's", type=int)
    add("--table", type=Path, help="a LatencyTable; default: Qwen2.5-3B by its FLOPs")
    add("--slowdown", type=float, help="of a sparse FLOP over a dense one, default 1; no --table")
    add("--block", type=int, default=256, help="tokens per block")
    add("--anchor", choices=("mean", "min", "max"), default="mean")
    add("--anchor_scope", choices=("microbatch", "rank", "local"), default="microbatch")
    add("--p", type=float, default=0.1, help="coverage that may be lost")
    add("--coverage", choices=("abs_drop", "rel_drop", "band"), default="abs_drop")
    add("--buckets", default="8,12,16,24,32,48,64", help="budgets to choose from")
    add("--base", type=int, default=32, help="budget without tuning")
    add("--history", action="store_true", help="coverage from the length bucket's last step")
    add("--method", choices=("lpt", "karmarkar_karp", "first_fit"), default="lpt")
    add("--steps", type=int, default=100)
    add("--seed", type=int, default=0)
    add("--seeds", type=int, default=1, help="how many, from --seed on")
    add("--out", type=Path, help="folder for report.md, report.json and simulation.png")
    add("--quiet", action="store_true", help="no progress on stderr")
    return parser


def _settings(args: argparse.Namespace) -> Settings:
    for name in ("steps", "seeds", "block"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name}={getattr(args, name)}: expected at least 1")
    if args.seed < 0:
        raise ValueError(f"--seed={args.seed}: expected at least 0")
    slowdown = 1.0 if args.slowdown is None else args.slowdown
    if not (math.isfinite(slowdown) and slowdown > 0):
        raise ValueError(f"--slowdown={slowdown}: expected a number above 0")
    try:
        buckets = tuple(int(word) for word in args.buckets.split(","))
    except ValueError:
        raise ValueError(f"--buckets={args.buckets}: expected whole numbers, 8,16,32") from None
    tuner = BudgetTuner(
        anchor=args.anchor, anchor_scope=args.anchor_scope, p=args.p, coverage=args.coverage,
        buckets=buckets, base=args.base,
    )  # fmt: skip
    workload = workloads.WORKLOADS[args.workload]
    sizes = {name: getattr(args, name) for name in
             ("ranks", "stages", "microbatches", "sequences")}  # fmt: skip
    changed = {name: value for name, value in sizes.items() if value is not None}
    workload = dataclasses.replace(workload, **changed)
    if args.lengths is not None:
        draw = workloads.from_file(args.lengths)
        workload = dataclasses.replace(workload, name=args.lengths.name, draw=draw)
    latency: Latency = qwen25_3b(slowdown, args.block)
    if args.table is not None:
        if args.slowdown is not None:
            raise ValueError("--slowdown is the formula's: a --table has its own seconds")
        latency = LatencyTable.load(args.table)
        # As `measure.describe` writes it.
        found = re.search(r"\bblock (\d+)\b", latency.model)
        if found and int(found[1]) != args.block:
            raise ValueError(
                f"--block={args.block}: {args.table} was measured with blocks of {found[1]} tokens"
            )
    return Settings(
        workload, latency, tuner, block=args.block, steps=args.steps, method=args.method,
        history=args.history,
    )  # fmt: skip


def _report(settings: Settings, results: list[dict[str, Any]], words: list[str]) -> str:
    """The table and what it says, as Markdown; means over seeds."""
    work = settings.workload
    latency = settings.latency
    source = (
        f"a table of {latency.device}, {latency.model}"
        if isinstance(latency, LatencyTable)
        else "a formula of FLOPs"
    )
    lines = [
        f"    python -m jaxlab.balance.simulate {' '.join(words)}",
        "",
        f"{work.name}: {work.ranks} ranks x {work.stages} stages, {work.microbatches} microbatches "
        f"of {work.sequences} sequences per rank, {settings.steps} steps, {len(results)} seeds "
        f"from {results[0]['seed']}; blocks of {settings.block} tokens; seconds from {source}.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
    ]
    keys = ("speed", "relative_compute", "coverage", "token_coverage", "imbalance", "straggler",
            "floored", "budget", "long_budget")  # fmt: skip
    for name in results[0]["policies"]:
        row = [_over_seeds(results, name, key) for key in keys]
        cells = (form.format(x) for form, x in zip(COLUMNS.values(), [name, *row], strict=True))
        lines.append("| " + " | ".join(cells) + " |")
    fixed = np.mean([result["control_budget"] for result in results])
    lines += [
        "",
        f"The control has the fixed budget {fixed:.1f}, and with it the work of SAB + DST.",
    ]
    less = [result["less_work"] for result in results if result["less_work"] is not None]
    if less:
        share = float(np.mean(less))
        lines.append(
            f"It has {share:.0%} of what SAB + DST gains in speed over SAB: that much is less "
            "work, not balance."
        )
    if len(less) < len(results):
        lines.append(
            f"In {len(results) - len(less)} of {len(results)} seeds SAB + DST gains nothing in "
            "speed over SAB."
        )
    single = _over_seeds(results, "SAB", "single")
    if single > 0.05:
        lines.append(
            f"In {single:.0%} of the steps one sequence alone takes longer than the mean rank: no "
            "packing can help there; more sequences per rank or context parallelism can."
        )
    return "\n".join(lines)


def _over_seeds(results: list[dict[str, Any]], name: str, key: str) -> float:
    values = [result["policies"][name][key] for result in results]
    kept = [value for value in values if value is not None]
    return float(np.mean(kept)) if kept else math.nan


def _draw(result: dict[str, Any], path: Path) -> None:
    """Coverage over speed of all policies."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4))
    axes = figure.subplots()
    for name, fields in result["policies"].items():
        control = name == CONTROL
        axes.scatter(fields["speed"], fields["coverage"], marker="x" if control else "o")
        below = -9 if "DST" not in name else 4
        axes.annotate(
            name,
            (fields["speed"], fields["coverage"]),
            fontsize=7,
            xytext=(4, below),
            textcoords="offset points",
        )
    axes.set(xlabel="speed over round robin", ylabel="coverage (mean over sequences)")
    axes.margins(0.15)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
