"""Attention on TPUs by JAX's own Pallas kernel, splash attention."""

import jax
import jax.numpy as jnp

from jaxlab_kernels import dispatch
from jaxlab_kernels.dispatch import Refusal

# Rows of a block: what the kernel's tiles are made of.
TILE = 128


def splash(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array | None,
    *,
    scale: float,
    interpret: bool = False,
) -> jax.Array:
    """Softmax attention by splash attention; arguments and result as in `attention`.

    Sequences are padded to a multiple of 128 tokens, which no real token sees.

    Args:
        query: see `attention`, as for key, value, segment_ids and scale.
        key: see `attention`.
        value: see `attention`.
        segment_ids: see `attention`.
        scale: see `attention`.
        interpret: run on any platform, by Pallas' interpreter.

    Raises:
        Refusal: the kernel does not take the call.
    """
    if query.dtype == jnp.float64:
        raise Refusal("float64; the kernel computes in float32")
    if value.shape[-1] != query.shape[-1]:
        raise Refusal(f"values of {value.shape[-1]} beside keys of {query.shape[-1]} numbers")
    if query.shape[-1] % 64:
        raise Refusal(f"head size {query.shape[-1]}; the kernel takes multiples of 64")
    dispatch.refuse_divided_mesh()
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    length, heads = query.shape[1:3]
    padding = -length % TILE

    def head_major(x: jax.Array) -> jax.Array:
        return jnp.pad(x, ((0, 0), (0, padding), (0, 0), (0, 0))).transpose(0, 2, 1, 3)

    mask = masks.MultiHeadMask([masks.CausalMask((length + padding,) * 2)] * heads)
    run = kernels.make_splash_mha(mask, head_shards=1, q_seq_shards=1, interpret=interpret)
    # The kernel has no factor of its own.
    rows = [head_major(x) for x in (query * scale, key, value)]
    if segment_ids is None:
        out = jax.vmap(run)(*rows)
    else:
        ids = jnp.pad(segment_ids, ((0, 0), (0, padding)))
        out = jax.vmap(run)(*rows, kernels.SegmentIds(ids, ids))
    return out.transpose(0, 2, 1, 3)[:, :length].astype(query.dtype)
