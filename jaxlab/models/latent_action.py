"""Latent action models: what has changed between two frames, in a few tokens of a small codebook.

LAPA (Ye et al. 2024) as LARY (arXiv 2604.11689) trains it: patches of both frames go through
spatial layers, then through temporal ones; the change of each patch, gathered into few tokens, is
quantised; a decoder that sees the first frame and the tokens predicts the second. The same on the
features of a frozen encoder is LARY's general latent action model.

B: rows, F: frames, N: patches, D: numbers of a patch, K: tokens, C: codes, Q: their width.
"""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxlab import ranges
from jaxlab.models.vision import patchify
from jaxlab.nn.vit import Layer, VitLayer

Stage = Literal["before", "after"]


@dataclasses.dataclass(frozen=True)
class LatentAction:
    """Options of a latent action model; the defaults are LARY's.

    Attributes:
        width: of its layers.
        heads: of their attention.
        spatial: layers within a frame.
        temporal: layers over the frames of a patch, each seeing those before it.
        decoder: layers that predict the second frame.
        mlp_ratio: hidden width of a feed-forward layer over `width`.
        patch: side of a patch, where frames are pixels.
        tokens: of an action; their number divides the patches into equal blocks of the grid.
        codes: in the codebook.
        code_width: numbers of a code.
        quantiser: how gradients pass it: "nsvq" (Vali and Bäckström 2022, LAPA's) puts noise of the
            error's length in the error's place; "straight_through" copies them, beside a commitment
            loss.
        commitment: factor of that loss.
        restart_every: steps after which codes that no row of the batch uses begin anew from one
            that is there; 0: never.
        name: names these options in a config.
    """

    width: int = 1024
    heads: int = 16
    spatial: int = 4
    temporal: int = 4
    decoder: int = 4
    mlp_ratio: int = 4
    patch: int = 16
    tokens: int = 16
    codes: int = 8
    code_width: int = 32
    quantiser: Literal["nsvq", "straight_through"] = "nsvq"
    commitment: float = 0.25
    restart_every: int = 10
    name: Literal["latent_action"] = "latent_action"

    def __post_init__(self) -> None:
        """Check ranges."""
        ranges.check_choices(self)
        counts = ("width", "heads", "spatial", "temporal", "decoder", "mlp_ratio", "patch")
        ranges.check_counts(self, *counts, "tokens", "code_width")
        ranges.check(self, "codes", least=2)
        ranges.check(self, "commitment", least=0)
        ranges.check(self, "restart_every", least=0)
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} do not divide width = {self.width}")
        if math.isqrt(self.tokens) ** 2 != self.tokens:
            raise ValueError(f"tokens: a square, since they lie on a grid, not {self.tokens}")

    def module(self) -> "LatentActionModel":
        """The network."""
        return LatentActionModel(self)


class LatentActionModel(nn.Module):
    """See the module's docstring."""

    options: LatentAction

    def setup(self) -> None:
        """Make the parts."""
        o = self.options
        layer = Layer(o.heads, o.mlp_ratio * o.width)
        self.embed = nn.Dense(o.width)
        self.space = [VitLayer(layer) for _ in range(o.spatial)]
        self.time = [VitLayer(layer) for _ in range(o.temporal)]
        self.into = nn.Dense(o.code_width)
        self.out_of = nn.Dense(o.width)
        self.layers = [VitLayer(layer) for _ in range(o.decoder)]
        self.norm = nn.LayerNorm()
        self.place = _Place()
        self.predict = _Predict()
        # Deltas of normal initialisation are of about this size.
        start = nn.initializers.normal(1.0)
        self.codebook = self.param("codebook", start, (o.codes, o.code_width))

    def __call__(
        self, frames: jax.Array, key: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The loss, and what else was measured.

        Args:
            frames: pixels [B, F, H, W, 3], or features [B, F, N, D]; two neighbours are a pair.
            key: of the quantiser's noise; None: no noise, the codes themselves.

        Returns:
            Mean squared error of the second frame, with the commitment loss where there is one; and
            `frame_mse`, `copy_mse` of the first frame as prediction, `counts` int[C] of the codes'
            uses, and `changes` float[B * (F - 1) * K, Q], what was quantised.
        """
        pairs = self._pairs(frames)
        before, ids = self._encode(pairs)
        chosen = self.codebook[ids]
        quantised = self._quantised(before, chosen, key)
        first = self.place(self.embed(pairs[:, 0]))
        x = jnp.concatenate([self.out_of(quantised), first], 1)
        for layer in self.layers:
            x = layer(x)
        predicted = self.predict(self.norm(x[:, quantised.shape[1] :]), pairs.shape[-1])
        mse = jnp.mean((predicted - pairs[:, 1]) ** 2)
        loss = mse
        if self.options.quantiser == "straight_through":
            still = jax.lax.stop_gradient
            loss += jnp.mean((still(before) - chosen) ** 2)
            loss += self.options.commitment * jnp.mean((before - still(chosen)) ** 2)
        return loss, {
            "frame_mse": mse,
            "copy_mse": jnp.mean((pairs[:, 0] - pairs[:, 1]) ** 2),
            "counts": jnp.bincount(ids.reshape(-1), length=self.options.codes),
            "changes": jax.lax.stop_gradient(before.reshape(-1, before.shape[-1])),
        }

    def features(self, frames: jax.Array, stage: Stage = "after") -> jax.Array:
        """Continuous embeddings [B, F - 1, K, Q] of each pair, before or after the quantiser."""
        pairs = self._pairs(frames)
        before, ids = self._encode(pairs)
        found = before if stage == "before" else self.codebook[ids]
        return found.reshape(len(frames), frames.shape[1] - 1, *found.shape[1:])

    def _pairs(self, frames: jax.Array) -> jax.Array:
        """Neighbouring frames [B * (F - 1), 2, N, D]."""
        if frames.shape[1] < 2:
            raise ValueError("a latent action is of two frames at least")
        if frames.ndim == 5:
            batch, count = frames.shape[:2]
            patches, _ = patchify(frames.reshape(-1, *frames.shape[2:]), self.options.patch)
            frames = patches.reshape(batch, count, *patches.shape[1:])
        pairs = jnp.stack([frames[:, :-1], frames[:, 1:]], 2)
        return pairs.reshape(-1, *pairs.shape[2:])

    def _encode(self, pairs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Changes float[P, K, Q] and the numbers of the nearest codes, int[P, K]."""
        o = self.options
        x = self.place(self.embed(pairs))
        for layer in self.space:
            x = layer(x)
        x = x.swapaxes(1, 2)
        mask = jnp.tril(jnp.ones((2, 2), bool))
        for layer in self.time:
            x = layer(x, mask=mask)
        change = self.into(_blocks(x[:, :, 1] - x[:, :, 0], o.tokens))
        distance = jnp.sum(jnp.square(change[..., None, :] - self.codebook), -1)
        return change, jnp.argmin(distance, -1)

    def _quantised(self, change: jax.Array, chosen: jax.Array, key: jax.Array | None) -> jax.Array:
        if self.options.quantiser == "straight_through":
            return change + jax.lax.stop_gradient(chosen - change)
        if key is None:
            return chosen
        noise = jax.random.normal(key, change.shape)
        # The error's length carries gradients to both the change and the code (their equation 4).
        length = _norm(change - chosen)
        return change + length * noise / _norm(noise)


class _Place(nn.Module):
    """Learned positions of patches."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.param("table", nn.initializers.normal(0.02), x.shape[-2:])


class _Predict(nn.Module):
    """A linear map to as many numbers as a patch has."""

    @nn.compact
    def __call__(self, x: jax.Array, width: int) -> jax.Array:
        return nn.Dense(width, name="map")(x)


def _norm(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(x * x, -1, keepdims=True) + 1e-12)


def _blocks(x: jax.Array, tokens: int) -> jax.Array:
    """Patches [P, N, D] gathered by blocks of the square grid, [P, tokens, N / tokens * D].

    Raises:
        ValueError: the grid is not made of such blocks.
    """
    side, blocks = math.isqrt(x.shape[1]), math.isqrt(tokens)
    if side * side != x.shape[1] or side % blocks:
        raise ValueError(f"{x.shape[1]} patches are no square grid of {blocks} x {blocks} blocks")
    part = side // blocks
    x = x.reshape(len(x), blocks, part, blocks, part, -1).swapaxes(2, 3)
    return x.reshape(len(x), tokens, -1)


def restarted(params: Any, counts: jax.Array, changes: jax.Array, key: jax.Array) -> Any:
    """Parameters in which codes without a use are changes of the batch, drawn at random."""
    drawn = changes[jax.random.randint(key, counts.shape, 0, len(changes))]
    codebook = jnp.where((counts > 0)[:, None], params["codebook"], drawn)
    return {**params, "codebook": codebook}


def usage(counts: Any) -> dict[str, Any]:
    """How a codebook is used, from counts [C]: share of codes in use, dead ones, perplexity.

    The perplexity is exp of the entropy in nats: C where all codes are as frequent, 1 where one is.
    """
    counts = jnp.asarray(counts, jnp.float32)
    share = counts / jnp.maximum(counts.sum(), 1)
    entropy = -jnp.sum(jnp.where(share > 0, share * jnp.log(jnp.maximum(share, 1e-30)), 0.0))
    return {
        "utilisation": jnp.mean(counts > 0),
        "dead_codes": jnp.sum(counts == 0),
        "code_perplexity": jnp.exp(entropy),
    }
