"""Block-sparse attention by sorting queries by the blocks that they chose.

A query's output is a mean, weighted by exp of log-sum-exps, of its attention to its own block and
to each chosen one (Dao et al. 2022). The own blocks go one after the other. The chosen ones are
worked off in passes of `SLOTS` per query: the queries are sorted by block, and tiles of them meet
their block as whole matrices. As many passes and tiles run as the budgets ask for: the loops end
by data, so that the work falls with the budget and no other budget compiles anew.

Between forward and backward pass are kept the arguments, the output, the log-sum-exps and the
choices as bits: N / 8 bytes per query.

R rows: T * G queries of a group's heads, the heads of a token one after the other. C tokens per
block, N full blocks, P places of a `Layout`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlab_kernels.block_sparse import layout as layouts
from jaxlab_kernels.block_sparse import own_block, routing
from jaxlab_kernels.block_sparse.layout import Layout
from jaxlab_kernels.block_sparse.routing import Blocks
from jaxlab_kernels.common.products import product

# Chosen blocks per query that a pass works off: buffers are that many times the queries.
SLOTS = 4
# Rows of a tile.
TILE = 128


class Kernels(NamedTuple):
    """How tiles meet their blocks; the rest is the same on all platforms.

    Attributes:
        forward: (scale, query [P, D], key [N, C, D], value [N, C, Dv], layout) to outputs [P, Dv]
            and log-sum-exps [P], both float32 (float64 if given); places without a row may hold
            anything.
        backward: (scale, query, d_out [P, Dv], log_sum [P], inner [P], key, value, layout) to
            gradients float32 of query [P, D], key [N, C, D] and value [N, C, Dv]; log_sum is
            infinite at places without a row.
        tile: rows of a tile.
    """

    forward: Callable[..., Any]
    backward: Callable[..., Any]
    tile: int


class Plan(NamedTuple):
    """What is known at trace time: tokens per block, factor of scores, packed rows, kernels."""

    size: int
    scale: float
    packed: bool
    kernels: Kernels


class Pair(NamedTuple):
    """A row of the batch and a key head.

    Attributes:
        query: [R, D].
        key: [T, D].
        value: [T, Dv].
        bits: uint32 [R, W].
        blocks: without the batch axis.
    """

    query: jax.Array
    key: jax.Array
    value: jax.Array
    bits: jax.Array
    blocks: Blocks


def grouped(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    budget: jax.Array,
    segment_ids: jax.Array | None,
    *,
    size: int,
    scale: float,
    coverage_at: tuple[int, ...],
    kernels: Kernels | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Block-sparse attention in XLA, or with other kernels; see `reference`."""
    batch, length, heads, dim = query.shape
    kv_heads = key.shape[2]
    groups = heads // kv_heads
    if (length // size + 1) * length * groups >= 2**31:
        raise ValueError(
            f"{length} tokens x {groups} heads x {length // size} blocks cannot be numbered by "
            "int32: give a larger block_size"
        )
    blocks = routing.find_blocks(segment_ids, batch, length, size)
    rows = query.reshape(batch, length, kv_heads, groups, dim).transpose(0, 2, 1, 3, 4)
    rows = rows.reshape(batch, kv_heads, length * groups, dim)
    key, value = key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3)
    stop = jax.lax.stop_gradient
    bits, coverage, count = routing.route(
        stop(rows), stop(key), blocks, budget, size=size, scale=scale, coverage_at=coverage_at
    )
    plan = Plan(size, scale, segment_ids is not None, kernels or XLA)
    out = _attend(plan, rows, key, value, bits, blocks)
    out = out.reshape(batch, kv_heads, length, groups, -1).transpose(0, 2, 1, 3, 4)
    return out.reshape(batch, length, heads, -1), coverage, count


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(plan, query, key, value, bits, blocks):
    return _save(plan, query, key, value, bits, blocks)[0]


def _save(plan, query, key, value, bits, blocks):
    pairs = _pairs(query, key, value, bits, blocks)
    out, log_sum = jax.lax.map(functools.partial(_forward, plan), pairs)
    out = out.reshape(*query.shape[:3], -1)
    return out, (query, key, value, bits, blocks, out, log_sum)


def _gradients(plan, saved, d_out):
    query, key, value, bits, blocks, out, log_sum = saved
    pairs = _pairs(query, key, value, bits, blocks)
    rows = (x.reshape(-1, *x.shape[2:]) for x in (out, d_out))
    found = jax.lax.map(lambda arguments: _backward(plan, *arguments), (pairs, *rows, log_sum))
    arrays = (query, key, value)
    return *(d.reshape(x.shape) for d, x in zip(found, arrays, strict=True)), None, None


_attend.defvjp(_save, _gradients)


def _pairs(query, key, value, bits, blocks) -> Pair:
    """All rows of the batch times all key heads on the leading axis."""
    kv_heads = key.shape[1]
    blocks = jax.tree.map(lambda x: jnp.repeat(x, kv_heads, axis=0), blocks)
    count = key.shape[0] * kv_heads
    query, key, value, bits = (x.reshape(count, *x.shape[2:]) for x in (query, key, value, bits))
    return Pair(query, key, value, bits, blocks)


def _forward(plan: Plan, pair: Pair) -> tuple[jax.Array, jax.Array]:
    """Outputs [R, Dv] in query's dtype and log-sum-exps [R]."""
    dtype = jnp.promote_types(pair.query.dtype, jnp.float32)
    out, log_sum = own_block.forward(plan, pair)
    number = pair.blocks.start.shape[0]
    if number:
        key, value = (routing.blocks_of(x, pair.blocks.start, plan.size)
                      for x in (pair.key, pair.value))  # fmt: skip

        def one_pass(state):
            bits, out, log_sum = state
            ids, bits = routing.take_lowest(bits, SLOTS, number)
            layout = layouts.by_block(ids, number, plan.kernels.tile)
            rows = pair.query[layout.rows]
            more, more_sum = plan.kernels.forward(plan.scale, rows, key, value, layout)
            return bits, *_join(out, log_sum, more, more_sum, layout)

        state = (pair.bits, out, log_sum)
        _, out, log_sum = jax.lax.while_loop(lambda state: jnp.any(state[0] != 0), one_pass, state)
    return out.astype(pair.query.dtype), log_sum.astype(dtype)


def _join(out, log_sum, more, more_sum, layout: Layout) -> tuple[jax.Array, jax.Array]:
    """Adds the tiles' attention to that of the rows so far."""
    rows, real = layout.rows, layout.real
    more_sum = jnp.where(real, more_sum, -jnp.inf)
    highest = log_sum.at[rows].max(more_sum)
    share = jnp.exp(more_sum - highest[rows])
    shrink = jnp.exp(log_sum - highest)
    total = shrink.at[rows].add(share)
    more = jnp.where(real[:, None], more, 0) * share[:, None]
    out = (out * shrink[:, None]).at[rows].add(more)
    return out / total[:, None], highest + jnp.log(total)


def _backward(plan: Plan, pair: Pair, out, d_out, log_sum):
    """Gradients of query, key and value in their dtypes."""
    dtype = log_sum.dtype
    # sum_s w_s dw_s of each row (Dao et al. 2022, eq. 4).
    inner = jnp.sum(d_out.astype(dtype) * out.astype(dtype), axis=-1)
    d_query, d_key, d_value = own_block.backward(plan, pair, d_out, log_sum, inner)
    number = pair.blocks.start.shape[0]
    if number:
        key, value = (routing.blocks_of(x, pair.blocks.start, plan.size)
                      for x in (pair.key, pair.value))  # fmt: skip

        def one_pass(state):
            bits, d_query, d_keys, d_values = state
            ids, bits = routing.take_lowest(bits, SLOTS, number)
            layout = layouts.by_block(ids, number, plan.kernels.tile)
            rows, real = layout.rows, layout.real
            more, more_keys, more_values = plan.kernels.backward(
                plan.scale, pair.query[rows], d_out[rows],
                jnp.where(real, log_sum[rows], jnp.inf), inner[rows], key, value, layout,
            )  # fmt: skip
            d_query = d_query.at[rows].add(jnp.where(real[:, None], more, 0))
            return bits, d_query, d_keys + more_keys, d_values + more_values

        zeros = (0 * x.astype(dtype) for x in (key, value))
        _, d_query, *by_block = jax.lax.while_loop(
            lambda state: jnp.any(state[0] != 0), one_pass, (pair.bits, d_query, *zeros)
        )
        d_key, d_value = (
            x + _by_token(plan, pair.blocks, blocks)
            for x, blocks in zip((d_key, d_value), by_block, strict=True)
        )
    arrays = (pair.query, pair.key, pair.value)
    gradients = (d_query, d_key, d_value)
    return tuple(d.astype(x.dtype) for d, x in zip(gradients, arrays, strict=True))


def _by_token(plan: Plan, blocks: Blocks, x: jax.Array) -> jax.Array:
    """[N, C, D] -> [T, D], zeros for tokens of no full block."""
    flat = x.reshape(-1, x.shape[-1])
    length = blocks.own.shape[0]
    if not plan.packed:
        return jnp.pad(flat, ((0, length - flat.shape[0]), (0, 0)))
    block = jnp.minimum(blocks.first + blocks.past, x.shape[0] - 1)
    full = blocks.real & (blocks.start[block] == blocks.own)
    full = full & (blocks.first + blocks.past < x.shape[0])
    place = block * plan.size + jnp.arange(length) - blocks.own
    return jnp.where(full[:, None], flat[jnp.where(full, place, 0)], 0)


def _xla_forward(scale, query, key, value, layout: Layout):
    dtype = jnp.promote_types(query.dtype, jnp.float32)
    size = layout.rows.shape[0] // layout.block.shape[0]

    def tile(n, carry):
        out, log_sum = carry
        begin, block = n * size, layout.block[n]
        rows = jax.lax.dynamic_slice_in_dim(query, begin, size)
        scores = product("rd,sd->rs", rows, key[block]) * scale
        highest = scores.max(-1)
        weights = jnp.exp(scores - highest[:, None])
        total = weights.sum(-1)
        found = product("rs,sd->rd", weights.astype(query.dtype), value[block]) / total[:, None]
        log_sum = jax.lax.dynamic_update_slice_in_dim(log_sum, highest + jnp.log(total), begin, 0)
        return jax.lax.dynamic_update_slice_in_dim(out, found, begin, 0), log_sum

    # From the arguments, so that inside shard_map the carry varies as they do.
    zero = 0 * query[:, 0].astype(dtype)
    start = (zero[:, None] + 0 * value[0, :1].astype(dtype), zero)
    return jax.lax.fori_loop(0, layout.tiles[0], tile, start)


def _xla_backward(scale, query, d_out, log_sum, inner, key, value, layout: Layout):
    dtype = log_sum.dtype
    narrow = query.dtype
    size = layout.rows.shape[0] // layout.block.shape[0]

    def tile(n, carry):
        d_query, d_key, d_value = carry
        begin, block = n * size, layout.block[n]
        rows, d_y, top, mean = (
            jax.lax.dynamic_slice_in_dim(x, begin, size) for x in (query, d_out, log_sum, inner)
        )
        scores = product("rd,sd->rs", rows, key[block]) * scale
        weights = jnp.exp(scores - top[:, None])
        d_weights = product("rd,sd->rs", d_y, value[block])
        d_scores = (weights * (d_weights - mean[:, None]) * scale).astype(narrow)
        d_rows = product("rs,sd->rd", d_scores, key[block])
        d_query = jax.lax.dynamic_update_slice_in_dim(d_query, d_rows, begin, 0)
        d_key = d_key.at[block].add(product("rs,rd->sd", d_scores, rows))
        update = product("rs,rd->sd", weights.astype(narrow), d_y)
        return d_query, d_key, d_value.at[block].add(update)

    start = tuple(0 * x.astype(dtype) for x in (query, key, value))
    return jax.lax.fori_loop(0, layout.tiles[0], tile, start)


XLA = Kernels(_xla_forward, _xla_backward, TILE)
