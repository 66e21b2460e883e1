"""Tiles of block-sparse attention on NVIDIA GPUs: Triton kernels, called through jax-triton."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxlab_kernels import dispatch
from jaxlab_kernels.block_sparse import grouped
from jaxlab_kernels.block_sparse.layout import Layout
from jaxlab_kernels.common.triton import Launch, gpu_launch
from jaxlab_kernels.dispatch import Refusal

DIMS = (16, 32, 64, 128, 256)
# Rows of a tile. With 128 the sums of the backward pass do not fit into registers.
TILE = 64
DTYPES = ("float32", "bfloat16", "float16")


def triton(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    budget: jax.Array,
    segment_ids: jax.Array | None,
    *,
    size: int,
    scale: float,
    coverage_at: tuple[int, ...],
    launch: Launch | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Block-sparse attention with Triton kernels; see `reference`.

    Head sizes are filled up with zeros to the next of `DIMS`. Routing, sorting and the own blocks
    are XLA's.

    Args:
        query: see `reference`, as for key, value, budget, segment_ids, scale and coverage_at.
        key: see `reference`.
        value: see `reference`.
        budget: see `reference`.
        segment_ids: see `reference`.
        size: a multiple of 16.
        scale: see `reference`.
        coverage_at: see `reference`.
        launch: runs a kernel; None: `common.triton.jax_launch` on the GPU at hand.

    Raises:
        Refusal: the kernels do not take the call, or cannot run here.
    """
    if str(query.dtype) not in DTYPES or not query.dtype == key.dtype == value.dtype:
        raise Refusal(
            f"{query.dtype}, {key.dtype} and {value.dtype}; the kernels take one of "
            f"{', '.join(DTYPES)}"
        )
    if max(query.shape[-1], value.shape[-1]) > DIMS[-1]:
        raise Refusal(
            f"head sizes {query.shape[-1]} and {value.shape[-1]}; the kernels take up to {DIMS[-1]}"
        )
    if size % 16:
        raise Refusal(f"block_size={size}; the kernels take multiples of 16")
    dispatch.refuse_divided_mesh()
    run: Any = launch or gpu_launch()
    dim = value.shape[-1]
    out, coverage, blocks = grouped.grouped(
        _padded(query), _padded(key), _padded(value), budget, segment_ids, size=size, scale=scale,
        coverage_at=coverage_at, kernels=kernels(run),
    )  # fmt: skip
    return out[..., :dim], coverage, blocks


@functools.cache
def kernels(launch: Any) -> grouped.Kernels:
    """The kernels by a `Launch`; one object for one launch, for it is part of a trace's key."""
    return grouped.Kernels(
        functools.partial(forward, launch), functools.partial(backward, launch), TILE
    )


def forward(
    launch: Launch, scale: float, query: Any, key: Any, value: Any, layout: Layout
) -> tuple[Any, Any]:
    """See `grouped.Kernels.forward`."""
    from jaxlab_kernels.block_sparse import triton_kernels

    tiles, number = layout.block.shape[0], key.shape[0]
    out, log_sum = launch(
        triton_kernels.forward, tiles,
        (query, key, value, layout.block, layout.ends, _scalar(scale), number),
        [((query.shape[0], value.shape[-1]), "float32"), ((query.shape[0],), "float32")],
        **_meta(query, key, value, tiles),
    )  # fmt: skip
    return out, log_sum


def backward(
    launch: Launch,
    scale: float,
    query: Any,
    d_out: Any,
    log_sum: Any,
    inner: Any,
    key: Any,
    value: Any,
    layout: Layout,
) -> tuple[Any, Any, Any]:
    """See `grouped.Kernels.backward`."""
    from jaxlab_kernels.block_sparse import triton_kernels

    tiles, number = layout.block.shape[0], key.shape[0]
    meta = _meta(query, key, value, tiles)
    arrays = (query, d_out, log_sum, inner, key, value)
    factor = _scalar(scale)
    (d_query,) = launch(
        triton_kernels.query_gradients, tiles,
        (*arrays, layout.block, layout.ends, factor, number), [(query.shape, "float32")], **meta,
    )  # fmt: skip
    d_key, d_value = launch(
        triton_kernels.block_gradients, number * (key.shape[1] // meta["BC"]),
        (*arrays, layout.ends, factor), [(key.shape, "float32"), (value.shape, "float32")], **meta,
    )  # fmt: skip
    return d_query, d_key, d_value


def _meta(query: Any, key: Any, value: Any, tiles: int) -> dict[str, Any]:
    size, dim = key.shape[1], max(key.shape[-1], value.shape[-1])
    wide = dim > 128
    single = str(query.dtype).endswith("float32")
    most = 16 if wide and single else 32 if wide or single else 64
    chunk = next(n for n in (64, 32, 16) if n <= most and size % n == 0)
    return {
        "D": key.shape[-1], "V": value.shape[-1], "C": size, "R": query.shape[0] // tiles,
        "BC": chunk, "PRECISION": "tf32x3" if single else "tf32",
        "num_warps": 4 if dim < 128 else 8, "num_stages": 2,
    }  # fmt: skip


def _scalar(x: float) -> jax.Array:
    """A kernel's argument: launches pass arrays and whole numbers."""
    return jnp.full((1,), x, jnp.float32)


def _padded(x: jax.Array) -> jax.Array:
    """The last axis filled up with zeros to the next of `DIMS`."""
    size = next(n for n in DIMS if n >= x.shape[-1])
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, size - x.shape[-1])])
