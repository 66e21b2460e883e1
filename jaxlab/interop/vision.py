"""Vision encoders from HuggingFace directories: config.json, safetensors, the image processor.

A family is one file in `families`: its model types, the config of a config.json, and the names of
its tensors. `FAMILIES` lists them.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab import json_file
from jaxlab.interop import directory, image_processor
from jaxlab.interop.families import dinov2, dinov3, siglip, vjepa2
from jaxlab.interop.image_processor import Processor
from jaxlab.interop.safetensors_io import Stored
from jaxlab.json_file import CheckpointFormatError
from jaxlab.models.vision import Params, Vision, VisionConfig

FAMILIES: tuple[ModuleType, ...] = (dinov2, dinov3, siglip, vjepa2)


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model that was read.

    Attributes:
        config: of `jaxlab.models.vision.Vision`.
        params: float32.
        processor: from uint8 images to what the model sees.
        key: digest of config, processor, and names, sizes and times of the tensors' files.
    """

    config: VisionConfig
    params: Params
    processor: Processor
    key: str


def family_of(data: Mapping[str, Any]) -> ModuleType:
    """The family of a config.json.

    Raises:
        CheckpointFormatError: it is of none.
    """
    kind = data.get("model_type")
    for family in FAMILIES:
        if kind in family.MODEL_TYPES:
            return family
    known = ", ".join(name for family in FAMILIES for name in family.MODEL_TYPES)
    raise CheckpointFormatError(
        f"config.json: model_type {kind!r} is no vision encoder that is read here; supported: "
        f"{known}"
    )


def inspect(path: str | Path) -> VisionConfig:
    """The config of a directory, whose tensors are not read.

    Raises:
        CheckpointFormatError: it is missing or damaged, or asks for what there is no part for.
    """
    path = Path(path)
    data = json_file.read(path / directory.CONFIG)
    with directory.naming(path):
        return _config(family_of(data), data)


def _config(family: ModuleType, data: Mapping[str, Any]) -> VisionConfig:
    try:
        config: VisionConfig = family.config(data)
    except CheckpointFormatError:
        raise
    except ValueError as error:
        raise CheckpointFormatError(f"config.json: {error}") from error
    return config


def load(path: str | Path) -> Pretrained:
    """The encoder of a directory.

    Raises:
        CheckpointFormatError: a file is missing, damaged, or asks for what there is no part for.
    """
    path = Path(path)
    data = json_file.read(path / directory.CONFIG)
    with directory.naming(path):
        family = family_of(data)
        config = _config(family, data)
    processor = image_processor.read(path, family.PROCESSOR)
    tensors = directory.tensors(path)
    files = sorted({stored.file for stored in tensors.values()})
    about: list[Any] = [dataclasses.asdict(config), dataclasses.asdict(processor)]
    about += [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    return Pretrained(config, _params(path, family, config, tensors), processor, key)


def _params(
    path: Path, family: ModuleType, config: VisionConfig, tensors: Mapping[str, Stored]
) -> Params:
    reader = _Reader(path, family, tensors)
    size = (1, config.patch, config.patch, 3)
    example = jnp.zeros((1, config.frames, *size[1:]) if config.frames > 1 else size)
    shapes = jax.eval_shape(Vision(config).init, jax.random.key(0), example)["params"]

    def leaf(key_path: Any, shape: jax.ShapeDtypeStruct) -> jax.Array:
        name = jax.tree_util.keystr(key_path, simple=True, separator="/")
        if name.startswith("layers/"):
            parts = [reader.leaf(name, shape.shape[1:], i) for i in range(config.num_layers)]
            return jnp.stack(parts)
        return jnp.asarray(reader.leaf(name, shape.shape))

    return jax.tree_util.tree_map_with_path(leaf, shapes)


class _Reader:
    """Tensors of a directory by the paths of our parameters."""

    def __init__(self, path: Path, family: ModuleType, tensors: Mapping[str, Stored]):
        self._path, self._names, self._tensors = path, family.TENSORS, tensors
        # The model by itself, or as part of another, such as a classifier.
        anchor = self._names["patches"][0] + ".weight"
        found = [prefix for prefix in family.PREFIXES if prefix + anchor in tensors]
        if not found:
            raise CheckpointFormatError(f"{path}: no tensor {anchor}; is it a vision encoder?")
        self._prefix = found[0]

    def leaf(self, name: str, shape: tuple[int, ...], layer: int = 0) -> np.ndarray:
        """The parameter of that path, of that shape."""
        part, _, kind = name.rpartition("/")
        if kind in ("kernel", "bias", "scale"):
            value = self._tensor(part, "bias" if kind == "bias" else "weight", layer)
        elif name in ("positions", "class_position") and "position_table" in self._names:
            table = self._tensor("position_table", None, layer).reshape(-1, shape[-1])
            value = table[1:] if name == "positions" else table[:1]
        else:
            value = self._tensor(name, None, layer)
        if kind == "kernel":
            # A convolution's [D, C, (t,) p, p] to [(t,) p, p, C, D]; a matrix is transposed. SigLIP
            # 2 has a matrix over patches whose pixels are in our order already.
            order = (*range(2, value.ndim), 1, 0)
            value = value.transpose(order)
        try:
            return value.reshape(shape)
        except ValueError:
            raise CheckpointFormatError(
                f"{self._path}: tensor of {name} has {value.size} numbers, config.json asks for "
                f"shape {shape}"
            ) from None

    def _tensor(self, part: str, suffix: str | None, layer: int) -> np.ndarray:
        half = {"layers/gate": 0, "layers/up": 1}.get(part)
        end = "" if suffix is None else f".{suffix}"
        names = [self._prefix + name.format(layer) + end for name in self._names.get(part, ())]
        for name in names:
            if name in self._tensors:
                return np.asarray(self._tensors[name].open(), np.float32)
        if half is not None:
            for name in self._names.get("layers/gate+up", ()):
                whole = self._prefix + name.format(layer) + end
                if whole in self._tensors:
                    both = np.asarray(self._tensors[whole].open(), np.float32)
                    return np.split(both, 2)[half]
        raise CheckpointFormatError(f"{self._path}: no tensor {names[0] if names else part}")
