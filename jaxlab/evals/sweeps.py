"""Scores against the setting they were taken in: "accuracy@num_pairs=8", "loss@position=64".

The settings that change the same options belong together: one table, one panel of the plot.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlab.evals import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
# Rows of one evaluation each, one per seed, by method.
Finals = Mapping[str, Sequence[Row]]

# The first of these that a setting has is the one that is shown.
SHOWN = ("perplexity", "accuracy", "loss")
# Of a text's positions, where no perplexity is taken, the loss says more than the accuracy.
SHOWN_OF_TEXT = ("perplexity", "loss")
# Distance of two methods' markers at one setting, in settings.
DODGE = 0.03

# What `evals.attentions.compare` compares; the setting that follows is common to all.
_ATTENTION = "@attention="
ATTENTION_SCORES = ("accuracy", "mass", "recall", "kilobytes", "milliseconds")

_SETTING = re.compile(r"(?P<score>\w+)@(?P<setting>\w+=.+)")


def find(
    finals: Finals, shown: Sequence[str] | None = None
) -> dict[tuple[str, ...], dict[tuple[str, ...], str]]:
    """What was swept: changed options -> their values -> name of the score that is shown.

    Args:
        finals: the last evaluation of each method and seed.
        shown: scores, of which the first that a setting has is the one; None: `SHOWN`.
    """
    names = dict.fromkeys(name for rows in finals.values() for row in rows for name in row)
    shown = shown or (SHOWN_OF_TEXT if "perplexity" in names else SHOWN)
    sweeps: dict[tuple[str, ...], dict[tuple[str, ...], str]] = {}
    for score in shown:
        for name in names:
            match = _SETTING.fullmatch(name)
            if match is None or match["score"] != score or _ATTENTION in name:
                continue
            pairs = [pair.partition("=") for pair in match["setting"].split(",")]
            options = tuple(option for option, _, _ in pairs)
            values = tuple(value for _, _, value in pairs)
            sweeps.setdefault(options, {}).setdefault(values, name)
    return {options: dict(sorted(found.items(), key=_order)) for options, found in sweeps.items()}


def _order(setting: tuple[tuple[str, ...], str]) -> list[tuple[bool, float]]:
    """Numbers go up, whatever order the metrics have; words stay where they are, behind them."""
    values = setting[0]
    try:
        return [(False, float(value)) for value in values]
    except ValueError:
        return [(True, 0.0)]


def by_attention(finals: Finals) -> dict[str, list[dict[str, Any]]]:
    """The scores of `evals.attentions.compare`, each attention as a method of its own.

    "accuracy@attention=quest,budget=64" of any method becomes "accuracy@budget=64" of "quest".
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for rows in finals.values():
        for row in rows:
            parts: dict[str, dict[str, Any]] = {}
            for name, value in row.items():
                score, at, setting = name.partition(_ATTENTION)
                attention, _, rest = setting.partition(",")
                if at:
                    parts.setdefault(attention, {})[f"{score}@{rest}"] = value
            for attention, scores in parts.items():
                found.setdefault(attention, []).append(scores)
    return found


def tables(finals: Finals, cell: Any, shown: Sequence[str] | None = None) -> list[str]:
    """Markdown tables, one for each sweep: a row per method, a column per setting.

    Args:
        finals: the last evaluation of each method and seed.
        cell: turns the values of several seeds into a cell's text.
        shown: see `find`.
    """
    lines: list[str] = []
    for options, settings in find(finals, shown).items():
        score = next(iter(settings.values())).partition("@")[0]
        columns = [", ".join(values) for values in settings]
        lines += [
            "",
            f"| {score} at {', '.join(options)} | " + " | ".join(columns) + " |",
            "|---" * (1 + len(columns)) + "|",
        ]
        for method, rows in finals.items():
            cells = [cell([row[n] for row in rows if n in row]) for n in settings.values()]
            if any(cells):
                lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return lines


def plot(finals: Finals, shown: Sequence[str] | None = None) -> Figure | None:
    """A figure with a panel for each sweep of at least two settings; None if there is none."""
    sweeps = {options: found for options, found in find(finals, shown).items() if len(found) > 1}
    if not sweeps:
        return None
    figure = figures.new(4.5 * len(sweeps), 3.6)
    axes = figure.subplots(1, len(sweeps), squeeze=False)[0]
    for axis, (options, settings) in zip(axes, sweeps.items(), strict=True):
        ticks = [", ".join(values) for values in settings]
        places = _places(list(settings))
        logarithmic = min(places) > 0
        for i, (method, rows) in enumerate(finals.items()):
            whole = [row for row in rows if all(name in row for name in settings.values())]
            if whole:
                values = np.array([[row[name] for name in settings.values()] for row in whole])
                # Side by side, or the bars of many methods hide each other.
                shift = DODGE * (i - (len(finals) - 1) / 2)
                shifted = [x * 2**shift if logarithmic else x + shift for x in places]
                _mean_bars(axis, method, shifted, values)
        if logarithmic:
            axis.set_xscale("log", base=2)
        axis.set_xticks(places, ticks)
        axis.set(xlabel=", ".join(options), title=next(iter(settings.values())).partition("@")[0])
        axis.grid(alpha=0.3)
    axes[-1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def mean_line(axis: Any, name: str, x: Sequence[float], values: np.ndarray) -> None:
    """A line through the means of values [seeds, len(x)], with their standard error around it."""
    (line,) = axis.plot(x, values.mean(0), marker="o", markersize=3, label=name)
    if len(values) > 1:
        error = values.std(0, ddof=1) / np.sqrt(len(values))
        low, high = values.mean(0) - error, values.mean(0) + error
        axis.fill_between(x, low, high, color=line.get_color(), alpha=0.2)


def _mean_bars(axis: Any, name: str, x: Sequence[float], values: np.ndarray) -> None:
    """As `mean_line`, for a few places that are compared one by one."""
    bars = {"elinewidth": 1.0, "capsize": 2.0}
    error = values.std(0, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else None
    axis.errorbar(x, values.mean(0), error, marker="o", markersize=3, lw=1, label=name, **bars)


def _places(settings: list[tuple[str, ...]]) -> list[float]:
    """Where the settings stand: at their number, or one after the other."""
    try:
        numbers = [float(value) for (value,) in settings]
    except ValueError:  # words, or several options at once
        numbers = []
    # On a scale of powers there is no place for zero.
    if numbers and min(numbers) > 0:
        return numbers
    return [float(i) for i in range(len(settings))]
