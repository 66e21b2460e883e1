"""Step-level credit of episodes: GiGPO's groups of steps from one state (2505.10978)."""

from collections.abc import Hashable, Sequence

import numpy as np


def returns(rewards: Sequence[float], discount: float = 0.95) -> list[float]:
    """Discounted returns R_t = sum over k >= t of discount^(k - t) r_k (Eq. 5).

    Raises:
        ValueError: `discount` is outside of [0, 1].
    """
    if not 0.0 <= discount <= 1.0:
        raise ValueError(f"discount={discount} is outside of [0, 1]")
    found, total = [], 0.0
    for reward in reversed(rewards):
        total = reward + discount * total
        found.append(total)
    return found[::-1]


def step_advantages(
    groups: Sequence[Hashable],
    states: Sequence[Hashable],
    values: Sequence[float],
    *,
    normalise: bool = True,
    eps: float = 1e-6,
) -> list[float]:
    """Advantage of each step among the steps of its group from the same state (Eq. 6, 7).

    A^S = (R - mean) / F over the steps of all episodes of a task that stood before the same state:
    F is their standard deviation + eps, or 1. A state that only one step has, or whose returns are
    all equal, gives 0.

    Args:
        groups: the task of each step.
        states: its state.
        values: its return.
        normalise: whether F is the standard deviation.
        eps: see above.
    """
    found = np.zeros(len(values))
    members: dict[tuple[Hashable, Hashable], list[int]] = {}
    for i, key in enumerate(zip(groups, states, strict=True)):
        members.setdefault(key, []).append(i)
    for rows in members.values():
        inside = np.asarray([values[i] for i in rows], float)
        if np.ptp(inside) > 0.0:
            scale = inside.std() + eps if normalise else 1.0
            found[rows] = (inside - inside.mean()) / scale
    return found.tolist()
