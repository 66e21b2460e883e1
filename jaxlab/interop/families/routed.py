"""What config.json files of decoders with experts have in common, beside `families.decoders`."""

from collections.abc import Iterator, Mapping
from typing import Any

from jaxlab.interop.families import decoders
from jaxlab.interop.families.codecs import LINEAR, OWN, Stack
from jaxlab.interop.families.types import Tensors
from jaxlab.json_file import BOOL, SIZE, CheckpointFormatError, Kind
from jaxlab.models.decoder import DecoderConfig
from jaxlab.nn.moe import MoE

KINDS: dict[str, Kind] = {
    "moe_intermediate_size": SIZE,
    "num_experts_per_tok": SIZE,
    "norm_topk_prob": BOOL,
}
OWNED = decoders.OWNED | KINDS.keys() | {"num_local_experts", "num_nextn_predict_layers"}


def parts(config: DecoderConfig, name: str, mixer: type) -> tuple[Any, MoE, int]:
    """The first layer's mixer, the first experts there are, and the width of dense layers.

    Raises:
        CheckpointFormatError: the mixer is of another kind, or no layer has experts.
    """
    first = config.layers[0].mixer
    routed = [layer.mlp for layer in config.layers if isinstance(layer.mlp, MoE)]
    if type(first) is not mixer or not routed:
        raise CheckpointFormatError(
            f"{name} has no such model: none whose first mixer is {first.name} and of whose "
            f"{len(config.layers)} layers {len(routed)} have experts"
        )
    dense = [layer.mlp for layer in config.layers if layer.mlp and layer.mlp.name == "swiglu"]
    # Of no use without dense layers; readers want a number.
    return first, routed[0], dense[0].intermediate_size if dense else routed[0].intermediate_size


TABLE = {
    "embed/embedding": "model.embed_tokens.weight",
    "layer/mixer_norm/scale": "model.layers.{}.input_layernorm.weight",
    "layer/mlp_norm/scale": "model.layers.{}.post_attention_layernorm.weight",
    "layer/mlp/gate/kernel": "model.layers.{}.mlp.gate_proj.weight",
    "layer/mlp/up/kernel": "model.layers.{}.mlp.up_proj.weight",
    "layer/mlp/down/kernel": "model.layers.{}.mlp.down_proj.weight",
    "layer/mlp/router/kernel": "model.layers.{}.mlp.gate.weight",
    "layer/mlp/router/correction_bias": "model.layers.{}.mlp.gate.e_score_correction_bias",
    "layer/mlp/shared/gate/kernel": "model.layers.{}.mlp.shared_experts.gate_proj.weight",
    "layer/mlp/shared/up/kernel": "model.layers.{}.mlp.shared_experts.up_proj.weight",
    "layer/mlp/shared/down/kernel": "model.layers.{}.mlp.shared_experts.down_proj.weight",
    "final_norm/scale": "model.norm.weight",
    "unembed/embedding": "lm_head.weight",
}


def tensors(config: DecoderConfig, mixer: Mapping[str, str]) -> Iterator[Tensors]:
    """The tensors of such a decoder, with a table of its mixer's, "layer/mixer/..." -> name."""
    for path, name in {**TABLE, **mixer}.items():
        yield Tensors((path,), (name,), LINEAR if path.endswith("/kernel") else OWN)
    experts = max(
        layer.mlp.router.num_experts for layer in config.layers if isinstance(layer.mlp, MoE)
    )
    for part in ("gate", "up", "down"):
        names = tuple(
            f"model.layers.{{}}.mlp.experts.{e}.{part}_proj.weight" for e in range(experts)
        )
        yield Tensors((f"layer/mlp/experts/{part}/kernel",), names, Stack())
