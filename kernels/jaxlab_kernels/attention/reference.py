"""Softmax attention written to be read: the definition that the other forms are held to."""

import jax
import jax.numpy as jnp


def reference(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array | None,
    *,
    scale: float,
) -> jax.Array:
    """softmax(scale q k^T) v over the visible tokens, in float32 (float64 if given).

    Arguments and result as in `attention`.
    """
    dtype = jnp.promote_types(query.dtype, jnp.float32)
    groups = query.shape[2] // key.shape[2]
    q, k, v = (x.astype(dtype) for x in (query, key, value))
    k, v = jnp.repeat(k, groups, axis=2), jnp.repeat(v, groups, axis=2)
    scores = scale * jnp.einsum("bthd,bshd->bhts", q, k, precision="highest")
    time = jnp.arange(query.shape[1])
    visible = (time[:, None] >= time[None, :])[None]
    if segment_ids is not None:
        visible = visible & (segment_ids[:, :, None] == segment_ids[:, None, :])
    weights = jax.nn.softmax(jnp.where(visible[:, None], scores, -jnp.inf), axis=-1)
    return jnp.einsum("bhts,bshd->bthd", weights, v, precision="highest").astype(query.dtype)
