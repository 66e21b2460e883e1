"""config.json of flash-linear-attention's models: Kimi Delta Attention and Gated DeltaNet.

Read from the package's version 0.6.0, as are the defaults of keys that a file leaves out. Its
tensors have the names of an fg2_gdn directory; what differs is the config.json, and that no code
travels along: `import fla` makes transformers know the two.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, cast

from jaxlab import json_file
from jaxlab.interop import rope_json
from jaxlab.interop.delta_json import shortest_period
from jaxlab.json_file import BOOL, NULL, POSITIVE, SIZE, TEXT, CheckpointFormatError, Kind
from jaxlab.models.sizes import UNRECORDED, Sizes
from jaxlab.nn.delta_config import DeltaConfig
from jaxlab.nn.rope import Rope

FlaFamily = Literal["kda", "gated_deltanet"]
ARCHITECTURES: dict[FlaFamily, str] = {
    "kda": "KDAForCausalLM",
    "gated_deltanet": "GatedDeltaNetForCausalLM",
}

_DEFAULTS: dict[str, Any] = {
    "vocab_size": 32_000,
    "hidden_size": 2048,
    "hidden_ratio": 4,
    "intermediate_size": None,
    "num_v_heads": None,
    "use_short_conv": True,
    "conv_size": 4,
    "allow_neg_eigval": False,
    "norm_eps": 1e-6,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "attn": None,
    "attnres_block_size": None,
}
DEFAULTS: dict[FlaFamily, dict[str, Any]] = {
    "kda": _DEFAULTS
    | {
        "num_hidden_layers": 24,
        "head_dim": 128,
        "num_heads": 16,
        "expand_v": 1.0,
        "safe_gate": False,
        "lower_bound": None,
    },
    "gated_deltanet": _DEFAULTS
    | {
        "num_hidden_layers": 21,
        "head_dim": 256,
        "num_heads": 6,
        "expand_v": 2.0,
        "use_gate": True,
        "output_gate_activation": "swish",
    },
}
# A null where there is a default has an error of its own.
_KINDS: dict[str, Kind] = {
    "vocab_size": SIZE | NULL,
    "hidden_size": SIZE | NULL,
    "hidden_ratio": POSITIVE | NULL,
    "intermediate_size": SIZE | NULL,
    "num_v_heads": SIZE | NULL,
    "use_short_conv": BOOL | NULL,
    "conv_size": SIZE | NULL,
    "allow_neg_eigval": BOOL | NULL,
    "norm_eps": POSITIVE | NULL,
    "max_position_embeddings": SIZE | NULL,
    "tie_word_embeddings": BOOL | NULL,
    "num_hidden_layers": json_file.LAYERS | NULL,
    "head_dim": SIZE | NULL,
    "num_heads": SIZE | NULL,
    "expand_v": POSITIVE | NULL,
    "safe_gate": BOOL | NULL,
    "lower_bound": json_file.number(-json_file.LARGEST_FLOAT) | NULL,
    "use_gate": BOOL | NULL,
    "output_gate_activation": TEXT | NULL,
}
_ATTENTION_KINDS: dict[str, Kind] = {
    "layers": json_file.list_of(json_file.COUNT) | NULL,
    "num_heads": SIZE | NULL,
    "num_kv_heads": SIZE | NULL,
    "qkv_bias": BOOL,
    "rope_theta": POSITIVE,
}
# What to_json writes. Of the others one has no say beside intermediate_size, and one is null.
KEYS = frozenset({key for defaults in DEFAULTS.values() for key in defaults}) - {
    "hidden_ratio",
    "attnres_block_size",
}

_ATTENTION = {"num_kv_heads": None, "qkv_bias": False, "window_size": None, "rope_theta": 10_000.0}
# Fields of Sizes that mean nothing without attention layers, and how a model is run.
_OF_ATTENTION = (
    *("num_heads", "num_kv_heads", "head_dim", "rope"),
    *("qkv_bias", "output_bias", "qk_norm"),
)


def from_json(data: Mapping[str, Any], family: FlaFamily) -> Sizes:
    """The decoder of such a config.json, float32 and unrolled.

    Raises:
        CheckpointFormatError: naming the key whose value asks for what the decoder does not
            compute, or is of no use.
    """
    json_file.check(data, _KINDS, "config.json")
    values = DEFAULTS[family] | {key: data[key] for key in DEFAULTS[family] if key in data}
    hidden_size, num_layers = values["hidden_size"], values["num_hidden_layers"]
    try:
        _refuse(values, DEFAULTS[family])
        kinds, attention = _read_attention(values["attn"], num_layers, hidden_size)
        return Sizes(
            vocab_size=values["vocab_size"],
            hidden_size=hidden_size,
            intermediate_size=values["intermediate_size"] or _mlp_width(values),
            num_layers=num_layers,
            pattern=shortest_period(kinds),
            delta=_read_delta(values, family),
            norm_eps=float(values["norm_eps"]),
            tie_embeddings=values["tie_word_embeddings"],
            max_position=values["max_position_embeddings"],
            **attention,
        )
    except CheckpointFormatError:
        raise
    except (TypeError, ValueError) as error:
        raise CheckpointFormatError(f"config.json: {error}") from error


def to_json(config: Sizes, family: FlaFamily) -> dict[str, Any]:
    """config.json of a decoder for flash-linear-attention, without token ids or dtype.

    Raises:
        CheckpointFormatError: the family has no such model; the message names what it lacks.
    """
    delta = cast(DeltaConfig, config.delta).resolved(config.hidden_size)
    data: dict[str, Any] = {
        "architectures": [ARCHITECTURES[family]],
        "model_type": family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "hidden_act": "swish",
        "num_hidden_layers": config.num_layers,
        "norm_eps": config.norm_eps,
        "max_position_embeddings": config.max_position,
        "tie_word_embeddings": config.tie_embeddings,
        "head_dim": delta.head_dim,
        "num_heads": delta.num_heads,
        "num_v_heads": delta.num_value_heads,
        "expand_v": delta.expand_value,
        "use_short_conv": delta.conv_size > 0,
        "conv_size": delta.conv_size or DEFAULTS[family]["conv_size"],
        "allow_neg_eigval": delta.negative_eigenvalues,
        "attn": _write_attention(config),
    }
    if family == "kda":
        data["safe_gate"] = delta.decay_lower_bound is not None
        data["lower_bound"] = delta.decay_lower_bound
    else:
        data["use_gate"] = delta.output_gate != "none"
        data["output_gate_activation"] = "sigmoid" if delta.output_gate == "sigmoid" else "swish"
    _check_round_trip(config, data, family)
    return data


def _read_delta(values: Mapping[str, Any], family: FlaFamily) -> DeltaConfig:
    options: dict[str, Any] = {"rule": "kda"}
    if family == "kda":
        options["decay_lower_bound"] = values["lower_bound"]
    else:
        options["rule"] = "gdn"
        if not values["use_gate"]:
            options["output_gate"] = "none"
        elif values["output_gate_activation"] == "sigmoid":
            # Of full rank, where KDA's is of low rank.
            options |= {"output_gate": "sigmoid", "output_gate_rank": 0}
    return DeltaConfig(
        head_dim=values["head_dim"],
        num_heads=values["num_heads"],
        num_value_heads=values["num_v_heads"],
        expand_value=float(values["expand_v"]),
        conv_size=values["conv_size"] if values["use_short_conv"] else 0,
        negative_eigenvalues=values["allow_neg_eigval"],
        **options,
    )


def _read_attention(
    attn: Any, num_layers: int, hidden_size: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The mixer of every layer, and the fields of Sizes for those that are attention."""
    specs = [] if attn is None else [attn] if isinstance(attn, dict) else attn
    if not isinstance(specs, list) or not all(isinstance(spec, dict) for spec in specs):
        raise _unsupported("attn", attn, "null, {layers, num_heads, ...}, or a list of such")
    for spec in specs:
        json_file.check(spec, _ATTENTION_KINDS, "config.json: attn")
        missing = [key for key in ("layers", "num_heads") if spec.get(key) is None]
        if missing:
            raise CheckpointFormatError(f"config.json: missing attn.{', attn.'.join(missing)}")
    layers = [layer for spec in specs for layer in spec["layers"]]
    if not set(layers) <= set(range(num_layers)) or len(set(layers)) != len(layers):
        raise _unsupported("attn.layers", layers, f"different numbers below {num_layers}")
    if len(layers) == num_layers:
        raise _unsupported("attn.layers", layers, "models with at least one layer of another kind")
    kinds = tuple("attention" if i in layers else "delta" for i in range(num_layers))
    sizes = [_ATTENTION | {k: v for k, v in spec.items() if k != "layers"} for spec in specs]
    sizes = [s | {"num_kv_heads": s["num_kv_heads"] or s["num_heads"]} for s in sizes]
    if not sizes:
        return kinds, {}
    one = sizes[0]
    if any(other != one for other in sizes):
        raise _unsupported("attn", attn, "the same attention in all of its layers")
    for key in one.keys() - {*_ATTENTION, "num_heads"}:
        raise _unsupported(f"attn.{key}", one[key], f"num_heads, {', '.join(_ATTENTION)}")
    if one["window_size"] is not None:
        raise _unsupported("attn.window_size", one["window_size"], "null, attention to all tokens")
    if hidden_size % one["num_heads"]:
        raise _unsupported("attn.num_heads", one["num_heads"], f"divisors of {hidden_size}")
    return kinds, {
        "num_heads": one["num_heads"],
        "num_kv_heads": one["num_kv_heads"],
        "qkv_bias": one["qkv_bias"],
        "rope": Rope(theta=float(one["rope_theta"])),
    }


def _write_attention(config: Sizes) -> dict[str, Any] | None:
    if "attention" not in config.pattern:
        return None
    kinds = config.pattern * (config.num_layers // len(config.pattern))
    return {
        "layers": [i for i, kind in enumerate(kinds) if kind == "attention"],
        "num_heads": config.num_heads,
        "num_kv_heads": config.num_kv_heads,
        "qkv_bias": config.qkv_bias,
        "window_size": None,
        "rope_theta": float((config.rope or Rope()).theta),
    }


def _mlp_width(values: Mapping[str, Any]) -> int:
    """Two thirds of hidden_ratio times the hidden size, rounded up to a multiple of 256."""
    ratio = 4 if values["hidden_ratio"] is None else values["hidden_ratio"]
    return -(-int(values["hidden_size"] * ratio * 2 / 3) // 256) * 256


def _refuse(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    nulls = [key for key, value in values.items() if value is None and defaults[key] is not None]
    if set(nulls) - {"hidden_ratio"}:
        raise CheckpointFormatError(f"config.json: missing {', '.join(nulls)}")
    heads, value_heads = values["num_heads"], values["num_v_heads"]
    if value_heads is not None and value_heads % heads:
        raise _unsupported("num_v_heads", value_heads, f"multiples of num_heads {heads}")
    if not float(values["expand_v"] * values["head_dim"]).is_integer():
        raise _unsupported(
            "expand_v", values["expand_v"], f"whole numbers times head_dim {values['head_dim']}"
        )
    bound, safe = values.get("lower_bound"), values.get("safe_gate", False)
    if values["attnres_block_size"] is not None:
        raise _unsupported(
            "attnres_block_size", values["attnres_block_size"], "null, plain residual connections"
        )
    if values.get("output_gate_activation", "swish") not in ("swish", "silu", "sigmoid"):
        raise _unsupported(
            "output_gate_activation", values["output_gate_activation"], "swish, silu, sigmoid"
        )
    if safe and bound is None:
        raise _unsupported("lower_bound", bound, "a number from -5 up to 0 where safe_gate is true")
    # The package's text says that the bound goes with safe_gate; its kernels do not ask.
    if bound is not None and not safe:
        raise _unsupported("safe_gate", safe, f"true where lower_bound is given, here {bound}")
    # Below, the package's chunk kernel gives up.
    if bound is not None and not -5 <= bound < 0:
        raise _unsupported("lower_bound", bound, "a number from -5 up to 0")


def _unsupported(key: str, value: Any, supported: str) -> CheckpointFormatError:
    return CheckpointFormatError(
        f"config.json: {key} {value!r} is not supported; supported: {supported}"
    )


def _check_round_trip(config: Sizes, data: dict[str, Any], family: FlaFamily) -> None:
    """Refuse a model that would come back as another."""
    try:
        back = _function(from_json(data, family))
    except CheckpointFormatError as error:
        raise CheckpointFormatError(f"{family} has no such model: {error}") from error
    lost = [f"{key}={value!r}" for key, value in _function(config).items() if back[key] != value]
    if lost:
        raise CheckpointFormatError(
            f"{family} has no such model: none with {', '.join(lost)}; family='fg2_gdn' has all"
        )


def _function(config: Sizes) -> dict[str, Any]:
    """What the model computes: the config without what does not matter, None written out."""
    left_out = (*UNRECORDED, "delta", *(() if "attention" in config.pattern else _OF_ATTENTION))
    fields = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name not in left_out
    }
    fields["pattern"] = shortest_period(config.pattern)
    if fields.get("rope") is not None:
        # Rules ignore each other's fields.
        fields["rope"] = rope_json.write(fields["rope"])["rope_parameters"]
    delta = cast(DeltaConfig, config.delta).resolved(config.hidden_size)
    switches = {f"delta.{key}": value for key, value in dataclasses.asdict(delta).items()}
    # The name of the rule, without the switches that it stands for.
    del switches["delta.rule"]
    return fields | switches
