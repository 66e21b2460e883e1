"""Encoders of images that are trained here: an auto-encoder of pixels, and an invariant one.

They are the poles between which LARY's panel lies: the first keeps what the pixels need, the second
(VICReg, Bardes et al. 2022) what does not change with light and background. B: rows, F: frames.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxlab import ranges
from jaxlab.models.vision import Vision, VisionConfig, patchify
from jaxlab.nn.vit import Layer


@dataclasses.dataclass(frozen=True)
class Trunk:
    """A small vision transformer whose tokens are mapped to few numbers.

    Attributes:
        width: of its layers.
        heads: of their attention.
        layers: their number.
        mlp_ratio: hidden width of a feed-forward layer over `width`.
        patch: side of a patch.
        latent: numbers of a patch's feature.
    """

    width: int = 128
    heads: int = 4
    layers: int = 2
    mlp_ratio: int = 2
    patch: int = 8
    latent: int = 8

    def __post_init__(self) -> None:
        """Check ranges."""
        names = [field.name for field in dataclasses.fields(Trunk) if field.type == "int"]
        ranges.check_counts(self, *names)
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} do not divide width = {self.width}")


@dataclasses.dataclass(frozen=True)
class Autoencoder(Trunk):
    """Options of an auto-encoder: mean squared error of the pixels, through `latent` per patch.

    Attributes:
        name: names these options in a config.
    """

    name: Literal["autoencoder"] = "autoencoder"

    def module(self) -> nn.Module:
        """The network."""
        return AutoencoderModel(self)


@dataclasses.dataclass(frozen=True)
class Invariant(Trunk):
    """Options of VICReg on two views of an image, which differ in light, background and noise.

    Attributes:
        expander: width of the two layers before the loss.
        similarity, variance, covariance: factors of the loss's terms.
        light: standard deviation of each channel's factor and offset.
        background: of a smooth field that is added.
        noise: of each pixel.
        name: names these options in a config.
    """

    expander: int = 256
    similarity: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0
    light: float = 0.2
    background: float = 0.3
    noise: float = 0.05
    name: Literal["invariant"] = "invariant"

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        ranges.check_counts(self, "expander")
        names = ("similarity", "variance", "covariance", "light", "background", "noise")
        ranges.check(self, *names, least=0)

    def module(self) -> nn.Module:
        """The network."""
        return InvariantModel(self)


class _Encoder(nn.Module):
    options: Trunk

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        o = self.options
        side = (images.shape[1] // o.patch, images.shape[2] // o.patch)
        layer = Layer(o.heads, o.mlp_ratio * o.width)
        tokens = Vision(VisionConfig(o.width, o.layers, layer, o.patch, side), name="trunk")(images)
        return nn.Dense(o.latent, name="latent")(tokens)


class _Model(nn.Module):
    options: Trunk

    def features(self, frames: jax.Array, stage: str = "after") -> jax.Array:
        """Features [B, F, N, latent] of pixels [B, F, H, W, 3], each frame by itself."""
        del stage
        found = self.encoder(frames.reshape(-1, *frames.shape[2:]))
        return found.reshape(*frames.shape[:2], *found.shape[1:])


class AutoencoderModel(_Model):
    """Pixels to latents and back."""

    options: Autoencoder

    def setup(self) -> None:
        """Make the parts."""
        o = self.options
        self.encoder = _Encoder(o)
        self.hidden = nn.Dense(o.mlp_ratio * o.width)
        self.pixels = nn.Dense(o.patch * o.patch * 3)

    def __call__(
        self, frames: jax.Array, key: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean squared error of pixels [B, F, H, W, 3], each frame by itself; no other measures."""
        del key
        images = frames.reshape(-1, *frames.shape[2:])
        wanted, _ = patchify(images, self.options.patch)
        mse = jnp.mean((self.pixels(nn.gelu(self.hidden(self.encoder(images)))) - wanted) ** 2)
        return mse, {"frame_mse": mse}


class InvariantModel(_Model):
    """Two views to nearby latents that neither collapse nor say the same thing twice."""

    options: Invariant

    def setup(self) -> None:
        """Make the parts."""
        self.encoder = _Encoder(self.options)
        self.expand = [nn.Dense(self.options.expander) for _ in range(2)]

    def __call__(
        self, frames: jax.Array, key: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """VICReg's loss of pixels [B, F, H, W, 3], and its three terms."""
        o = self.options
        images = frames.reshape(-1, *frames.shape[2:])
        # One pass over both views, since small products are slow.
        both = views(
            jnp.concatenate([images, images]), jax.random.key(0) if key is None else key, o
        )
        x = self.encoder(both).reshape(len(both), -1)
        x = self.expand[1](nn.gelu(self.expand[0](x)))
        a, b = jnp.split(x, 2)
        terms = {
            "similarity": jnp.mean((a - b) ** 2),
            "variance": (_hinge(a) + _hinge(b)) / 2,
            "covariance": _off_diagonal(a) + _off_diagonal(b),
        }
        loss = sum(getattr(o, name) * term for name, term in terms.items())
        return jnp.asarray(loss), terms


def views(images: jax.Array, key: jax.Array, options: Invariant) -> jax.Array:
    """Images [B, H, W, 3], each under another light, before another smooth field, with noise."""
    # One draw for all: on CPUs every draw is seconds of compilation.
    count, pixels = len(images), images[0].size
    drawn = jax.random.normal(key, (count, pixels + 75 + 6))
    grain = options.noise * drawn[:, :pixels].reshape(images.shape)
    field = options.background * drawn[:, pixels : pixels + 75].reshape(count, 5, 5, 3)
    light = options.light * drawn[:, pixels + 75 :].reshape(count, 2, 1, 1, 3)
    smooth = jax.image.resize(field, images.shape, "linear")
    return images * (1 + light[:, 0]) + light[:, 1] + smooth + grain


def _hinge(x: jax.Array) -> jax.Array:
    """Mean of how far each standard deviation is below 1 (their equation 1)."""
    return jnp.mean(jax.nn.relu(1 - jnp.sqrt(jnp.var(x, 0, ddof=1) + 1e-4)))


def _off_diagonal(x: jax.Array) -> jax.Array:
    """Sum of the squared covariances of different numbers, over their count (their equation 4)."""
    x = x - x.mean(0)
    covariance = x.T @ x / (len(x) - 1)
    squares = covariance**2
    return (jnp.sum(squares) - jnp.sum(jnp.diagonal(squares))) / x.shape[1]
