"""What is reported of judges: F1 of the positive class per sub-domain, always beside the constants.

On a balanced set "always right" has F1 = 2/3, more than many a judge; F1 alone says little, so
accuracy, balanced accuracy, Matthews' correlation and both recalls stand beside it.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jaxlab.evals import metrics
from jaxlab.evals.ajbench import intervals
from jaxlab.evals.ajbench.types import SUBDOMAINS
from jaxlab.evals.results import Result, by_row
from jaxlab.evals.tables import Cell, Table

OnParseFail = Literal["wrong", "drop"]
CONSTANTS = ("always right", "always wrong")


@dataclass(frozen=True)
class Confusion:
    """Counts of verdicts against labels; positive is "right".

    Attributes:
        tp: right ones judged right.
        fp: wrong ones judged right.
        tn: wrong ones judged wrong.
        fn: right ones judged wrong.
    """

    tp: int = 0
    fp: int = 0
    tn: int = 0
    fn: int = 0

    @property
    def f1(self) -> float:
        """2 tp / (2 tp + fp + fn), 0 where nothing is positive."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn, empty=0.0)

    @property
    def accuracy(self) -> float:
        """Share of verdicts that agree with the label."""
        return _ratio(self.tp + self.tn, self.tp + self.fp + self.tn + self.fn)

    @property
    def recall_right(self) -> float:
        """Share of the right ones that were judged right."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def recall_wrong(self) -> float:
        """Share of the wrong ones that were judged wrong."""
        return _ratio(self.tn, self.tn + self.fp)

    @property
    def balanced_accuracy(self) -> float:
        """Mean of both recalls; NaN where one class is absent."""
        return (self.recall_right + self.recall_wrong) / 2

    @property
    def mcc(self) -> float:
        """Matthews' correlation (1975), 0 where labels or verdicts do not vary."""
        product = (
            (self.tp + self.fp) * (self.tp + self.fn) * (self.tn + self.fp) * (self.tn + self.fn)
        )
        return _ratio(self.tp * self.tn - self.fp * self.fn, math.sqrt(product), empty=0.0)


def confusion(labels: Iterable[bool], verdicts: Iterable[bool]) -> Confusion:
    """The counts of pairs."""
    counts = {(True, True): 0, (True, False): 0, (False, True): 0, (False, False): 0}
    for label, verdict in zip(labels, verdicts, strict=True):
        counts[label, verdict] += 1
    return Confusion(
        tp=counts[True, True],
        fp=counts[False, True],
        tn=counts[False, False],
        fn=counts[True, False],
    )


def verdict_of(result: Result, on_parse_fail: OnParseFail) -> bool | None:
    """The verdict of a sample; one that could not be read is the opposite of the label, or None."""
    if result.answer in ("0", "1"):
        return result.answer == "1"
    return None if on_parse_fail == "drop" else result.target != "1"


def macro_f1(by_subdomain: Mapping[str, float]) -> float:
    """The leaderboard's Overall: the plain mean over sub-domains.

    Raises:
        ValueError: there is none.
    """
    if not by_subdomain:
        raise ValueError("no sub-domain to average over")
    return float(np.mean(list(by_subdomain.values())))


def tables(results: Sequence[Result], on_parse_fail: OnParseFail = "wrong") -> list[Table]:
    """Scores, sub-domains, abilities, and kinds where the set has kinds.

    F1 is that of each run (sample number), averaged over runs as the paper does, with its interval
    over tasks (`intervals`); "std" is the standard deviation over runs, and "pooled" the F1 of all
    runs' verdicts together. The other columns pool the runs. The paper does not say what a run is
    worth in which a sub-domain has failed: here it is left out for that sub-domain, and named.

    Args:
        results: with `answer` "0", "1" or None and `target` "0" or "1".
        on_parse_fail: whether a verdict that could not be read counts as wrong or is left out.
    """
    found = [_scores(results, on_parse_fail)]
    for title, key, order in (
        ("By sub-domain", "subdomain", SUBDOMAINS),
        ("By ability", "ability", ()),
        ("By kind of trajectory", "kind", ()),
    ):
        if all(key in result.meta for result in results):
            found.append(_grouped(title, key, order, results, on_parse_fail))
    if any("turns" in result.meta for result in results):
        found.append(_effort(results))
    return found


def comparison(runs: Mapping[str, Sequence[Result]]) -> Table:
    """Macro F1 of several runs, and its difference to the first one's, on what all of them have.

    A verdict that could not be read counts as wrong, whatever the runs' own reports do with it:
    otherwise they would be compared on different units.

    Raises:
        ValueError: they have no verdict in common.
    """
    common = set.intersection(*({(r.id, r.sample) for r in found} for found in runs.values()))
    if not common:
        raise ValueError(f"no verdict is in all of {', '.join(runs)}: are they of one benchmark?")
    kept = {name: [r for r in found if (r.id, r.sample) in common] for name, found in runs.items()}
    counts = {
        name: intervals.of_judge(
            _groups(found, "subdomain", SUBDOMAINS), lambda result: verdict_of(result, "wrong")
        )
        for name, found in kept.items()
    }
    (baseline, first), *others = counts.items()
    tests = [intervals.paired(first, other) for _, other in others]
    adjusted = metrics.holm([p_value for _, p_value in tests])
    rows: list[dict[str, Cell]] = [{"run": baseline, "macro F1": intervals.bootstrap(first)}]
    for (name, other), (difference, p_value), corrected in zip(
        others, tests, adjusted, strict=True
    ):
        rows.append(
            {
                "run": name,
                "macro F1": intervals.bootstrap(other),
                "difference": difference,
                "p": p_value,
                "p (Holm)": corrected,
            }
        )
    note = (
        f"{len(common)} verdicts that all runs have, on {len({id for id, _ in common})} units of "
        f"{len(first)} sub-domains. Differences are to the first run; intervals by drawing tasks, "
        "p by exchanging the verdicts on tasks, two-sided. An unread verdict counts as wrong."
    )
    return Table("Macro F1", rows, note)


def _effort(results: Sequence[Result]) -> Table:
    rows: list[dict[str, Cell]] = []
    for name, group in _groups(results, "subdomain", SUBDOMAINS).items():
        replays = [result.meta["replay"] for result in group if result.meta.get("replay")]
        row: dict[str, Cell] = {"subdomain": name, "verdicts": len(group)}
        for key in ("turns", "tool_calls", "tool_errors", "seconds"):
            values = [float(result.meta.get(key, 0)) for result in group]
            row |= {key.replace("_", " "): float(np.mean(values))}
            if key == "turns":
                row |= {"most turns": int(max(values))}
        row |= {
            "input tokens": float(np.mean([result.input_tokens for result in group])),
            "output tokens": float(np.mean([result.output_tokens for result in group])),
        }
        for key in ("calls", "failed", "diverged"):
            row |= {f"replay: {key}": sum(int(replay[key]) for replay in replays)}
        rows.append(row)
    note = (
        "Means of a verdict; the replay's columns are sums. A replayed call diverged if it failed "
        "here and not in the record, or the other way round."
    )
    return Table("Effort", rows, note)


def _scores(results: Sequence[Result], on_parse_fail: OnParseFail) -> Table:
    judges: dict[str, Callable[[Result], bool | None]] = {
        "the judge": lambda result: verdict_of(result, on_parse_fail),
        CONSTANTS[0]: lambda result: True,
        CONSTANTS[1]: lambda result: False,
    }
    rows: list[dict[str, Cell]] = []
    groups = _groups(results, "subdomain", SUBDOMAINS)
    lacking: dict[int, list[str]] = {}
    for run in _runs(results):
        there = {str(result.meta["subdomain"]) for result in run}
        lacking[run[0].sample] = [name for name in groups if name not in there]
    for name, judge in judges.items():
        overall = []
        for run in _runs(results):
            if not lacking[run[0].sample]:
                found = _groups(run, "subdomain", SUBDOMAINS)
                overall.append(macro_f1({k: _confusion(g, judge).f1 for k, g in found.items()}))
        counts = intervals.of_judge(groups, judge)
        value: Cell = float(intervals.macro_f1(counts))
        if name == "the judge":
            value = intervals.bootstrap(counts)
        rows.append(
            {
                "judge": name,
                "macro F1": value,
                "std": float(np.std(overall, ddof=1)) if len(overall) > 1 else None,
                "pooled": macro_f1({k: _confusion(g, judge).f1 for k, g in groups.items()}),
                **_columns(results, judge),
                "unread": _unread(results) if name == "the judge" else 0,
            }
        )
    note = (
        "Macro F1 is the mean over sub-domains of the F1 of right trajectories. A verdict that "
        f"could not be read {'is left out' if on_parse_fail == 'drop' else 'counts as wrong'}."
    )
    absent = [name for name in SUBDOMAINS if name not in groups]
    if absent:
        note += f" Of the paper's sub-domains these are not among the results: {', '.join(absent)}."
    for number, names in lacking.items():
        if names:
            note += f" Run {number} has no verdict of {', '.join(names)}."
    if any(lacking.values()):
        note += (
            " Such a run has no F1 of it: a sub-domain is averaged over the runs that it has, and "
            "std is over the runs that have all."
        )
    return Table("Scores", rows, note)


def _grouped(
    title: str,
    key: str,
    order: Sequence[str],
    results: Sequence[Result],
    on_parse_fail: OnParseFail,
) -> Table:
    rows: list[dict[str, Cell]] = []
    for name, group in _groups(results, key, order).items():
        f1 = [
            _confusion(run, lambda result: verdict_of(result, on_parse_fail)).f1
            for run in _runs(group)
        ]
        always = _confusion(group, lambda result: True)
        counts = intervals.of_judge({name: group}, lambda result: verdict_of(result, on_parse_fail))
        rows.append(
            {
                key: name,
                "units": len({result.id for result in group}),
                "F1": intervals.bootstrap(counts),
                "std": float(np.std(f1, ddof=1)) if len(f1) > 1 else None,
                "pooled": _confusion(group, lambda r: verdict_of(r, on_parse_fail)).f1,
                **_columns(group, lambda result: verdict_of(result, on_parse_fail)),
                "F1 of always right": always.f1,
                "unread": _unread(group),
            }
        )
    return Table(title, rows)


def _columns(results: Sequence[Result], judge: Callable[[Result], bool | None]) -> dict[str, Cell]:
    counts = _confusion(results, judge)
    return {
        "accuracy": _accuracy(results, judge),
        "balanced accuracy": counts.balanced_accuracy,
        "MCC": counts.mcc,
        "recall of right": counts.recall_right,
        "recall of wrong": counts.recall_wrong,
        "TP": counts.tp,
        "FP": counts.fp,
        "TN": counts.tn,
        "FN": counts.fn,
    }


def _accuracy(results: Sequence[Result], judge: Callable[[Result], bool | None]) -> Cell:
    """Over units, with an interval clustered by task; None where every verdict is left out."""
    means, clusters = [], []
    for group in by_row(results).values():
        found = [(judge(result), result.target == "1") for result in group]
        hits = [verdict == label for verdict, label in found if verdict is not None]
        if hits:
            means.append(float(np.mean(hits)))
            clusters.append(group[0].cluster)
    return metrics.cluster_bootstrap(np.array(means), clusters) if means else None


def _confusion(results: Sequence[Result], judge: Callable[[Result], bool | None]) -> Confusion:
    pairs = [(result.target == "1", judge(result)) for result in results]
    kept = [(label, verdict) for label, verdict in pairs if verdict is not None]
    return confusion([label for label, _ in kept], [verdict for _, verdict in kept])


def _groups(results: Sequence[Result], key: str, order: Sequence[str]) -> dict[str, list[Result]]:
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(str(result.meta[key]), []).append(result)
    first = [name for name in order if name in groups]
    return {name: groups[name] for name in [*first, *sorted(groups.keys() - set(first))]}


def _runs(results: Sequence[Result]) -> list[list[Result]]:
    numbers = sorted({result.sample for result in results})
    return [[result for result in results if result.sample == number] for number in numbers]


def _unread(results: Sequence[Result]) -> int:
    return sum(result.answer not in ("0", "1") for result in results)


def _ratio(top: float, bottom: float, empty: float = math.nan) -> float:
    return top / bottom if bottom else empty
