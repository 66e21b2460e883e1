"""How sure macro F1 is: intervals by resampling tasks, and a paired test by exchanging verdicts.

The trajectories of a task (rows of a query) are not independent, so tasks are drawn and exchanged
as a whole. Each sub-domain keeps its number of tasks: the mean over sub-domains has them all.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxlab.evals.metrics import Bootstrap
from jaxlab.evals.results import Result

Judge = Callable[[Result], bool | None]
# Sub-domain (or another group) -> int[runs, tasks, 4]: tp, fp, fn and tn of each task in each run.
Counts = Mapping[str, np.ndarray]

_EXACT = 14  # tasks that differ; beyond that not all exchanges are counted


def counts(
    groups: Mapping[str, Sequence[Result]],
    judge: Judge,
    runs: Sequence[int],
    tasks: Mapping[str, Sequence[str]],
) -> Counts:
    """The counts of a judge; `tasks` are the clusters of each group, in the order of the axis."""
    found = {}
    for name, group in groups.items():
        row = {number: i for i, number in enumerate(runs)}
        column = {task: i for i, task in enumerate(tasks[name])}
        table = found[name] = np.zeros((len(runs), len(column), 4), int)
        for result in group:
            verdict = judge(result)
            if verdict is None:
                continue
            cell = table[row[result.sample], column[result.cluster]]
            label = result.target == "1"
            cell += (
                label and verdict,
                not label and verdict,
                label and not verdict,
                not label and not verdict,
            )
    return found


def of_judge(groups: Mapping[str, Sequence[Result]], judge: Judge) -> Counts:
    """The counts of a judge over all runs and tasks that there are."""
    runs = sorted({result.sample for group in groups.values() for result in group})
    tasks = {name: sorted({r.cluster for r in group}) for name, group in groups.items()}
    return counts(groups, judge, runs, tasks)


def macro_f1(
    found: Counts, weights: Mapping[str, np.ndarray] | None = None
) -> np.ndarray | np.floating:
    """The mean over groups of the mean over runs of F1.

    A run in which a group has no verdict at all (its samples have failed) has no F1 of it, and the
    group is averaged over its other runs; a group without any verdict counts as 0.

    Args:
        found: of `counts`.
        weights: float[..., tasks] for each group: how often each task counts; 1 by default.

    Returns:
        float[...].
    """
    means = []
    for name, table in found.items():
        weight = np.ones(table.shape[1]) if weights is None else weights[name]
        there = table.any(axis=(1, 2))
        tp, fp, fn, _ = np.moveaxis(np.einsum("...t,rtk->...rk", weight, table), -1, 0)
        bottom = 2 * tp + fp + fn
        f1 = 2 * tp / np.where(bottom > 0, bottom, 1)
        means.append(f1 @ there / max(1, there.sum()))
    return np.mean(means, axis=0)


def bootstrap(found: Counts, num_resamples: int = 2000, seed: int = 0) -> Bootstrap:
    """Macro F1 with its 95 % interval over tasks."""
    return _interval(macro_f1(found), macro_f1(found, _draws(found, num_resamples, seed)))


def paired(
    a: Counts, b: Counts, num_resamples: int = 10_000, seed: int = 0
) -> tuple[Bootstrap, float]:
    """Macro F1 of b less that of a, with its interval, and the p-value of the difference.

    Under the null hypothesis the verdicts of both on a task are exchangeable (approximate
    randomization, Noreen 1989; Yeh 2000 for F1). Up to 14 tasks that differ all exchanges are
    counted, and the two-sided p-value is exact; beyond that it is (1 + hits) / (1 + resamples).

    Args:
        a: of the one.
        b: of the other, on the same groups, runs and tasks.
        num_resamples: bootstrap draws, and random exchanges.
        seed: both are a pure function of it.
    """
    draws = _draws(a, num_resamples, seed)
    observed = macro_f1(b) - macro_f1(a)
    interval = _interval(observed, macro_f1(b, draws) - macro_f1(a, draws))
    differing = {name: np.flatnonzero((a[name] != b[name]).any(axis=(0, 2))) for name in a}
    number = sum(len(tasks) for tasks in differing.values())
    if number <= _EXACT:
        flips = np.arange(1 << number)[:, None] >> np.arange(number) & 1
        extra = 0
    else:
        flips = np.random.default_rng(seed).integers(2, size=(num_resamples, number))
        extra = 1
    totals = np.zeros(len(flips))
    start = 0
    for name, tasks in differing.items():
        flip = np.zeros((len(flips), a[name].shape[1]))
        flip[:, tasks] = flips[:, start : start + len(tasks)]
        start += len(tasks)
        # One group alone: the mean over groups is taken at the end.
        both = {"a": np.concatenate([a[name], b[name]], axis=1)}
        first = {"a": np.concatenate([1 - flip, flip], axis=1)}
        second = {"a": np.concatenate([flip, 1 - flip], axis=1)}
        totals += macro_f1(both, second) - macro_f1(both, first)
    totals /= len(a)
    hits = np.sum(np.abs(totals) >= abs(observed) - 1e-9)
    return interval, float((hits + extra) / (len(flips) + extra))


def _draws(found: Counts, number: int, seed: int) -> dict[str, np.ndarray]:
    """How often each task of each group is drawn: int[number, tasks]."""
    rng = np.random.default_rng(seed)
    sizes = {name: table.shape[1] for name, table in found.items()}
    return {name: rng.multinomial(n, np.full(n, 1 / n), size=number) for name, n in sizes.items()}


def _interval(value: np.ndarray | np.floating, draws: np.ndarray | np.floating) -> Bootstrap:
    low, high = np.quantile(draws, [0.025, 0.975])
    return Bootstrap(float(value), float(np.std(draws, ddof=1)), float(low), float(high))
