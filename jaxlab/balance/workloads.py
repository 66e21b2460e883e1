"""Lengths of documents and where routers look, for simulations: drawn, or read from a file."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

Draw = Callable[[np.random.Generator, int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Workload:
    """A stream of document lengths and the cluster that trains on it.

    Attributes:
        name: for tables.
        draw: (generator, count) to int lengths [count].
        ranks: data-parallel ranks, DP.
        stages: pipeline stages, PP.
        microbatches: per rank and step.
        sequences: per microbatch.
    """

    name: str
    draw: Draw
    ranks: int
    stages: int
    microbatches: int
    sequences: int = 1

    def __post_init__(self) -> None:
        """Check that there is at least one of each."""
        for name in ("ranks", "stages", "microbatches", "sequences"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: expected at least 1")

    @property
    def global_batch(self) -> int:
        """Sequences per step."""
        return self.ranks * self.microbatches * self.sequences


def bimodal(generator: np.random.Generator, count: int) -> np.ndarray:
    """Half below 4k, half from 16k to 64k tokens, as ChatQA2-Long-SFT is described."""
    short = np.exp(generator.uniform(math.log(512), math.log(4096), count))
    long = np.exp(generator.uniform(math.log(16_384), math.log(65_536), count))
    return np.where(generator.random(count) < 0.5, short, long).astype(int)


def long_tail(generator: np.random.Generator, count: int) -> np.ndarray:
    """8k to 72k tokens with a falling density, as LongAlign-10k is described."""
    return np.exp(generator.uniform(math.log(8192), math.log(73_728), count)).astype(int)


def lognormal(generator: np.random.Generator, count: int) -> np.ndarray:
    """Median 8k, sigma 1.2 of the logarithm, at least 256 and at most 128k tokens."""
    lengths = np.exp(generator.normal(math.log(8192), 1.2, count))
    return np.clip(lengths, 256, 131_072).astype(int)


WORKLOADS = {
    # ranks, stages and batches of the paper's ablation and of its main runs.
    "bimodal": Workload("bimodal", bimodal, ranks=2, stages=4, microbatches=4, sequences=2),
    "long_tail": Workload("long_tail", long_tail, ranks=4, stages=4, microbatches=4),
    "lognormal": Workload("lognormal", lognormal, ranks=8, stages=1, microbatches=4),
}


def from_file(path: str | Path) -> Draw:
    """Draws from the lengths in a file, with replacement.

    The file has one whole number per line, or JSON lines with a field `length`.

    Raises:
        ValueError: naming file and line of what is no length, or that there is none.
        OSError: it cannot be read.
    """
    lengths = []
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 at byte {error.start}: expected lengths") from None
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = line.strip()
        length = value.get("length") if isinstance(value, dict) else value
        if type(length) is not int or not 0 < length < 2**31:
            raise ValueError(
                f"{path}:{number}: {line.strip()[:60]!r} is no length: expected a whole number of "
                'tokens from 1, or {"length": tokens}'
            )
        lengths.append(length)
    if not lengths:
        raise ValueError(f"{path}: no lengths: expected one whole number per line")
    known = np.asarray(lengths)
    return lambda generator, count: generator.choice(known, count)


class Routing:
    """Router mass by rank of the blocks: Zipf's law with an exponent of each sequence's own.

    For a query that has m blocks to choose from, the one that ranks j-th has a share proportional
    to j^-s; s is uniform between 0.6, a flat router, and 1.6, a concentrated one.
    """

    def __init__(self, generator: np.random.Generator, lengths: np.ndarray, block: int):
        self.blocks = -(-lengths // block)
        exponents = generator.uniform(0.6, 1.6, len(lengths))
        ranks = np.arange(1, int(self.blocks.max(initial=1)) + 1)
        # [sequences, m]: sum of j^-s up to m, and sum of its reciprocals.
        self.mass = np.cumsum(ranks ** -exponents[:, None], axis=1)
        self.inverse = np.cumsum(1 / self.mass, axis=1)

    def coverage(self, budgets: np.ndarray) -> np.ndarray:
        """Mean mass of the best k blocks over a sequence's queries: [sequences, K] for [K] budgets.

        The queries of the first k blocks are covered whole; one with m > k blocks has the share
        H(k) / H(m), H the sum of j^-s. Between whole budgets the answer is interpolated.
        """
        k = np.asarray(budgets, np.float64)
        low = np.floor(k).astype(int)
        share = k - low
        return self._whole(low) * (1 - share) + self._whole(low + 1) * share

    def _whole(self, budgets: np.ndarray) -> np.ndarray:
        dense = np.minimum(budgets, self.blocks[:, None])
        last = np.take_along_axis(self.inverse, self.blocks[:, None] - 1, axis=1)
        rest = last - np.take_along_axis(self.inverse, dense - 1, axis=1)
        mass = np.take_along_axis(self.mass, dense - 1, axis=1)
        return (dense + mass * rest) / self.blocks[:, None]
