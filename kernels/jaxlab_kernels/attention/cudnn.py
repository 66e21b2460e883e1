"""Attention on NVIDIA GPUs by cuDNN, as `jax.nn.dot_product_attention` calls it."""

import jax
import jax.numpy as jnp

from jaxlab_kernels import dispatch
from jaxlab_kernels.dispatch import Refusal


def cudnn(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array | None,
    *,
    scale: float,
) -> jax.Array:
    """Softmax attention by cuDNN's fused kernels; arguments and result as in `attention`.

    Raises:
        Refusal: cuDNN does not take the call, or this is no NVIDIA GPU.
    """
    if query.dtype not in (jnp.bfloat16, jnp.float16):
        raise Refusal(f"{query.dtype}; cuDNN takes bfloat16 and float16")
    if segment_ids is not None:
        raise Refusal("segment_ids; through JAX cuDNN takes packed rows only as a [T, T] mask")
    dim, value_dim = query.shape[-1], value.shape[-1]
    if dim != value_dim or dim % 8 or dim > 128:
        raise Refusal(
            f"head sizes {dim} and {value_dim}; cuDNN takes equal multiples of 8 up to 128"
        )
    dispatch.refuse_divided_mesh()
    if jax.default_backend() != "gpu":
        raise Refusal(f"needs an NVIDIA GPU; jax runs on {jax.default_backend()}")
    return jax.nn.dot_product_attention(
        query, key, value, scale=scale, is_causal=True, implementation="cudnn"
    )
