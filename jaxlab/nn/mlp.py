"""Feed-forward layers."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxlab.nn.linear import Linear


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer 2020, eq. 6, without biases unless asked)."""

    intermediate_size: int
    use_bias: bool = False
    output_init_scale: float = 1.0
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, d] -> [B, T, d]."""
        shared: dict[str, Any] = {
            "use_bias": self.use_bias,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
        }
        gate = Linear(self.intermediate_size, name="gate", **shared)(x)
        up = Linear(self.intermediate_size, name="up", **shared)(x)
        down = Linear(x.shape[-1], name="down", init_scale=self.output_init_scale, **shared)
        return down(nn.silu(gate) * up)
