"""RMSNorm."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """x / sqrt(mean(x^2) + eps) * scale over the last axis, in float32, cast back to x's dtype.

    Source: Zhang & Sennrich 2019, eq. 4, with eps inside the root.

    Args:
        x: [..., d].
        scale: [d].
        eps: added to the mean square.
    """
    x32 = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + eps)
    # The cast stands before the scale, as in the released Llama and Qwen code: in bfloat16 the
    # order changes the last bit.
    return scale.astype(x.dtype) * (x32 * inverse).astype(x.dtype)


class RMSNorm(nn.Module):
    """`rms_norm` with a learned scale [d]."""

    eps: float = 1e-6
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., d] -> [..., d]."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), self.param_dtype)
        return rms_norm(x, scale, self.eps)
