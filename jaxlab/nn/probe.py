"""Probes: small networks that read a frozen encoder's features.

`Attentive` and `ResidualMlp` are those of LARY's released code (arXiv 2604.11689, revision
2092d20); the former is V-JEPA's attentive classifier (Bardes et al. 2024) behind a projection.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxlab import ranges

# PyTorch's default of a linear layer, uniform in +-1/sqrt(fan_in); biases begin at 0 here.
_linear = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
_small = nn.initializers.truncated_normal(0.02)


@dataclasses.dataclass(frozen=True)
class Attentive:
    """Options of an attentive probe, for classes.

    Attributes:
        width: of its layers.
        heads: of its attention.
        depth: blocks, of which the last one is the query's cross-attention.
        mlp_ratio: hidden width of a block's feed-forward layer over `width`.
        max_frames: learned embeddings of time; features of more frames interpolate them.
        name: names these options in a config.
    """

    width: int = 768
    heads: int = 16
    depth: int = 4
    mlp_ratio: int = 4
    max_frames: int = 128
    name: Literal["attentive"] = "attentive"

    def __post_init__(self) -> None:
        """Check ranges, and that heads divide the width."""
        ranges.check_counts(self, "width", "heads", "depth", "mlp_ratio", "max_frames")
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} do not divide width = {self.width}")

    def module(self, outputs: int) -> nn.Module:
        """The network with so many outputs."""
        return AttentiveProbe(self, outputs)


@dataclasses.dataclass(frozen=True)
class ResidualMlp:
    """Options of a residual MLP on flattened features, for actions.

    Attributes:
        width: of its layers.
        blocks: residual ones.
        name: names these options in a config.
    """

    width: int = 4096
    blocks: int = 2
    name: Literal["residual_mlp"] = "residual_mlp"

    def __post_init__(self) -> None:
        """Check ranges."""
        ranges.check_counts(self, "width", "blocks")

    def module(self, outputs: int) -> nn.Module:
        """The network with so many outputs."""
        return ResidualMlpProbe(self, outputs)


@dataclasses.dataclass(frozen=True)
class Linear:
    """Options of a linear map of the normalised, flattened features.

    Attributes:
        name: names these options in a config.
    """

    name: Literal["linear"] = "linear"

    def module(self, outputs: int) -> nn.Module:
        """The network with so many outputs."""
        return ResidualMlpProbe(None, outputs)


@dataclasses.dataclass(frozen=True)
class Ridge:
    """Options of ridge regression in closed form; for classes, of their one-hot vectors.

    Attributes:
        penalties: one head each, of features of deviation 1 and mean squared errors.
        name: names these options in a config.
    """

    penalties: tuple[float, ...] = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
    name: Literal["ridge"] = "ridge"

    def __post_init__(self) -> None:
        """Check ranges."""
        if not self.penalties or min(self.penalties) <= 0:
            raise ValueError(f"penalties: one at least, all above 0, not {self.penalties}")


class AttentiveProbe(nn.Module):
    """Projection, self-attention, one query's cross-attention, linear map."""

    options: Attentive
    outputs: int

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Outputs [B, outputs] of features [B, N, D], or [B, T, N, D] with T frames."""
        o = self.options
        x = _dense(o.width, "projection", _linear)(tokens)
        x = nn.gelu(_norm("projection_norm")(x), approximate=False)
        # Also where there is no axis of time, so that parameters do not depend on the features.
        time = self.param("time", _small, (o.max_frames, o.width))
        if x.ndim == 4:
            frames = x.shape[1]
            if frames > o.max_frames:
                time = jax.image.resize(time, (frames, o.width), "linear", antialias=False)
            x = (x + time[None, :frames, None]).reshape(len(x), -1, o.width)
        for i in range(o.depth - 1):
            x = _SelfAttention(o, i + 1, name=f"block_{i}")(x)
        query = self.param("query", _small, (1, 1, o.width))
        query = jnp.broadcast_to(query, (len(x), 1, o.width))
        # The released class numbers this block as the one before it.
        pooled = _CrossAttention(o, max(o.depth - 1, 1), name="pool")(query, x)[:, 0]
        return _dense(self.outputs, "out", _linear)(pooled)


class ResidualMlpProbe(nn.Module):
    """LN, Linear, ReLU; blocks x + ReLU(Linear(LN x)); LN, Linear. Without options: LN, Linear."""

    options: ResidualMlp | None
    outputs: int

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Outputs [B, outputs] of features [B, ...]."""
        x = _norm("norm_in")(tokens.reshape(len(tokens), -1))
        if self.options is not None:
            x = nn.relu(_dense(self.options.width, "in", _linear)(x))
            for i in range(self.options.blocks):
                hidden = _norm(f"norm_{i}")(x)
                x = x + nn.relu(_dense(self.options.width, f"block_{i}", _linear)(hidden))
            x = _norm("norm_out")(x)
        return _dense(self.outputs, "out", _linear)(x)


class _SelfAttention(nn.Module):
    options: Attentive
    number: int

    @nn.compact
    def __call__(self, x):
        o = self.options
        q, k, v = jnp.split(_dense(3 * o.width, "qkv")(_norm("norm1")(x)), 3, axis=-1)
        scale = (2 * self.number) ** -0.5
        x = x + _dense(o.width, "proj", _scaled(scale))(_attend(q, k, v, o.heads))
        return x + _feed_forward(_norm("norm2")(x), o, scale)


class _CrossAttention(nn.Module):
    options: Attentive
    number: int

    @nn.compact
    def __call__(self, query, x):
        o = self.options
        k, v = jnp.split(_dense(2 * o.width, "kv")(_norm("norm1")(x)), 2, axis=-1)
        # Without a projection of what is attended to, as in the released code.
        query = query + _attend(_dense(o.width, "q")(query), k, v, o.heads)
        return query + _feed_forward(_norm("norm2")(query), o, (2 * self.number) ** -0.5)


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, heads: int) -> jax.Array:
    q, k, v = (x.reshape(*x.shape[:-1], heads, -1) for x in (q, k, v))
    y = jax.nn.dot_product_attention(q, k, v)
    return y.reshape(*y.shape[:-2], -1)


def _feed_forward(x: jax.Array, options: Attentive, scale: float) -> jax.Array:
    hidden = _dense(options.mlp_ratio * options.width, "fc1")(x)
    return _dense(options.width, "fc2", _scaled(scale))(nn.gelu(hidden, approximate=False))


def _scaled(scale: float):
    return lambda *arguments: scale * _small(*arguments)


def _dense(width: int, name: str, init=_small) -> nn.Dense:
    return nn.Dense(width, kernel_init=init, name=name)


def _norm(name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=1e-5, name=name)
