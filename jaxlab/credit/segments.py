"""Skill1's credit: one outcome becomes an advantage for each phase of an episode (2605.06130).

An episode is query, rank, act and distil, all written by one policy. Its terminal reward is the
only thing the environment says; what a phase is worth follows from it and from the utilities of
the skills that were retrieved. Pure functions of numbers, NumPy alone.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Gain = Literal["rank", "utility", "exp"]
Mode = Literal["paper", "released", "delayed"]
PHASES = ("query", "rank", "act", "distil")


@dataclass(frozen=True)
class Episode:
    """What credit needs to know of an episode.

    Attributes:
        task: episodes of one task are compared with each other.
        outcome: terminal reward r; 0 or 1.
        utilities: U of the retrieved candidates before this batch's update, in retrieval order;
            empty where nothing was retrieved.
        order: the policy's ranking, indices of `utilities`, best first; None where it wrote none
            that could be read.
        written: whether a skill was written that could be read.
        later: U that the written skill reached, once it was used often enough; None before.
        log_ratio: log-probability of the written skill by the policy of now minus that of the
            policy that wrote it; for `delayed`, 0 where both are one.
    """

    task: Hashable
    outcome: float
    utilities: tuple[float, ...] = ()
    order: tuple[int, ...] | None = None
    written: bool = True
    later: float | None = None
    log_ratio: float = 0.0


def ndcg(order: Sequence[int], utility: Sequence[float], gain: Gain = "rank") -> float:
    """Normalised discounted cumulative gain of a ranking, against the ranking by utility (Eq. 6).

    DCG = sum over places k = 1, 2, ... of gain_k / log2(k + 1), divided by that of the ideal order.
    Places that the ranking leaves out gain nothing; ties of utility may stand in any order.

    Args:
        order: candidate indices, best first.
        utility: of each candidate.
        gain: "rank", K - i for the i-th best of K, ties alike (Eq. 6 passes an ordering alone);
            "utility", U itself (the released code); "exp", 2^U - 1.

    Returns:
        0 to 1; 0 with no candidate, or where none gains anything.

    Raises:
        ValueError: an index is repeated or out of range, a utility is negative or not finite, or
            `gain` is unknown.
    """
    values = np.asarray(utility, float)
    chosen = list(order)
    if sorted(set(chosen)) != sorted(chosen) or any(not 0 <= i < len(values) for i in chosen):
        raise ValueError(f"order: {chosen} must be different indices below {len(values)}")
    if not np.all(np.isfinite(values)) or np.any(values < 0.0):
        raise ValueError(f"utility: {values.tolist()} must be finite and not negative")
    if gain == "rank":
        # How many are not better, so that equal candidates are worth the same.
        gains = np.sum(values[:, None] >= values[None, :], axis=1).astype(float)
    elif gain == "utility":
        gains = values
    elif gain == "exp":
        gains = np.exp2(values) - 1.0
    else:
        raise ValueError(f"gain={gain!r} is not one of rank, utility, exp")
    discounts = 1.0 / np.log2(np.arange(len(values)) + 2.0)
    ideal = float(np.sum(np.sort(gains)[::-1] * discounts))
    if ideal <= 0.0:
        return 0.0
    return float(np.sum(gains[chosen] * discounts[: len(chosen)])) / ideal


def trend(
    utility: float | np.ndarray, outcome: float | np.ndarray, alpha: float = 0.05
) -> float | np.ndarray:
    """The utility after an outcome: U <- (1 - alpha) U + alpha r (Eq. 5). Numbers or arrays.

    Raises:
        ValueError: `alpha` is outside of [0, 1].
    """
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha={alpha} is outside of [0, 1]")
    return (1.0 - alpha) * utility + alpha * outcome


def distil_reward(outcome: float, utilities: Sequence[float]) -> float:
    """How far the episode beat its best retrieved skill, r - max U (Eq. 7); r with none."""
    return float(outcome) - max((float(u) for u in utilities), default=0.0)


def rank_reward(episode: Episode, gain: Gain = "rank") -> float:
    """NDCG of the episode's ranking; 0 without a readable one or with fewer than two candidates."""
    if episode.order is None or len(episode.utilities) < 2:
        return 0.0
    return ndcg(episode.order, episode.utilities, gain)


def advantages(
    episodes: Sequence[Episode],
    mode: Mode = "paper",
    *,
    weights: tuple[float, float] = (0.3, 0.3),
    clip: float = 0.2,
    eps: float = 1e-6,
) -> list[dict[str, float]]:
    """One advantage per phase segment of each episode.

    - `paper`: query and act get the outcome, normalised over the episodes of a task (Eq. 12); rank
      gets lambda_1 NDCG without a baseline (Eq. 9); distil lambda_2 times the distil reward,
      normalised over the task apart (Eq. 10). What a skill says cannot change the outcome of the
      episode before it, so that the expected gradient of distil is exactly zero.
    - `released`: lambda_1 NDCG, by the gain of raw utilities, is added to the outcome, and the sum
      normalised is the advantage of query, rank and act; distil is not trained.
    - `delayed`: as `paper`, but a skill is credited when its utility is known: lambda_2 times
      (later utility - best retrieved one), times the importance ratio clipped to 1 +- `clip`; 0
      until then.

    Args:
        episodes: of one batch.
        mode: see above.
        weights: lambda_1 and lambda_2.
        clip: of the importance ratio in `delayed`.
        eps: added to standard deviations.

    Returns:
        For each episode a number for each of `PHASES`; 0 teaches nothing.

    Raises:
        ValueError: `mode` is unknown.
    """
    if mode not in ("paper", "released", "delayed"):
        raise ValueError(f"mode={mode!r} is not one of paper, released, delayed")
    of_rank, of_distil = weights
    tasks = [episode.task for episode in episodes]
    outcomes = [float(episode.outcome) for episode in episodes]
    if mode == "released":
        ranks = [rank_reward(episode, "utility") for episode in episodes]
        sums = [r + of_rank * rank for r, rank in zip(outcomes, ranks, strict=True)]
        return [
            {"query": a, "rank": a, "act": a, "distil": 0.0} for a in normalised(sums, tasks, eps)
        ]
    credits = [distil_reward(e.outcome, e.utilities) if e.written else 0.0 for e in episodes]
    distils = normalised(credits, tasks, eps)
    if mode == "delayed":
        distils = [_delayed(episode, clip) for episode in episodes]
    return [
        {"query": a, "rank": of_rank * rank_reward(episode), "act": a, "distil": of_distil * d}
        for a, d, episode in zip(normalised(outcomes, tasks, eps), distils, episodes, strict=True)
    ]


def normalised(
    values: Sequence[float], groups: Sequence[Hashable], eps: float = 1e-6
) -> list[float]:
    """(x - mean) / (standard deviation + eps) within each group; 0 in a group of equal values."""
    found = np.zeros(len(values))
    for group in dict.fromkeys(groups):
        members = [i for i, other in enumerate(groups) if other == group]
        inside = np.asarray([values[i] for i in members], float)
        if np.ptp(inside) > 0.0:
            found[members] = (inside - inside.mean()) / (inside.std() + eps)
    return found.tolist()


def _delayed(episode: Episode, clip: float) -> float:
    if episode.later is None or not episode.written:
        return 0.0
    ratio = float(np.exp(np.clip(episode.log_ratio, -20.0, 20.0)))
    credit = distil_reward(episode.later, episode.utilities)
    # The pessimistic of both, as in PPO.
    return min(ratio * credit, float(np.clip(ratio, 1.0 - clip, 1.0 + clip)) * credit)
