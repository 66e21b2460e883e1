"""report.json, report.md and plots of one benchmark run."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxlab.evals import figures
from jaxlab.evals.metrics import Bootstrap
from jaxlab.evals.results import Result
from jaxlab.evals.tables import Cell, Table

# What a plot can show of a table; more groups, and the rest of a name, are in the table alone.
_MOST_GROUPS, _LONGEST_NAME = 100, 40


def write(
    workdir: Path,
    title: str,
    facts: Mapping[str, Any],
    results: Sequence[Result],
    benchmark_tables: Callable[[Sequence[Result]], list[Table]],
    grader_errors: Mapping[str, int] | None = None,
) -> tuple[dict[str, float], list[Path]]:
    """Report the results of a run in `workdir`.

    Args:
        workdir: where the files go.
        title: heading, and the method's name in report.json.
        facts: what the run was: model, panel, sampling, grader.
        results: graded completions; at least one.
        benchmark_tables: the benchmark's own tables; the first one's first row holds the scores.
        grader_errors: how many answers the grader failed on, by kind of error; what the report
            begins with.

    Returns:
        The scores, and the files written.
    """
    own = benchmark_tables(results)
    tables = [*own, _outcomes(results), _tokens(results)]
    scores = {
        name: value.mean if isinstance(value, Bootstrap) else float(value)
        for name, value in own[0].rows[0].items()
        if isinstance(value, Bootstrap | float)
    }
    scores |= {
        "parse_failure_rate": float(np.mean([not result.parsed for result in results])),
        "truncated_share": float(np.mean([was_cut(result) for result in results])),
    }
    errors = dict(grader_errors or {})
    scores["grader_errors"] = float(sum(errors.values()))
    import matplotlib  # a second of every start, see figures.py

    # Names of groups are the user's: a dollar sign in one of them begins no formula.
    with matplotlib.rc_context({"text.parse_math": False}):
        plots = _plots(workdir, own, results)
    seed = facts.get("seed", 0)
    content = {
        "title": title,
        "grader_errors": errors,
        "facts": dict(facts),
        "rows": [{"method": title, "seed": seed, "step": 0, **scores}],
        "tables": [table.to_json() for table in tables],
    }
    (workdir / "report.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    lines = [f"# {title}", ""]
    if errors:
        listed = ", ".join(f"{kind} {count}" for kind, count in errors.items())
        lines += [
            f"**The grader failed on {sum(errors.values())} of {len(results)} answers, which count "
            f"as wrong: {listed}.** Mend the grader, and grade again by `--regrade`.",
            "",
        ]
    lines += [f"- {name}: {_fact(value)}" for name, value in facts.items()]
    lines += [f"- parse failures: {100 * scores['parse_failure_rate']:.1f} %", ""]
    for table in tables:
        lines += table.markdown()
    for path, caption in plots.items():
        lines += [f"![{caption}]({path.name})", "", caption, ""]
    lines += ["Brackets: 95 % interval, by bootstrap over clusters of rows that belong together."]
    (workdir / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return scores, [workdir / "report.md", workdir / "report.json", *plots]


def was_cut(result: Result) -> bool:
    """Whether the completion ended by its length."""
    return result.stop in ("max_tokens", "model_length")


def _outcomes(results: Sequence[Result]) -> Table:
    counts = Counter((result.grader, result.reason) for result in results)
    rows: list[dict[str, Cell]] = [
        {"grader": grader, "outcome": reason, "completions": count, "share": count / len(results)}
        for (grader, reason), count in sorted(counts.items())
    ]
    return Table("Outcomes", rows, "Whatever is no match counts as wrong.")


def _tokens(results: Sequence[Result]) -> Table:
    rows: list[dict[str, Cell]] = []
    for name in ("input_tokens", "output_tokens"):
        values = np.array([getattr(result, name) for result in results])
        rows.append(
            {
                "tokens": name.partition("_")[0],
                "sum": int(values.sum()),
                "mean": float(values.mean()),
                "median": float(np.median(values)),
                "largest": int(values.max()),
            }
        )
    return Table("Tokens", rows)


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={entry}" for name, entry in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(map(str, value)) or "none"
    return str(value)


def _plots(workdir: Path, tables: Sequence[Table], results: Sequence[Result]) -> dict[Path, str]:
    plots = {}
    bars = [
        table
        for table in tables[1:]
        if 1 < len(table.rows) <= _MOST_GROUPS and _interval(table.rows[0])
    ]
    if bars:
        height = 0.9 + 0.28 * sum(len(table.rows) for table in bars)
        ratios = [len(table.rows) for table in bars]
        figure = figures.new(6.5, height + 0.6 * len(bars))
        axes = figure.subplots(len(bars), height_ratios=ratios, squeeze=False)[:, 0]
        for axis, table in zip(axes, bars, strict=True):
            _bars(axis, table)
        plots[workdir / "groups.png"] = "The first score of each group, with its 95 % interval."
        figures.save(figure, workdir / "groups.png")
    figure = figures.new(5.5, 3.2)
    axis = figure.subplots()
    tokens = {
        name: [result.output_tokens for result in results if result.correct is correct]
        for name, correct in (("right", True), ("wrong", False))
    }
    axis.hist(list(tokens.values()), bins=30, stacked=True, label=list(tokens))
    axis.set(xlabel="output tokens", ylabel="completions")
    axis.legend(frameon=False)
    plots[workdir / "tokens.png"] = "Output tokens of right and wrong completions."
    figures.save(figure, workdir / "tokens.png")
    return plots


_NOTHING = Bootstrap(np.nan, np.nan, np.nan, np.nan)


def _interval(row: Mapping[str, Cell]) -> Bootstrap | None:
    return next((value for value in row.values() if isinstance(value, Bootstrap)), None)


def _bars(axis: Any, table: Table) -> None:
    """The first interval of each row, as a point with its error bar."""
    label = table.columns()[0]
    rows = list(reversed(table.rows))
    values = [_interval(row) or _NOTHING for row in rows]
    means = np.array([value.mean for value in values])
    errors = np.array([[v.mean - v.low for v in values], [v.high - v.mean for v in values]])
    axis.errorbar(means, range(len(rows)), xerr=np.maximum(errors, 0), fmt="o", capsize=2)
    axis.set_yticks(range(len(rows)), [str(row[label])[:_LONGEST_NAME] for row in rows], fontsize=8)
    score = next(name for name, value in table.rows[0].items() if isinstance(value, Bootstrap))
    axis.set(xlim=(-0.02, 1.02), title=table.title, xlabel=score)
    axis.grid(alpha=0.3)
