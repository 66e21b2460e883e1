"""Causal attention of each query within its own block.

Blocks of packed rows begin anywhere: there a grid of C tokens is laid over the row, and the queries
of one cell find their own blocks in it and in the cell before.
"""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxlab_kernels.common.products import product

if TYPE_CHECKING:
    from jaxlab_kernels.block_sparse.grouped import Pair, Plan


def forward(plan: "Plan", pair: "Pair") -> tuple[jax.Array, jax.Array]:
    """Outputs [R, Dv] and log-sum-exps [R], float32 (float64 if given)."""
    query, key, value, own, span = _cells(plan, pair)

    def cell(_, arguments):
        n, rows, first = arguments
        scores = _scores(plan, n, rows, key, first, span)
        highest = scores.max(-1)
        weights = jnp.exp(scores - highest[:, None])
        total = weights.sum(-1)
        values = _window(value, n, first.shape[0], span)
        out = product("rs,sd->rd", weights.astype(rows.dtype), values) / total[:, None]
        return None, (out, highest + jnp.log(total))

    _, (out, log_sum) = jax.lax.scan(cell, None, (jnp.arange(query.shape[0]), query, own))
    rows = pair.query.shape[0]
    return out.reshape(-1, out.shape[-1])[:rows], log_sum.reshape(-1)[:rows]


def backward(
    plan: "Plan", pair: "Pair", d_out: jax.Array, log_sum: jax.Array, inner: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of query, key and value, float32 (float64 if given)."""
    query, key, value, own, span = _cells(plan, pair)
    dtype, narrow = log_sum.dtype, pair.query.dtype
    size = own.shape[1]
    cells = (_rows(x, *query.shape[:2]) for x in (d_out, log_sum, inner))

    def cell(sums, arguments):
        d_key, d_value = sums
        n, rows, first, d_y, top, mean = arguments
        scores = _scores(plan, n, rows, key, first, span)
        weights = jnp.exp(scores - top[:, None])
        keys, values = _window(key, n, size, span), _window(value, n, size, span)
        d_weights = product("rd,sd->rs", d_y, values)
        d_scores = (weights * (d_weights - mean[:, None]) * plan.scale).astype(narrow)
        d_rows = product("rs,sd->rd", d_scores, keys)
        d_key = _add(d_key, product("rs,rd->sd", d_scores, rows), n * size)
        d_value = _add(d_value, product("rs,rd->sd", weights.astype(narrow), d_y), n * size)
        return (d_key, d_value), d_rows

    zeros = tuple(0 * x.astype(dtype) for x in (key, value))
    arguments = (jnp.arange(query.shape[0]), query, own, *cells)
    (d_key, d_value), d_query = jax.lax.scan(cell, zeros, arguments)
    before = (span - 1) * size
    length = pair.key.shape[0]
    d_query = d_query.reshape(-1, d_query.shape[-1])[: pair.query.shape[0]]
    return d_query, d_key[before : before + length], d_value[before : before + length]


def _cells(plan: "Plan", pair: "Pair"):
    """Queries [n, C * G, D]; keys and values with what is before the first cell; own blocks [n, C].

    Tokens behind the end have a query of zeros, and see themselves.
    """
    length = pair.key.shape[0]
    size = min(plan.size, length)
    span = 2 if plan.packed and size < length else 1
    count = -(-length // size)
    groups = pair.query.shape[0] // length
    query = _rows(pair.query, count, size * groups)
    behind = count * size - length
    pads = ((span - 1) * size, behind)
    key, value = (jnp.pad(x, (pads, (0, 0))) for x in (pair.key, pair.value))
    own = jnp.concatenate([pair.blocks.own, jnp.arange(length, count * size, dtype=jnp.int32)])
    return query, key, value, own.reshape(count, size), span


def _rows(x: jax.Array, count: int, rows: int) -> jax.Array:
    """[R, ...] -> [count, rows, ...], zeros behind."""
    x = jnp.pad(x, ((0, count * rows - x.shape[0]),) + ((0, 0),) * (x.ndim - 1))
    return x.reshape(count, rows, *x.shape[1:])


def _window(x: jax.Array, n: jax.Array, size: int, span: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(x, n * size, span * size)


def _add(x: jax.Array, more: jax.Array, begin: jax.Array) -> jax.Array:
    there = jax.lax.dynamic_slice_in_dim(x, begin, more.shape[0])
    return jax.lax.dynamic_update_slice_in_dim(x, there + more, begin, 0)


def _scores(plan: "Plan", n, rows, key, first, span) -> jax.Array:
    """[C * G, span * C]; the lowest number where the key is no past one of the own block."""
    size = first.shape[0]
    scores = product("rd,sd->rs", rows, _window(key, n, size, span)) * plan.scale
    tokens = n * size + jnp.arange(size)
    keys = (n - span + 1) * size + jnp.arange(span * size)
    seen = (keys >= first[:, None]) & (keys <= tokens[:, None])
    by_head = scores.reshape(size, -1, span * size)
    return jnp.where(seen[:, None], by_head, jnp.finfo(scores.dtype).min).reshape(scores.shape)
