"""Tiles of block-sparse attention on TPUs: Pallas kernels over a `Layout`.

The grid is tiles. Which block a tile meets is read ahead (scalar prefetch), so that its keys and
values are fetched while the tile before it is worked on; tiles that are not used do nothing. The
tiles of a block follow each other: its gradients stay in VMEM until the last of them.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxlab_kernels import dispatch
from jaxlab_kernels.block_sparse import grouped
from jaxlab_kernels.block_sparse.layout import Layout
from jaxlab_kernels.dispatch import Refusal

# Rows of a tile: the width of the matrix unit.
TILE = 128
MAX_DIM = 256


def pallas(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    budget: jax.Array,
    segment_ids: jax.Array | None,
    *,
    size: int,
    scale: float,
    coverage_at: tuple[int, ...],
    interpret: bool = False,
    tile: int = TILE,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Block-sparse attention with TPU kernels; see `reference`.

    Raises:
        Refusal: the kernels do not take the call.
    """
    if query.dtype == jnp.float64:
        raise Refusal("float64; the kernels compute in float32")
    if max(query.shape[-1], value.shape[-1]) > MAX_DIM:
        raise Refusal(
            f"head sizes {query.shape[-1]} and {value.shape[-1]}; the kernels take up to {MAX_DIM}"
        )
    if size % 16:
        raise Refusal(f"block_size={size}; the kernels take multiples of 16")
    dispatch.refuse_divided_mesh()
    return grouped.grouped(
        query, key, value, budget, segment_ids, size=size, scale=scale, coverage_at=coverage_at,
        kernels=kernels(interpret, tile),
    )  # fmt: skip


@functools.cache
def kernels(interpret: bool, tile: int) -> grouped.Kernels:
    """The kernels; the same object for the same options, for they are part of a trace's key."""
    return grouped.Kernels(
        functools.partial(_forward, interpret), functools.partial(_backward, interpret), tile
    )


def _forward(interpret, scale, query, key, value, layout: Layout):
    rows = query.shape[0] // layout.block.shape[0]
    run = _call(
        functools.partial(_forward_tile, scale), interpret, layout,
        [("rows", query), ("block", key), ("block", value)],
        [("rows", (query.shape[0], value.shape[-1])), ("sums", (layout.block.shape[0], 1, rows))],
    )  # fmt: skip
    out, log_sum = run(query, key, value)
    return out, log_sum.reshape(-1)


def _backward(interpret, scale, query, d_out, log_sum, inner, key, value, layout: Layout):
    tiles = layout.block.shape[0]
    log_sum, inner = (x.reshape(tiles, 1, -1) for x in (log_sum, inner))
    run = _call(
        functools.partial(_backward_tile, scale), interpret, layout,
        [("rows", query), ("rows", d_out), ("sums", log_sum), ("sums", inner), ("block", key),
         ("block", value)],
        [("rows", query.shape), ("block", key.shape), ("block", value.shape)],
    )  # fmt: skip
    d_query, d_key, d_value = run(query, d_out, log_sum, inner, key, value)
    # Blocks that no tile met were not written.
    met = (jnp.diff(layout.ends, prepend=0) > 0)[:, None, None]
    return d_query, jnp.where(met, d_key, 0), jnp.where(met, d_value, 0)


def _call(kernel: Any, interpret: bool, layout: Layout, inputs, results):
    """A call over the tiles; blocks are "rows" of a tile, its "sums", or the "block" it meets."""
    tiles = layout.block.shape[0]

    def spec(what: str, shape: tuple[int, ...]) -> pl.BlockSpec:
        if what == "rows":
            return pl.BlockSpec((shape[0] // tiles, shape[1]), lambda n, block, used: (n, 0))
        if what == "sums":
            return pl.BlockSpec((None, 1, shape[2]), lambda n, block, used: (n, 0, 0))
        return pl.BlockSpec((None, *shape[1:]), lambda n, block, used: (block[n], 0, 0))

    call = pl.pallas_call(
        kernel,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(tiles,),
            in_specs=[spec(what, x.shape) for what, x in inputs],
            out_specs=[spec(what, shape) for what, shape in results],
        ),
        out_shape=[jax.ShapeDtypeStruct(shape, jnp.float32) for _, shape in results],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary",)),
        interpret=interpret,
        name=f"block_sparse_{kernel.func.__name__}",
    )
    return functools.partial(call, layout.block, layout.tiles)


def _forward_tile(scale, block, used, query, key, value, out, log_sum):
    """A tile of queries [R, D] against a block [C, D]; refs."""

    @pl.when(pl.program_id(0) < used[0])
    def _():
        scores = _dot(query[...], key[...], 1, 1) * scale
        highest = jnp.max(scores, axis=1, keepdims=True)
        weights = jnp.exp(scores - highest)
        total = jnp.sum(weights, axis=1, keepdims=True)
        out[...] = _dot(weights.astype(value.dtype), value[...], 1, 0) / total
        log_sum[...] = (highest + jnp.log(total)).reshape(log_sum.shape)


def _backward_tile(
    scale, block, used, query, d_out, log_sum, inner, key, value, d_query, d_key, d_value
):
    """The gradients of a tile, and its part of those of the block; refs."""
    n = pl.program_id(0)

    @pl.when((n == 0) | (block[n] != block[jnp.maximum(n - 1, 0)]))
    def _():
        d_key[...] = jnp.zeros_like(d_key)
        d_value[...] = jnp.zeros_like(d_value)

    @pl.when(n < used[0])
    def _():
        rows, d_y = query[...], d_out[...]
        scores = _dot(rows, key[...], 1, 1) * scale
        weights = jnp.exp(scores - log_sum[...].reshape(-1, 1))
        d_weights = _dot(d_y, value[...], 1, 1)
        d_scores = weights * (d_weights - inner[...].reshape(-1, 1)) * scale
        d_scores = d_scores.astype(rows.dtype)
        d_query[...] = _dot(d_scores, key[...], 1, 0)
        d_key[...] += _dot(d_scores, rows, 0, 0)
        d_value[...] += _dot(weights.astype(d_y.dtype), d_y, 0, 0)


def _dot(a: jax.Array, b: jax.Array, of_a: int, of_b: int) -> jax.Array:
    """Product over axis `of_a` of a and `of_b` of b, in float32."""
    precision = "highest" if a.dtype == jnp.float32 else None
    return jax.lax.dot_general(
        a, b, (((of_a,), (of_b,)), ((), ())), precision=precision,
        preferred_element_type=jnp.float32,
    )  # fmt: skip
