"""Which blocks, and which of their tokens, a query attends to: by XLA.

B batch, KV key heads, G query heads of each, N blocks of C tokens, r channels.
"""

import jax
import jax.numpy as jnp

from jaxlab_kernels.two_level.config import IndexConfig
from jaxlab_kernels.two_level.index import Index, unpack


def grouped(query: jax.Array, heads: int) -> jax.Array:
    """Returns query [B, H, D] as [B, KV, G, D] in float32, or float64 where it is."""
    dtype = jnp.promote_types(query.dtype, jnp.float32)
    return query.reshape(query.shape[0], heads, -1, query.shape[-1]).astype(dtype)


def rows(x: jax.Array, ids: jax.Array) -> jax.Array:
    """Returns x [B, KV, n, ...] at ids [B, KV, m], negative ones read as 0: [B, KV, m, ...]."""

    def one(x: jax.Array, ids: jax.Array) -> jax.Array:
        return x.at[ids].get(mode="promise_in_bounds")

    return jax.vmap(jax.vmap(one))(x, jnp.maximum(ids, 0))


def filled(length: jax.Array, config: IndexConfig) -> jax.Array:
    """Returns the number of blocks of each row that hold a token: [B]."""
    return (length + config.block - 1) // config.block


def product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """einsum in a's precision: a ranking near the threshold hangs on the last bits."""
    return jnp.einsum(equation, a, b.astype(a.dtype), precision="highest")


def finite(scores: jax.Array) -> jax.Array:
    """Scores whose NaNs are the largest number: a broken key is attended to, never hidden."""
    most = jnp.finfo(scores.dtype).max
    return jnp.clip(jnp.where(jnp.isnan(scores), most, scores), -most, most)


def agree(scores: jax.Array, valid: jax.Array, config: IndexConfig, scale: float) -> jax.Array:
    """Scores [B, KV, G, n] of a group's heads as one per key head, [B, KV, n]."""
    if config.head_reduce == "sum":
        return scores.sum(axis=2)
    if config.head_reduce == "max":
        return scores.max(axis=2)
    seen = jnp.where(valid[:, :, None], scale * scores, jnp.finfo(scores.dtype).min)
    return jax.nn.softmax(seen, axis=-1).sum(axis=2)


def score_blocks(
    query: jax.Array, index: Index, valid: jax.Array, config: IndexConfig, scale: float
) -> jax.Array:
    """Bounds of q.k over each block, one per key head: [B, KV, N].

    max(q M, q m) = max(q, 0) M + min(q, 0) m, so that the bound is two products; the sum over heads
    goes before them, since they are linear.

    Args:
        query: [B, KV, G, D], see `grouped`.
        index: see `Index`.
        valid: bool [B, 1, N].
        config: see `IndexConfig`.
        scale: of "softmax_sum".
    """
    upper, lower = index.upper, index.lower
    if config.block_score == "quest_r":
        at = index.channels[:, :, None]
        query, upper, lower = (
            jnp.take_along_axis(x, at, axis=3, mode="clip") for x in (query, upper, lower)
        )
    above, below = jnp.maximum(query, 0), jnp.minimum(query, 0)
    if config.head_reduce == "sum":
        above, below = above.sum(axis=2), below.sum(axis=2)
        return product("bkd,bknd->bkn", above, upper) + product("bkd,bknd->bkn", below, lower)
    scores = product("bkgd,bknd->bkgn", above, upper) + product("bkgd,bknd->bkgn", below, lower)
    return agree(scores, valid, config, scale)


def choose_blocks(
    query: jax.Array, index: Index, length: jax.Array, config: IndexConfig, scale: float
) -> jax.Array:
    """See `api.select_blocks`."""
    batch, heads, number, _ = index.upper.shape
    full = filled(length, config)[:, None, None]
    ids = jnp.arange(number, dtype=jnp.int32)[None, None]
    valid = ids < full
    budget = config.candidates(number * config.block)
    if budget == number:
        return jnp.broadcast_to(jnp.where(valid, ids, -1), (batch, heads, number))
    scores = finite(score_blocks(grouped(query, heads), index, valid, config, scale))
    if config.share == "layer":
        scores = jnp.broadcast_to(finite(scores.sum(axis=1, keepdims=True)), scores.shape)
    forced = (ids < config.sink_blocks) | (ids >= full - max(config.recent_blocks, 1))
    scores = jnp.where(valid, jnp.where(forced, jnp.inf, scores), -jnp.inf)
    _, best = jax.lax.top_k(scores, budget)  # of equal scores the lower block
    best = jnp.where(best < full, best, number)
    best = jnp.sort(best, axis=-1)
    return jnp.where(best < number, best, -1).astype(jnp.int32)


def with_forced(
    blocks: jax.Array, length: jax.Array, number: int, config: IndexConfig
) -> jax.Array:
    """Candidates of an earlier step with this step's forced blocks, each once, in order.

    Args:
        blocks: int [B, KV, k]; ids that hold no token of the row are left out.
        length: int32 [B].
        number: N.
        config: see `IndexConfig`.

    Returns:
        int32 [B, KV, at most k + forced], -1 behind.
    """
    batch, heads, _ = blocks.shape
    full = filled(length, config)[:, None]
    recent = full - 1 - jnp.arange(max(config.recent_blocks, 1), dtype=jnp.int32)[None]
    sinks = jnp.arange(config.sink_blocks, dtype=jnp.int32)[None]
    sinks = jnp.broadcast_to(sinks, (batch, config.sink_blocks))
    forced = jnp.concatenate([sinks, recent], axis=1)[:, None]
    forced = jnp.broadcast_to(forced, (batch, heads, forced.shape[2]))
    ids = jnp.concatenate([blocks.astype(jnp.int32), forced], axis=2)
    ids = jnp.sort(jnp.where((ids >= 0) & (ids < full[:, None]), ids, number), axis=-1)
    twice = jnp.pad(ids[..., 1:] == ids[..., :-1], ((0, 0), (0, 0), (1, 0)))
    ids = jnp.sort(jnp.where(twice, number, ids), axis=-1)[..., :number]
    return jnp.where(ids < number, ids, -1)


def tokens_of(blocks: jax.Array, length: jax.Array, config: IndexConfig) -> jax.Array:
    """Returns all tokens of blocks [B, KV, k], -1 where there is none: int32 [B, KV, k * C]."""
    offset = jnp.arange(config.block, dtype=jnp.int32)
    at = blocks[..., None] * config.block + offset[None, None, None]
    real = (blocks >= 0)[..., None] & (at < length[:, None, None, None])
    return jnp.where(real, at, -1).reshape(*blocks.shape[:2], -1).astype(jnp.int32)


def choose_tokens(
    query: jax.Array,
    index: Index,
    blocks: jax.Array,
    length: jax.Array,
    config: IndexConfig,
    scale: float,
) -> jax.Array:
    """See `api.select_tokens`."""
    places = tokens_of(blocks, length, config)
    if config.k_tokens >= places.shape[2]:
        return places
    picked = grouped(query, index.upper.shape[1])
    picked = jnp.take_along_axis(picked, index.channels[:, :, None], axis=3, mode="clip")
    labels = unpack(rows(index.codes, blocks), config)
    labels = labels.reshape(*places.shape, config.channels)
    norms = rows(index.scale, blocks).reshape(places.shape).astype(picked.dtype)
    if config.head_reduce == "sum":
        scores = product("bkr,bktr->bkt", picked.sum(axis=2), labels) * norms
    else:
        scores = product("bkgr,bktr->bkgt", picked, labels) * norms[:, :, None]
        scores = agree(scores, places >= 0, config, scale)
    scores = jnp.where(places == length[:, None, None] - 1, jnp.inf, finite(scores))
    scores = jnp.where(places >= 0, scores, -jnp.inf)
    _, best = jax.lax.top_k(scores, config.k_tokens)  # of equal scores the earlier token
    return jnp.take_along_axis(places, best, axis=2, mode="clip")
