"""Feed-forward layers."""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxlab.nn.context import Context
from jaxlab.nn.linear import Linear


@dataclasses.dataclass(frozen=True)
class SwiGLU:
    """A gated feed-forward layer (Shazeer 2020, eq. 6, without biases unless asked).

    Attributes:
        intermediate_size: its inner width.
        use_bias: whether its three projections have biases.
        name: the tag of this layer in a config.
    """

    intermediate_size: int
    use_bias: bool = False
    name: Literal["swiglu"] = "swiglu"

    def __post_init__(self) -> None:
        """Check that the width is positive."""
        if self.intermediate_size < 1:
            raise ValueError(f"intermediate_size must be at least 1, not {self.intermediate_size}")

    def module(self, **shared: Any) -> nn.Module:
        """Returns the layer; see `jaxlab.nn.layers.Mlp` for what all of them share."""
        return SwiGLULayer(self, **shared)


class SwiGLULayer(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    config: SwiGLU
    model_dim: int
    output_init_scale: float = 1.0
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, context: Context | None = None) -> jax.Array:
        """[B, T, d] -> [B, T, d], whatever the context."""
        shared: dict[str, Any] = {
            "use_bias": self.config.use_bias,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
        }
        gate = Linear(self.config.intermediate_size, name="gate", **shared)(x)
        up = Linear(self.config.intermediate_size, name="up", **shared)(x)
        down = Linear(self.model_dim, name="down", init_scale=self.output_init_scale, **shared)
        return down(nn.silu(gate) * up)
