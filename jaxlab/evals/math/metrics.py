"""What is reported of mathematical problems: avg@n, pass@k, pass^k, maj@n, by group."""

import json
import math
import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

import numpy as np

from jaxlab.evals import metrics
from jaxlab.evals.results import Result, by_row, row_means
from jaxlab.evals.tables import Cell, Table
from jaxlab.grading.math.rows import GROUPS

_FRACTION = re.compile(
    r"([-+]?)(?:\\[dt]?frac\{([-+]?\d+)\}\{(0*[1-9]\d*)\}|(\d+)/(0*[1-9]\d*))", re.ASCII
)
_GROUPED = re.compile(r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?", re.ASCII)
_MAX_POWER = 200


def tables(results: Sequence[Result]) -> list[Table]:
    """The scores over all problems, then those of each group.

    Intervals are 95 %, by bootstrap over problems. Where problems differ in their number of
    completions (a run under way), n is the smallest.
    """
    found = [Table("Scores", [{"problems": len(by_row(results)), **scores(results)}])]
    for name in GROUPS:
        groups: dict[str, list[Result]] = {}
        for result in results:
            if name in result.meta:
                groups.setdefault(_label(result.meta[name]), []).append(result)
        rows: list[dict[str, Cell]] = [
            {name: label, "problems": len(by_row(chosen)), **scores(chosen)}
            for label, chosen in sorted(groups.items(), key=lambda group: _order(group[0]))
        ]
        if len(rows) > 1:
            found.append(Table(f"By {name}", rows))
    return found


def scores(results: Sequence[Result]) -> dict[str, metrics.Bootstrap]:
    """avg@n, pass@k and pass^k for the powers of two up to n and for n, and maj@n."""
    groups = list(by_row(results).values())
    n = min(map(len, groups))
    correct = np.array([[result.correct for result in group[:n]] for group in groups])
    _, means, clusters = row_means(results)

    def interval(values: np.ndarray) -> metrics.Bootstrap:
        return metrics.cluster_bootstrap(values, clusters)

    found = {f"avg@{n}": interval(means)}
    if n > 1:
        powers = [1 << i for i in range(1, n.bit_length()) if 1 << i < n]
        for k in [*powers, n]:
            found[f"pass@{k}"] = interval(metrics.pass_at_k(n, correct.sum(1), k))
        found[f"pass^{n}"] = interval(metrics.pass_hat_k(n, correct.sum(1), n))
        votes = [[vote(result) for result in group[:n]] for group in groups]
        found[f"maj@{n}"] = interval(metrics.maj_at_n(votes, correct))
    return found


def _label(value: Any) -> str:
    """What a group is called; rows of the user's own have any JSON value there."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _order(label: str) -> tuple[bool, float, str]:
    """Numbers first, by size."""
    try:
        number = float(label)
    except ValueError:
        number = math.nan
    return math.isnan(number), 0.0 if math.isnan(number) else number, label


def vote(result: Result) -> str | None:
    """What a completion votes for: equal numbers are one vote, however they are written."""
    if result.answer is None or result.reason == "truncated":
        return None
    answer = result.answer.strip()
    fraction = _FRACTION.fullmatch(answer)
    if fraction is not None and len(answer) <= _MAX_POWER:
        sign, top, bottom = fraction[1], fraction[2] or fraction[4], fraction[3] or fraction[5]
        return str(Fraction(int(top), int(bottom)) * (-1 if sign == "-" else 1))
    try:
        number = Decimal(answer.replace(",", "") if _GROUPED.fullmatch(answer) else answer)
    except InvalidOperation:
        return answer
    # A power of ten such as 1e999999999 must not be written out.
    short = number.is_finite() and abs(number.adjusted()) <= _MAX_POWER
    return str(Fraction(number)) if short else answer
