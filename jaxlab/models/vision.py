"""Vision transformers: DINOv2, DINOv3, SigLIP, SigLIP 2, V-JEPA 2, and small ones trained here.

B: rows, T: frames, N: patches, D: width.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxlab import ranges
from jaxlab.nn import resize, vit
from jaxlab.nn.vit import Layer, VitLayer

Params = dict[str, Any]
Positions = Literal["bicubic", "bicubic_antialias", "bilinear_antialias", "axial", "video"]


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """Sizes and parts of a vision transformer.

    Attributes:
        width: of the tokens.
        num_layers: of the transformer.
        layer: what each layer is.
        patch: height and width of a patch in pixels.
        grid: height and width, in patches, that learned positions are of, and on which `video`
            positions are counted.
        frames: of a patch; above 1 the model sees clips.
        class_token: whether there is one before the patches.
        registers: tokens between the class token and the patches.
        positions: learned ones, resized to the image by that kernel; or rotations, "axial" of
            images and "video" of clips.
        class_position: whether learned positions have one for the class token.
        theta: base of the axial rotations.
        patch_bias: whether the patches' projection has one.
    """

    width: int
    num_layers: int
    layer: Layer
    patch: int
    grid: tuple[int, int]
    frames: int = 1
    class_token: bool = False
    registers: int = 0
    positions: Positions = "bicubic"
    class_position: bool = False
    theta: float = 100.0
    patch_bias: bool = True

    def __post_init__(self) -> None:
        """Check ranges, and that heads divide the width."""
        ranges.check_counts(self, "width", "num_layers", "patch", "frames")
        ranges.check(self, "registers", least=0)
        if self.width % self.layer.heads:
            raise ValueError(f"heads: {self.layer.heads} do not divide width = {self.width}")
        head = self.width // self.layer.heads
        if self.positions == "axial" and head % 4:
            raise ValueError(f"width / heads: axial positions need a multiple of 4, not {head}")

    @property
    def prefix(self) -> int:
        """Tokens before the patches."""
        return self.class_token + self.registers


class Vision(nn.Module):
    """Patches, positions, layers, layer norm. Parameters of the layers are stacked in `layers`."""

    config: VisionConfig

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Tokens [B, prefix + N, D] of normalised images [B, H, W, C], or clips [B, T, H, W, C].

        Clips are for models whose patches have several frames: one that is shorter than a patch is
        repeated, and frames that fill no patch are left out, as are pixels at the right and lower
        border.

        Raises:
            ValueError: the axes are not those of images, or clips; the image is smaller than a
                patch.
        """
        c = self.config
        if images.ndim != (5 if c.frames > 1 else 4):
            kind = "clips [B, T, H, W, C]" if c.frames > 1 else "images [B, H, W, C]"
            raise ValueError(f"{kind} are needed, got {images.shape}")
        patches, (height, width) = patchify(images, c.patch, c.frames)
        x = nn.Dense(c.width, use_bias=c.patch_bias, name="patches")(patches)
        x = self._prefixed(x, height, width)
        rotation = None
        head = c.width // c.layer.heads
        if c.positions == "axial":
            rotation = vit.axial_rotation(height, width, head, c.theta)
        elif c.positions == "video":
            rotation = vit.video_rotation(patches.shape[1], c.grid[0], head)
        stack = nn.scan(
            lambda layer, x, _: (layer(x, rotation), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=c.num_layers,
        )
        x, _ = stack(VitLayer(c.layer, name="layers"), x, None)
        return nn.LayerNorm(c.layer.norm_eps, name="norm")(x)

    def _prefixed(self, x: jax.Array, height: int, width: int) -> jax.Array:
        """Patches with their learned positions, behind the class token and the registers."""
        c, small = self.config, nn.initializers.normal(0.02)
        first = []
        if c.class_token:
            first = [self.param("class_token", small, (1, 1, c.width))]
        if c.positions != "axial" and c.positions != "video":
            table = self.param("positions", small, (*c.grid, c.width))
            x = x + resized(table, height, width, c.positions).reshape(1, -1, c.width)
            if c.class_position:
                first = [first[0] + self.param("class_position", small, (1, 1, c.width))]
        if c.registers:
            first.append(self.param("registers", small, (1, c.registers, c.width)))
        first = [jnp.broadcast_to(token, (len(x), *token.shape[1:])) for token in first]
        return jnp.concatenate([*first, x], 1)


def shorter(config: VisionConfig, params: Params, skip: int) -> tuple[VisionConfig, Params]:
    """The model without its last `skip` layers, before the final norm; 1: penultimate features.

    Raises:
        ValueError: no layer is left.
    """
    left = config.num_layers - skip
    if skip < 0 or left < 1:
        raise ValueError(f"skip: from 0 to {config.num_layers - 1} layers, not {skip}")
    layers = jax.tree.map(lambda x: x[:left], params["layers"])
    return dataclasses.replace(config, num_layers=left), {**params, "layers": layers}


def patchify(images: jax.Array, patch: int, frames: int = 1) -> tuple[jax.Array, tuple[int, int]]:
    """Pixels of the patches, [B, N, frames * patch * patch * C], and the grid (height, width).

    Args:
        images: [B, H, W, C], or clips [B, T, H, W, C].
        patch: height and width of a patch.
        frames: of a patch.

    Raises:
        ValueError: the image is smaller than a patch.
    """
    clips = images if images.ndim == 5 else images[:, None]
    if clips.shape[1] < frames:
        clips = jnp.tile(clips, (1, frames, 1, 1, 1))
    batch, time, height, width, channels = clips.shape
    t, h, w = time // frames, height // patch, width // patch
    if min(h, w) < 1:
        raise ValueError(f"images of {height} x {width} are smaller than a patch of {patch}")
    clips = clips[:, : t * frames, : h * patch, : w * patch]
    x = clips.reshape(batch, t, frames, h, patch, w, patch, channels)
    x = x.transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(batch, t * h * w, -1), (h, w)


def unpatchify(patches: jax.Array, patch: int, grid: tuple[int, int]) -> jax.Array:
    """Images [B, H, W, C] of patches [B, N, patch * patch * C], the inverse of `patchify`."""
    x = patches.reshape(len(patches), *grid, patch, patch, -1).swapaxes(2, 3)
    return x.reshape(len(patches), grid[0] * patch, grid[1] * patch, -1)


def resized(table: jax.Array, height: int, width: int, kernel: resize.Kernel) -> jax.Array:
    """Positions [height, width, D] of learned ones [h, w, D]."""
    if table.shape[:2] == (height, width):
        return table
    rows, columns = (
        jnp.asarray(resize.weights(before, after, kernel), table.dtype)
        for before, after in zip(table.shape, (height, width), strict=False)
    )
    return jnp.einsum("ah,bw,hwd->abd", rows, columns, table)
