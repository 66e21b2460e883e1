"""Multi-query associative recall (Arora et al., Zoology: Measuring and improving recall, 2023).

A row lists key-value pairs, then asks for the value of each key once, at places whose distances
from the list follow a power law:

    tokens   4 8 3 9 | 3 0 4 0        (pairs 4 -> 8 and 3 -> 9, then the queries 3 and 4)
    targets  . . . . | 9 . 8 .

The places that hold nothing are filled with 0, or with words drawn from the whole vocabulary. A
filler may then happen to be a key; it is not asked for.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from jaxlab.data.tasks import tokens as tokens_lib
from jaxlab.data.tasks.types import Split


@dataclass(frozen=True)
class Mqar:
    """Zoology's recipe: its `multiquery_ar`, with randomness by example instead of by data set.

    Attributes:
        vocab_size: V; keys come from [first_key, V / 2), values from [V / 2, V), rounded down.
        length: T, even.
        num_pairs: pairs in a row; each key occurs once, and is asked for once.
        power_a: query slot j (counted from 1, two tokens each) is chosen with probability
            proportional to j^(power_a - 1), without replacement; 1 is uniform. The key of the first
            pair chooses first.
        random_filler: fill with uniform words instead of 0.
        first_key: 1 keeps the filler 0 from being a key; 0 makes it one.
        seed: fixes every example.
    """

    vocab_size: int = 8192
    length: int = 64
    num_pairs: int = 4
    power_a: float = 0.01
    random_filler: bool = True
    first_key: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse sizes that leave no room for the pairs or their queries."""
        tokens_lib.check_sizes(self, "vocab_size", "num_pairs")
        tokens_lib.check_seed(self.seed)
        if self.length % 2 or self.length < 4 * self.num_pairs:
            raise ValueError(
                f"length must be even and at least 4 * num_pairs = {4 * self.num_pairs} (two "
                f"tokens for each pair, two for each query), not {self.length}"
            )
        if self.first_key < 0 or self._num_keys < self.num_pairs:
            raise ValueError(
                f"num_pairs: {self.num_pairs} pairs need as many keys and values, but a vocabulary "
                f"of {self.vocab_size} with first_key {self.first_key} has {self._num_keys} keys"
            )
        if not 0 < self.power_a <= 1:
            raise ValueError(f"power_a must be in (0, 1], not {self.power_a}")

    @property
    def _num_keys(self) -> int:
        return self.vocab_size // 2 - self.first_key

    def row(self, i: int, split: Split) -> tokens_lib.Row:
        """Example `i` of `split`."""
        rng = tokens_lib.generator(self.seed, i, split)
        half, context = self.vocab_size // 2, 2 * self.num_pairs
        keys = self.first_key + rng.choice(self._num_keys, self.num_pairs, replace=False)
        values = half + rng.choice(self.vocab_size - half, self.num_pairs, replace=False)
        weights = _slot_weights((self.length - context) // 2, self.power_a)
        # Drawing by weight without replacement is a race in which slot j arrives at rate w_j. Half
        # the time of a row would go into `choice(p=...)`.
        arrivals = rng.standard_exponential(len(weights)) / weights
        slots = context + 2 * np.argsort(arrivals)[: self.num_pairs]
        row = tokens_lib.blank(self.length)
        if self.random_filler:
            row.tokens[:] = rng.integers(self.vocab_size, size=self.length)
        row.tokens[:context:2], row.tokens[1:context:2] = keys, values
        row.tokens[slots], row.targets[slots], row.mask[slots] = keys, values, True
        return row


@lru_cache(maxsize=64)
def _slot_weights(slots: int, power_a: float) -> np.ndarray:
    weights = np.arange(1, slots + 1) ** (power_a - 1.0)
    weights /= weights.sum()
    weights.flags.writeable = False
    return weights
