"""Words of a finite group, labelled with the product of what has been read.

    tokens   1 0 1 1        the group Z_2: this is parity
    targets  1 1 0 1

The label at t is x_t ... x_2 x_1, the last factor applied last. Merrill, Petty and Sabharwal (The
illusion of state in state-space models, 2024) use it to tell what a recurrence can track; Grazzi et
al. (Unlocking state-tracking in linear RNNs through negative eigenvalues, 2025) show that parity
needs an eigenvalue below zero, which a delta rule has with beta in (1, 2), and that S_5 needs
several such reflections in a step.

Ids of tokens and labels are the group's elements in order: the residues of Z_m; the permutations
of S_n or A_n in lexicographic order, so that 0 is the identity.
"""

import itertools
import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from jaxlab.data.tasks import tokens as tokens_lib
from jaxlab.data.tasks.types import Split

MAX_ORDER = 1024
MAX_POINTS = 6  # S_6 has 720 elements


@dataclass(frozen=True)
class StateTracking:
    """Uniform words of a group.

    Attributes:
        group: "zM" (integers modulo M; "z2" is parity), "sN" or "aN" (all, or the even,
            permutations of N points).
        length: T.
        max_moved: for permutations: words use only those that move at most this many points (2:
            exchanges and the identity); the labels still reach the group that they generate.
        seed: fixes every example.
    """

    group: str = "z2"
    length: int = 64
    max_moved: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse groups that there are not."""
        tokens_lib.check_sizes(self, "length")
        tokens_lib.check_seed(self.seed)
        if self.max_moved is not None and self.group.startswith("z"):
            raise ValueError(f"max_moved is for permutations, not for the group {self.group}")
        if len(letters(self.group, self.max_moved)) < 2:
            raise ValueError(
                f"max_moved: no element of {self.group} but the identity moves at most "
                f"{self.max_moved} points"
            )

    @property
    def vocab_size(self) -> int:
        """Elements of the group."""
        return len(product_table(self.group))

    def row(self, i: int, split: Split) -> tokens_lib.Row:
        """Example `i` of `split`."""
        rng = tokens_lib.generator(self.seed, i, split)
        word = rng.choice(letters(self.group, self.max_moved), size=self.length)
        table = product_table(self.group)
        states = list(itertools.accumulate(word.tolist(), lambda state, x: table[x, state]))
        return tokens_lib.Row(word, np.array(states), np.ones(self.length, bool))


@lru_cache(maxsize=16)
def product_table(group: str) -> np.ndarray:
    """int64[G, G]: entry [x, y] is the id of x y, which applies y first.

    Raises:
        ValueError: there is no such group here, or it has more than `MAX_ORDER` elements.
    """
    kind, size = _parse(group)
    if kind == "z":
        return np.add.outer(np.arange(size), np.arange(size)) % size
    elements = permutations(group)
    ids = {tuple(p): i for i, p in enumerate(elements.tolist())}
    return np.array([[ids[tuple(x[y])] for y in elements] for x in elements])


@lru_cache(maxsize=16)
def permutations(group: str) -> np.ndarray:
    """int64[G, N]: the elements of "sN" or "aN"; entry [x, i] is the image of point i."""
    kind, points = _parse(group)
    every = np.array(list(itertools.permutations(range(points))))
    if kind == "s":
        return every
    inversions = sum(every[:, i] > every[:, j] for i in range(points) for j in range(i + 1, points))
    return every[inversions % 2 == 0]


def letters(group: str, max_moved: int | None) -> np.ndarray:
    """Ids of the elements that words are made of."""
    if max_moved is None:
        return np.arange(len(product_table(group)))
    elements = permutations(group)
    moved = (elements != np.arange(elements.shape[1])).sum(1)
    return np.flatnonzero(moved <= max_moved)


def _parse(group: str) -> tuple[str, int]:
    match = re.fullmatch(r"([zsa])([1-9][0-9]{0,3})", group)
    if match is None:
        raise ValueError(f"group {group!r} is none of zM, sN, aN, such as z2, z60, s3 or a5")
    kind, size = match[1], int(match[2])
    least, most = {"z": (2, MAX_ORDER), "s": (2, MAX_POINTS), "a": (3, MAX_POINTS)}[kind]
    if not least <= size <= most:
        raise ValueError(f"group {group!r}: {kind}{least} to {kind}{most} are supported")
    return kind, size
