"""Bidirectional encoders of texts with learned positions: BERT (Devlin et al. 2019).

B: rows, T: tokens, D: width, H: heads.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxlab import ranges
from jaxlab.nn.linear import Linear

Params = dict[str, Any]
# Of logits of padding: far below any other, and finite, so that a row of padding alone has no NaN.
_HIDDEN = -1e30


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Sizes of an encoder.

    Attributes:
        vocab_size: of the table of tokens.
        width: of the hidden states.
        num_layers: of the stack.
        num_heads: divide the width.
        hidden: width of the feed-forward layer, whose activation is the exact GELU.
        max_position: length of the table of positions.
        types: of segments; a text by itself is of type 0.
        norm_eps: of the layer norms, which stand behind the branches.
    """

    vocab_size: int
    width: int
    num_layers: int
    num_heads: int
    hidden: int
    max_position: int = 512
    types: int = 2
    norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        """Check that sizes are positive and the heads divide the width."""
        counts = ("vocab_size", "width", "num_layers", "num_heads", "hidden", "max_position")
        ranges.check_counts(self, *counts, "types")
        ranges.check(self, "norm_eps", above=0)
        if self.width % self.num_heads:
            raise ValueError(f"num_heads: {self.num_heads} do not divide the width {self.width}")


class TextEncoder(nn.Module):
    """Embeddings, then layers whose parameters are stacked in `layers`. Float32."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, tokens: jax.Array, lengths: jax.Array) -> jax.Array:
        """Hidden states [B, T, D] of texts.

        Args:
            tokens: int32 [B, T], T at most max_position; what lies behind a text is any id.
            lengths: int32 [B], tokens of each text.
        """
        c = self.config
        small = nn.initializers.normal(0.02)
        words = self.param("tokens", small, (c.vocab_size, c.width))
        positions = self.param("positions", small, (c.max_position, c.width))
        types = self.param("types", small, (c.types, c.width))
        x = words[tokens] + positions[: tokens.shape[1]] + types[0]
        x = layer_norm(c, "norm")(x)
        mask = jnp.arange(tokens.shape[1]) < lengths[:, None]
        stack = nn.scan(
            lambda layer, x, _: (layer(x, mask), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=c.num_layers,
        )
        x, _ = stack(EncoderLayer(c, name="layers"), x, None)
        return x


class EncoderLayer(nn.Module):
    """norm(x + attention(x)), then norm(x + mlp(x))."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """[B, T, D] -> [B, T, D]; mask bool [B, T], True = counts."""
        c = self.config
        heads, size = c.num_heads, c.width // c.num_heads
        q, k, v = (
            Linear(c.width, use_bias=True, name=name)(x).reshape(*x.shape[:2], heads, size)
            for name in ("query", "key", "value")
        )
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, k) * size**-0.5
        weights = jax.nn.softmax(jnp.where(mask[:, None, None], logits, _HIDDEN), axis=-1)
        y = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(x.shape)
        x = layer_norm(c, "norm1")(x + Linear(c.width, use_bias=True, name="output")(y))
        y = jax.nn.gelu(Linear(c.hidden, use_bias=True, name="up")(x), approximate=False)
        return layer_norm(c, "norm2")(x + Linear(c.width, use_bias=True, name="down")(y))


def layer_norm(config: EncoderConfig, name: str) -> nn.LayerNorm:
    """A layer norm; the variance is of the differences, which E[x^2] - E[x]^2 would lose."""
    return nn.LayerNorm(config.norm_eps, use_fast_variance=False, name=name)


def sentence_vectors(hidden: jax.Array, lengths: jax.Array) -> jax.Array:
    """The mean of a text's hidden states, scaled to length 1 (Reimers & Gurevych 2019).

    Args:
        hidden: [B, T, D].
        lengths: int32 [B].

    Returns:
        [B, D]; zeros of a text without tokens.
    """
    mask = jnp.arange(hidden.shape[1]) < lengths[:, None]
    mean = jnp.where(mask[..., None], hidden, 0).sum(1) / jnp.maximum(lengths, 1)[:, None]
    return mean / jnp.maximum(jnp.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)
