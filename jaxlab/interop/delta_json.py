"""config.json of decoders with gated-delta layers, and the PyTorch code that travels with them.

transformers has no such model: the directory carries its own (`remote_code/`), which
AutoModelForCausalLM runs with trust_remote_code=True. `delta` holds the fields of `DeltaConfig`,
each written out, and `layer_types` the mixer of every layer.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

from jaxlab import json_file
from jaxlab.config import build
from jaxlab.interop import rope_json
from jaxlab.json_file import BOOL, NULL, SIZE, CheckpointFormatError, Kind
from jaxlab.models.sizes import Sizes
from jaxlab.nn.delta_config import DeltaConfig
from jaxlab.nn.rope import Rope

MODEL_TYPE = "fg2_gdn"
ARCHITECTURE = "FG2GDNForCausalLM"
_AUTO_MAP = {
    "AutoConfig": "configuration_fg2_gdn.FG2GDNConfig",
    "AutoModelForCausalLM": f"modeling_fg2_gdn.{ARCHITECTURE}",
}
_LAYER_TYPES = {"delta": "linear_attention", "attention": "full_attention"}

# config.json key -> Sizes field, where both hold the same value.
_REQUIRED = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_layers",
    "max_position_embeddings": "max_position",
}
_OPTIONAL = {
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads",
    "head_dim": "head_dim",
    "attention_bias": "qkv_bias",
    "attention_output_bias": "output_bias",
    "mlp_bias": "mlp_bias",
    "qk_norm": "qk_norm",
    "norm_eps": "norm_eps",
    "tie_word_embeddings": "tie_embeddings",
}
# A missing key has an error of its own.
_KINDS: dict[str, Kind] = {
    "vocab_size": SIZE | NULL,
    "hidden_size": SIZE | NULL,
    "intermediate_size": json_file.COUNT | NULL,
    "num_hidden_layers": json_file.LAYERS | NULL,
    "max_position_embeddings": SIZE | NULL,
    "num_attention_heads": json_file.COUNT,
    "num_key_value_heads": json_file.COUNT,
    "head_dim": SIZE | NULL,
    "attention_bias": BOOL,
    "attention_output_bias": BOOL,
    "mlp_bias": BOOL,
    "qk_norm": BOOL,
    "norm_eps": json_file.POSITIVE,
    "tie_word_embeddings": BOOL,
    "use_rope": BOOL,
    "layer_types": json_file.list_of(json_file.TEXT) | NULL,
}
KEYS = frozenset(
    {*_REQUIRED, *_OPTIONAL, *rope_json.KEYS, "auto_map", "delta", "layer_types", "use_rope"}
)


def to_json(config: Sizes) -> dict[str, Any]:
    """config.json of a decoder with delta layers, without token ids or dtype."""
    delta = cast(DeltaConfig, config.delta).resolved(config.hidden_size)
    layers = config.pattern * (config.num_layers // len(config.pattern))
    data: dict[str, Any] = {
        "architectures": [ARCHITECTURE],
        "auto_map": _AUTO_MAP,
        "delta": _fields(delta),
        "hidden_act": "silu",
        "layer_types": [_LAYER_TYPES[kind] for kind in layers],
        "model_type": MODEL_TYPE,
        "use_rope": config.rope is not None,
    }
    data |= {key: getattr(config, field) for key, field in (_REQUIRED | _OPTIONAL).items()}
    # One spelling: no transformers that reads this code knows the older one alone.
    return data | {"rope_parameters": rope_json.write(config.rope or Rope())["rope_parameters"]}


def from_json(data: Mapping[str, Any]) -> Sizes:
    """The decoder of such a config.json, float32 and unrolled.

    Raises:
        CheckpointFormatError: naming the key: a missing one, or one whose value is of no use.
    """
    json_file.check(data, _KINDS, "config.json")
    missing = [key for key in (*_REQUIRED, "layer_types", "delta") if data.get(key) is None]
    if missing:
        raise CheckpointFormatError(f"config.json: missing {', '.join(missing)}")
    fields = {field: data[key] for key, field in _REQUIRED.items()}
    fields |= {field: data[key] for key, field in _OPTIONAL.items() if key in data}
    try:
        return Sizes(
            **fields,
            pattern=_pattern(data["layer_types"], data["num_hidden_layers"]),
            delta=_read_delta(data["delta"], data["hidden_size"]),
            rope=rope_json.read(data) if data.get("use_rope", True) else None,
        )
    except CheckpointFormatError:
        raise
    except (TypeError, ValueError) as error:
        raise CheckpointFormatError(f"config.json: {error}") from error


def _fields(delta: DeltaConfig) -> dict[str, Any]:
    """The fields of the layer; what tells mixers apart in our configs means nothing here."""
    return {name: value for name, value in dataclasses.asdict(delta).items() if name != "name"}


def shortest_period(kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    """The shortest tuple that, repeated a whole number of times, gives `kinds`."""
    periods = (n for n in range(1, len(kinds) + 1) if len(kinds) % n == 0)
    return next(kinds[:n] for n in periods if kinds[:n] * (len(kinds) // n) == kinds)


def _pattern(layer_types: Any, num_layers: int) -> tuple[Any, ...]:
    kinds = {name: kind for kind, name in _LAYER_TYPES.items()}
    unknown = sorted({str(name) for name in layer_types if name not in kinds})
    if unknown:
        raise CheckpointFormatError(
            f"config.json: layer_types {unknown} are not supported; supported: {', '.join(kinds)}"
        )
    if not layer_types or len(layer_types) != num_layers:
        raise CheckpointFormatError(
            f"config.json: layer_types names {len(layer_types)} layers, num_hidden_layers is "
            f"{num_layers}"
        )
    return shortest_period(tuple(kinds[name] for name in layer_types))


def _read_delta(data: Any, hidden_size: int) -> DeltaConfig:
    """The config with what goes without saying left to the rule."""
    known = {field.name: field for field in dataclasses.fields(DeltaConfig) if field.name != "name"}
    if not isinstance(data, dict) or not data.keys() <= known.keys():
        unknown = sorted(data.keys() - known.keys()) if isinstance(data, dict) else [data]
        raise CheckpointFormatError(
            f"config.json: delta {', '.join(map(repr, unknown))} is not supported; supported: "
            f"{', '.join(known)}"
        )
    config = build(DeltaConfig, data, "delta")
    for name, field in known.items():
        if field.default is None and _is_implied(config, name, hidden_size):
            config = _without(config, name)
    return config


def _is_implied(config: DeltaConfig, name: str, hidden_size: int) -> bool:
    try:
        without = _without(config, name).resolved(hidden_size)
    except ValueError:
        return False
    return without == config.resolved(hidden_size)


def _without(config: DeltaConfig, name: str) -> DeltaConfig:
    left_out: dict[str, Any] = {name: None}
    return dataclasses.replace(config, **left_out)
