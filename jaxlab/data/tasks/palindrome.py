"""Reversal: read symbols, then say them backwards (the Palindrome task of Kimi Linear, 2025).

    tokens   3 1 2 2 0 2 2 1
    targets  . . . . 2 2 1 3

0 separates. The answer is read along, as in language modelling, so each target asks for the symbol
that stands as far before the separator as the target stands behind it.
"""

from dataclasses import dataclass

from jaxlab.data.tasks import tokens as tokens_lib
from jaxlab.data.tasks.types import Split

SEPARATOR = 0


@dataclass(frozen=True)
class Palindrome:
    """Uniform symbols and their reversal.

    Attributes:
        vocab_size: the separator and at least two symbols.
        length: T, even: T / 2 symbols, the separator, and the answer but for its last symbol.
        seed: fixes every example.
    """

    vocab_size: int = 32
    length: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse sizes that ask for nothing."""
        tokens_lib.check_sizes(self)
        tokens_lib.check_seed(self.seed)
        if self.length % 2 or self.length < 2:
            raise ValueError(
                f"length must be even and at least 2: half to read, half to say; not {self.length}"
            )
        if self.vocab_size < 3:
            raise ValueError(
                f"vocab_size must be at least 3, the separator and two symbols, not "
                f"{self.vocab_size}"
            )

    def row(self, i: int, split: Split) -> tokens_lib.Row:
        """Example `i` of `split`."""
        half = self.length // 2
        symbols = tokens_lib.generator(self.seed, i, split).integers(1, self.vocab_size, size=half)
        row = tokens_lib.blank(self.length)
        row.tokens[:half], row.tokens[half] = symbols, SEPARATOR
        row.tokens[half + 1 :] = symbols[:0:-1]
        row.targets[half:], row.mask[half:] = symbols[::-1], True
        return row
