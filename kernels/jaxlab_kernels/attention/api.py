"""Causal softmax attention of whole sequences.

B batch, T time, H heads of queries, KV heads of keys and values (H a multiple of KV: query head i
goes with key head i // (H / KV)), D the size of queries and keys, Dv that of values.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxlab_kernels import dispatch
from jaxlab_kernels.attention.chunked import chunked
from jaxlab_kernels.attention.cudnn import cudnn
from jaxlab_kernels.attention.reference import reference
from jaxlab_kernels.attention.splash import splash
from jaxlab_kernels.attention.whole import whole
from jaxlab_kernels.common.checks import check_attention, static_scale

IMPLEMENTATIONS: dict[str, Callable] = {
    "chunked": chunked,
    "cudnn": cudnn,
    "reference": reference,
    "splash": splash,
    "whole": whole,
}

# Tokens up to which a matrix of scores per head is computed at once. Beyond, chunks are faster on a
# CPU too (`benchmarks/kernels.py --op=attention`), and their memory grows with T, not its square.
SHORT = 256


def preferences(length: int) -> dict[str, tuple[str, ...]]:
    """Returns platform -> implementations to try, best first, for sequences of this length."""
    xla = ("whole",) if length <= SHORT else ("chunked",)
    return {"cpu": xla, "gpu": ("cudnn", *xla), "tpu": ("splash", *xla)}


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    segment_ids: jax.Array | None = None,
    scale: float | None = None,
    implementation: str | None = None,
) -> jax.Array:
    """Softmax attention of each token to itself and the past of its own segment.

    Differentiable (reverse mode) in query, key and value.

    Args:
        query: [B, T, H, D].
        key: [B, T, KV, D].
        value: [B, T, KV, Dv].
        segment_ids: int [B, T] of packed or padded rows: a token sees earlier tokens of its own id.
            Id 0 is padding: its output is 0, and what the arguments hold there does not matter, not
            even NaN.
        scale: factor of the scores; None is D ** -0.5.
        implementation: "whole" (XLA, [T, T] scores per head), "chunked" (XLA, memory linear in T),
            "cudnn" (NVIDIA GPUs, 16-bit), "splash" (TPU, JAX's own Pallas kernel) or "reference"
            (float64 where the arguments are); None is the fastest for platform and length.

    Returns:
        [B, T, H, Dv] in query's dtype; scores and softmax are float32, or float64 where query is.

    Raises:
        ValueError: a shape or dtype is wrong; the message names the argument.
        Refusal: the named implementation does not take the call; the message says why.

    Source: Vaswani et al. 2017, eq. 1; grouped heads: Ainslie et al. 2023; chunks and their
    backward pass: Dao et al. 2022, algorithms 1 and 2.
    """
    check_attention({"query": query, "key": key, "value": value}, segment_ids)
    scale = static_scale(scale, query.shape[-1])
    if 0 in query.shape or 0 in value.shape:
        return jnp.zeros((*query.shape[:3], value.shape[-1]), query.dtype)
    if segment_ids is not None:
        # Weights of zero do not keep a NaN out of a sum.
        padding = (segment_ids == 0)[..., None, None]
        query, key, value = (jnp.where(padding, 0, x) for x in (query, key, value))
    return dispatch.call("attention", IMPLEMENTATIONS, preferences(query.shape[1]), implementation,
                         query, key, value, segment_ids, scale=scale)  # fmt: skip
