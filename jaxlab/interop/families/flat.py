"""config.json of decoders that one flat list of sizes spells: the dense and the delta families.

family   biases on                                  QK-norm
llama    query, key, value and output, or nothing   no       and on the MLP where asked
qwen2    query, key and value                       no
qwen3    query, key, value and output, or nothing   yes
fg2_gdn  any; with gated-delta layers, in a format of its own: see jaxlab.interop.delta_json

and, of flash-linear-attention (jaxlab.interop.fla_json), kda and gated_deltanet. A model with delta
layers is written as fg2_gdn, which has them all, unless one of those two is asked for by name. A
model without has the family of its parts, whatever it was read as: these three share most of them.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, cast, get_args

from jaxlab import json_file
from jaxlab.interop import delta_json, fla_json, rope_json
from jaxlab.interop.families import codecs
from jaxlab.interop.families.codecs import Codec
from jaxlab.interop.families.types import Family, Tensors
from jaxlab.interop.fla_json import FlaFamily
from jaxlab.json_file import BOOL, NULL, OBJECT, SIZE, TEXT, CheckpointFormatError
from jaxlab.models import sparse
from jaxlab.models.decoder import DecoderConfig
from jaxlab.models.sizes import UNRECORDED, Sizes
from jaxlab.nn.attention import Attention
from jaxlab.nn.delta_config import DeltaConfig
from jaxlab.nn.mlp import SwiGLU
from jaxlab.nn.rope import Rope
from jaxlab.nn.sparse import BlockSparse

Flat = Literal["llama", "qwen2", "qwen3", "fg2_gdn", "kda", "gated_deltanet"]
DeltaFamily = Literal["fg2_gdn", "kda", "gated_deltanet"]
DELTA_FAMILIES: tuple[DeltaFamily, ...] = get_args(DeltaFamily)
ARCHITECTURES: dict[Flat, str] = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "fg2_gdn": delta_json.ARCHITECTURE,
    "kda": fla_json.ARCHITECTURES["kda"],
    "gated_deltanet": fla_json.ARCHITECTURES["gated_deltanet"],
}
# What the layers of these families are made of.
PARTS = {Attention, BlockSparse, DeltaConfig, SwiGLU, type(None)}

_CODECS: dict[str, Codec] = {"kernel": codecs.LINEAR, "taps": codecs.CONV}

# config.json key -> field of `Sizes`, where both hold the same number.
_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "max_position_embeddings": "max_position",
}
_OF_ALL = {
    "hidden_act": TEXT,
    "layer_types": json_file.list_of(TEXT) | NULL,
    "use_sliding_window": BOOL | NULL,
    "quantization_config": OBJECT | NULL,
    "is_encoder_decoder": BOOL | NULL,
}
# Of the families without delta layers. A missing size has an error of its own.
_OF_ATTENTION = dict.fromkeys((*_SIZES, "num_key_value_heads", "head_dim"), SIZE | NULL) | {
    "num_hidden_layers": json_file.LAYERS | NULL,
    "rms_norm_eps": json_file.POSITIVE,
    "attention_bias": BOOL,
    "mlp_bias": BOOL,
    "tie_word_embeddings": BOOL,
}
# Keys that `to_json` writes, or leaves out on purpose: a config.json carried over loses them first.
OWNED = frozenset(
    {*_SIZES, *rope_json.KEYS, "num_key_value_heads", "head_dim", "rms_norm_eps", "attention_bias"}
    | {"mlp_bias", "tie_word_embeddings", "model_type", "architectures", "hidden_act"}
    | {"dtype", "torch_dtype", "layer_types", "use_sliding_window", "quantization_config"}
    | delta_json.KEYS
    | fla_json.KEYS
)


def family(name: Flat, table: Callable[[DecoderConfig], Mapping[str, str]]) -> Family:
    """One of these families.

    Args:
        name: its model_type.
        table: of a decoder: path of a parameter, of a layer "layer/...", -> name of its tensor with
            {} for the number of the layer. Kernels are linear layers and taps convolutions.
    """

    def write(config: DecoderConfig) -> dict[str, Any]:
        sizes = flat(config)
        if name not in DELTA_FAMILIES and family_of(sizes) != name:
            raise CheckpointFormatError(
                f"{name} has no such model: its parts are those of {family_of(sizes)}"
            )
        return to_json(sizes, cast(DeltaFamily, name) if name in DELTA_FAMILIES else None)

    def tensors(config: DecoderConfig) -> Iterator[Tensors]:
        for path, tensor in table(config).items():
            codec = _CODECS.get(path.rpartition("/")[2], codecs.OWN)
            yield Tensors((path,), (tensor,), codec)

    def tied(config: DecoderConfig) -> dict[str, str]:
        one = table(config)
        return {one["unembed/embedding"]: one["embed/embedding"]} if config.tie_embeddings else {}

    return Family(
        name=name,
        architecture=ARCHITECTURES[name],
        from_json=lambda data: from_json(data, name).decoder(),
        to_json=write,
        tensors=tensors,
        owned=OWNED,
        tied=tied,
    )


def from_json(data: Mapping[str, Any], family: Flat) -> Sizes:
    """Sizes of this family's config.json of either generation, float32 and unrolled.

    Raises:
        CheckpointFormatError: naming the key: a missing one, or one whose value asks for what these
            models do not have.
    """
    json_file.check(data, _OF_ALL, "config.json")
    _refuse(data, family)
    if family == delta_json.MODEL_TYPE:
        return delta_json.from_json(data)
    if family in fla_json.ARCHITECTURES:
        return fla_json.from_json(data, cast(FlaFamily, family))
    json_file.check(data, _OF_ATTENTION, "config.json")
    missing = [key for key in _SIZES if data.get(key) is None]
    # Llama's readers take a missing key for the number of heads, Qwen's for 32.
    if family != "llama" and "num_key_value_heads" not in data:
        missing.append("num_key_value_heads")
    if missing:
        raise CheckpointFormatError(f"config.json: missing {', '.join(missing)}")
    sizes: dict[str, Any] = {field: data[key] for key, field in _SIZES.items()}
    # Qwen3's readers take a missing key for 128; null means hidden_size / num_attention_heads.
    head_dim = data.get("head_dim", 128 if family == "qwen3" else None)
    bias = data.get("attention_bias", False)
    try:
        return Sizes(
            **sizes,
            num_kv_heads=data.get("num_key_value_heads") or data["num_attention_heads"],
            head_dim=head_dim,
            rope=rope_json.read(data),
            norm_eps=float(data.get("rms_norm_eps", 1e-6)),
            qkv_bias=family == "qwen2" or bias,
            output_bias=family != "qwen2" and bias,
            mlp_bias=family == "llama" and data.get("mlp_bias", False),
            qk_norm=family == "qwen3",
            tie_embeddings=data.get("tie_word_embeddings", False),
        )
    except CheckpointFormatError:
        raise
    except (TypeError, ValueError) as error:
        raise CheckpointFormatError(f"config.json: {_in_their_words(str(error))}") from error


def _in_their_words(message: str) -> str:
    """An error of `DecoderConfig` with the names of config.json in place of its own."""
    theirs = {ours: key for key, ours in _SIZES.items()} | {"num_kv_heads": "num_key_value_heads"}
    return re.sub(r"\w+", lambda word: theirs.get(word[0], word[0]), message)


def to_json(config: Sizes, family: DeltaFamily | None = None) -> dict[str, Any]:
    """config.json of this model, with the keys of transformers 4 and 5, without token ids or dtype.

    Args:
        config: of the decoder.
        family: which of those with delta layers, for a model that has some; None is `family_of`.

    Raises:
        CheckpointFormatError: no family, or not the one that is asked for, has this model's
            combination of parts.
    """
    if family is not None and config.delta is None:
        raise CheckpointFormatError(f"{family} has no such model: none without delta layers")
    if family in fla_json.ARCHITECTURES:
        return fla_json.to_json(config, cast(FlaFamily, family))
    if config.delta is not None:
        return delta_json.to_json(config)
    return _attention_json(config, family_of(config))


def _attention_json(config: Sizes, family: Flat) -> dict[str, Any]:
    rope = _rope_of(config)
    data: dict[str, Any] = {"architectures": [ARCHITECTURES[family]], "model_type": family}
    data |= {key: getattr(config, field) for key, field in _SIZES.items()}
    data |= {
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
    }
    if family != "qwen2":
        data["attention_bias"] = config.qkv_bias
    if family == "llama":
        data["mlp_bias"] = config.mlp_bias
    else:
        data["use_sliding_window"] = False
    data |= rope_json.write(rope)
    _check_round_trip(config, data, family)
    return data


def flat(config: DecoderConfig) -> Sizes:
    """Returns the sizes of a decoder whose layers are alike or alternate.

    Block-sparse attention counts as attention: it has the same parameters.

    Raises:
        CheckpointFormatError: they do neither, which no family has.
    """
    try:
        return Sizes.of(sparse.dense(config))
    except ValueError as error:
        raise CheckpointFormatError(f"no HuggingFace family has this model: {error}") from error


def family_of(config: Sizes) -> Flat:
    """The family that is written by itself; `to_json` checks that it has all of these parts."""
    if "delta" in config.pattern:
        return "fg2_gdn"
    if config.qk_norm:
        return "qwen3"
    return "qwen2" if config.qkv_bias and not config.output_bias else "llama"


def _refuse(data: Mapping[str, Any], family: Flat) -> None:
    layer_types = data.get("layer_types") or []
    other_layers = family not in DELTA_FAMILIES and set(layer_types) - {"full_attention"}
    sliding = family != "llama" and data.get("use_sliding_window")
    refusals = [
        ("hidden_act", data.get("hidden_act", "silu") not in ("silu", "swish"), "silu"),
        ("use_sliding_window", sliding, "false"),
        ("layer_types", other_layers, "full_attention in every layer"),
        ("is_encoder_decoder", data.get("is_encoder_decoder"), "decoder-only models"),
    ]
    for key, refused, supported in refusals:
        if refused:
            raise CheckpointFormatError(
                f"config.json: {key} {data[key]!r} is not supported; supported: {supported}"
            )


def _rope_of(config: Sizes) -> Rope:
    """The model's rotary part, after a look at the parts that no family goes without."""
    others = [
        (config.intermediate_size == 0, "intermediate_size=0"),
        (config.rope is None, "rope=None"),
    ]
    found = [part for has, part in others if has]
    if found or config.rope is None:
        raise CheckpointFormatError(
            f"no HuggingFace family has this model: none that is written has {', '.join(found)}"
        )
    return config.rope


def _check_round_trip(config: Sizes, data: dict[str, Any], family: Flat) -> None:
    back = from_json(data, family)
    lost = [
        f"{field.name}={getattr(config, field.name)!r}"
        for field in dataclasses.fields(config)
        if field.name not in UNRECORDED
        and getattr(back, field.name) != getattr(config, field.name)
        # Rules ignore each other's fields, so only the frequencies themselves have to survive.
        and not (
            field.name == "rope"
            and rope_json.write(_rope_of(back)) == rope_json.write(_rope_of(config))
        )
    ]
    if lost:
        raise CheckpointFormatError(
            f"no HuggingFace family has this model: {family} comes nearest, but not with "
            f"{', '.join(lost)}"
        )
    if family == "llama" and config.hidden_size % config.num_heads:
        raise CheckpointFormatError(
            f"no HuggingFace family has this model: llama wants hidden_size {config.hidden_size} "
            f"to be a multiple of num_heads {config.num_heads}"
        )
