"""Queries in the order of the blocks that they chose: the tiles that kernels work on.

A tile is up to R rows (queries of heads) that chose one block. The rows of a block begin at a
multiple of R, so that kernels see whole tiles; what fills up the last one counts as nothing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Layout(NamedTuple):
    """Rows by block; P = M R places in M tiles, more than are used.

    Attributes:
        rows: int32 [P], the row at each place; 0 where there is none.
        real: bool [P], whether there is one.
        block: int32 [M], the block of each tile; of tiles that are not used, the last one.
        ends: int32 [N], the number of tiles up to the end of each block's.
    """

    rows: jax.Array
    real: jax.Array
    block: jax.Array
    ends: jax.Array

    @property
    def tiles(self) -> jax.Array:
        """How many tiles are used, int32 [1]; they come first."""
        return self.ends[-1:]


def by_block(ids: jax.Array, number: int, size: int) -> Layout:
    """Sorts (row, block) pairs by block.

    Args:
        ids: int32 [rows, S], blocks that each row attends to; `number` for none.
        number: N, of blocks.
        size: R, rows of a tile.
    """
    rows, slots = ids.shape
    places = jnp.arange(rows, dtype=jnp.int32)[:, None]
    ordered = jnp.sort((ids * rows + places).reshape(-1), stable=False)
    bounds = jnp.searchsorted(ordered, jnp.arange(number + 1, dtype=jnp.int32) * rows)
    bounds = bounds.astype(jnp.int32)
    counts = jnp.diff(bounds)
    ends = jnp.cumsum(-(-counts // size), dtype=jnp.int32)
    most = most_tiles(rows, slots, number, size)
    tile = jnp.arange(most, dtype=jnp.int32)
    block = jnp.minimum(jnp.searchsorted(ends, tile, side="right"), number - 1).astype(jnp.int32)
    begin = ends[block] - -(-counts[block] // size)
    # Within its block, the place's row number.
    nth = ((tile - begin) * size)[:, None] + jnp.arange(size, dtype=jnp.int32)
    real = (nth < counts[block][:, None]) & (tile < ends[-1])[:, None]
    found = ordered[jnp.minimum(bounds[block][:, None] + nth, ordered.size - 1)]
    found = jnp.where(real, found - block[:, None] * rows, 0)
    return Layout(found.reshape(-1), real.reshape(-1), block, ends)


def most_tiles(rows: int, slots: int, number: int, size: int) -> int:
    """Tiles that any choice of blocks fits into."""
    return -(-rows * slots // size) + number
