"""Gates of a gated-delta layer: projections of full or low rank, and the log decay."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxlab.nn.linear import Linear


class LowRank(nn.Module):
    """expand(reduce(x)): a projection through `rank` channels; the bias is behind both."""

    features: int
    rank: int
    use_bias: bool = False
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., in] -> [..., features]."""
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = Linear(self.rank, name="reduce", **types)(x)
        return Linear(self.features, self.use_bias, name="expand", **types)(x)


def projection(features: int, rank: int, **types: Any) -> nn.Module:
    """A `Linear` without bias for rank 0, else a `LowRank`."""
    return LowRank(features, rank, **types) if rank else Linear(features, **types)


def log_decay(
    x: jax.Array, A_log: jax.Array, dt_bias: jax.Array, lower_bound: float | None = None
) -> jax.Array:
    """-exp(A_log) softplus(x + dt_bias), or lower_bound sigmoid(exp(A_log) (x + dt_bias)).

    Source: Gated DeltaNet, arXiv 2412.06464 (after Mamba-2); the second form is the "safe gate" of
    the released Kimi Delta Attention.

    Args:
        x: [..., HV, D].
        A_log: [HV].
        dt_bias: [HV, D].
        lower_bound: of the result; None for the first form.

    Returns:
        [..., HV, D], float32 (float64 if given), <= 0, in natural logs.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32)) + dt_bias
    rate = jnp.exp(A_log)[:, None]
    if lower_bound is None:
        return -rate * jax.nn.softplus(x)
    return lower_bound * jax.nn.sigmoid(rate * x)


class LogDecay(nn.Module):
    """`log_decay` of a projection of the layer's input.

    A_log and dt_bias are float32 whatever param_dtype is, and no optimiser should decay them.

    Attributes:
        heads: HV.
        channels: D, log decays per head.
        rank: of the projection; 0 means full.
        lower_bound: see `log_decay`.
        dtype: compute dtype of the projection.
        param_dtype: its storage dtype.
    """

    heads: int
    channels: int
    rank: int = 0
    lower_bound: float | None = None
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Create the projection, the rates A in (1, 16) and the biases."""
        features = self.heads * self.channels
        self.project = projection(
            features, self.rank, dtype=self.dtype, param_dtype=self.param_dtype
        )
        self.A_log = self.param("A_log", self._init_A_log, (self.heads,))
        self.dt_bias = self.param("dt_bias", _init_dt_bias, (features,))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, d] -> float32 [B, T, HV, D], at most 0."""
        x = self.project(x).reshape(*x.shape[:-1], self.heads, self.channels)
        dt_bias = self.dt_bias.reshape(self.heads, self.channels)
        return log_decay(x, self.A_log, dt_bias, self.lower_bound)

    def _init_A_log(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        # Within the sigmoid a rate is a slope, and 1 is where the released code starts.
        if self.lower_bound is not None:
            return jnp.zeros(shape, jnp.float32)
        return jnp.log(jax.random.uniform(key, shape, jnp.float32, 1.0, 16.0))


def _init_dt_bias(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The x with softplus(x) = dt, dt log-uniform in (0.001, 0.1)."""
    log_dt = jax.random.uniform(key, shape, jnp.float32, math.log(1e-3), math.log(1e-1))
    dt = jnp.exp(log_dt)
    return dt + jnp.log(-jnp.expm1(-dt))
