"""Named calls of the operation, shared by tests and benchmarks."""

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Case:
    """One call of `block_sparse` at one size.

    Attributes:
        batch: B.
        length: T.
        heads: H.
        kv_heads: KV.
        dim: D.
        value_dim: Dv.
        block: tokens per block.
        budget: a number, or a nested list of shape [B] or [B, KV].
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
    block: int = 4
    budget: Any = 3
    packed: tuple[int, ...] = ()
    scale: float | None = None
    spread: float = 1.0


CASES = {
    "grouped": Case(),
    "own_block_alone": Case(budget=1),
    "budget_of_two": Case(budget=2),
    "all_blocks": Case(budget=10),
    "more_than_all": Case(budget=1000),
    "by_row": Case(budget=[1, 5]),
    "by_head": Case(budget=[[1, 7], [4, 2]]),
    "one_kv_head": Case(heads=6, kv_heads=1, dim=12, value_dim=5, scale=0.7),
    "packed": Case(packed=(9, 1, 20, 7)),
    "packed_short": Case(packed=(3, 2, 4, 5, 16, 7), budget=2),
    "packed_on_the_grid": Case(packed=(8, 16, 8, 5)),
    "sharp": Case(packed=(9, 1, 20, 7), spread=8.0),
    "one_block": Case(batch=1, length=6, block=16),
    "one_token": Case(batch=1, length=1),
    "blocks_of_one": Case(batch=1, length=9, block=1),
}


def speed(length: int = 16384, heads: int = 2) -> Case:
    """The size at which the operation is compared with dense attention."""
    return Case(batch=1, length=length, heads=heads, kv_heads=heads, dim=64, value_dim=64,
                block=256, budget=8)  # fmt: skip


def make(case: Case, seed: int = 0, dtype: Any = np.float64) -> dict[str, Any]:
    """Returns the arguments of `block_sparse` for a case, as NumPy arrays."""
    rng = np.random.default_rng(seed)
    front = (case.batch, case.length)
    arguments: dict[str, Any] = {
        "q": case.spread * rng.normal(size=(*front, case.heads, case.dim)),
        "k": case.spread * rng.normal(size=(*front, case.kv_heads, case.dim)),
        "v": rng.normal(size=(*front, case.kv_heads, case.value_dim)),
    }
    arguments = {name: x.astype(dtype) for name, x in arguments.items()}
    if case.packed:
        ids = np.repeat(np.arange(1, len(case.packed) + 1), case.packed)
        ids[ids == len(case.packed)] = 0
        arguments["segment_ids"] = np.broadcast_to(ids, front).astype(np.int32)
    budget = np.asarray(case.budget, np.int32)
    return arguments | {"budget": budget, "block_size": case.block, "scale": case.scale}
