"""Metrics over repeated samples, and their standard errors. numpy, float64.

P: problems, n: samples per problem.
"""

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np


def wilson(wins: int, games: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (Wilson 1927); of no games (0, 1)."""
    if not games:
        return 0.0, 1.0
    share, square = wins / games, z * z
    centre = (share + square / (2 * games)) / (1 + square / games)
    half = math.sqrt(share * (1 - share) / games + square / (4 * games * games))
    half *= z / (1 + square / games)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def avg_at_n(correct: np.ndarray) -> float:
    """Mean over problems of the fraction of right samples; `correct` is bool[P, n]."""
    correct = _matrix(correct)
    return float(correct.mean())


def pass_at_k(num_samples: np.ndarray | int, num_correct: np.ndarray | int, k: int) -> np.ndarray:
    """Unbiased estimate of the probability that one of k samples is right.

    1 - C(n - c, k) / C(n, k) = 1 - prod_{i<k} (n - c - i) / (n - i), from n samples of which c are
    right (Chen et al., Evaluating large language models trained on code, 2021, equation 1; in
    product form, which neither overflows nor cancels).

    Args:
        num_samples: n, int[P] or a scalar.
        num_correct: c, int[P] or a scalar.
        k: 1 <= k <= n.

    Returns:
        float64[P]; its mean is the metric.

    Raises:
        ValueError: k or a count is out of range.
    """
    n, c = _counts(num_samples, num_correct, k)
    i = np.arange(k)
    # A factor reaches 0 at i = n - c, where every draw of k must hold a right sample.
    return 1.0 - np.prod(np.maximum(n - c - i, 0) / (n - i), axis=-1)


def pass_hat_k(num_samples: np.ndarray | int, num_correct: np.ndarray | int, k: int) -> np.ndarray:
    """Unbiased estimate of the probability that all of k samples are right: C(c, k) / C(n, k).

    Arguments, result and errors as in `pass_at_k` (Yao et al., tau-bench, 2024).
    """
    n, c = _counts(num_samples, num_correct, k)
    i = np.arange(k)
    return np.prod(np.maximum(c - i, 0) / (n - i), axis=-1)


def maj_at_n(
    answers: Sequence[Sequence[Hashable | None]],
    correct: np.ndarray,
    ties: Literal["mean", "first"] = "mean",
) -> np.ndarray:
    """Accuracy of the most frequent answer of each problem.

    Args:
        answers: [P][n]; None is no answer, and no vote.
        correct: bool[P, n]; samples with equal answers should be graded equally, if not, the
            answer counts by the mean of its samples.
        ties: "mean" gives the expectation under a uniform draw among the tied answers, "first"
            takes the one that occurs first.

    Returns:
        float64[P]; 0 where no sample has an answer. Its mean is the metric.
    """
    scores = np.zeros(len(answers))
    for p, (row, right) in enumerate(zip(answers, np.asarray(correct, float), strict=True)):
        if len(row) != len(right):
            raise ValueError(f"problem {p} has {len(row)} answers and {len(right)} grades")
        votes = Counter(answer for answer in row if answer is not None)
        most = max(votes.values(), default=0)
        winners = [answer for answer, count in votes.items() if count == most]
        per_winner = [
            np.mean([grade for answer, grade in zip(row, right, strict=True) if answer == winner])
            for winner in (winners if ties == "mean" else winners[:1])
        ]
        scores[p] = np.mean(per_winner) if per_winner else 0.0
    return scores


def distinct_solutions(solutions: Sequence[Sequence[Hashable | None]]) -> np.ndarray:
    """Different right solutions of each problem: int64[P] from keys [P][n], None for the wrong."""
    return np.array([len({key for key in row if key is not None}) for row in solutions], np.int64)


def binomial_stderr(rate: float, n: int) -> float:
    """Standard error sqrt(p (1 - p) / n) of a success rate over n independent trials."""
    if n < 1 or not 0.0 <= rate <= 1.0:
        raise ValueError(f"a rate in [0, 1] over n >= 1 trials is needed, got {rate} over {n}")
    return float(np.sqrt(rate * (1.0 - rate) / n))


class Bootstrap(NamedTuple):
    """A mean with its bootstrap standard error and its 95 % percentile interval.

    All but the mean are NaN where one cluster alone was drawn from: it says nothing of others.
    """

    mean: float
    stderr: float
    low: float
    high: float


def cluster_bootstrap(
    values: np.ndarray,
    clusters: Sequence[Hashable] | None = None,
    *,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Bootstrap:
    """Bootstraps the mean of `values` by resampling whole clusters.

    Rows of one cluster (samples of a problem, variants of a seed problem) are not independent;
    drawing rows one by one would make the error too small.

    Args:
        values: float[N].
        clusters: the cluster of each row; every row its own by default.
        num_resamples: bootstrap draws.
        seed: the draws are a pure function of it.

    Raises:
        ValueError: there are no values, or not one cluster per value.
    """
    values = np.asarray(values, float)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"expected a non-empty vector of values, got shape {values.shape}")
    if clusters is None:
        clusters = range(values.size)
    if len(clusters) != values.size:
        raise ValueError(f"{values.size} values, but {len(clusters)} cluster labels")
    number = {label: i for i, label in enumerate(dict.fromkeys(clusters))}
    members = np.array([number[label] for label in clusters])
    sums = np.bincount(members, weights=values)
    sizes = np.bincount(members)

    if len(sums) == 1:
        return Bootstrap(float(values.mean()), np.nan, np.nan, np.nan)
    rng = np.random.default_rng(seed)
    means = np.empty(num_resamples)
    for part in _parts(num_resamples, len(sums)):
        draw = rng.integers(len(sums), size=(part.stop - part.start, len(sums)))
        means[part] = sums[draw].sum(1) / sizes[draw].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Bootstrap(float(values.mean()), float(means.std(ddof=1)), float(low), float(high))


class Paired(NamedTuple):
    """The comparison of two systems on the same rows.

    Attributes:
        difference: mean of b - a, with its interval.
        p_value: of the sign-flip test, two-sided.
        better: clusters in which b is ahead of a.
        worse: clusters in which it is behind.
    """

    difference: Bootstrap
    p_value: float
    better: int
    worse: int


def paired_test(
    a: np.ndarray,
    b: np.ndarray,
    clusters: Sequence[Hashable] | None = None,
    *,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Paired:
    """Tests whether b differs from a, row by row, by flipping the signs of whole clusters.

    Under the null hypothesis the two are exchangeable in each cluster, so that the sum of its
    differences is as likely to have the other sign (Fisher 1935; Good, Permutation, Parametric and
    Bootstrap Tests of Hypotheses, 2005). Up to 14 clusters that differ all flips are counted, and
    the p-value is exact; beyond that it is estimated, as (1 + hits) / (1 + resamples).

    Args:
        a: float[N], scores of the one.
        b: float[N], scores of the other on the same rows.
        clusters: the cluster of each row; every row its own by default.
        num_resamples: random flips, and bootstrap draws.
        seed: both are a pure function of it.

    Raises:
        ValueError: as in `cluster_bootstrap`, or a and b differ in length.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape:
        raise ValueError(f"a pair is needed for every row, got {a.shape} and {b.shape}")
    interval = cluster_bootstrap(b - a, clusters, num_resamples=num_resamples, seed=seed)
    sums = _cluster_sums(b - a, clusters)
    differing = sums[sums != 0]
    if len(differing) <= 14:
        bits = np.arange(1 << len(differing))[:, None] >> np.arange(len(differing)) & 1
        totals = (1 - 2 * bits) @ differing
        extra = 0
    else:
        rng = np.random.default_rng(seed)
        totals = np.empty(num_resamples)
        for part in _parts(num_resamples, len(differing)):
            flips = rng.choice((-1.0, 1.0), (part.stop - part.start, len(differing)))
            totals[part] = flips @ differing
        extra = 1
    # A flip that gives the same sum in another order of addition is as extreme.
    hits = np.sum(np.abs(totals) >= abs(differing.sum()) - 1e-9)
    p_value = float((hits + extra) / (len(totals) + extra))
    return Paired(interval, p_value, int(np.sum(sums > 0)), int(np.sum(sums < 0)))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number, by Holm's step-down procedure (1979)."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def _parts(num_resamples: int, size: int) -> Iterator[slice]:
    """Slices of the resamples, each of so many that its draws of `size` take a few megabytes."""
    step = max(1, 2**20 // size)
    for begin in range(0, num_resamples, step):
        yield slice(begin, min(begin + step, num_resamples))


def _cluster_sums(values: np.ndarray, clusters: Sequence[Hashable] | None) -> np.ndarray:
    if clusters is None:
        return values
    number = {label: i for i, label in enumerate(dict.fromkeys(clusters))}
    return np.bincount([number[label] for label in clusters], weights=values)


def _matrix(correct: np.ndarray) -> np.ndarray:
    correct = np.asarray(correct, float)
    if correct.ndim != 2 or correct.size == 0:
        raise ValueError(f"expected grades [problems, samples], got shape {correct.shape}")
    return correct


def _counts(
    num_samples: np.ndarray | int, num_correct: np.ndarray | int, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """n and c with a trailing axis of 1 for the factors of the product."""
    n, c = np.broadcast_arrays(num_samples, num_correct)
    if k < 1 or (n < k).any() or (c < 0).any() or (c > n).any():
        raise ValueError(
            f"1 <= k <= n and 0 <= c <= n are needed, got k={k}, smallest n={n.min()}, "
            f"c from {c.min()} to {c.max()}"
        )
    return n[..., None], c[..., None]
