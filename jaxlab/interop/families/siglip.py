"""The vision towers of SigLIP (Zhai et al. 2023) and SigLIP 2 (Tschannen et al. 2025).

SigLIP 2's models of a fixed size are directories of model_type siglip, those of any shape (NaFlex)
of siglip2.
"""

from collections.abc import Mapping
from typing import Any

from jaxlab import json_file
from jaxlab.interop import vision_keys
from jaxlab.json_file import CheckpointFormatError
from jaxlab.models.vision import VisionConfig
from jaxlab.nn.vit import Layer

MODEL_TYPES = ("siglip", "siglip_vision_model", "siglip2", "siglip2_vision_model")
PREFIXES = ("", "vision_model.", "siglip.vision_model.", "siglip2.vision_model.")
PROCESSOR = "SiglipImageProcessor"

_KEYS = vision_keys.KEYS | {"num_patches": json_file.SIZE, "vision_config": json_file.OBJECT}


def config(data: Mapping[str, Any]) -> VisionConfig:
    """The vision tower of a config.json, that of both towers or its own.

    Raises:
        CheckpointFormatError: a key holds what the model has no part for.
    """
    flexible = data["model_type"].startswith("siglip2")
    json_file.check(data, _KEYS, "config.json")
    if data["model_type"] in ("siglip", "siglip2"):
        data = data.get("vision_config", {})
        json_file.check(data, _KEYS, "config.json: vision_config")
    patch = vision_keys.square(data, "patch_size", 16)
    side = vision_keys.square(data, "image_size", 224) // patch
    if flexible:
        count = data.get("num_patches", 256)
        side = round(count**0.5)
        if side * side != count:
            raise CheckpointFormatError(
                f"config.json: num_patches {count} is not supported; supported: a square"
            )
    return VisionConfig(
        width=data.get("hidden_size", 768),
        num_layers=data.get("num_hidden_layers", 12),
        layer=Layer(
            heads=data.get("num_attention_heads", 12),
            hidden=data.get("intermediate_size", 3072),
            activation=vision_keys.activation(data, "gelu_pytorch_tanh"),
            norm_eps=data.get("layer_norm_eps", 1e-6),
        ),
        patch=patch,
        grid=(side, side),
        positions="bilinear_antialias" if flexible else "bicubic",
    )


TENSORS = {
    "positions": ("embeddings.position_embedding.weight",),
    "patches": ("embeddings.patch_embedding",),
    "norm": ("post_layernorm",),
    "layers/norm1": ("encoder.layers.{}.layer_norm1",),
    "layers/query": ("encoder.layers.{}.self_attn.q_proj",),
    "layers/key": ("encoder.layers.{}.self_attn.k_proj",),
    "layers/value": ("encoder.layers.{}.self_attn.v_proj",),
    "layers/out": ("encoder.layers.{}.self_attn.out_proj",),
    "layers/norm2": ("encoder.layers.{}.layer_norm2",),
    "layers/up": ("encoder.layers.{}.mlp.fc1",),
    "layers/down": ("encoder.layers.{}.mlp.fc2",),
}
