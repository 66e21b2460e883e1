"""Stateless data order: the examples of a step are a pure function of (seed, step).

There is no iterator to save: a run that resumes, on whatever number of hosts, asks for the
step it is at and gets the batch it would have had.
"""

from functools import lru_cache

import numpy as np

# Above this size an epoch's order is computed id by id: a permutation of 2**26 ids already takes
# 256 MiB and tens of seconds.
MAX_PERMUTATION = 1 << 26

_FEISTEL_ROUNDS = 6


def example_ids(
    step: int, batch_size: int, num_examples: int, seed: int, *, shuffle: bool = True
) -> np.ndarray:
    """Ids of the examples in the global batch of `step`.

    Batches follow each other without a gap, so one may straddle two epochs; within an epoch every
    example occurs exactly once.

    Args:
        step: training step, from 0.
        batch_size: examples in the global batch.
        num_examples: examples in the data set.
        seed: in [0, 2**64); each epoch has its own order under each seed.
        shuffle: False gives file order.

    Returns:
        int64[batch_size], each in [0, num_examples).

    Raises:
        ValueError: a negative step, an empty batch or data set, or a seed out of range.
    """
    if step < 0 or batch_size < 1 or num_examples < 1 or not 0 <= seed < 1 << 64:
        raise ValueError(
            "step >= 0, batch_size >= 1, num_examples >= 1 and 0 <= seed < 2**64 are needed, "
            f"got step={step}, batch_size={batch_size}, num_examples={num_examples}, seed={seed}"
        )
    positions = step * batch_size + np.arange(batch_size, dtype=np.int64)
    epochs, offsets = np.divmod(positions, num_examples)
    if not shuffle:
        return offsets
    ids = np.empty_like(offsets)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        ids[here] = _shuffled(offsets[here], num_examples, seed, int(epoch))
    return ids


def _shuffled(offsets: np.ndarray, n: int, seed: int, epoch: int) -> np.ndarray:
    if n <= MAX_PERMUTATION:
        return _permutation(n, seed, epoch)[offsets]
    return feistel(offsets, n, seed, epoch)


# Two entries: a batch that straddles epochs needs both orders.
@lru_cache(maxsize=2)
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    order = np.arange(n, dtype=np.uint32)
    np.random.Generator(_philox(seed, epoch)).shuffle(order)
    order.flags.writeable = False
    return order


def feistel(offsets: np.ndarray, n: int, seed: int, epoch: int) -> np.ndarray:
    """Maps offsets in [0, n) through a keyed bijection of [0, n), in memory O(len(offsets)).

    A balanced Feistel network permutes [0, 4**h), the smallest such domain holding n. Values that
    land outside [0, n) are sent through again until they land inside (cycle walking; Black and
    Rogaway, Ciphers with arbitrary finite domains, 2002), at most four rounds in expectation.

    Args:
        offsets: int[k], each in [0, n).
        n: size of the domain.
        seed: with `epoch`, the key.
        epoch: see `seed`.

    Returns:
        int64[k].
    """
    half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    keys = _philox(seed, epoch).random_raw(_FEISTEL_ROUNDS)

    def permute(x: np.ndarray) -> np.ndarray:
        left, right = x >> half, x & mask
        for key in keys:
            left, right = right, left ^ (_mix(right ^ key) & mask)
        return (left << half) | right

    values = permute(np.asarray(offsets, np.uint64))
    while (outside := values >= n).any():
        values[outside] = permute(values[outside])
    return values.astype(np.int64)


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): uint64[k] -> uint64[k]."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _philox(seed: int, epoch: int) -> np.random.Philox:
    return np.random.Philox(key=np.array([seed, epoch], np.uint64))
