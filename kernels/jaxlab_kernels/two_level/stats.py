"""What a step's selection missed and read. Costs as much as dense attention: it is the oracle."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlab_kernels.common import products
from jaxlab_kernels.two_level.config import IndexConfig
from jaxlab_kernels.two_level.index import Index
from jaxlab_kernels.two_level.select import choose_blocks, filled, rows


class Stats(NamedTuple):
    """Measures of one step, float32. A row without tokens has mass and recall 1.

    Attributes:
        mass: [B, H], share of dense attention's weights on the tokens that were attended to.
        recall: [B, KV], share of the oracle's tokens that were: as many tokens as were selected,
            those of largest weight, summed over the query heads of the key head.
        overlap: [B, KV], share of the blocks that this query selects which are among the `blocks`
            given; NaN where none were given, 1 on the dense path.
        bytes: [B], bytes of index, keys and values that the step has to read.
    """

    mass: jax.Array
    recall: jax.Array
    overlap: jax.Array
    bytes: jax.Array


def of_dense(query, key, value, length) -> Stats:
    """Stats where every token is attended to."""
    batch, heads = key.shape[:2]
    row = key.shape[3] * key.dtype.itemsize + value.shape[3] * value.dtype.itemsize
    one = jnp.ones((batch, heads), jnp.float32)
    return Stats(
        jnp.ones(query.shape[:2], jnp.float32), one, one, (heads * row) * length.astype(jnp.float32)
    )


def of_step(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    index: Index,
    length: jax.Array,
    blocks: jax.Array | None,
    candidates: jax.Array,
    tokens: jax.Array,
    config: IndexConfig,
    scale: float,
) -> Stats:
    """Stats of a sparse step.

    Args:
        query: [B, H, D].
        key: [B, KV, S, D].
        value: [B, KV, S, Dv].
        index: see `Index`.
        length: int32 [B].
        blocks: int [B, KV, k] that were given, or None.
        candidates: of the step, see `gathered.Step`.
        tokens: of the step.
        config: see `IndexConfig`.
        scale: factor of the scores.
    """
    batch, heads, slots, dim = key.shape
    written = jnp.arange(slots)[None, None] < length[:, None, None]  # [B, 1, S]
    scores = products.product("bkgd,bksd->bkgs", query.reshape(batch, heads, -1, dim), key)
    scores = jnp.where(written[:, :, None], scores * scale, jnp.finfo(scores.dtype).min)
    weights = jax.nn.softmax(scores, axis=-1)
    empty = (length == 0)[:, None]
    selected = _mask(tokens, slots)
    mass = jnp.where(selected[:, :, None], weights, 0).sum(axis=-1).reshape(query.shape[:2])

    number = jnp.sum(tokens >= 0, axis=-1)
    best = jnp.where(written, weights.sum(axis=2), -1)
    _, oracle = jax.lax.top_k(best, min(tokens.shape[2], slots))
    counted = jnp.arange(oracle.shape[2])[None, None] < number[..., None]
    hits = jnp.sum(rows(selected, oracle) & counted, axis=-1)
    recall = hits / jnp.maximum(number, 1)

    if blocks is None:
        overlap = jnp.full((batch, heads), jnp.nan)
    else:
        now = choose_blocks(query, index, length, config, scale)
        earlier = _mask(blocks.astype(jnp.int32), config.blocks(slots))
        common = jnp.sum(rows(earlier, now) & (now >= 0), axis=-1)
        overlap = common / jnp.maximum(jnp.sum(now >= 0, axis=-1), 1)

    row = dim * key.dtype.itemsize + value.shape[3] * value.dtype.itemsize
    read = (row * number).astype(jnp.float32)
    if blocks is not None or config.candidates(slots) < config.blocks(slots):
        pair = 2 * dim * index.upper.dtype.itemsize
        read = read + (pair * filled(length, config)[:, None]).astype(jnp.float32)
    if config.k_tokens < candidates.shape[2] * config.block:
        begins = candidates * config.block
        labelled = jnp.clip(length[:, None, None] - begins, 0, config.block)
        labelled = jnp.where(candidates >= 0, labelled, 0).sum(axis=-1)
        read = read + ((config.label_bytes + 2) * labelled).astype(jnp.float32)
    return Stats(
        jnp.where(empty, 1, mass).astype(jnp.float32),
        jnp.where(empty, 1, recall).astype(jnp.float32),
        overlap.astype(jnp.float32),
        read.sum(axis=1),
    )


def _mask(ids: jax.Array, size: int) -> jax.Array:
    """Returns bool [B, KV, size], True at ids [B, KV, k]; those outside of it are left out."""

    def one(ids: jax.Array) -> jax.Array:
        inside = jnp.where(ids < 0, size, ids)
        return jnp.zeros((size,), bool).at[inside].set(True, mode="drop")

    return jax.vmap(jax.vmap(one))(ids)
