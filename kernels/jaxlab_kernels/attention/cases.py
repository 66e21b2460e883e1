"""Named calls of the operation, shared by tests and benchmarks."""

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Case:
    """One call of `attention` at one size.

    Attributes:
        batch: B.
        length: T.
        heads: H.
        kv_heads: KV.
        dim: D.
        value_dim: Dv.
        packed: tokens per segment, the last of them padding; () for one segment without ids.
        scale: factor of the scores; None is D ** -0.5.
        spread: standard deviation of queries and keys: large ones make near one-hot weights.
    """

    batch: int = 2
    length: int = 37
    heads: int = 4
    kv_heads: int = 2
    dim: int = 8
    value_dim: int = 8
    packed: tuple[int, ...] = ()
    scale: float | None = None
    spread: float = 1.0


CASES = {
    "grouped": Case(),
    "one_head_each": Case(heads=2, kv_heads=2),
    "one_kv_head": Case(heads=4, kv_heads=1, value_dim=4),
    "narrow_values": Case(dim=12, value_dim=5),
    "scaled": Case(scale=0.7),
    "sharp": Case(spread=20.0),
    "packed": Case(packed=(9, 1, 20, 7)),
    "one_token": Case(length=1),
    "whole_blocks": Case(length=32),
}

BENCHMARKS = {
    f"t{length}": Case(
        batch=max(1, 2048 // length), length=length, heads=8, kv_heads=2, dim=64, value_dim=64
    )
    for length in (128, 256, 512, 1024, 2048, 4096, 8192)
}


def make(case: Case, seed: int = 0, dtype: Any = np.float64) -> dict[str, Any]:
    """Returns the arguments of `attention` for a case, as NumPy arrays."""
    rng = np.random.default_rng(seed)
    front = (case.batch, case.length)
    arguments: dict[str, Any] = {
        "query": case.spread * rng.normal(size=(*front, case.heads, case.dim)),
        "key": case.spread * rng.normal(size=(*front, case.kv_heads, case.dim)),
        "value": rng.normal(size=(*front, case.kv_heads, case.value_dim)),
    }
    arguments = {name: x.astype(dtype) for name, x in arguments.items()}
    if case.packed:
        ids = np.repeat(np.arange(1, len(case.packed) + 1), case.packed)
        ids[ids == len(case.packed)] = 0
        arguments["segment_ids"] = np.broadcast_to(ids, front).astype(np.int32)
    return arguments | {"scale": case.scale}
