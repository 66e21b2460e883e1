"""GLM-4.7-Flash: DeepSeek-V3's layers, with a list of which are dense."""

from collections.abc import Mapping
from typing import Any

from jaxlab import json_file
from jaxlab.interop.families import decoders, deepseek_v3
from jaxlab.interop.families.types import Family
from jaxlab.json_file import COUNT, NULL, TEXT, Kind
from jaxlab.models.decoder import DecoderConfig
from jaxlab.nn.layers import Layer, Mlp
from jaxlab.nn.mlp import SwiGLU
from jaxlab.nn.moe import MoE

_ARCHITECTURE = "Glm4MoeLiteForCausalLM"
_KINDS: dict[str, Kind] = deepseek_v3.KINDS | {
    "mlp_layer_types": json_file.list_of(TEXT) | NULL,
    "first_k_dense_replace": COUNT | NULL,
}
_DEFAULTS = deepseek_v3.DEFAULTS | {
    "n_group": 1,
    "topk_group": 1,
    "rms_norm_eps": 1e-5,
    "mlp_layer_types": None,
    "first_k_dense_replace": None,
}


def from_json(data: Mapping[str, Any]) -> DecoderConfig:
    """See `Family.from_json`."""
    data = deepseek_v3.without_repetitions(data)
    values = decoders.checked(data, _KINDS, _DEFAULTS, deepseek_v3.FIXED)
    kinds = _layer_types(values)

    def layers() -> tuple[Layer, ...]:
        attention, moe = deepseek_v3.mixer(values), deepseek_v3.experts(values)
        mlps: dict[str, Mlp] = {"dense": SwiGLU(values["intermediate_size"]), "sparse": moe}
        return tuple(Layer(attention, mlps[kind]) for kind in kinds)

    return decoders.decoder(values, layers, deepseek_v3.NAMES)


def _layer_types(values: Mapping[str, Any]) -> list[str]:
    """The feed-forward layer of each layer, "dense" or "sparse"; the first is dense by default."""
    count, first = values["num_hidden_layers"], values["first_k_dense_replace"]
    kinds = values["mlp_layer_types"]
    if kinds is None:
        kinds = ["dense"] + ["sparse"] * (count - 1)
    if set(kinds) - {"dense", "sparse"} or len(kinds) != count:
        raise decoders.unsupported("mlp_layer_types", kinds, f"dense or sparse for {count} layers")
    # transformers does not look at the older key, which released files still have.
    if first is not None and kinds != ["dense"] * first + ["sparse"] * (count - first):
        raise decoders.unsupported(
            "first_k_dense_replace", first, f"what mlp_layer_types says, {json_file.show(kinds)}"
        )
    return kinds


def to_json(config: DecoderConfig) -> dict[str, Any]:
    """See `Family.to_json`."""
    data = deepseek_v3.written(config, "glm4_moe_lite", _ARCHITECTURE)
    data["mlp_layer_types"] = [
        "sparse" if isinstance(layer.mlp, MoE) else "dense" for layer in config.layers
    ]
    decoders.check_round_trip(config, from_json(data), "glm4_moe_lite")
    return data


GLM4_MOE_LITE = Family(
    name="glm4_moe_lite",
    architecture=_ARCHITECTURE,
    from_json=from_json,
    to_json=to_json,
    tensors=deepseek_v3.tensors,
    owned=deepseek_v3.OWNED | _KINDS.keys(),
    tied=decoders.tied,
    left_out=lambda data: deepseek_v3.next_token_layers(data, 0),
)
