"""Attention in XLA whose memory grows with T: blocks of queries against blocks of keys.

Forwards, each block of queries meets the blocks of keys up to its own and keeps a running maximum,
sum and average (Dao et al. 2022, algorithm 1). Backwards, the weights are computed again from the
saved log-sum-exp of each row. Blocks above the diagonal are never touched, so that the work is that
of the causal half.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

# Tokens per block: a quarter fewer CPU seconds than 256 at 512 to 1,024 tokens, and less memory.
BLOCK = 128


class _Blocks(NamedTuple):
    """Arguments in blocks; N blocks of C tokens, G query heads per key head.

    Attributes:
        query: [N, B, KV, G * C, D].
        key: [N, B, KV, C, D].
        value: [N, B, KV, C, Dv].
    """

    query: jax.Array
    key: jax.Array
    value: jax.Array


def chunked(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array | None,
    *,
    scale: float,
    block: int | None = None,
) -> jax.Array:
    """Softmax attention in blocks of tokens, with its own backward pass.

    Args:
        query: see `attention`, as for key, value, segment_ids and scale.
        key: see `attention`.
        value: see `attention`.
        segment_ids: see `attention`.
        scale: see `attention`.
        block: tokens per block; None is `BLOCK`, or fewer for shorter sequences.

    Returns:
        See `attention`.
    """
    batch, length, heads, _ = query.shape
    kv_heads, size = key.shape[2], min(block or BLOCK, length)
    blocks = _Blocks(*(_split(x, kv_heads, size) for x in (query, key, value)))
    ids = None
    if segment_ids is not None:
        ids = _padded(segment_ids, size).reshape(batch, -1, size).swapaxes(0, 1)
    out = _attend(scale, size, blocks, ids)
    # [N, B, KV, G * C, Dv] -> [B, T, H, Dv]
    out = out.reshape(*out.shape[:3], heads // kv_heads, size, -1).transpose(1, 0, 4, 2, 3, 5)
    out = out.reshape(batch, -1, *out.shape[3:])
    return out.reshape(*out.shape[:2], heads, -1)[:, :length].astype(query.dtype)


def _padded(x: jax.Array, size: int) -> jax.Array:
    """[B, T, ...] with zeros behind, up to a multiple of `size` tokens.

    No real token sees them, for they come after it.
    """
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % size)) + ((0, 0),) * (x.ndim - 2))


def _split(x: jax.Array, kv_heads: int, size: int) -> jax.Array:
    """[B, T, KV * G, D] -> [N, B, KV, G * C, D], the G heads of a group one after the other."""
    x = _padded(x, size)
    batch, length, heads, dim = x.shape
    # One axis at a time: on a mesh of explicit axes no other reshape is allowed.
    x = x.reshape(batch, length, kv_heads, heads // kv_heads, dim)
    x = x.reshape(batch, length // size, size, *x.shape[2:]).transpose(1, 0, 3, 4, 2, 5)
    return x.reshape(*x.shape[:3], -1, dim)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(scale, size, blocks, ids):
    return _forward(scale, size, blocks, ids)[0]


def _forward(scale, size, blocks, ids):
    """Outputs [N, B, KV, G * C, Dv] in query's dtype, and the log-sum-exp [N, B, KV, G * C]."""
    dtype = jnp.promote_types(blocks.query.dtype, jnp.float32)

    def row(_, n):
        query = blocks.query[n]

        def column(m, carry):
            highest, total, average = carry
            scores = _scores(scale, size, query, blocks.key[m], ids, n, m)
            new = jnp.maximum(highest, scores.max(-1))
            weights = jnp.exp(scores - new[..., None])
            shrink = jnp.exp(highest - new)
            total = total * shrink + weights.sum(-1)
            update = _product("bkrs,bksd->bkrd", weights.astype(query.dtype), blocks.value[m])
            return new, total, average * shrink[..., None] + update

        # From the arguments, so that inside shard_map the carry varies as they do.
        zero = jnp.zeros_like(query[..., 0], dtype)
        wide = zero[..., None] + jnp.zeros_like(blocks.value[0, :, :, :1], dtype)
        # Each row sees itself, so that the maximum is finite in the end; the lowest finite number,
        # for infinities would make NaN of each other.
        start = (zero + jnp.finfo(dtype).min, zero, wide)
        highest, total, average = jax.lax.fori_loop(0, n + 1, column, start)
        out = (average / total[..., None]).astype(query.dtype)
        return None, (out, highest + jnp.log(total))

    _, results = jax.lax.scan(row, None, jnp.arange(blocks.query.shape[0]))
    return results


def _save(scale, size, blocks, ids):
    out, log_sum = _forward(scale, size, blocks, ids)
    return out, (blocks, ids, out, log_sum)


def _backward(scale, size, saved, d_out):
    blocks, ids, out, log_sum = saved
    dtype = log_sum.dtype
    narrow = blocks.query.dtype

    def row(sums, n):
        query, d_y = blocks.query[n], d_out[n]
        # sum_s w_s dw_s of each row (Dao et al. 2022, eq. 4).
        inner = jnp.sum(d_y.astype(dtype) * out[n].astype(dtype), axis=-1)

        def column(m, carry):
            d_query, d_key, d_value = carry
            scores = _scores(scale, size, query, blocks.key[m], ids, n, m)
            weights = jnp.exp(scores - log_sum[n][..., None])
            d_weights = _product("bkrd,bksd->bkrs", d_y, blocks.value[m])
            d_scores = (weights * (d_weights - inner[..., None]) * scale).astype(narrow)
            d_query += _product("bkrs,bksd->bkrd", d_scores, blocks.key[m])
            d_key = d_key.at[m].add(_product("bkrs,bkrd->bksd", d_scores, query))
            update = _product("bkrs,bkrd->bksd", weights.astype(narrow), d_y)
            return d_query, d_key, d_value.at[m].add(update)

        start = (jnp.zeros_like(query, dtype), *sums)
        d_query, *sums = jax.lax.fori_loop(0, n + 1, column, start)
        return tuple(sums), d_query.astype(narrow)

    zeros = (jnp.zeros_like(blocks.key, dtype), jnp.zeros_like(blocks.value, dtype))
    (d_key, d_value), d_query = jax.lax.scan(row, zeros, jnp.arange(blocks.query.shape[0]))
    gradients = _Blocks(d_query, d_key.astype(blocks.key.dtype), d_value.astype(blocks.value.dtype))
    return gradients, None


_attend.defvjp(_save, _backward)


def _scores(scale, size, query, key, ids, n, m):
    """Scores [B, KV, G * C, C] of query block n to key block m; the lowest number if invisible."""
    scores = _product("bkrd,bksd->bkrs", query, key) * scale
    own = n * size + jnp.arange(size)
    visible = own[:, None] >= m * size + jnp.arange(size)
    if ids is not None:
        visible = visible & (ids[n][:, None, None, :, None] == ids[m][:, None, None, None, :])
    by_group = scores.reshape(*scores.shape[:2], -1, size, size)
    # exp of it is 0 beside any real score, and of its difference to itself never asked for: the
    # first block of a row may hold nothing visible, whose weights of 1 then shrink to 0.
    masked = jnp.where(visible, by_group, jnp.finfo(scores.dtype).min)
    return masked.reshape(scores.shape)


def _product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """einsum with float32 sums, or float64 where a factor is."""
    dtype = jnp.promote_types(jnp.promote_types(a.dtype, b.dtype), jnp.float32)
    return jnp.einsum(equation, a, b, preferred_element_type=dtype)
