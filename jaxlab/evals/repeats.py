"""Methods repeated over seeds and learning rates: one rate for each, differences seed by seed."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# One evaluation each, with "method", "seed", "step" and, where known, "learning_rate".
Rows = list[dict[str, Any]]

# Of these less is better.
LOWER_IS_BETTER = ("perplexity", "bits_per_byte", "loss")


def finals(rows: Rows) -> dict[str, Rows]:
    """The last evaluation of each seed, by method."""
    return {
        method: [points[-1] for points in series.values()]
        for method, series in by_method(rows).items()
    }


def by_method(rows: Rows) -> dict[str, dict[int, Rows]]:
    """The evaluations of each method and seed, in order."""
    methods: dict[str, dict[int, Rows]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        methods[row["method"]][row["seed"]].append(row)
    return methods


def at_best_rate(rows: Rows, score: str) -> Rows:
    """Each method that ran at several learning rates, at one of them.

    Methods are one method at several rates if their names differ behind the last "_" only
    ("kda_low" and "kda_high") and no two have the same learning rate. The rate is the one whose
    last evaluations are best on average over the seeds. That flatters a method, the more so the
    more rates it was given and the wider its seeds scatter: give all methods as many. (To choose
    for each seed by the other seeds flatters none, but where two rates are equally good it takes
    each seed where it did worse, and such a method comes out far below both.)

    Args:
        rows: evaluations of all rates.
        score: name of the score that decides.

    Returns:
        The chosen rows, under the common name ("kda"); rows of other methods as they are. Seeds
        that not all rates have are left out.
    """
    methods = by_method(rows)
    merged = {
        variant: name for name, variants in _families(methods).items() for variant in variants
    }
    chosen: Rows = []
    done = set()
    for method, series in methods.items():
        name = merged.get(method)
        if name is None:
            chosen += [row for points in series.values() for row in points]
        elif name not in done:
            done.add(name)
            variants = [methods[variant] for variant in merged if merged[variant] == name]
            seeds = sorted(set.intersection(*(set(variant) for variant in variants)))
            best = _best(variants, seeds, score)
            chosen += [row | {"method": name} for seed in seeds for row in best[seed]]
    return chosen


def _families(methods: Mapping[str, Mapping[int, Rows]]) -> dict[str, list[str]]:
    """Common name -> the methods that are one method at several learning rates."""
    named: dict[str, list[str]] = defaultdict(list)
    for method in methods:
        named[method.rpartition("_")[0]].append(method)
    found = {}
    for name, variants in named.items():
        rates = [_rate(methods[variant]) for variant in variants]
        different = None not in rates and len(set(rates)) == len(rates) > 1
        if name and name not in methods and different:
            found[name] = variants
    return found


def _rate(series: Mapping[int, Rows]) -> float | None:
    """The learning rate of a method's runs, if they have one."""
    rates = {row.get("learning_rate") for points in series.values() for row in points}
    return rates.pop() if len(rates) == 1 else None


def _best(
    variants: Sequence[Mapping[int, Rows]], seeds: Sequence[int], score: str
) -> Mapping[int, Rows]:
    """The variant whose last evaluations of these seeds have the best mean."""
    sign = -1 if score in LOWER_IS_BETTER else 1

    def total(variant: Mapping[int, Rows]) -> float:
        # A run without the score, which is not a number there, is the worst.
        last = [variant[seed][-1] for seed in seeds]
        return sum(sign * row.get(score, -sign * math.inf) for row in last)

    return max(variants, key=total)


def differences(last: Mapping[str, Rows], score: str, cell: Callable[[Any], str]) -> list[str]:
    """A Markdown table of score differences, row minus column, paired by seed.

    Runs of one seed share their data, so that the difference of a pair varies less than its parts.
    A cell has the mean over the common seeds, its standard error, and how many seeds of how many
    were above 0; it is empty where fewer than two seeds are common.

    Args:
        last: the last evaluation of each seed, by method.
        score: which.
        cell: turns the values of several seeds into "mean ± standard error".

    Returns:
        Lines; none where no two methods have two seeds in common.
    """
    values = {
        method: {row["seed"]: row[score] for row in rows if score in row}
        for method, rows in last.items()
    }
    values = {method: seeds for method, seeds in values.items() if len(seeds) > 1}
    table, found = [], False
    for first, ours in values.items():
        cells = []
        for second, theirs in values.items():
            common = sorted(ours.keys() & theirs.keys())
            if first == second or len(common) < 2:
                cells.append("")
                continue
            found = True
            gaps = [ours[seed] - theirs[seed] for seed in common]
            cells.append(f"{cell(gaps)} ({sum(gap > 0 for gap in gaps)}/{len(gaps)})")
        table.append(f"| {first} | " + " | ".join(cells) + " |")
    if not found:
        return []
    head = f"| {score}, row - column | " + " | ".join(values) + " |"
    return [head, "|---" * (1 + len(values)) + "|", *table]
