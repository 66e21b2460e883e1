"""The tables of configs/heavy_chains.py: HM beside V, M, P and the controls, before and after RL.

    python benchmarks/heavy_chains.py runs/heavy [--limit=400] [--plot=docs/heavy_chains.png]

Of every run in the study's directory that reads thinkers the workflow itself is measured on the
test questions (`jaxlab.evals.heavy.runs`); of the others ("no_thinkers", "direct") the last
evaluation counts, on the same questions. Runs whose names differ in a final number are seeds.
Curves over width, depth, selection and deliberations are of "chains", trained at K = 8.
"""

import argparse
import json
import pathlib
import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from jaxlab.config import ConfigError
from jaxlab.evals import figures, metrics
from jaxlab.evals.heavy import measures, runs
from jaxlab.evals.heavy.measures import Question
from jaxlab.runtime import mesh

COLUMNS = ("M", "V", "P", "HM", "HP", "answers_only", "no_thinkers", "long_thought", "HM, V wrong")
CURVES = {
    "width, K": [{"width": k} for k in (1, 2, 3, 4, 6, 8)],
    "depth, N": [{"rounds": n} for n in (1, 2, 3)],
    "deliberations, K1": [{"samples": n} for n in (1, 2, 4, 8)],
    "selection of 4 out of 8": [
        {"width": 4, "select": rule}
        for rule in ("random", "max_answer_number", "max_diversity", "max_length")
    ],
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=pathlib.Path)
    parser.add_argument("--limit", type=int, help="questions of each run; all by default")
    parser.add_argument("--plot", type=pathlib.Path, help="where the curves go")
    parser.add_argument("--no-curves", action="store_true")
    options = parser.parse_args()
    mesh.start()
    found: dict[str, list[Sequence[Question]]] = defaultdict(list)
    others: dict[str, list[dict[str, float]]] = defaultdict(list)
    stages = json.loads((options.study / "config.json").read_text())["stages"]
    for name in stages:
        method = re.sub(r"_\d$", "", name)
        try:
            subject = runs.subject(options.study / name)
        except ConfigError:
            others[method].append(last_evaluation(options.study / name))
            continue
        found[method].append(runs.measure(subject, {}, limit=options.limit))
    table(found)
    print("\n| run without texts | seeds | avg@4 | pass@4 |\n|---|---|---|---|")
    for method, rows in others.items():
        cells = [
            cell([row[f"eval/{key}"] for row in rows if f"eval/{key}" in row])
            for key in ("avg@4", "pass@4")
        ]
        print(f"| {method} | {len(rows)} | {' | '.join(cells)} |")
    tested(found)
    bucketed(found)
    if not options.no_curves:
        curves(
            options.study,
            [name for name in stages if re.fullmatch(r"chains(_\d)?", name)],
            options.limit,
            options.plot,
        )


def last_evaluation(run: pathlib.Path) -> dict[str, float]:
    """The last row of metrics.jsonl with an evaluation."""
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if any(key.startswith("eval/") for key in row)][-1]


def scores(questions: Sequence[Question]) -> dict[str, float]:
    """The columns of the table."""
    last = [measures.last(question) for question in questions]
    thinkers = [question.thinkers for question in questions]
    wrong = [texts for texts, read in zip(last, thinkers, strict=True) if measures.vote(read) < 0.5]
    result = {
        "M": np.mean(list(map(measures.mean, thinkers))),
        "V": np.mean(list(map(measures.vote, thinkers))),
        "P": np.mean(list(map(measures.any_right, thinkers))),
        "HM": np.mean(list(map(measures.mean, last))),
        "HP": np.mean(list(map(measures.any_right, last))),
        "HM, V wrong": np.mean(list(map(measures.mean, wrong))) if wrong else np.nan,
    }
    for name in questions[0].controls:
        result[name] = np.mean([measures.mean(question.controls[name]) for question in questions])
    return {name: float(value) for name, value in result.items()}


def cell(values: Sequence[float]) -> str:
    """A mean, with its standard error over seeds."""
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) / len(values) ** 0.5:.3f}"


def table(found: dict[str, list[Sequence[Question]]]) -> None:
    """A row for each method."""
    print("| run | seeds | " + " | ".join(COLUMNS) + " |\n" + "|---" * (2 + len(COLUMNS)) + "|")
    for method, seeds in found.items():
        each = [scores(questions) for questions in seeds]
        cells = [cell([row[name] for row in each if name in row]) for name in COLUMNS]
        print(f"| {method} | {len(seeds)} | {' | '.join(cells)} |")


def tested(found: dict[str, list[Sequence[Question]]]) -> None:
    """HM against the vote of the same thinkers, question by question; seeds are averaged."""
    print("\n| run | HM - V | HM better | HM worse | p |\n|---|---|---|---|---|")
    for method, seeds in found.items():
        heavy = np.mean([[measures.mean(measures.last(q)) for q in each] for each in seeds], 0)
        vote = np.mean([[measures.vote(q.thinkers) for q in each] for each in seeds], 0)
        test = metrics.paired_test(vote, heavy, [question.id for question in seeds[0]])
        low, high = test.difference.low, test.difference.high
        print(
            f"| {method} | {test.difference.mean:+.3f} [{low:+.3f}, {high:+.3f}] | {test.better} | "
            f"{test.worse} | {test.p_value:.2g} |"
        )


def bucketed(found: dict[str, list[Sequence[Question]]]) -> None:
    """The bucket study, all seeds together."""
    print("\n| run | pass rate | questions | M | HM | rescued | not | kept | broken |")
    print("|---" * 9 + "|")
    for method, seeds in found.items():
        for one in measures.buckets([question for each in seeds for question in each]):
            print(
                f"| {method} | {one.low:g} to {one.high:g} | {one.questions} | {one.thinkers:.3f} "
                f"| {one.heavy:.3f} | {one.rescued} | {one.not_rescued} | {one.kept} | "
                f"{one.broken} |"
            )


def curves(
    study: pathlib.Path, names: Sequence[str], limit: int | None, plot: pathlib.Path | None
) -> None:
    """Scores at other widths, depths, selections and numbers of deliberations."""
    print("\n| at | M | V | P | HM | HP |\n|---|---|---|---|---|---|")
    drawn: dict[str, list[dict[str, float]]] = {}
    for kind, settings in CURVES.items():
        for changes in settings:
            each = [
                scores(
                    runs.measure(runs.subject(study / name), changes, limit=limit, controls=False)
                )
                for name in names
            ]
            label = ", ".join(f"{key}={value}" for key, value in changes.items())
            keys = ("M", "V", "P", "HM", "HP")
            print(f"| {label} | " + " | ".join(cell([r[k] for r in each]) for k in keys) + " |")
            row = {key: float(np.mean([r[key] for r in each])) for key in keys}
            drawn.setdefault(kind, []).append(row)
    if plot is None:
        return
    figure = figures.new(9.0, 3.6)
    axes = figure.subplots(1, 2)
    for axis, kind in zip(axes, ("width, K", "depth, N"), strict=True):
        x = [next(iter(changes.values())) for changes in CURVES[kind]]
        for key in ("HP", "HM", "V", "M", "P"):
            style = "-o" if key.startswith("H") else "--"
            axis.plot(x, [row[key] for row in drawn[kind]], style, label=key)
        axis.set(xlabel=kind, title="trained at K = 8, N = 1", ylim=(0, 1))
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False)
    figures.save(figure, plot)


if __name__ == "__main__":
    main()
