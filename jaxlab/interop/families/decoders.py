"""What config.json files of decoders have in common: checks of every key, and the way back."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxlab import json_file
from jaxlab.interop import rope_json
from jaxlab.json_file import BOOL, NULL, OBJECT, SIZE, TEXT, CheckpointFormatError, Kind
from jaxlab.models.decoder import DecoderConfig
from jaxlab.models.stacking import stacks_of
from jaxlab.nn.layers import Layer

# config.json key -> field of `DecoderConfig`, where both hold the same value.
_FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "rms_norm_eps": "norm_eps",
    "tie_word_embeddings": "tie_embeddings",
    "max_position_embeddings": "max_position",
}
# Of every family. A missing size has an error of its own.
KINDS: dict[str, Kind] = {
    **dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size"), SIZE),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads"), SIZE),
    "max_position_embeddings": SIZE,
    "num_hidden_layers": json_file.LAYERS,
    "rms_norm_eps": json_file.POSITIVE,
    "attention_bias": BOOL,
    "tie_word_embeddings": BOOL,
    "hidden_act": TEXT,
    "is_encoder_decoder": BOOL | NULL,
    "quantization_config": OBJECT | NULL,
}
# What says nothing about the function of a trained model: how it was trained, how transformers runs
# it, and words. What stands neither here nor among the keys that are read is refused.
# fmt: off
HARMLESS = frozenset((
    "_name_or_path", "add_cross_attention", "architectures", "attention_dropout", "auto_map",
    "aux_loss_alpha", "bad_words_ids", "begin_suppress_tokens", "bos_token_id",
    "chunk_size_feed_forward", "cross_attention_hidden_size", "decoder_start_token_id",
    "diversity_penalty", "do_sample", "dtype", "early_stopping", "encoder_no_repeat_ngram_size",
    "eos_token_id", "ep_size", "exponential_decay_length_penalty", "finetuning_task",
    "forced_bos_token_id", "forced_eos_token_id", "id2label", "initializer_range", "is_decoder",
    "label2id", "length_penalty", "max_length", "min_length", "model_type",
    "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_return_sequences",
    "output_attentions", "output_hidden_states", "output_router_logits", "output_scores",
    "pad_token_id", "prefix", "pretraining_tp", "problem_type", "pruned_heads",
    "remove_invalid_values", "repetition_penalty", "return_dict", "return_dict_in_generate",
    "router_aux_loss_coef", "sep_token_id", "seq_aux", "suppress_tokens",
    "task_specific_params", "temperature", "tf_legacy_loss", "tie_encoder_decoder",
    "tokenizer_class", "top_k", "top_p", "torch_dtype", "torchscript", "transformers_version",
    "typical_p", "use_bfloat16", "use_cache",
))
# fmt: on
OWNED = frozenset(
    {*KINDS, *rope_json.KEYS, "model_type", "architectures", "dtype", "torch_dtype"}
    | {"partial_rotary_factor", "auto_map"}
)


def checked(
    data: Mapping[str, Any],
    kinds: Mapping[str, Kind],
    defaults: Mapping[str, Any],
    fixed: Mapping[str, tuple[Any, ...]],
) -> dict[str, Any]:
    """The values of a config.json after a look at every key, with a family's defaults.

    Args:
        data: of the file.
        kinds: what may stand at the keys that this family reads beside `KINDS`.
        defaults: of keys that a file may lack; it must have the others.
        fixed: key -> the values that it may have, where the layers compute nothing else.

    Raises:
        CheckpointFormatError: naming the key: a missing, unknown or ill-typed one, or one whose
            value asks for what is not computed.
    """
    kinds = {**KINDS, **kinds}
    json_file.check(data, kinds, "config.json")
    known = {*kinds, *fixed, *HARMLESS, *rope_json.KEYS, "partial_rotary_factor"}
    unknown = sorted(data.keys() - known)
    if unknown:
        raise CheckpointFormatError(
            f"config.json: {unknown[0]} {json_file.show(data[unknown[0]])} is not known to the "
            "reader of this family, and may change what the model computes; remove it if not"
        )
    fixed = {"hidden_act": ("silu", "swish"), "is_encoder_decoder": (False, None), **fixed}
    for key, allowed in fixed.items():
        if key in data and data[key] not in allowed:
            raise unsupported(key, data[key], " or ".join(map(json_file.show, allowed)))
    rope_json.check_known(data)
    values = {**defaults, **data}
    own = kinds.keys() - {"quantization_config", "is_encoder_decoder", "hidden_act"}
    missing = sorted(key for key in own if key not in values)
    if missing:
        raise CheckpointFormatError(f"config.json: missing {', '.join(missing)}")
    return values


def unsupported(key: str, value: Any, supported: str) -> CheckpointFormatError:
    """The error of a key whose value asks for what is not computed."""
    return CheckpointFormatError(
        f"config.json: {key} {json_file.show(value)} is not supported; supported: {supported}"
    )


def decoder(
    values: Mapping[str, Any], layers: Callable[[], tuple[Layer, ...]], names: Mapping[str, str]
) -> DecoderConfig:
    """The decoder of checked values.

    Args:
        values: of `checked`.
        layers: makes the layers.
        names: field of a layer's options -> key of config.json, for errors.

    Raises:
        CheckpointFormatError: sizes do not fit together.
    """
    try:
        fields = {field: values[key] for key, field in _FIELDS.items()}
        fields["norm_eps"] = float(fields["norm_eps"])
        return DecoderConfig(stacks=stacks_of(layers()), **fields)
    except CheckpointFormatError:
        raise
    except ValueError as error:
        words = [names.get(word, word) for word in str(error).split(" ")]
        raise CheckpointFormatError(f"config.json: {' '.join(words)}") from error


def written(config: DecoderConfig) -> dict[str, Any]:
    """The keys that a decoder itself determines."""
    data = {key: getattr(config, field) for key, field in _FIELDS.items()}
    return data | {"hidden_act": "silu", "num_hidden_layers": len(config.layers)}


def first(config: DecoderConfig, name: str, mixer: type, mlp: type) -> tuple[Any, Any]:
    """The first layer's parts; `check_round_trip` sees whether the others are like it.

    Raises:
        CheckpointFormatError: they are of other kinds, or have no rotary positions.
    """
    layer = config.layers[0]
    if type(layer.mixer) is not mixer or type(layer.mlp) is not mlp:
        found = [part.name if part else None for part in (layer.mixer, layer.mlp)]
        raise CheckpointFormatError(f"{name} has no such model: none of {found[0]} and {found[1]}")
    if getattr(layer.mixer, "rope", None) is None:
        raise CheckpointFormatError(f"{name} has no such model: none with rope=None")
    return layer.mixer, layer.mlp


def check_round_trip(config: DecoderConfig, back: DecoderConfig, name: str) -> None:
    """Check that what was written comes back as the same function.

    Raises:
        CheckpointFormatError: naming the first part that does not.
    """
    ours, theirs = (_function(one) for one in (config, back))
    for key in {**ours, **theirs}:
        if ours.get(key) != theirs.get(key):
            raise CheckpointFormatError(
                f"{name} has no such model: none with {key} = {ours.get(key)!r} (it would come "
                f"back as {theirs.get(key)!r})"
            )


def _function(config: DecoderConfig) -> dict[str, Any]:
    """What the model computes, flat."""
    found: dict[str, Any] = {field: getattr(config, field) for field in _FIELDS.values()}
    for number, layer in enumerate(config.layers):
        for part in ("mixer", "mlp"):
            options = getattr(layer, part)
            if options is None:
                found[f"layers[{number}].{part}"] = None
                continue
            fields = dataclasses.asdict(options)
            fields.pop("implementation", None)
            if fields.get("rope") is not None:
                # Rules ignore each other's fields.
                fields["rope"] = rope_json.write(options.rope)["rope_parameters"]
            found |= {f"layers[{number}].{part}.{key}": x for key, x in fields.items()}
    return found


def tied(config: DecoderConfig) -> dict[str, str]:
    """See `Family.tied`."""
    return {"lm_head.weight": "model.embed_tokens.weight"} if config.tie_embeddings else {}
