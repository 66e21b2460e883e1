"""One key-value pair in noise, asked for at the end (after RULER's needle tasks, 2024).

    tokens   n n k3 v7 n k1 v2 n n ? k3
    targets  . . .  .  . .  .  . . . v7

With several questions each but the last is answered in the row: "? k1 v2 ? k3".

Ids: 0 is "?", then come the keys, the values and the words of the noise.
"""

from dataclasses import dataclass

import numpy as np

from jaxlab.data.tasks import tokens as tokens_lib
from jaxlab.data.tasks.types import Split

ASK = 0


@dataclass(frozen=True)
class Needle:
    """Needles at random places of uniform noise; one of them is asked for.

    Attributes:
        length: T.
        num_needles: pairs in the noise, with different keys.
        num_queries: of the needles, those that are asked for; the needle of `depth` comes last.
        num_keys: words that can be keys.
        num_values: words that can be values.
        num_noise: words of the noise, which are neither.
        depth: where the pair that is asked for lies: 0 at the beginning, 1 at the end of the noise,
            rounded to a free place; None: at random.
        seed: fixes every example.
    """

    length: int = 128
    num_needles: int = 1
    num_queries: int = 1
    num_keys: int = 32
    num_values: int = 32
    num_noise: int = 64
    depth: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse sizes into which the needles do not fit."""
        tokens_lib.check_sizes(self, "num_needles", "num_queries", "num_keys", "num_noise")
        tokens_lib.check_seed(self.seed)
        if self.num_values < 2:
            raise ValueError(f"num_values must be at least 2, not {self.num_values}")
        if self.num_needles > self.num_keys:
            raise ValueError(
                f"num_needles: {self.num_needles} needles need as many keys, there are "
                f"{self.num_keys}"
            )
        if self.num_queries > self.num_needles:
            raise ValueError(
                f"num_queries: {self.num_queries} questions need as many needles, there are "
                f"{self.num_needles}"
            )
        least = 2 * self.num_needles + self._tail
        if self.length < least:
            raise ValueError(
                f"length must be at least 2 * num_needles + {self._tail} = {least}, not "
                f"{self.length}"
            )
        if self.depth is not None and not 0 <= self.depth <= 1:
            raise ValueError(f"depth must be in [0, 1], not {self.depth}")

    @property
    def _tail(self) -> int:
        """Tokens of the questions, and of the answers between them."""
        return 3 * self.num_queries - 1

    @property
    def vocab_size(self) -> int:
        """The question mark, keys, values and noise."""
        return 1 + self.num_keys + self.num_values + self.num_noise

    def row(self, i: int, split: Split) -> tokens_lib.Row:
        """Example `i` of `split`."""
        rng = tokens_lib.generator(self.seed, i, split)
        keys = 1 + rng.choice(self.num_keys, self.num_needles, replace=False)
        values = 1 + self.num_keys + rng.integers(self.num_values, size=self.num_needles)
        row = tokens_lib.blank(self.length)
        noise = self.vocab_size - self.num_noise
        row.tokens[:] = rng.integers(noise, self.vocab_size, size=self.length)
        starts = self._starts(rng)
        row.tokens[starts], row.tokens[starts + 1] = keys, values
        asked = [0]
        if self.num_queries > 1:
            asked = [*1 + rng.permutation(self.num_needles - 1)[: self.num_queries - 1], 0]
        for at, needle in zip(range(self.length - self._tail, self.length, 3), asked, strict=True):
            row.tokens[at : at + 3] = (ASK, keys[needle], values[needle])[: self.length - at]
            row.targets[at + 1], row.mask[at + 1] = values[needle], True
        return row

    def _starts(self, rng: np.random.Generator) -> np.ndarray:
        """First tokens of the pairs, that of the pair to ask for first; every layout alike."""
        n = self.num_needles
        # With each pair counted as one place, distinct places become pairs that do not overlap.
        places = self.length - self._tail - n
        if self.depth is None:
            chosen = np.sort(rng.choice(places, n, replace=False))
            asked = int(rng.integers(n))
        else:
            wanted = round(self.depth * (places - 1))
            others = rng.choice(places - 1, n - 1, replace=False)
            chosen = np.sort(np.append(others + (others >= wanted), wanted))
            asked = int(np.searchsorted(chosen, wanted))
        starts = chosen + np.arange(n)
        return np.concatenate([starts[asked : asked + 1], np.delete(starts, asked)])
