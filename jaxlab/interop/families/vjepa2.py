"""The encoder of V-JEPA 2 (Assran et al. 2025), which sees clips: names and keys."""

from collections.abc import Mapping
from typing import Any

from jaxlab import json_file
from jaxlab.interop import vision_keys
from jaxlab.models.vision import VisionConfig
from jaxlab.nn.vit import Layer

MODEL_TYPES = ("vjepa2",)
PREFIXES = ("", "vjepa2.")
PROCESSOR = "VJEPA2VideoProcessor"

_KEYS = vision_keys.KEYS | {
    "crop_size": json_file.SIZE,
    "tubelet_size": json_file.whole(2),
    "mlp_ratio": json_file.POSITIVE,
    "qkv_bias": json_file.BOOL,
    "in_chans": json_file.whole(3, 3),
}


def config(data: Mapping[str, Any]) -> VisionConfig:
    """The encoder of a config.json.

    Raises:
        CheckpointFormatError: a key holds what the model has no part for.
    """
    json_file.check(data, _KEYS, "config.json")
    patch = vision_keys.square(data, "patch_size", 16)
    side = data.get("crop_size", 256) // patch
    width, bias = data.get("hidden_size", 1024), data.get("qkv_bias", True)
    return VisionConfig(
        width=width,
        num_layers=data.get("num_hidden_layers", 24),
        layer=Layer(
            heads=data.get("num_attention_heads", 16),
            hidden=int(width * data.get("mlp_ratio", 4.0)),
            activation=vision_keys.activation(data, "gelu"),
            bias=(bias, bias, bias, True),
            norm_eps=data.get("layer_norm_eps", 1e-6),
            pairing="adjacent",
        ),
        patch=patch,
        grid=(side, side),
        frames=data.get("tubelet_size", 2),
        positions="video",
    )


TENSORS = {
    "patches": ("encoder.embeddings.patch_embeddings.proj",),
    "norm": ("encoder.layernorm",),
    "layers/norm1": ("encoder.layer.{}.norm1",),
    "layers/query": ("encoder.layer.{}.attention.query",),
    "layers/key": ("encoder.layer.{}.attention.key",),
    "layers/value": ("encoder.layer.{}.attention.value",),
    "layers/out": ("encoder.layer.{}.attention.proj",),
    "layers/norm2": ("encoder.layer.{}.norm2",),
    "layers/up": ("encoder.layer.{}.mlp.fc1",),
    "layers/down": ("encoder.layer.{}.mlp.fc2",),
}
