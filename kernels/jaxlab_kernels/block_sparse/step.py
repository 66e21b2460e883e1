"""Block-sparse attention of new tokens to a cache of keys and values, for decoding."""

import jax
import jax.numpy as jnp

from jaxlab_kernels.block_sparse.routing import best
from jaxlab_kernels.common.checks import static_scale
from jaxlab_kernels.common.products import product

# New tokens whose scores are held at once: a prompt that is read into a cache can be long.
BLOCK = 256


def block_sparse_step(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    first: jax.Array,
    last: jax.Array,
    budget: jax.Array | int,
    block_size: int,
    scale: float | None = None,
) -> jax.Array:
    """Attention of N new tokens per row as `block_sparse` has it, each at its own slot of a cache.

    All keys are read, pooled and masked: this is the decoding of a sparsely trained model that is
    right, not one that is faster than dense attention.

    Args:
        query: [B, N, H, D].
        key: [B, KV, S, D], head-major.
        value: [B, KV, S, Dv].
        first: int32 [B], the row's first slot, from which blocks are counted.
        last: int32 [N] or [B, N], each token's own slot.
        budget: int32, scalar or [B]: blocks per query, its own included; below 1 counts as 1.
        block_size: tokens per block.
        scale: factor of the scores; None is D ** -0.5.

    Returns:
        [B, N, H, Dv] in query's dtype; scores and softmax are float32, or float64 where query is.
    """
    scale = static_scale(scale, query.shape[-1])
    batch, tokens = query.shape[:2]
    last = jnp.broadcast_to(last, (batch, tokens))
    budget = jnp.broadcast_to(jnp.maximum(jnp.asarray(budget, jnp.int32), 1), (batch,))

    def row(arguments):
        query, key, value, first, last, budget = arguments
        attend = jax.vmap(_attend, in_axes=(1, 0, 0, None, None, None, None, None), out_axes=1)
        return attend(query, key, value, first, last, budget, block_size, scale)

    def part(pair):
        return jax.lax.map(row, (pair[0], key, value, first, pair[1], budget))

    heads = query.shape[2]
    grouped = query.reshape(batch, tokens, key.shape[1], heads // key.shape[1], -1)
    if tokens <= BLOCK:
        out = part((grouped, last))
    else:
        padding = -tokens % BLOCK

        def blocks(x: jax.Array) -> jax.Array:
            x = jnp.pad(x, ((0, 0), (0, padding)) + ((0, 0),) * (x.ndim - 2))
            return jnp.moveaxis(x.reshape(batch, -1, BLOCK, *x.shape[2:]), 1, 0)

        out = jnp.moveaxis(jax.lax.map(jax.checkpoint(part), (blocks(grouped), blocks(last))), 0, 1)
        out = out.reshape(batch, -1, *out.shape[3:])[:, :tokens]
    return out.reshape(batch, tokens, heads, -1)


def _attend(query, key, value, first, last, budget, size, scale):
    """One key head: query [N, G, D], key [S, D], value [S, Dv], last [N] to [N, G, Dv]."""
    tokens, groups, _ = query.shape
    slots = key.shape[0]
    number = max(slots // size, 1)
    dtype = jnp.promote_types(query.dtype, jnp.float32)
    rows = query.reshape(tokens * groups, -1)
    # From the first slot on, zeros behind; blocks that are not full are never past ones.
    moved = jax.lax.dynamic_slice_in_dim(
        jnp.pad(key, ((0, number * size), (0, 0))), first, number * size
    )
    pooled = jnp.mean(moved.reshape(number, size, -1).astype(dtype), axis=1)
    own = jnp.repeat((last - first) // size, groups)
    routed = jnp.einsum(
        "nd,rd->nr", pooled, rows.astype(dtype), precision="highest", preferred_element_type=dtype
    )
    past = jnp.arange(number, dtype=jnp.int32)[:, None] < own
    chosen = best(jax.lax.stop_gradient(routed), past, jnp.clip(own, 0, budget - 1))
    slot = jnp.arange(slots)
    block = jnp.clip((slot - first) // size, 0, number - 1)
    at = jnp.repeat(last, groups)[:, None]
    seen = chosen[block].T | ((slot - first) // size == own[:, None])
    seen = seen & (slot >= first) & (slot <= at)
    scores = product("rd,sd->rs", rows, key) * scale
    weights = jax.nn.softmax(jnp.where(seen, scores, jnp.finfo(dtype).min), axis=-1)
    out = product("rs,sd->rd", weights.astype(query.dtype), value.astype(query.dtype))
    return out.astype(query.dtype).reshape(tokens, groups, -1)
