"""report.json, report.md and plots, from the metrics of one run or of several side by side."""

import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxlab.evals import figures, repeats, sweeps

Rows = list[dict[str, Any]]

# Columns of the table, where the runs have them, in this order; the first score is also plotted.
SCORES = (
    "perplexity",
    "bits_per_byte",
    "accuracy",
    "sequence_accuracy",
    "loss",
    "micro",
    "macro",
    "mse",
    "frame_mse",
    "success",
    "success_seen",
    "success_unseen",
)
COLUMNS = (r"distinct@\d+", "entropy", "response_length", "truncated_share")
# Of agents: what their library of skills did.
LIBRARY = ("selection_precision", "u_hat", "distil_positive", "similarity", "library")

BEST_RATE = "Each method at the learning rate that is best on average over its seeds:"
PAIRED = "Differences seed by seed, mean ± standard error, and on how many seeds above 0:"


def write(
    workdir: pathlib.Path, runs: Mapping[str, pathlib.Path], title: str
) -> list[pathlib.Path]:
    """Report the evaluations of `runs` in `workdir`.

    Args:
        workdir: where the files go.
        runs: name -> work directory. A name that ends in _SEED counts as a repetition of the name
            without it.
        title: heading of report.md.

    Returns:
        The files written: report.json with rows {method, seed, step, avg@n, pass@n, ...},
        report.md, which ends with what the runs have to tell in a notes.md of their own, and the
        plots that report.md shows.
    """
    rows = [row for name, run in runs.items() for row in evaluations(name, run)]
    (workdir / "report.json").write_text(json.dumps({"title": title, "rows": rows}, indent=1))
    scores = _score_names(rows)
    chosen = repeats.at_best_rate(rows, scores[0]) if scores else rows
    plots = _plots(workdir, runs, chosen)
    finals = repeats.finals(chosen)
    text = [f"# {title}", "", *_table(rows)]
    if chosen != rows:
        text += ["", BEST_RATE, "", *_table(chosen)]
    text += [*sweeps.tables(finals, _cell), ""]
    attentions = sweeps.by_attention(finals)
    for score in sweeps.ATTENTION_SCORES:
        text += sweeps.tables(attentions, _cell, (score,))
    text += [""] * bool(attentions)
    differences = repeats.differences(finals, scores[0], _cell) if scores else []
    if differences:
        text += [PAIRED, "", *differences, ""]
    for path, caption in plots.items():
        text += [f"![{caption}]({path.name})", "", caption, ""]
    for name, run in runs.items():
        if (run / "notes.md").exists():
            text += [f"## {name}", "", (run / "notes.md").read_text(encoding="utf-8")]
    (workdir / "report.md").write_text("\n".join(text))
    return [workdir / "report.md", workdir / "report.json", *plots]


def evaluations(name: str, run: pathlib.Path) -> Rows:
    """The evaluations in a run's metrics.jsonl, as rows of report.json."""
    config = json.loads((run / "config.json").read_text())
    seed = config.get("seed", 0)
    about = {"method": name.removesuffix(f"_{seed}"), "seed": seed}
    if "learning_rate" in config.get("optim", {}):
        about["learning_rate"] = config["optim"]["learning_rate"]
    rows = []
    for line in (run / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        scores = {
            key.removeprefix("eval/"): value
            for key, value in row.items()
            # Not a number is null in the file.
            if key.startswith("eval/") and value is not None
        }
        if scores:
            rows.append({**about, "step": row["step"], **scores})
    return rows


def _table(rows: Rows) -> list[str]:
    """Last evaluation of each method: mean and, over seeds, standard error."""
    if not rows:
        return ["No evaluation has run."]
    names = _score_names(rows) + _named((*COLUMNS, *LIBRARY), rows)
    lines = [
        "| method | seeds | steps | " + " | ".join(names) + " |",
        "|---" * (3 + len(names)) + "|",
    ]
    for method, last in repeats.finals(rows).items():
        cells = [_cell([row[name] for row in last if name in row]) for name in names]
        lines.append(f"| {method} | {len(last)} | {last[0]['step']} | " + " | ".join(cells) + " |")
    return lines


def _cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) / np.sqrt(len(values)):.3f}"


def _score_names(rows: Rows) -> list[str]:
    """avg@n, pass@n and maj@n, whatever n is, and those of `SCORES`."""
    names = dict.fromkeys(key for row in rows for key in row)
    sampled = [name for name in names if name.startswith(("avg@", "pass@", "maj@"))]
    return sampled + [name for name in SCORES if name in names]


def _named(patterns: Sequence[str], rows: Rows) -> list[str]:
    """The keys of the rows that are one of the patterns, in their order."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return [key for pattern in patterns for key in keys if re.fullmatch(pattern, key)]


def _plots(
    workdir: pathlib.Path, runs: Mapping[str, pathlib.Path], rows: Rows
) -> dict[pathlib.Path, str]:
    """Draw what there is to draw; path -> caption."""
    plots = {}
    # A curve wants at least three points: the supervised stages have only their ends.
    curves = {
        method: series
        for method, series in repeats.by_method(rows).items()
        if max(len(points) for points in series.values()) > 2
    }
    more = _named(("loss", "entropy", r"distinct@\d+"), rows[-1:])
    names = list(dict.fromkeys([*_score_names(rows)[:1], *more, *_named(LIBRARY, rows)]))
    if curves and names:
        figure = figures.new(4.5 * len(names), 3.6)
        axes = figure.subplots(1, len(names), squeeze=False)[0]
        for axis, name in zip(axes, names, strict=True):
            for method, series in curves.items():
                _curve(axis, method, series, name)
            axis.set(xlabel="step", title=name)
            axis.grid(alpha=0.3)
        axes[0].legend(frameon=False)
        path = workdir / "curves.png"
        plots[path] = (
            "Evaluation against optimisation steps; with several seeds the mean and its standard "
            "error."
        )
        figures.save(figure, path)
    swept = sweeps.plot(repeats.finals(rows))
    if swept is not None:
        path = workdir / "sweeps.png"
        plots[path] = "The last evaluation against its setting; bars: standard errors over seeds."
        figures.save(swept, path)
    for score in ("accuracy", "mass"):
        compared = sweeps.plot(sweeps.by_attention(repeats.finals(rows)), (score,))
        if compared is not None:
            path = workdir / f"attention_{score}.png"
            plots[path] = f"Each attention's {score} against its budget of tokens."
            figures.save(compared, path)
    histograms = _first_histograms(runs)
    if histograms:
        name, histogram = next(iter(histograms.items()))
        plots[workdir / "advantages.png"] = _draw_advantages(
            workdir / "advantages.png", name, histogram
        )
    return plots


def _curve(axis: Any, label: str, series: Mapping[int, Rows], name: str) -> None:
    # A library that is empty has no numbers yet.
    points = [found for rows in series.values() if (found := [r for r in rows if name in r])]
    if not points:
        return
    length = min(len(rows) for rows in points)
    steps = [row["step"] for row in points[0][:length]]
    values = np.array([[row[name] for row in rows[:length]] for rows in points])
    sweeps.mean_line(axis, label, steps, values)


def _first_histograms(runs: Mapping[str, pathlib.Path]) -> dict[str, dict[str, Any]]:
    """Each run's first advantage histogram, where it wrote one."""
    found = {}
    for name, run in runs.items():
        path = run / "histograms.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        if lines:
            found[name] = json.loads(lines[0])
    return found


def _draw_advantages(path: pathlib.Path, name: str, histogram: Mapping[str, Any]) -> str:
    """Advantages on a log scale, negative tail coloured; returns the caption."""
    edges, counts = np.array(histogram["edges"]), np.array(histogram["counts"])
    centres = (edges[:-1] + edges[1:]) / 2
    squares = counts * centres**2
    share = squares[centres < 0].sum() / max(squares.sum(), 1e-30)
    figure = figures.new(5.5, 3.4)
    axis = figure.subplots()
    colours = np.where(centres < 0, "tab:red", "tab:blue")
    axis.bar(centres, counts, width=np.diff(edges), color=colours)
    axis.set_yscale("log")
    axis.set(xlabel="advantage log T(y) - log S(y), nats", ylabel="tokens")
    axis.grid(alpha=0.3)
    figures.save(figure, path)
    return (
        f"Advantages of sampled tokens at step {histogram['step']} of {name}: negative ones hold "
        f"{100 * share:.1f} % of the sum of squares. Values beyond the ends count in the last bins."
    )
