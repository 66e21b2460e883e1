"""Qwen3-MoE (Qwen3-30B-A3B): Qwen3's attention and softmax routing, without shared experts."""

from collections.abc import Iterator, Mapping
from typing import Any

from jaxlab import json_file
from jaxlab.interop import rope_json
from jaxlab.interop.families import decoders, qwen3, routed
from jaxlab.interop.families.types import Family, Tensors
from jaxlab.json_file import COUNT, NULL, SIZE, TEXT, Kind
from jaxlab.models.decoder import DecoderConfig
from jaxlab.nn.attention import Attention
from jaxlab.nn.layers import Layer
from jaxlab.nn.mlp import SwiGLU
from jaxlab.nn.moe import MoE
from jaxlab.nn.routing import Router

_ARCHITECTURE = "Qwen3MoeForCausalLM"
_KINDS: dict[str, Kind] = routed.KINDS | {
    "head_dim": SIZE | NULL,
    "num_experts": SIZE,
    "num_local_experts": SIZE,
    "decoder_sparse_step": SIZE,
    "mlp_only_layers": json_file.list_of(COUNT) | NULL,
}
# Of transformers' reader; sizes and what a router is must be there.
_DEFAULTS: dict[str, Any] = {
    "head_dim": None,
    "attention_bias": False,
    "norm_topk_prob": False,
    "decoder_sparse_step": 1,
    "mlp_only_layers": None,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
_FIXED: dict[str, tuple[Any, ...]] = {"use_sliding_window": (False, None)}
# Without use_sliding_window these two say nothing.
_UNUSED = ("sliding_window", "max_window_layers")
_NAMES = {
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "top_k": "num_experts_per_tok",
}


def from_json(data: Mapping[str, Any]) -> DecoderConfig:
    """See `Family.from_json`."""
    data = {key: value for key, value in data.items() if key not in _UNUSED}
    both = [data[key] for key in ("num_experts", "num_local_experts") if key in data]
    if len(both) == 2 and both[0] != both[1]:
        raise decoders.unsupported("num_local_experts", both[1], f"num_experts, {both[0]}")
    if both:
        data |= {"num_experts": both[0], "num_local_experts": both[0]}
    json_file.check(data, {"layer_types": json_file.list_of(TEXT) | NULL}, "config.json")
    layer_types = data.pop("layer_types", None)
    if layer_types is not None and set(layer_types) != {"full_attention"}:
        raise decoders.unsupported("layer_types", layer_types, "full_attention in every layer")
    values = decoders.checked(data, _KINDS, _DEFAULTS, _FIXED)
    count, dense = values["num_hidden_layers"], values["mlp_only_layers"] or []

    def layers() -> tuple[Layer, ...]:
        heads = values["num_attention_heads"]
        attention = Attention(
            num_heads=heads,
            num_kv_heads=values["num_key_value_heads"],
            head_dim=values["head_dim"] or values["hidden_size"] // heads,
            rope=rope_json.read(values),
            qkv_bias=values["attention_bias"],
            output_bias=values["attention_bias"],
            qk_norm=True,
        )
        router = Router(
            num_experts=values["num_experts"],
            top_k=values["num_experts_per_tok"],
            normalise=values["norm_topk_prob"],
        )
        experts = MoE(values["moe_intermediate_size"], router)
        plain = SwiGLU(values["intermediate_size"])
        step = values["decoder_sparse_step"]
        return tuple(
            Layer(attention, plain if i in dense or (i + 1) % step else experts)
            for i in range(count)
        )

    return decoders.decoder(values, layers, _NAMES)


def to_json(config: DecoderConfig) -> dict[str, Any]:
    """See `Family.to_json`."""
    mixer, experts, width = routed.parts(config, "qwen3_moe", Attention)
    if mixer.rope is None:
        raise json_file.CheckpointFormatError("qwen3_moe has no such model: none with rope=None")
    router = experts.router
    data = decoders.written(config) | rope_json.write(mixer.rope)
    data |= {
        "architectures": [_ARCHITECTURE],
        "model_type": "qwen3_moe",
        "num_attention_heads": mixer.num_heads,
        "num_key_value_heads": mixer.num_kv_heads,
        "head_dim": mixer.head_dim,
        "attention_bias": mixer.qkv_bias,
        "intermediate_size": width,
        "moe_intermediate_size": experts.intermediate_size,
        # The first is the name of released files, the second that of transformers 5.
        "num_experts": router.num_experts,
        "num_local_experts": router.num_experts,
        "num_experts_per_tok": router.top_k,
        "norm_topk_prob": router.normalise,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [
            i for i, layer in enumerate(config.layers) if not isinstance(layer.mlp, MoE)
        ],
        "use_sliding_window": False,
    }
    decoders.check_round_trip(config, from_json(data), "qwen3_moe")
    return data


def _tensors(config: DecoderConfig) -> Iterator[Tensors]:
    mixer = {path: name for path, name in qwen3.TABLE.items() if path.startswith("layer/mixer/")}
    return routed.tensors(config, mixer)


QWEN3_MOE = Family(
    name="qwen3_moe",
    architecture=_ARCHITECTURE,
    from_json=from_json,
    to_json=to_json,
    tensors=_tensors,
    owned=routed.OWNED | _KINDS.keys() | _FIXED.keys() | {*_UNUSED, "layer_types"},
    tied=decoders.tied,
)
