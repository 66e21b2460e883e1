"""Named calls of the operation, shared by tests and benchmarks."""

import dataclasses
from typing import Any

import numpy as np

from jaxlab_kernels.attention import cases as attention


@dataclasses.dataclass(frozen=True)
class Case(attention.Case):
    """One call of `block_sparse` at one size: arrays as of attention, blocks and a budget.

    Attributes:
        block: tokens per block.
        budget: a number, or a nested list of shape [B] or [B, KV].
    """

    block: int = 4
    budget: Any = 3


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
    arguments = attention.make(case, seed, dtype)
    renamed = {"q": "query", "k": "key", "v": "value"}
    arrays = {name: arguments.pop(longer) for name, longer in renamed.items()}
    budget = np.asarray(case.budget, np.int32)
    return arrays | arguments | {"budget": budget, "block_size": case.block}
