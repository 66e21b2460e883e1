"""Attention of new tokens to a cache of keys and values, for decoding."""

import functools

import jax
import jax.numpy as jnp

from jaxlab_kernels.common.checks import static_scale

# New tokens whose scores are held at once: a prompt that is read into a cache can be long.
BLOCK = 256


def attention_step(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    first: jax.Array,
    last: jax.Array,
    scale: float | None = None,
) -> jax.Array:
    """Softmax attention of N new tokens per row to the slots that each of them sees.

    Differentiable; with more than `BLOCK` tokens their scores are computed again in the backward
    pass, so that memory grows with N and S and not with their product.

    Args:
        query: [B, N, H, D].
        key: [B, KV, S, D], head-major, so that a head's keys are one run of memory.
        value: [B, KV, S, Dv].
        first: int32 [B], the first slot that the row's tokens see.
        last: int32 [N] or [B, N], the last slot that each token sees, usually its own.
        scale: factor of the scores; None is D ** -0.5.

    Returns:
        [B, N, H, Dv] in query's dtype; scores and softmax are float32, or float64 where query is.
    """
    attend = functools.partial(
        _attend, key=key, value=value, first=first, scale=static_scale(scale, query.shape[-1])
    )
    batch, tokens = query.shape[:2]
    last = jnp.broadcast_to(last, (batch, tokens))
    if tokens <= BLOCK:
        return attend(query, last)
    padding = -tokens % BLOCK

    def blocks(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, 0), (0, padding)) + ((0, 0),) * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(batch, -1, BLOCK, *x.shape[2:]), 1, 0)

    def block(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
        return attend(*pair)

    # Padded tokens see the slots up to 0: something finite, which is cut off.
    out = jax.lax.map(jax.checkpoint(block), (blocks(query), blocks(last)))
    out = jnp.moveaxis(out, 0, 1)
    return out.reshape(batch, -1, *out.shape[3:])[:, :tokens]


def _attend(
    query: jax.Array,
    last: jax.Array,
    *,
    key: jax.Array,
    value: jax.Array,
    first: jax.Array,
    scale: float,
) -> jax.Array:
    """`attention_step` with last [B, N] and scores [B, KV, H / KV, N, S]."""
    batch, tokens, heads, dim = query.shape
    kv_heads, length = key.shape[1:3]
    groups = heads // kv_heads
    dtype = jnp.promote_types(query.dtype, jnp.float32)
    # The query heads of a group one after the other as rows of one matrix.
    rows = query.reshape(batch, tokens, kv_heads, groups, dim).transpose(0, 2, 3, 1, 4)
    rows = rows.reshape(batch, kv_heads, groups * tokens, dim)
    scores = jnp.einsum("bktd,bksd->bkts", rows, key, preferred_element_type=dtype)
    scores = scores.reshape(batch, kv_heads, groups, tokens, length) * scale
    slots = jnp.arange(length)
    # [B, N, S]
    seen = (slots >= first[:, None, None]) & (slots <= last[..., None])
    scores = jnp.where(seen[:, None, None], scores, jnp.finfo(dtype).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(query.dtype)
    weights = weights.reshape(batch, kv_heads, groups * tokens, length)
    y = jnp.einsum("bkts,bksd->bktd", weights, value.astype(query.dtype))
    y = y.reshape(batch, kv_heads, groups, tokens, -1).transpose(0, 3, 1, 2, 4)
    return y.reshape(batch, tokens, heads, -1)
