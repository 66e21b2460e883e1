"""Named calls of the operation, shared by tests and benchmarks."""

import dataclasses
from typing import Any

import numpy as np

from jaxlab_kernels.two_level.config import IndexConfig

SMALL = IndexConfig(block=4, k_blocks=4, k_tokens=6, channels=4, min_len=0)


@dataclasses.dataclass(frozen=True)
class Case:
    """One call of `decode` at one size.

    Attributes:
        lengths: of each row.
        slots: S.
        heads: H.
        kv_heads: KV.
        dim: D.
        value_dim: Dv.
        config: see `IndexConfig`.
        latent: values are the first value_dim columns of keys, as in absorbed MLA.
        scale: factor of the scores; None is D ** -0.5.
        spread: standard deviation of queries and keys.
    """

    lengths: tuple[int, ...] = (38, 0, 1, 30)
    slots: int = 38
    heads: int = 6
    kv_heads: int = 2
    dim: int = 8
    value_dim: int = 5
    config: IndexConfig = SMALL
    latent: bool = False
    scale: float | None = None
    spread: float = 1.0


def _small(**changes: Any) -> IndexConfig:
    return dataclasses.replace(SMALL, **changes)


CASES = {
    "two_level": Case(),
    "quest": Case(config=_small(k_tokens=100)),
    "double_sparsity": Case(config=_small(k_blocks=100)),
    "window_with_sinks": Case(config=_small(k_blocks=0, k_tokens=100)),
    "covers_the_rows": Case(lengths=(14, 0, 16, 5), config=_small(k_tokens=16)),
    "shared_by_layer": Case(config=_small(share="layer")),
    "largest_head": Case(config=_small(head_reduce="max")),
    "softmax_of_heads": Case(config=_small(head_reduce="softmax_sum"), scale=0.7),
    "calibrated_bound": Case(config=_small(block_score="quest_r")),
    "eight_bits": Case(config=_small(index_bits=8, channels=3)),
    "odd_channels": Case(config=_small(channels=3)),
    "nothing_forced": Case(config=_small(sink_blocks=0, recent_blocks=0, k_blocks=2)),
    "absorbed_mla": Case(kv_heads=1, dim=12, value_dim=8, latent=True, scale=0.25),
    "one_head_each": Case(heads=2, spread=4.0),
}


def speed(slots: int = 32768, kv_heads: int = 8) -> Case:
    """The size at which the operation is compared with dense attention, with published budgets."""
    return Case(lengths=(slots,), slots=slots, heads=4 * kv_heads, kv_heads=kv_heads, dim=128,
                value_dim=128, config=IndexConfig())  # fmt: skip


def make(case: Case, seed: int = 0, dtype: Any = np.float64) -> dict[str, Any]:
    """Returns query, key, value, length and channels of a case, as NumPy arrays."""
    rng = np.random.default_rng(seed)
    batch = len(case.lengths)
    front = (batch, case.kv_heads, case.slots)
    key = case.spread * rng.normal(size=(*front, case.dim))
    value = key[..., : case.value_dim] if case.latent else rng.normal(size=(*front, case.value_dim))
    channels = [rng.permutation(case.dim)[: case.config.channels] for _ in range(case.kv_heads)]
    return {
        "query": (case.spread * rng.normal(size=(batch, case.heads, case.dim))).astype(dtype),
        "key": key.astype(dtype),
        "value": value.astype(dtype),
        "length": np.asarray(case.lengths, np.int32),
        "channels": np.stack(channels).astype(np.int32),
    }
