"""Tasks made of token ids instead of text: the types they share. No jax.

A token task is a frozen dataclass with the methods of `TokenTask`. Example i is a pure function
of (seed, split, i), so that a run resumes without iterator state and sees each example at the
same step on whatever number of hosts.

B: rows, T: time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from jaxlab.data.tasks.types import Split

# More than any run sees; drawn in the order of `data.index`, which needs no memory for it.
ENDLESS = 1 << 40

# What stands in `targets` where nothing is asked.
NO_TARGET = 0


class TokenBatch(NamedTuple):
    """Rows for next-token training and evaluation.

    Attributes:
        tokens: int32[B, T], what the model reads.
        targets: int32[B, T]; `targets[b, t]` is what it is to say after `tokens[b, :t + 1]`. The
            shift by one of language modelling has been made.
        mask: bool[B, T]; True where the target counts.
        segment_ids: int32[B, T]; tokens see their own segment alone. None: one segment per row.
    """

    tokens: np.ndarray
    targets: np.ndarray
    mask: np.ndarray
    segment_ids: np.ndarray | None = None


class Row(NamedTuple):
    """One example: a row of each array of `TokenBatch`."""

    tokens: np.ndarray
    targets: np.ndarray
    mask: np.ndarray


class TokenTask(Protocol):
    """What every token task has."""

    @property
    def length(self) -> int:
        """T of every row."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest token id."""

    def row(self, i: int, split: Split) -> Row:
        """Example `i` of `split`, a pure function of its arguments."""


class TokenSource(Protocol):
    """Rows by id, made by a task or cut from a text: what a trainer and an evaluation ask for."""

    @property
    def length(self) -> int:
        """T of every row."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest token id."""

    def num_examples(self, split: Split) -> int:
        """Rows of `split`."""

    def batch(self, ids: Sequence[int] | np.ndarray, split: Split) -> TokenBatch:
        """The rows of these ids, a pure function of the arguments."""

    def tokens_per_byte(self, split: Split) -> float | None:
        """Of the text that the rows were cut from; None where there is none."""


@dataclass(frozen=True)
class Generated:
    """A token task as a source.

    Attributes:
        task: makes the rows.
        num_train: training examples; by default no run sees one twice.
        num_test: test examples. The splits are drawn independently.
    """

    task: TokenTask
    num_train: int = ENDLESS
    num_test: int = ENDLESS

    @property
    def length(self) -> int:
        """T of every row."""
        return self.task.length

    @property
    def vocab_size(self) -> int:
        """One more than the largest token id."""
        return self.task.vocab_size

    def num_examples(self, split: Split) -> int:
        """Rows of `split`."""
        return {"train": self.num_train, "test": self.num_test}[split]

    def batch(self, ids: Sequence[int] | np.ndarray, split: Split) -> TokenBatch:
        """The rows of these ids.

        Raises:
            ValueError: there are no ids.
        """
        if len(ids) == 0:
            raise ValueError("a batch needs at least one row")
        rows = [self.task.row(int(i), split) for i in ids]
        tokens, targets, mask = (np.stack(arrays) for arrays in zip(*rows, strict=True))
        return TokenBatch(tokens.astype(np.int32), targets.astype(np.int32), mask)

    def tokens_per_byte(self, split: Split) -> float | None:
        """None: there is no text."""
        del split
        return None


def generator(seed: int, i: int, split: Split) -> np.random.Generator:
    """The randomness of example `i`: its own, whatever was drawn before.

    Args:
        seed: in [0, 2**63).
        i: in [0, 2**62).
        split: the splits never share randomness.
    """
    key = np.array([seed, 2 * int(i) + ("train", "test").index(split)], np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def blank(length: int) -> Row:
    """A row of zeros in which no target counts."""
    return Row(
        np.zeros(length, np.int64), np.full(length, NO_TARGET, np.int64), np.zeros(length, bool)
    )


def check_seed(seed: int) -> None:
    """Raises a ValueError unless `seed` fits `generator`."""
    if not 0 <= seed < 1 << 63:
        raise ValueError(f"seed must be in [0, 2**63), not {seed}")


def check_sizes(task: object, *names: str) -> None:
    """Raises a ValueError that names the first of these fields that is below 1."""
    for name in names:
        if getattr(task, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(task, name)}")
