"""BERT as an encoder of texts: config.json and tensors of HuggingFace directories."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab import json_file
from jaxlab.interop import directory
from jaxlab.interop.safetensors_io import Stored
from jaxlab.json_file import BOOL, NULL, SIZE, TEXT, CheckpointFormatError
from jaxlab.models.text_encoder import EncoderConfig, Params, TextEncoder

_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "width",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "hidden",
    "max_position_embeddings": "max_position",
    "type_vocab_size": "types",
}
_KEYS = {
    **dict.fromkeys(_SIZES, SIZE),
    "model_type": TEXT,
    "layer_norm_eps": json_file.POSITIVE,
    "hidden_act": TEXT,
    "position_embedding_type": TEXT | NULL,
    "is_decoder": BOOL,
    "add_cross_attention": BOOL,
}
# Key -> the values that ask for what the encoder computes; an absent key is the first.
_COMPUTED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("gelu",),
    "position_embedding_type": ("absolute", None),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
}
# Path of a module's parameters -> name of its tensors; {} is the number of the layer.
_NAMES = {
    "tokens": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "types": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
    "layers/query": "encoder.layer.{}.attention.self.query",
    "layers/key": "encoder.layer.{}.attention.self.key",
    "layers/value": "encoder.layer.{}.attention.self.value",
    "layers/output": "encoder.layer.{}.attention.output.dense",
    "layers/norm1": "encoder.layer.{}.attention.output.LayerNorm",
    "layers/up": "encoder.layer.{}.intermediate.dense",
    "layers/down": "encoder.layer.{}.output.dense",
    "layers/norm2": "encoder.layer.{}.output.LayerNorm",
}
# What a tensor of a kind is called; checkpoints of TensorFlow's time call norms gamma and beta.
_KINDS = {"kernel": ("weight",), "bias": ("bias", "beta"), "scale": ("weight", "gamma")}


def from_json(data: Mapping[str, Any]) -> EncoderConfig:
    """Sizes of a config.json.

    Raises:
        CheckpointFormatError: naming the key: a missing one, or one whose value asks for what the
            encoder does not compute.
    """
    if data.get("model_type") != "bert":
        raise CheckpointFormatError(
            f"config.json: model_type {data.get('model_type')!r} is no sentence encoder that is "
            "read here; supported: bert"
        )
    json_file.check(data, _KEYS, "config.json")
    for key, values in _COMPUTED.items():
        if data.get(key, values[0]) not in values:
            raise CheckpointFormatError(
                f"config.json: {key} {json_file.show(data[key])} is not supported; supported: "
                f"{json_file.show(values[0])}"
            )
    missing = [key for key in _SIZES if key not in data]
    if missing:
        raise CheckpointFormatError(f"config.json: missing {', '.join(missing)}")
    try:
        sizes = {ours: data[theirs] for theirs, ours in _SIZES.items()}
        return EncoderConfig(**sizes, norm_eps=float(data.get("layer_norm_eps", 1e-12)))
    except ValueError as error:
        raise CheckpointFormatError(f"config.json: {error}") from error


def load(path: Path) -> tuple[EncoderConfig, Params]:
    """Config and float32 parameters of a directory; a pooler and heads are left out.

    Raises:
        CheckpointFormatError: a file is missing, damaged, or asks for what the encoder does not
            compute.
    """
    data = json_file.read(path / directory.CONFIG)
    with directory.naming(path):
        config = from_json(data)
    tensors = directory.tensors(path)
    anchor = _NAMES["tokens"] + ".weight"
    prefix = next((p for p in ("", "bert.") if p + anchor in tensors), None)
    if prefix is None:
        raise CheckpointFormatError(f"{path}: has no tensor {anchor}; is it a BERT?")

    def leaf(key_path: Any, shape: jax.ShapeDtypeStruct) -> jax.Array:
        name = jax.tree_util.keystr(key_path, simple=True, separator="/")
        module, kind = (name, "kernel") if name in _NAMES else name.rsplit("/", 1)
        one = shape.shape[1:] if name.startswith("layers/") else shape.shape
        turned = kind == "kernel" and module != name
        layers = range(config.num_layers) if name.startswith("layers/") else (0,)
        found = []
        for layer in layers:
            names = [f"{prefix}{_NAMES[module].format(layer)}.{end}" for end in _KINDS[kind]]
            value = _tensor(path, tensors, names)
            value = value.T if turned else value
            if value.shape != one:
                raise CheckpointFormatError(
                    f"{path}: tensor {names[0]} has shape {value.shape}, config.json asks for {one}"
                )
            found.append(value)
        return jnp.asarray(np.stack(found) if name.startswith("layers/") else found[0])

    return config, jax.tree_util.tree_map_with_path(leaf, _shapes(config))


@functools.cache
def _shapes(config: EncoderConfig) -> Params:
    example = jnp.zeros((1, 1), jnp.int32), jnp.ones((1,), jnp.int32)
    return jax.eval_shape(TextEncoder(config).init, jax.random.key(0), *example)["params"]


def _tensor(path: Path, tensors: Mapping[str, Stored], names: list[str]) -> np.ndarray:
    for name in names:
        if name in tensors:
            return np.asarray(tensors[name].open(), np.float32)
    raise CheckpointFormatError(f"{path}: has no tensor {names[0]}")
