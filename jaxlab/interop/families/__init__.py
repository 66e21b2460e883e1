"""Model families of HuggingFace checkpoints; one file each, and a line in `FAMILIES`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxlab import json_file
from jaxlab.interop import fp8
from jaxlab.interop.families import flat
from jaxlab.interop.families.deepseek_v3 import DEEPSEEK_V3
from jaxlab.interop.families.fg2_gdn import FG2_GDN
from jaxlab.interop.families.flat import DELTA_FAMILIES as DELTA_FAMILIES
from jaxlab.interop.families.flat import DeltaFamily as DeltaFamily
from jaxlab.interop.families.flat import to_json as to_json
from jaxlab.interop.families.gated_deltanet import GATED_DELTANET
from jaxlab.interop.families.glm4_moe_lite import GLM4_MOE_LITE
from jaxlab.interop.families.kda import KDA
from jaxlab.interop.families.llama import LLAMA
from jaxlab.interop.families.qwen2 import QWEN2
from jaxlab.interop.families.qwen3 import QWEN3
from jaxlab.interop.families.qwen3_moe import QWEN3_MOE
from jaxlab.interop.families.types import Family as Family
from jaxlab.interop.families.types import Tensors as Tensors
from jaxlab.json_file import NULL, OBJECT, TEXT, CheckpointFormatError
from jaxlab.models.decoder import DecoderConfig
from jaxlab.models.sizes import Sizes

FAMILIES: dict[str, Family] = {
    "llama": LLAMA,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "fg2_gdn": FG2_GDN,
    "kda": KDA,
    "gated_deltanet": GATED_DELTANET,
    "qwen3_moe": QWEN3_MOE,
    "deepseek_v3": DEEPSEEK_V3,
    "glm4_moe_lite": GLM4_MOE_LITE,
}
_OF_ALL = {
    "model_type": TEXT | NULL,
    "architectures": json_file.list_of(TEXT) | NULL,
    "quantization_config": OBJECT | NULL,
}


def of_json(data: Mapping[str, Any]) -> Family:
    """Family by `model_type`, or by `architectures` where there is no model_type.

    Raises:
        CheckpointFormatError: neither names a supported one.
    """
    json_file.check(data, _OF_ALL, "config.json")
    architectures = data.get("architectures") or []
    by_architecture = {family.architecture: name for name, family in FAMILIES.items()}
    known = [by_architecture[name] for name in architectures if name in by_architecture]
    name = data.get("model_type", known[0] if known else None)
    if name not in FAMILIES:
        raise CheckpointFormatError(
            f"config.json: model_type {name!r} is not supported; supported: {', '.join(FAMILIES)}"
        )
    if architectures and name not in known:
        raise CheckpointFormatError(
            f"config.json: architectures {architectures} is not supported; "
            f"supported for {name}: {FAMILIES[name].architecture}"
        )
    return FAMILIES[name]


def read(data: Mapping[str, Any]) -> Any:
    """The config of a config.json, which knows its family.

    Raises:
        CheckpointFormatError: naming the key: a missing one, or one whose value asks for what these
            models do not have.
    """
    family = of_json(data)
    fp8.block_size(data)
    config = family.from_json(data)
    if isinstance(config, DecoderConfig):
        return dataclasses.replace(config, family=family.name)
    return config


def of_config(config: Any, name: str | None = None) -> Family:
    """The family that a config is written as.

    Args:
        config: of a decoder, or of another module that a family has.
        name: of the family that is asked for; None is the one that the config was read as. Decoders
            that flat sizes spell go by their parts instead, see `families.flat`.

    Raises:
        CheckpointFormatError: there is no such family, or none has this model.
    """
    if name is not None and name not in FAMILIES:
        raise CheckpointFormatError(f"family {name!r} is not one of {', '.join(FAMILIES)}")
    if name is not None:
        return FAMILIES[name]
    if not isinstance(config, DecoderConfig):
        named = getattr(config, "family", None)
        kin = [family for family in FAMILIES.values() if family.config is type(config)]
        kin = [family for family in kin if named in (None, family.name)]
        if not kin:
            raise CheckpointFormatError(f"no HuggingFace family has a {type(config).__name__}")
        return kin[0]
    if config.family in FAMILIES and config.family not in flat.ARCHITECTURES:
        return FAMILIES[config.family]
    parts = {type(part) for layer in config.layers for part in (layer.mixer, layer.mlp)}
    if not parts <= flat.PARTS:
        return _first_that_has(config)
    return FAMILIES[flat.family_of(flat.flat(config))]


def _first_that_has(config: DecoderConfig) -> Family:
    """The first family by which a decoder that was never read can be written."""
    reasons = []
    for name, family in FAMILIES.items():
        if family.config is not DecoderConfig or name in flat.ARCHITECTURES:
            continue
        try:
            family.to_json(config)
        except CheckpointFormatError as error:
            reasons.append(str(error))
        else:
            return family
    raise CheckpointFormatError(f"no HuggingFace family has this model: {'; '.join(reasons)}")


def family_of_json(data: Mapping[str, Any]) -> str:
    """The name of `of_json`."""
    return of_json(data).name


def from_json(data: Mapping[str, Any]) -> Sizes:
    """Flat sizes of a config.json of the families in `families.flat`."""
    name: Any = of_json(data).name
    return flat.from_json(data, name)
