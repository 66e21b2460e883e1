"""DeepSeek-V3 and R1: latent attention, sigmoid routing among groups, shared experts."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from jaxlab import json_file
from jaxlab.interop import rope_json
from jaxlab.interop.families import decoders, routed
from jaxlab.interop.families.types import Family, Tensors
from jaxlab.json_file import BOOL, COUNT, NULL, POSITIVE, SIZE, Kind
from jaxlab.models.decoder import DecoderConfig
from jaxlab.nn.layers import Layer
from jaxlab.nn.mla import MLA
from jaxlab.nn.mlp import SwiGLU
from jaxlab.nn.moe import MoE
from jaxlab.nn.routing import Router

_ARCHITECTURE = "DeepseekV3ForCausalLM"
# Of the mixer and the experts; glm4_moe_lite has the same.
KINDS: dict[str, Kind] = routed.KINDS | {
    **dict.fromkeys(("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), SIZE),
    "q_lora_rank": SIZE | NULL,
    "rope_interleave": BOOL,
    **dict.fromkeys(("n_routed_experts", "n_group", "topk_group"), SIZE),
    "n_shared_experts": SIZE,
    "routed_scaling_factor": POSITIVE,
}
DEFAULTS: dict[str, Any] = {
    "q_lora_rank": None,
    "rope_interleave": True,
    "attention_bias": False,
    "norm_topk_prob": True,
    "n_shared_experts": 1,
    "tie_word_embeddings": False,
}
FIXED: dict[str, tuple[Any, ...]] = {
    "scoring_func": ("sigmoid",),
    "topk_method": ("noaux_tc",),
    "moe_layer_freq": (1,),
}
NAMES = {
    "num_heads": "num_attention_heads",
    "num_experts": "n_routed_experts",
    "top_k": "num_experts_per_tok",
    "groups": "n_group",
    "top_groups": "topk_group",
    "rope_dim": "qk_rope_head_dim",
}
# What says again what other keys say, or is of layers that are left out.
AGAIN = ("head_dim", "qk_head_dim", "num_local_experts", "num_nextn_predict_layers")
_DENSE: dict[str, Kind] = {"first_k_dense_replace": COUNT}


def without_repetitions(data: Mapping[str, Any]) -> dict[str, Any]:
    """The file without the keys in `AGAIN`, once they agree with the others.

    Raises:
        CheckpointFormatError: naming one that does not.
    """
    kinds = KINDS | {
        "num_attention_heads": SIZE,
        "num_nextn_predict_layers": json_file.whole(0, 100) | NULL,
    }
    json_file.check(data, kinds, "config.json")
    nope, rope = data.get("qk_nope_head_dim"), data.get("qk_rope_head_dim")
    expected: dict[str, tuple[Any, ...]] = {
        "head_dim": (rope,),
        "qk_head_dim": (None if nope is None or rope is None else nope + rope,),
        "num_local_experts": (data.get("n_routed_experts"),),
        "num_key_value_heads": (data.get("num_attention_heads"), None),
    }
    for key, values in expected.items():
        if key in data and data[key] not in values:
            raise decoders.unsupported(key, data[key], json_file.show(values[0]))
    rest = {key: value for key, value in data.items() if key not in AGAIN}
    if "num_attention_heads" in rest:
        rest["num_key_value_heads"] = rest["num_attention_heads"]
    return rest


def mixer(values: Mapping[str, Any]) -> MLA:
    """The attention of checked values."""
    rope = rope_json.read(values)
    for spelling in ("rope_parameters", "rope_scaling"):
        factor = (values.get(spelling) or {}).get("mscale_all_dim")
        if factor and rope.rule not in ("yarn", "default"):
            raise decoders.unsupported(
                f"{spelling}.mscale_all_dim", factor, f"none for rope_type {rope.rule}"
            )
    return MLA(
        num_heads=values["num_attention_heads"],
        latent_dim=values["kv_lora_rank"],
        nope_dim=values["qk_nope_head_dim"],
        rope_dim=values["qk_rope_head_dim"],
        value_dim=values["v_head_dim"],
        query_rank=values["q_lora_rank"],
        rope=rope,
        interleaved=values["rope_interleave"],
        bias=values["attention_bias"],
    )


def experts(values: Mapping[str, Any]) -> MoE:
    """The routed layer of checked values."""
    router = Router(
        num_experts=values["n_routed_experts"],
        top_k=values["num_experts_per_tok"],
        score="sigmoid",
        correction=True,
        groups=values["n_group"],
        top_groups=values["topk_group"],
        normalise=values["norm_topk_prob"],
        scale=float(values["routed_scaling_factor"]),
    )
    width = values["moe_intermediate_size"]
    return MoE(width, router, shared_size=width * values["n_shared_experts"])


def written(config: DecoderConfig, name: str, architecture: str) -> dict[str, Any]:
    """The keys of config.json, without those that say which layers are dense."""
    attention, moe, width = routed.parts(config, name, MLA)
    router = moe.router
    return (
        decoders.written(config)
        | rope_json.write(attention.rope)
        | {
            "architectures": [architecture],
            "model_type": name,
            "num_attention_heads": attention.num_heads,
            "num_key_value_heads": attention.num_heads,
            "q_lora_rank": attention.query_rank,
            "kv_lora_rank": attention.latent_dim,
            "qk_nope_head_dim": attention.nope_dim,
            "qk_rope_head_dim": attention.rope_dim,
            "v_head_dim": attention.value_dim,
            "rope_interleave": attention.interleaved,
            "attention_bias": attention.bias,
            "intermediate_size": width,
            "moe_intermediate_size": moe.intermediate_size,
            "n_routed_experts": router.num_experts,
            "n_shared_experts": max(moe.shared_size // moe.intermediate_size, 1),
            "num_experts_per_tok": router.top_k,
            "n_group": router.groups,
            "topk_group": router.top_groups,
            "norm_topk_prob": router.normalise,
            "routed_scaling_factor": router.scale,
            # None is written, so that no reader looks for them.
            "num_nextn_predict_layers": 0,
        }
    )


def from_json(data: Mapping[str, Any]) -> DecoderConfig:
    """See `Family.from_json`."""
    kinds = KINDS | _DENSE
    defaults = DEFAULTS | {"rms_norm_eps": 1e-6}
    values = decoders.checked(without_repetitions(data), kinds, defaults, FIXED)
    first, count = values["first_k_dense_replace"], values["num_hidden_layers"]

    def layers() -> tuple[Layer, ...]:
        attention, moe = mixer(values), experts(values)
        dense = SwiGLU(values["intermediate_size"])
        return tuple(Layer(attention, dense if i < first else moe) for i in range(count))

    return decoders.decoder(values, layers, NAMES)


def to_json(config: DecoderConfig) -> dict[str, Any]:
    """See `Family.to_json`."""
    data = written(config, "deepseek_v3", _ARCHITECTURE)
    routes = [isinstance(layer.mlp, MoE) for layer in config.layers]
    data["first_k_dense_replace"] = routes.index(True)
    decoders.check_round_trip(config, from_json(data), "deepseek_v3")
    return data


_MIXER = {
    "layer/mixer/query/kernel": "model.layers.{}.self_attn.q_proj.weight",
    "layer/mixer/query_reduce/kernel": "model.layers.{}.self_attn.q_a_proj.weight",
    "layer/mixer/query_reduce/bias": "model.layers.{}.self_attn.q_a_proj.bias",
    "layer/mixer/query_norm/scale": "model.layers.{}.self_attn.q_a_layernorm.weight",
    "layer/mixer/query_expand/kernel": "model.layers.{}.self_attn.q_b_proj.weight",
    "layer/mixer/latent_reduce/kernel": "model.layers.{}.self_attn.kv_a_proj_with_mqa.weight",
    "layer/mixer/latent_reduce/bias": "model.layers.{}.self_attn.kv_a_proj_with_mqa.bias",
    "layer/mixer/latent_norm/scale": "model.layers.{}.self_attn.kv_a_layernorm.weight",
    "layer/mixer/latent_expand/kernel": "model.layers.{}.self_attn.kv_b_proj.weight",
    "layer/mixer/output/kernel": "model.layers.{}.self_attn.o_proj.weight",
    "layer/mixer/output/bias": "model.layers.{}.self_attn.o_proj.bias",
}


def tensors(config: DecoderConfig) -> Iterator[Tensors]:
    """See `Family.tensors`."""
    return routed.tensors(config, _MIXER)


def next_token_layers(data: Mapping[str, Any], default: int) -> list[str]:
    """See `Family.left_out`: layers behind the last, which predict the tokens after the next."""
    count, first = data.get("num_nextn_predict_layers", default) or 0, data["num_hidden_layers"]
    return [re.escape(f"model.layers.{first + i}.") + ".*" for i in range(count)]


OWNED = routed.OWNED | KINDS.keys() | FIXED.keys() | {*AGAIN, "first_k_dense_replace"}

DEEPSEEK_V3 = Family(
    name="deepseek_v3",
    architecture=_ARCHITECTURE,
    from_json=from_json,
    to_json=to_json,
    tensors=tensors,
    owned=OWNED,
    tied=decoders.tied,
    # A file that does not say has one, as transformers reads it.
    left_out=lambda data: next_token_layers(data, 1),
)
