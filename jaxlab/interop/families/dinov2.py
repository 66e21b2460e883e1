"""DINOv2 (Oquab et al. 2023), with and without registers (Darcet et al. 2023): names and keys."""

from collections.abc import Mapping
from typing import Any

from jaxlab import json_file
from jaxlab.interop import vision_keys
from jaxlab.models.vision import VisionConfig
from jaxlab.nn.vit import Layer

MODEL_TYPES = ("dinov2", "dinov2_with_registers")
PREFIXES = ("", "dinov2.", "dinov2_with_registers.")
PROCESSOR = "BitImageProcessor"

_KEYS = vision_keys.KEYS | {
    "mlp_ratio": json_file.SIZE,
    "qkv_bias": json_file.BOOL,
    "use_swiglu_ffn": json_file.BOOL,
    "num_register_tokens": json_file.COUNT,
}


def config(data: Mapping[str, Any]) -> VisionConfig:
    """The model of a config.json.

    Raises:
        CheckpointFormatError: a key holds what the model has no part for.
    """
    json_file.check(data, _KEYS, "config.json")
    registers = data["model_type"] == "dinov2_with_registers"
    width = data.get("hidden_size", 768)
    hidden = width * data.get("mlp_ratio", 4)
    gated = data.get("use_swiglu_ffn", False)
    if gated:
        hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
    bias = data.get("qkv_bias", True)
    patch = vision_keys.square(data, "patch_size", 16 if registers else 14)
    side = vision_keys.square(data, "image_size", 224) // patch
    return VisionConfig(
        width=width,
        num_layers=data.get("num_hidden_layers", 12),
        layer=Layer(
            heads=data.get("num_attention_heads", 12),
            hidden=hidden,
            activation="silu" if gated else vision_keys.activation(data, "gelu"),
            gated=gated,
            bias=(bias, bias, bias, True),
            layer_scale=True,
            norm_eps=data.get("layer_norm_eps", 1e-6),
        ),
        patch=patch,
        grid=(side, side),
        class_token=True,
        class_position=True,
        registers=data.get("num_register_tokens", 4) if registers else 0,
        positions="bicubic_antialias" if registers else "bicubic",
    )


# Parameter path -> names of the tensor, {} a layer's number; those of transformers 4 and 5.
TENSORS = {
    "class_token": ("embeddings.cls_token",),
    "registers": ("embeddings.register_tokens",),
    "position_table": ("embeddings.position_embeddings",),
    "patches": ("embeddings.patch_embeddings.projection",),
    "norm": ("layernorm",),
    "layers/norm1": ("encoder.layer.{}.norm1",),
    "layers/query": (
        "encoder.layer.{}.attention.attention.query",
        "encoder.layer.{}.attention.q_proj",
    ),
    "layers/key": ("encoder.layer.{}.attention.attention.key", "encoder.layer.{}.attention.k_proj"),
    "layers/value": (
        "encoder.layer.{}.attention.attention.value",
        "encoder.layer.{}.attention.v_proj",
    ),
    "layers/out": ("encoder.layer.{}.attention.output.dense", "encoder.layer.{}.attention.o_proj"),
    "layers/scale1": ("encoder.layer.{}.layer_scale1.lambda1",),
    "layers/norm2": ("encoder.layer.{}.norm2",),
    # The giant's first matrix holds gate and up, one above the other.
    "layers/gate+up": ("encoder.layer.{}.mlp.weights_in",),
    "layers/gate": ("encoder.layer.{}.mlp.gate_proj",),
    "layers/up": ("encoder.layer.{}.mlp.fc1", "encoder.layer.{}.mlp.up_proj"),
    "layers/down": (
        "encoder.layer.{}.mlp.fc2",
        "encoder.layer.{}.mlp.weights_out",
        "encoder.layer.{}.mlp.down_proj",
    ),
    "layers/scale2": ("encoder.layer.{}.layer_scale2.lambda1",),
}
