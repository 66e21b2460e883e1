"""A bidirectional transformer layer of vision models, and the rotations of their positions.

B: rows, N: tokens, D: width, H: heads.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

Activation = Literal["gelu", "gelu_tanh", "silu"]
# Cosines and sines float32[N, head width], and how features are paired.
Rotation = tuple[jax.Array, jax.Array]


@dataclasses.dataclass(frozen=True)
class Layer:
    """Sizes and parts of a layer.

    Attributes:
        heads: of the attention.
        hidden: width of the feed-forward layer.
        activation: of the feed-forward layer; "gelu" is the exact one.
        gated: whether the feed-forward layer is down(activation(gate x) * up x).
        bias: whether query, key, value and output projection have biases.
        mlp_bias: whether the feed-forward layer has them.
        layer_scale: whether the branches are scaled by a learned vector.
        norm_eps: of the layer norms.
        pairing: which features are rotated together: "halves", i and i + d/2 of a head, or
            "adjacent", 2i and 2i + 1.
    """

    heads: int
    hidden: int
    activation: Activation = "gelu"
    gated: bool = False
    bias: tuple[bool, bool, bool, bool] = (True, True, True, True)
    mlp_bias: bool = True
    layer_scale: bool = False
    norm_eps: float = 1e-6
    pairing: Literal["halves", "adjacent"] = "halves"


class VitLayer(nn.Module):
    """x + attention(norm x), then x + mlp(norm x), each branch scaled where there are scales."""

    options: Layer

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        rotation: Rotation | None = None,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Tokens [..., N, D] of tokens [..., N, D].

        Args:
            x: leading axes are rows.
            rotation: of the last n tokens' queries and keys, [n, D / H] each; None: none.
            mask: bool[N, N], True = query (first axis) attends to key; None: all do.
        """
        o, width = self.options, x.shape[-1]
        hidden = nn.LayerNorm(o.norm_eps, name="norm1")(x)
        names = ("query", "key", "value")
        q, k, v = (
            nn.Dense(width, use_bias=bias, name=name)(hidden)
            for name, bias in zip(names, o.bias, strict=False)
        )
        q, k, v = (y.reshape(-1, x.shape[-2], o.heads, width // o.heads) for y in (q, k, v))
        if rotation is not None:
            q, k = (rotate(y, rotation, o.pairing) for y in (q, k))
        y = jax.nn.dot_product_attention(q, k, v, mask=None if mask is None else mask[None, None])
        y = nn.Dense(width, use_bias=o.bias[3], name="out")(y.reshape(x.shape))
        x = x + self._scaled(y, "scale1")
        hidden = nn.LayerNorm(o.norm_eps, name="norm2")(x)
        y = nn.Dense(o.hidden, use_bias=o.mlp_bias, name="up")(hidden)
        if o.gated:
            gate = nn.Dense(o.hidden, use_bias=o.mlp_bias, name="gate")(hidden)
            y = activate(gate, o.activation) * y
        else:
            y = activate(y, o.activation)
        return x + self._scaled(nn.Dense(width, use_bias=o.mlp_bias, name="down")(y), "scale2")

    def _scaled(self, y: jax.Array, name: str) -> jax.Array:
        if not self.options.layer_scale:
            return y
        return y * self.param(name, nn.initializers.ones, (y.shape[-1],))


def activate(x: jax.Array, name: Activation) -> jax.Array:
    """The activation of that name."""
    return nn.silu(x) if name == "silu" else nn.gelu(x, approximate=name == "gelu_tanh")


def rotate(x: jax.Array, rotation: Rotation, pairing: str) -> jax.Array:
    """Queries or keys [B, N, H, d] with their last tokens rotated; those before them stay."""
    cos, sin = (part[:, None].astype(x.dtype) for part in rotation)
    still, x = jnp.split(x, [x.shape[1] - len(cos)], axis=1)
    if pairing == "halves":
        first, second = jnp.split(x, 2, -1)
        turned = jnp.concatenate([-second, first], -1)
    else:
        pairs = x.reshape(*x.shape[:-1], -1, 2)
        turned = jnp.stack([-pairs[..., 1], pairs[..., 0]], -1).reshape(x.shape)
    return jnp.concatenate([still, x * cos + turned * sin], axis=1)


def axial_rotation(height: int, width: int, head: int, theta: float) -> Rotation:
    """Rotation of a grid's patches by their centres in [-1, 1] (DINOv3, Siméoni et al. 2025).

    A quarter of a head's features turns with the height, a quarter with the width, twice over.
    """
    frequencies = theta ** -np.arange(0, 1, 4 / head)
    y, x = ((np.arange(n) + 0.5) / n * 2 - 1 for n in (height, width))
    centres = np.stack(np.meshgrid(y, x, indexing="ij"), -1).reshape(-1, 2)
    angles = 2 * np.pi * centres[:, :, None] * frequencies
    return _tables(np.tile(angles.reshape(len(centres), -1), 2))


def video_rotation(tokens: int, grid: int, head: int) -> Rotation:
    """Rotation of a clip's patches by frame, row and column, a third of a head each (V-JEPA 2).

    Released models were trained with frequencies that are tiled over a third's features while
    neighbours are rotated together, so that two neighbours have different angles. Positions are
    counted on the grid that the model was trained with, at every image size, as in transformers.
    """
    part = 2 * (head // 3 // 2)
    ids = np.arange(tokens)
    places = ids // grid**2, ids % grid**2 // grid, ids % grid
    frequencies = 10000.0 ** -(np.arange(part // 2) / (part / 2))
    angles = [np.tile(place[:, None] * frequencies, 2) for place in places]
    # What is left of a head is not rotated.
    return _tables(np.concatenate([*angles, np.zeros((tokens, head - 3 * part))], 1))


def _tables(angles: np.ndarray) -> Rotation:
    return jnp.asarray(np.cos(angles), jnp.float32), jnp.asarray(np.sin(angles), jnp.float32)
