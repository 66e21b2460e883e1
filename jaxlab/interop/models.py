"""Models by config: from scratch, from a HuggingFace directory, from an earlier run.

A work directory describes its model in `model/`: decoder.json (the fields of `DecoderConfig`), the
tokenizer's files and, for a model that came from a HuggingFace directory, its config.json.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxlab import config as config_lib
from jaxlab.interop import hf
from jaxlab.models import presets
from jaxlab.models.decoder import Decoder, DecoderConfig, Params, abstract_params
from jaxlab.models.sizes import Sizes
from jaxlab.models.sparse import SparseMixer
from jaxlab.models.stacking import rescan, unscan
from jaxlab.runtime import drawing
from jaxlab.runtime import mesh as mesh_lib
from jaxlab.runtime import sharding as sharding_lib
from jaxlab.runtime.checkpoint import Checkpointer
from jaxlab.runtime.settings import Rules
from jaxlab.text.tokenizer import Tokenizer
from jaxlab.text.tokenizer import load as load_tokenizer

# Fields that change how a model is computed, not what it computes.
EXECUTION_FIELDS = ("dtype", "param_dtype", "scan_layers", "remat")


@dataclasses.dataclass(frozen=True)
class Model:
    """Where a model comes from.

    Attributes:
        path: a HuggingFace directory or a work directory of an earlier run. "@NAME" is the work
            directory of the stage NAME of the same config.
        preset: a name of `jaxlab.models.presets`; random parameters.
        sizes: fields of `jaxlab.models.sizes.Sizes` on top of the preset, or all of them without
            one. With a path, only those that do not change the function (dtype, scan_layers, remat)
            make sense.
        mixer: another mixer with the weights of the model's attention layers.
    """

    path: str | None = None
    preset: str | None = None
    sizes: Annotated[dict[str, Any], config_lib.fields_of(Sizes)] = dataclasses.field(
        default_factory=dict
    )
    mixer: Annotated[SparseMixer | None, config_lib.by("name")] = None

    def __post_init__(self) -> None:
        """Check the sizes of a model from scratch, whose vocabulary may be the tokenizer's."""
        # How a model is computed may be set before the command line says where it is.
        described = self.preset is not None or set(self.sizes) - set(EXECUTION_FIELDS)
        if self.path is None and described:
            try:
                _scratch_config(self, "sizes", 1)
            except config_lib.ConfigError as error:
                raise ValueError(str(error)) from error


@dataclasses.dataclass(frozen=True)
class Source:
    """A model that has been described but not yet loaded.

    Attributes:
        config: of the decoder.
        load: reads or draws the params, placed by (mesh, rules).
        directory: holds tokenizer files and perhaps a HuggingFace config.json; None from scratch.
    """

    config: DecoderConfig
    load: Callable[[Mesh, Rules], Params]
    directory: pathlib.Path | None

    def abstract_params(self) -> Params:
        """Shapes and dtypes of the params."""
        return abstract_params(self.config)


def find(spec: Model, where: str, *, vocab_size: int | None, seed: int) -> Source:
    """Look at what the config names, without reading weights.

    Args:
        spec: path, or preset and sizes.
        where: the config's key, for errors.
        vocab_size: default for a model from scratch: the tokenizer's.
        seed: of random params.

    Raises:
        ConfigError: neither or both are given, the path holds no model, or its vocabulary is
            smaller than the tokenizer's.
        CheckpointFormatError: the HuggingFace directory is of no use.
    """
    try:
        source = _look(spec, where, vocab_size, seed)
    except _NoAttention as error:
        raise config_lib.ConfigError(f"{where}.mixer: {error}") from error
    if vocab_size is not None and source.config.vocab_size < vocab_size:
        raise config_lib.ConfigError(
            f"{where}: the model has a vocabulary of {source.config.vocab_size}, the tokenizer one "
            f"of {vocab_size}: they do not belong together"
        )
    return source


def _look(spec: Model, where: str, vocab_size: int | None, seed: int) -> Source:
    if spec.path is None:
        if spec.preset is None and not spec.sizes:
            raise config_lib.ConfigError(f"{where}: give path, or preset, or sizes")
        return _scratch(spec, where, vocab_size, seed)
    path, is_run = _located(spec, spec.path, where)
    if is_run:
        return _from_run(path, spec)
    plain = dataclasses.replace(hf.inspect(path), **spec.sizes)
    config = _mixed(spec, plain)
    return Source(config, lambda mesh, rules: _load_hf(path, config, spec, mesh, rules), path)


class _NoAttention(ValueError):
    """A model whose mixer cannot be another."""


def _mixed(spec: Model, config: DecoderConfig) -> DecoderConfig:
    """The decoder with the mixer that the spec asks for."""
    if spec.mixer is None:
        return config
    try:
        return spec.mixer.apply(config)
    except ValueError as error:
        raise _NoAttention(str(error)) from error


def tokenizer_at(spec: Model | None, where: str) -> Tokenizer | None:
    """The tokenizer beside the model that the config names, where there is one.

    Args:
        spec: of the model.
        where: the config's key, for errors.

    Raises:
        ConfigError: the path holds no model.
        CheckpointFormatError, ValueError: a file of the model or of the tokenizer is of no use.
    """
    if spec is None or spec.path is None:
        return None
    path, is_run = _located(spec, spec.path, where)
    # A model that is broken is to be called broken, not without a tokenizer.
    if is_run:
        read_run(path)
        path = path / "model"
    else:
        hf.read_config(path)
    return load_tokenizer(path) if (path / "tokenizer.json").exists() else None


def _located(spec: Model, name: str, where: str) -> tuple[pathlib.Path, bool]:
    """The directory of a model, and whether it is a run of ours instead of a HuggingFace one.

    Raises:
        ConfigError: it is neither, the run has no checkpoint yet, or the config gives more than
            the path.
    """
    path = pathlib.Path(name).expanduser()
    if spec.preset is not None:
        raise config_lib.ConfigError(f"{where}: give path or preset, not both")
    unusable = set(spec.sizes) - set(EXECUTION_FIELDS)
    if unusable:
        raise config_lib.ConfigError(
            f"{where}.sizes.{min(unusable)}: the model at {path} has its sizes; only "
            f"{', '.join(EXECUTION_FIELDS)} can be set"
        )
    if not path.is_dir():
        cause = "is not a directory" if path.exists() else "does not exist"
        raise config_lib.ConfigError(
            f"{where}.path: {path} {cause}: give a work directory of training, or a HuggingFace "
            "directory (hf download NAME --local-dir DIR)"
        )
    if (path / "model" / "decoder.json").exists():
        if Checkpointer(path / "checkpoints").latest() is None:
            raise config_lib.ConfigError(f"{where}.path: the run {path} has no checkpoint yet")
        return path, True
    stages = sorted(file.parts[-3] for file in path.glob("*/model/decoder.json"))
    if stages:
        raise config_lib.ConfigError(
            f"{where}.path: {path} holds the runs {', '.join(stages)}: give one of them, "
            f"{path / stages[-1]}"
        )
    if (path / "config.json").exists():
        return path, False
    raise config_lib.ConfigError(
        f"{where}.path: {path} holds neither a HuggingFace model (config.json) nor a run of ours "
        "(model/decoder.json)"
    )


def describe(workdir: pathlib.Path, source: Source, tokenizer: Tokenizer | None) -> None:
    """Write `workdir/model/`, so that the run can be exported and built upon by itself.

    A model of token ids that stand for no text has no tokenizer.

    Raises:
        ConfigError: the directory holds checkpoints of another model, or of other words.
    """
    directory = workdir / "model"
    _check_same(workdir, directory / "decoder.json", source.config)
    _check_words(workdir, directory, tokenizer)
    if not mesh_lib.is_main():
        return
    directory.mkdir(parents=True, exist_ok=True)
    config_lib.save_json(source.config, directory / "decoder.json")
    if tokenizer is not None:
        tokenizer.save(directory)
    original = None if source.directory is None else source.directory / "config.json"
    if original is not None and original.exists():
        (directory / "config.json").write_bytes(original.read_bytes())


def read_run(workdir: pathlib.Path) -> DecoderConfig:
    """The decoder of a work directory.

    Raises:
        ConfigError: there is no such run, or its description is damaged.
    """
    file = workdir / "model" / "decoder.json"
    if not file.is_file():
        cause = "has no model/decoder.json" if workdir.is_dir() else "does not exist"
        raise config_lib.ConfigError(f"{workdir} is no run of training: it {cause}")
    fields = config_lib.load_json(file)
    if "stacks" not in fields:
        # Runs of before 0.1's stacks describe their layers by flat sizes.
        return config_lib.build(Sizes, fields, str(file)).decoder()
    return config_lib.build(DecoderConfig, fields, str(file))


def _check_same(workdir: pathlib.Path, described: pathlib.Path, config: DecoderConfig) -> None:
    """Refuse to describe the model anew where checkpoints of the one before would outlive it."""
    if not described.exists() or Checkpointer(workdir / "checkpoints").latest() is None:
        return
    # As it is read today: an older description lacks newer fields.
    before, now = (config_lib.to_json(one) for one in (read_run(workdir), config))
    for name in [key for key in now if key not in ("dtype", "remat", "family")]:
        found = _first_difference(name, before.get(name), now[name])
        if found is not None:
            key, old, new = found
            raise config_lib.ConfigError(
                f"{workdir} holds checkpoints of another model ({key} was {old!r}, now is "
                f"{new!r}): give another --workdir"
            )


def _check_words(workdir: pathlib.Path, described: pathlib.Path, now: Tokenizer | None) -> None:
    """Refuse other words by the same ids: the checkpoints would go on with noise."""
    if now is None or not (described / "tokenizer.json").exists():
        return
    if Checkpointer(workdir / "checkpoints").latest() is None:
        return
    before = load_tokenizer(described).backend.get_vocab()
    if before != now.backend.get_vocab():
        raise config_lib.ConfigError(
            f"{workdir} holds checkpoints of a model with another vocabulary (its tokenizer has "
            "changed, or the text of which that is made): give another --workdir"
        )


def _first_difference(key: str, old: Any, new: Any) -> tuple[str, Any, Any] | None:
    """The innermost key at which two JSON values differ, with both values there."""
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        parts = [(f"{key}.{name}", old[name], new[name]) for name in old]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        parts = [(f"{key}[{i}]", *pair) for i, pair in enumerate(zip(old, new, strict=True))]
    else:
        return None if old == new else (key, old, new)
    return next((found for part in parts if (found := _first_difference(*part))), None)


def _scratch_config(spec: Model, where: str, vocab_size: int | None) -> DecoderConfig:
    fields: dict[str, Any] = {}
    if spec.preset is not None:
        # The preset itself follows these two with its head_dim.
        resized = {k: v for k, v in spec.sizes.items() if k in ("hidden_size", "num_heads")}
        preset = presets.sizes(spec.preset, **resized)
        fields = {field.name: getattr(preset, field.name) for field in dataclasses.fields(Sizes)}
    if vocab_size is not None:
        fields["vocab_size"] = vocab_size
    return config_lib.build(Sizes, fields | spec.sizes, where).decoder()


def _scratch(spec: Model, where: str, vocab_size: int | None, seed: int) -> Source:
    config = _mixed(spec, _scratch_config(spec, f"{where}.sizes", vocab_size))

    def load(mesh: Mesh, rules: Rules) -> Params:
        return _initialiser(config, mesh, rules)(jax.random.key(seed))

    return Source(config, load, None)


# Runs of one model follow each other: a study's seeds, or one that goes on.
@functools.lru_cache(maxsize=4)
def _initialiser(config: DecoderConfig, mesh: Mesh, rules: Rules) -> Callable[[jax.Array], Params]:
    def init(key: jax.Array) -> Params:
        return Decoder(config).init(key, jnp.zeros((1, 1), jnp.int32))["params"]

    return drawing.drawn(init, mesh, sharding_lib.infer(abstract_params(config), rules, mesh))


def _from_run(path: pathlib.Path, spec: Model) -> Source:
    stored = read_run(path)
    config = _mixed(spec, dataclasses.replace(stored, **spec.sizes))

    # By leaf: some stay float32 whatever param_dtype is.
    wanted = dataclasses.replace(stored, param_dtype=config.param_dtype)
    restacked = config.scan_layers != stored.scan_layers or config.stacks != stored.stacks

    def load(mesh: Mesh, rules: Rules) -> Params:
        def placed(params: Params) -> Params:
            return sharding_lib.infer(params, rules, mesh)

        with Checkpointer(path / "checkpoints") as checkpointer:
            # Each host reads its own part, unless layers are to be stacked in another way.
            params = checkpointer.restore_params(shardings=None if restacked else placed)
        params = jax.tree.map(_converted, params, abstract_params(wanted))
        if not restacked:
            return params
        params = unscan(stored, params)[1]
        if config.scan_layers:
            params = rescan(dataclasses.replace(config, scan_layers=False), params)[1]
        return jax.device_put(params, placed(params))

    return Source(config, load, path / "model")


def _converted(leaf: Any, like: Any) -> Any:
    return leaf if leaf.dtype == like.dtype else leaf.astype(like.dtype)


def _load_hf(
    path: pathlib.Path, config: DecoderConfig, spec: Model, mesh: Mesh, rules: Rules
) -> Params:
    where_to = sharding_lib.infer(abstract_params(config), rules, mesh)
    leaves = {
        "/".join(sharding_lib.leaf_path(key_path)): leaf
        for key_path, leaf in jax.tree_util.tree_flatten_with_path(where_to)[0]
    }
    _, params = hf.load(
        path,
        dtype=config.param_dtype,
        sharding=lambda name, shape: leaves[name],
        scan_layers=config.scan_layers,
        change=lambda plain: _mixed(spec, plain),
    )
    return params
