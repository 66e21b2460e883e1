"""One pre-norm residual block: a sequence mixer, then a feed-forward layer."""

from typing import Any

import flax.linen as nn
import jax
from jax.typing import DTypeLike

from jaxlab.nn.norm import RMSNorm


class Block(nn.Module):
    """x + mixer(norm(x)), then x + mlp(norm(x)) where there is an mlp.

    Attributes:
        mixer: a module with `__call__(x, positions, segment_ids)`, `prefill` and `step` as
            `jaxlab.nn.attention.Attention` has them; its cache is its own affair.
        mlp: a module [B, T, d] -> [B, T, d]; None for a block of the mixer alone.
        norm_eps: of both norms.
        param_dtype: of both norms' scales.
    """

    mixer: Any
    mlp: Any
    norm_eps: float
    param_dtype: DTypeLike

    def setup(self) -> None:
        """Create the norms."""
        self.mixer_norm = RMSNorm(self.norm_eps, self.param_dtype)
        if self.mlp is not None:
            self.mlp_norm = RMSNorm(self.norm_eps, self.param_dtype)

    def __call__(
        self, x: jax.Array, positions: jax.Array, segment_ids: jax.Array | None = None
    ) -> jax.Array:
        """[B, T, d] at int32 positions [B, T] -> [B, T, d]."""
        x = x + self.mixer(self.mixer_norm(x), positions, segment_ids)
        return self._feed_forward(x)

    def prefill(
        self, x: jax.Array, positions: jax.Array, segment_ids: jax.Array, cache_length: int
    ) -> tuple[jax.Array, Any]:
        """As `__call__`, and the mixer's cache of `cache_length` slots."""
        y, cache = self.mixer.prefill(self.mixer_norm(x), positions, segment_ids, cache_length)
        return self._feed_forward(x + y), cache

    def step(
        self, x: jax.Array, positions: jax.Array, cache: Any, span: Any
    ) -> tuple[jax.Array, Any]:
        """N tokens per row, [B, N, d], against the mixer's cache."""
        y, cache = self.mixer.step(self.mixer_norm(x), positions, cache, span)
        return self._feed_forward(x + y), cache

    def _feed_forward(self, x: jax.Array) -> jax.Array:
        return x if self.mlp is None else x + self.mlp(self.mlp_norm(x))
