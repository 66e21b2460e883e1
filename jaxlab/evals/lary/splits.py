"""Splits into train and val: grouped splits, unseen robots, weights that balance classes."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jaxlab.evals.lary.rows import Panel, Row


@dataclass(frozen=True)
class Split:
    """Rows of the two sides.

    Attributes:
        lonely: classes whose rows are all of one group, and so on one side (train): they cannot be
            validated.
    """

    train: tuple[Row, ...]
    val: tuple[Row, ...]
    lonely: tuple[str, ...] = ()


def grouped(
    rows: Sequence[Row],
    fraction: float = 0.25,
    seed: int = 0,
    by: Literal["group", "episode"] = "group",
) -> Split:
    """A split that divides no group, with about `fraction` of every class in val.

    The official split of LIBERO divides pairs row by row, though the set was augmented by time
    reversal: a pair and its reversal may fall on both sides. Here they share a side. Groups are
    taken in the order of a hash, classes from the rarest on, until the fraction is reached.

    Args:
        rows: classes are their actions where those are labels; chunks are of one class.
        fraction: of the rows, in (0, 1).
        seed: the split is a pure function of it and of the rows.
        by: "group" (episode and segment) or "episode".

    Raises:
        ValueError: the fraction is out of range, or there are fewer than two groups.
    """
    if not 0.0 < fraction < 1.0:
        raise ValueError(f"fraction must be in (0, 1), got {fraction}")
    members: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        members[getattr(row, by)].append(row)
    if len(members) < 2:
        raise ValueError(f"a split by {by} needs two of them; the {len(rows)} rows are of one")
    order = sorted(members, key=lambda name: hashlib.sha256(f"{seed}\x1f{name}".encode()).digest())
    total = Counter(map(_label, rows))
    groups_of: dict[str, list[str]] = defaultdict(list)
    for name in order:
        for label in dict.fromkeys(map(_label, members[name])):
            groups_of[label].append(name)
    val: set[str] = set()
    placed: set[str] = set()
    held: Counter[str] = Counter()
    for label in sorted(total, key=lambda label: (total[label], label)):
        open_groups = [name for name in groups_of[label] if name not in placed]
        for name in open_groups:
            placed.add(name)
            # The last group of a class stays in train: what is not trained cannot be validated.
            alone = any(
                all(other in val for other in groups_of[own] if other != name)
                for own in set(map(_label, members[name]))
            )
            if held[label] < fraction * total[label] and not alone:
                val.add(name)
                held.update(map(_label, members[name]))
    train = tuple(row for row in rows if getattr(row, by) not in val)
    held_out = tuple(row for row in rows if getattr(row, by) in val)
    lonely = tuple(sorted(label for label, names in groups_of.items() if len(names) == 1))
    return Split(train, held_out, lonely if set(total) != {""} else ())


def unseen_robots(panel: Panel, train: Panel) -> dict[str, int]:
    """Robots of a panel that the training panel does not have -> number of their rows."""
    return {name: n for name, n in sorted(panel.robots.items()) if name not in train.robots}


def balanced_weights(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Probability of each row, float64[N], under which every class that has rows is as likely.

    1 / (rows of the class * classes with rows), the weights of the released sampler.

    Raises:
        ValueError: a label is out of range, or there is none.
    """
    labels = np.asarray(labels)
    if labels.size == 0 or labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"labels in [0, {num_classes}) are needed, got {labels!r:.60}")
    counts = np.bincount(labels, minlength=num_classes)
    return 1.0 / (counts[labels] * np.count_nonzero(counts))


def _label(row: Row) -> str:
    return "" if row.steps else row.action
