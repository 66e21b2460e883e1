"""What a model family is: how its config.json is read and written, and which tensors it has."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from jaxlab.interop.families.codecs import Codec
from jaxlab.models.decoder import DecoderConfig, Params, abstract_params


class Tensors(NamedTuple):
    """Parameters of a module, and the tensors of a checkpoint that hold them.

    Attributes:
        paths: of the parameters, joined by "/". In a decoder, "layer/..." is that parameter of each
            layer which has it; any other path is one parameter of the module.
        names: of the tensors; {} stands for the number of the layer.
        codec: how the parameters are stored as these tensors.
    """

    paths: tuple[str, ...]
    names: tuple[str, ...]
    codec: Codec


@dataclasses.dataclass(frozen=True)
class Family:
    """A kind of HuggingFace directory, known by the model_type of its config.json.

    Attributes:
        name: the model_type.
        architecture: the class that transformers makes of it.
        from_json: the config of a checked config.json, float32 and unrolled. Raises
            CheckpointFormatError, naming the key, where a value asks for what the module does not
            compute.
        to_json: config.json of a config, without token ids or dtype. Raises CheckpointFormatError
            where the family has no such model.
        tensors: all of a config's parameters; of a decoder, those of kinds that it lacks too.
        owned: keys of config.json that `to_json` writes, or leaves out on purpose: a config.json
            that is carried over loses them first.
        config: class of the config. One that is not `DecoderConfig` may have the fields dtype,
            param_dtype, scan_layers and remat, and is told what `hf.load` is asked for.
        params: shapes and dtypes of a config's parameters, nested dicts; called with param_dtype
            "bfloat16" where the config has that field, to see which are float32 all the same.
        tied: tensor -> the one that it must equal where a file holds it beside that: tied tables.
        left_out: patterns (`re.fullmatch`) of tensors that this config.json's model has no use for:
            a file may hold them, and `hf.load` logs how many.
    """

    name: str
    architecture: str
    from_json: Callable[[Mapping[str, Any]], Any]
    to_json: Callable[[Any], dict[str, Any]]
    tensors: Callable[[Any], Iterable[Tensors]]
    owned: frozenset[str]
    config: type = DecoderConfig
    params: Callable[[Any], Params] = abstract_params
    tied: Callable[[Any], Mapping[str, str]] = lambda config: {}
    left_out: Callable[[Mapping[str, Any]], Iterable[str]] = lambda data: ()
