"""DINOv3's vision transformers (Siméoni et al. 2025): names and keys."""

from collections.abc import Mapping
from typing import Any

from jaxlab import json_file
from jaxlab.interop import vision_keys
from jaxlab.models.vision import VisionConfig
from jaxlab.nn.vit import Layer

MODEL_TYPES = ("dinov3_vit",)
PREFIXES = ("", "model.", "dinov3_vit.")
PROCESSOR = "DINOv3ViTImageProcessor"

_BIASES = ("query_bias", "key_bias", "value_bias", "proj_bias")
_KEYS = vision_keys.KEYS | {
    "num_register_tokens": json_file.COUNT,
    "use_gated_mlp": json_file.BOOL,
    "mlp_bias": json_file.BOOL,
    "rope_theta": json_file.POSITIVE,
    **dict.fromkeys(_BIASES, json_file.BOOL),
}


def config(data: Mapping[str, Any]) -> VisionConfig:
    """The model of a config.json.

    Raises:
        CheckpointFormatError: a key holds what the model has no part for.
    """
    json_file.check(data, _KEYS, "config.json")
    patch = vision_keys.square(data, "patch_size", 16)
    side = vision_keys.square(data, "image_size", 224) // patch
    query, key, value, out = (data.get(name, name != "key_bias") for name in _BIASES)
    return VisionConfig(
        width=data.get("hidden_size", 384),
        num_layers=data.get("num_hidden_layers", 12),
        layer=Layer(
            heads=data.get("num_attention_heads", 6),
            hidden=data.get("intermediate_size", 1536),
            activation=vision_keys.activation(data, "gelu"),
            gated=data.get("use_gated_mlp", False),
            bias=(query, key, value, out),
            mlp_bias=data.get("mlp_bias", True),
            layer_scale=True,
            norm_eps=data.get("layer_norm_eps", 1e-5),
        ),
        patch=patch,
        grid=(side, side),
        class_token=True,
        registers=data.get("num_register_tokens", 0),
        positions="axial",
        theta=data.get("rope_theta", 100.0),
    )


def _both(rest: str) -> tuple[str, str]:
    """Names in transformers 4 and 5."""
    return f"layer.{{}}.{rest}", f"model.layer.{{}}.{rest}"


TENSORS = {
    "class_token": ("embeddings.cls_token",),
    "registers": ("embeddings.register_tokens",),
    "patches": ("embeddings.patch_embeddings",),
    "norm": ("norm",),
    "layers/norm1": _both("norm1"),
    "layers/query": _both("attention.q_proj"),
    "layers/key": _both("attention.k_proj"),
    "layers/value": _both("attention.v_proj"),
    "layers/out": _both("attention.o_proj"),
    "layers/scale1": _both("layer_scale1.lambda1"),
    "layers/norm2": _both("norm2"),
    "layers/gate": _both("mlp.gate_proj"),
    "layers/up": _both("mlp.up_proj"),
    "layers/down": _both("mlp.down_proj"),
    "layers/scale2": _both("layer_scale2.lambda1"),
}
