"""Short causal convolution over time, each channel by itself."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


def causal_conv(x: jax.Array, taps: jax.Array, segment_ids: jax.Array | None = None) -> jax.Array:
    """y[t] = sum over j < W of taps[W - 1 - j] x[t - j], within the segment of t.

    Args:
        x: [B, T, C].
        taps: [W, C], the last one for the token itself.
        segment_ids: int32 [B, T]. A token sees those before it back to the first that belongs to
            another segment. Padding, id 0, adds nothing and ends no segment.

    Returns:
        [B, T, C] in float32 (float64 if given).
    """
    width = taps.shape[0]
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    x, taps = x.astype(dtype), taps.astype(dtype)
    if segment_ids is None:
        terms = [taps[width - 1 - back] * _delayed(x, back) for back in range(width)]
        return functools.reduce(jnp.add, terms)
    x = jnp.where(segment_ids[..., None] == 0, 0, x)
    y = taps[-1] * x
    one_segment = jnp.ones(segment_ids.shape, bool)
    for back in range(1, width):
        ids = _delayed(segment_ids, back)
        one_segment &= (ids == segment_ids) | (ids == 0)
        earlier = jnp.where(one_segment[..., None], _delayed(x, back), 0)
        y = y + taps[width - 1 - back] * earlier
    return y


def _delayed(x: jax.Array, steps: int) -> jax.Array:
    """x[:, t - steps] at t, 0 where there is none."""
    steps = min(steps, x.shape[1])
    return jnp.concatenate([jnp.zeros_like(x[:, :steps]), x[:, : x.shape[1] - steps]], axis=1)


class ShortConv(nn.Module):
    """`causal_conv` with learned taps [width, features], and its steps for decoding.

    Attributes:
        features: C.
        width: W, tokens that an output sees; 0 is the identity, without parameters.
        param_dtype: storage dtype.
    """

    features: int
    width: int
    param_dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Create the taps, uniform in +-1/sqrt(W) as PyTorch draws them."""
        if self.width:
            shape = (self.width, self.features)
            self.taps = self.param("taps", _init_taps, shape, self.param_dtype)

    def __call__(self, x: jax.Array, segment_ids: jax.Array | None = None) -> jax.Array:
        """[B, T, C] -> [B, T, C], float32 where there is a convolution."""
        return causal_conv(x, self.taps, segment_ids) if self.width else x

    def tail(self, x: jax.Array) -> jax.Array:
        """The last W - 1 inputs of [B, T, C], which the next token will see; 0 before the first."""
        kept = max(self.width - 1, 0)
        missing = max(kept - x.shape[1], 0)
        x = jnp.pad(x, ((0, 0), (missing, 0), (0, 0)))
        return x[:, x.shape[1] - kept :]

    def step(self, x: jax.Array, tail: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Tokens [B, N, C] behind a tail: their outputs [B, N, C], and the next tail."""
        if not self.width:
            return x, tail
        seen = jnp.concatenate([tail, x.astype(tail.dtype)], axis=1)
        return causal_conv(seen, self.taps)[:, tail.shape[1] :], seen[:, x.shape[1] :]


def _init_taps(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    bound = shape[0] ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)
