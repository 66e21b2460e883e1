"""One pre-norm residual block: a sequence mixer, then a feed-forward layer."""

from typing import Any

import flax.linen as nn
import jax
from jax.typing import DTypeLike

from jaxlab.nn.context import Context
from jaxlab.nn.norm import RMSNorm


class Block(nn.Module):
    """x + mixer(norm(x)), then x + mlp(norm(x)) where there is an mlp.

    Attributes:
        mixer: a module of a mixer, see `jaxlab.nn.layers`.
        mlp: a module ([B, T, d], context) -> [B, T, d]; None for a block of the mixer alone.
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

    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        """[B, T, d] -> [B, T, d]."""
        return self._feed_forward(x + self.mixer(self.mixer_norm(x), context), context)

    def prefill(self, x: jax.Array, context: Context, cache: Any) -> tuple[jax.Array, Any]:
        """As `__call__`, and the mixer's cache with these tokens."""
        y, cache = self.mixer.prefill(self.mixer_norm(x), context, cache)
        return self._feed_forward(x + y, context), cache

    def extend(self, x: jax.Array, context: Context, cache: Any) -> tuple[jax.Array, Any]:
        """Reads N more tokens per row, [B, N, d] -> [B, N, d], into the mixer's cache."""
        y, cache = self.mixer.extend(self.mixer_norm(x), context, cache)
        return self._feed_forward(x + y, context), cache

    def _feed_forward(self, x: jax.Array, context: Context) -> jax.Array:
        return x if self.mlp is None else x + self.mlp(self.mlp_norm(x), context)
