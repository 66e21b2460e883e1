"""Keys of config.json that vision models have in common."""

from collections.abc import Mapping
from typing import Any

from jaxlab import json_file
from jaxlab.json_file import CheckpointFormatError
from jaxlab.nn.vit import Activation

_SIDES = json_file.SIZE | json_file.list_of(json_file.SIZE)
KEYS = {
    "hidden_size": json_file.SIZE,
    "intermediate_size": json_file.SIZE,
    "num_hidden_layers": json_file.LAYERS,
    "num_attention_heads": json_file.SIZE,
    # Every processor makes colour images.
    "num_channels": json_file.whole(3, 3),
    "layer_norm_eps": json_file.POSITIVE,
    "patch_size": _SIDES,
    "image_size": _SIDES,
    "hidden_act": json_file.TEXT,
}
_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}


def square(data: Mapping[str, Any], key: str, default: int) -> int:
    """The side of a square.

    Raises:
        CheckpointFormatError: height and width differ.
    """
    value = data.get(key, default)
    sides = {value} if isinstance(value, int) else set(value)
    if len(sides) != 1:
        raise CheckpointFormatError(
            f"config.json: {key} {value} is not supported; supported: a square"
        )
    return int(sides.pop())


def activation(data: Mapping[str, Any], default: str) -> Activation:
    """The activation of the feed-forward layers.

    Raises:
        CheckpointFormatError: it is none of those that the models here have.
    """
    name = data.get("hidden_act", default)
    if name not in _ACTIVATIONS:
        raise CheckpointFormatError(
            f"config.json: hidden_act {name!r} is not supported; supported: "
            f"{', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[name]
