"""HuggingFace checkpoint directories (config.json and safetensors) <-> DecoderConfig and params.

    config, params = hf.load(path)
    logits = Decoder(config).apply({"params": params}, tokens)
    hf.save(out, config, params, like=path)

Families: llama, qwen2 (Qwen2.5 too) and qwen3, dense; fg2_gdn, decoders with gated-delta layers,
whose directories carry their PyTorch code; and flash-linear-attention's kda and gated_deltanet.
Nothing here needs PyTorch.
"""

import dataclasses
import itertools
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxlab import json_file
from jaxlab.interop import delta_json, directory, families, safetensors_io
from jaxlab.interop.families import DELTA_FAMILIES, DeltaFamily
from jaxlab.interop.names import UNEMBEDDING, Leaf, flatten, leaves, nest, table_of
from jaxlab.interop.safetensors_io import DTYPES, Stored
from jaxlab.json_file import CheckpointFormatError
from jaxlab.models.decoder import DecoderConfig, Params

__all__ = ["CheckpointFormatError", "load", "read_config", "save"]

DType = Literal["float32", "bfloat16"]
ShardingOf = Callable[[str, tuple[int, ...]], jax.sharding.Sharding | None]
_ROWS_AT_ONCE = 4096
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def read_config(path: str | Path) -> DecoderConfig:
    """DecoderConfig of the directory's config.json.

    Raises:
        CheckpointFormatError: no such directory or config.json, unreadable JSON, or a model of a
            kind that is not supported; the message names the key.
    """
    path = Path(path)
    if not path.is_dir():
        raise CheckpointFormatError(
            f"{path}: no such directory; download the model first: hf download NAME --local-dir DIR"
        )
    data = json_file.read(path / directory.CONFIG)
    with directory.naming(path):
        return families.from_json(data).decoder()


def inspect(path: str | Path) -> DecoderConfig:
    """As `read_config`, after a look at the headers of the weights: `load` will find them whole.

    Raises:
        CheckpointFormatError: as `load` does.
    """
    return _read_headers(Path(path))[0]


def load(
    path: str | Path,
    *,
    dtype: DType | None = "float32",
    compute_dtype: DType = "float32",
    sharding: ShardingOf | None = None,
    scan_layers: bool = False,
    remat: bool = False,
    change: Callable[[DecoderConfig], DecoderConfig] = lambda config: config,
) -> tuple[DecoderConfig, Params]:
    """Read a checkpoint directory.

    Tensors are read, converted and put on their devices one at a time (with scan_layers, one
    stacked parameter at a time): host memory holds that one beside what stays on the host.

    Args:
        path: directory with config.json and model.safetensors, or model.safetensors.index.json and
            its shards.
        dtype: storage dtype of the parameters; None keeps the checkpoint's. Training wants float32.
        compute_dtype: dtype of the matmuls.
        sharding: (path as "a/b/c", shape) -> where the parameter lives; None, or a function that
            returns None, means the default device.
        scan_layers: stack the layers and run them with lax.scan.
        remat: recompute each layer in the backward pass.
        change: to another decoder of the same parameters: `models.sparse.SparseMixer.apply`.

    Returns:
        The config, and params as nested dicts of jax.Array.

    Raises:
        CheckpointFormatError: a file is missing, unreadable or truncated; the model is of a kind
            that is not supported; a tensor is missing, unexpected, or of another shape.
    """
    path = Path(path)
    config, stored = _read_headers(path)
    plain = leaves(config)
    param_dtype: Any = dtype or _common_dtype(path, plain, stored)
    config = dataclasses.replace(
        config,
        dtype=compute_dtype,
        param_dtype=param_dtype,
        scan_layers=scan_layers,
        remat=remat,
    )
    config = change(config)
    params = {}
    for leaf in leaves(config) if scan_layers else plain:
        place = sharding(leaf.path, leaf.shape) if sharding else None
        stored_as = np.dtype(np.float32 if leaf.keeps_float32 else param_dtype)
        value = _put(_read(leaf, stored, stored_as), place)
        # Transfers run behind the program: without a wait the host would hold many sources.
        params[leaf.path] = value.block_until_ready()
    return config, nest(params)


def save(
    out: str | Path,
    config: DecoderConfig,
    params: Params,
    *,
    family: DeltaFamily | None = None,
    like: str | Path | None = None,
    tokenizer_from: str | Path | None = None,
    dtype: DType | None = None,
    max_shard_bytes: int = 5_000_000_000,
    overwrite: bool = False,
    bos_token_id: int | None = None,
    eos_token_id: int | list[int] | None = None,
    pad_token_id: int | None = None,
) -> Path:
    """Write a checkpoint directory that transformers' AutoModelForCausalLM reads.

    A model with gated-delta layers is written in our own layout, fg2_gdn, which carries its code
    and needs trust_remote_code=True there, unless `family` or else `like` asks for that of
    flash-linear-attention, which `import fla` makes known there.

    The directory appears whole or not at all. The same params and arguments give the same bytes.
    On several hosts every process calls it and process 0 writes.

    Args:
        out: the directory. One that exists is replaced where it is empty or holds nothing but a
            checkpoint's files, its tokenizer and its parity report.
        config: of the model; the family follows from its parts.
        params: of `Decoder(config)`, on any devices; gathered one parameter at a time.
        family: of a model with gated-delta layers: fg2_gdn, or kda or gated_deltanet where it is
            one. None is that of `like`, or fg2_gdn without one.
        like: a checkpoint directory: keys of its config.json that the model does not determine
            (token ids, initializer_range, ...) and its generation_config.json are carried over;
            of the config.json of another family with gated-delta layers, token ids alone.
        tokenizer_from: a directory whose tokenizer files are copied.
        dtype: of the tensors; None keeps that of the params. Rates and biases of the decays of
            gated-delta layers stay float32.
        max_shard_bytes: files grow to this many bytes of tensors.
        overwrite: replace the directory whatever it holds.
        bos_token_id: written to config.json; as are the next two.
        eos_token_id: one id, or several.
        pad_token_id: one id.

    Returns:
        The directory.

    Raises:
        CheckpointFormatError: no family, or not that one, has this model, the params are not this
            config's, `like` is of another family, or `tokenizer_from` has no tokenizer.
        FileExistsError: `out` holds other files and `overwrite` is not given.
    """
    out = Path(out).absolute()
    directory.check_replaceable(out, overwrite)
    data = _config_json(config, family, like)
    plan, flat = leaves(config), flatten(params)
    _check_params(plan, flat)
    dtypes = {
        leaf.path: np.dtype(np.float32 if leaf.keeps_float32 else dtype or flat[leaf.path].dtype)
        for leaf in plan
    }
    # Wider dtypes come first: see safetensors_io.write.
    plan.sort(key=lambda leaf: -dtypes[leaf.path].itemsize)
    widest = next(str(dtypes[leaf.path]) for leaf in plan if not leaf.keeps_float32)
    data |= {"dtype": widest, "torch_dtype": widest}
    given = {
        "bos_token_id": bos_token_id,
        "eos_token_id": eos_token_id,
        "pad_token_id": pad_token_id,
    }
    data |= {key: value for key, value in given.items() if value is not None}
    # Everything that can be refused is refused by now: process 0 alone must not fail below, while
    # the others wait for it.
    copies = directory.tokenizer_files(Path(tokenizer_from)) if tokenizer_from is not None else {}
    if like is not None and (Path(like) / directory.GENERATION_CONFIG).is_file():
        copies[directory.GENERATION_CONFIG] = Path(like) / directory.GENERATION_CONFIG
    if data["model_type"] == delta_json.MODEL_TYPE:
        copies |= {file.name: file for file in directory.CODE_FILES}

    arrays = (_stored_arrays(leaf, flat[leaf.path], dtypes[leaf.path]) for leaf in plan)
    values = itertools.chain.from_iterable(arrays)
    if jax.process_index() == 0:
        with directory.replacing(out) as staged:
            directory.write_json(staged / directory.CONFIG, data)
            for name, source in copies.items():
                shutil.copyfile(source, staged / name)
            specs = {name: (dtypes[x.path], x.stored_shape) for x in plan for name in x.names}
            _write_shards(staged, specs, values, max_shard_bytes)
    else:
        # Gathering is collective: every process takes part in it.
        for _ in values:
            pass
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"hf.save {out}")
    return out


def _read_headers(path: Path) -> tuple[DecoderConfig, Mapping[str, Stored]]:
    config, stored = read_config(path), directory.tensors(path)
    _check_names_and_shapes(path, leaves(config), stored)
    _check_tied(path, config, stored)
    return config, stored


def _write_shards(
    path: Path,
    specs: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
    values: Iterator[np.ndarray],
    max_shard_bytes: int,
) -> None:
    sizes = {name: dtype.itemsize * math.prod(shape) for name, (dtype, shape) in specs.items()}
    files = directory.shard_files(sizes, max_shard_bytes)
    for file, names in files.items():
        shard = {name: specs[name] for name in names}
        safetensors_io.write(path / file, shard, itertools.islice(values, len(names)))
    if len(files) > 1:
        weight_map = {name: file for file, names in files.items() for name in names}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        directory.write_json(path / directory.INDEX, index)


def _stored_arrays(leaf: Leaf, value: jax.Array, dtype: np.dtype) -> Iterator[np.ndarray]:
    """The leaf's tensors as the checkpoint has them, on the host, in the order of its names."""
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        host = multihost_utils.process_allgather(value, tiled=True)
    else:
        host = np.asarray(value)
    for layer in host if leaf.stacked else [host]:
        yield np.asarray(leaf.to_stored(layer), dtype=dtype, order="C")


def _read(leaf: Leaf, stored: Mapping[str, Stored], dtype: np.dtype) -> np.ndarray:
    """The parameter on the host: its tensors transposed, converted and stacked."""
    # Never a view of the file: jax may keep using the host's memory, and the file may change.
    value = np.empty(leaf.shape, dtype)
    for row, name in zip(value if leaf.stacked else [value], leaf.names, strict=True):
        tensor = stored[name].open()
        row[...] = leaf.from_stored(tensor)
    return value


def _put(value: np.ndarray, place: jax.sharding.Sharding | None) -> jax.Array:
    if place is None:
        return jax.device_put(value)
    return jax.make_array_from_callback(value.shape, place, lambda index: value[index])


def _config_json(
    config: DecoderConfig, family: DeltaFamily | None, like: str | Path | None
) -> dict[str, Any]:
    sizes = families.flat(config)
    if like is None:
        return families.to_json(sizes, family)
    other = json_file.read(Path(like) / directory.CONFIG)
    with directory.naming(Path(like)):
        likes = families.family_of_json(other)
    both_delta = sizes.delta is not None and likes in DELTA_FAMILIES
    if both_delta and family is None:
        family = cast(DeltaFamily, likes)
    data = families.to_json(sizes, family)
    if likes == data["model_type"]:
        return {key: value for key, value in other.items() if key not in families.OWNED} | data
    if not both_delta:
        raise CheckpointFormatError(
            f"like={like} is a {likes} checkpoint and the model a {data['model_type']}: "
            "give a checkpoint of the same family"
        )
    return {key: other[key] for key in _TOKEN_IDS if key in other} | data


def _check_names_and_shapes(path: Path, plan: list[Leaf], stored: Mapping[str, Stored]) -> None:
    expected = {name: leaf.stored_shape for leaf in plan for name in leaf.names}
    problems = [f"missing {name} {list(expected[name])}" for name in expected if name not in stored]
    problems += [
        f"unexpected {name} {list(stored[name].shape)}"
        for name in stored
        # Buffers of old Llama files; a tied lm_head is compared in _check_tied.
        if name not in expected and name != UNEMBEDDING and not name.endswith(".inv_freq")
    ]
    problems += [
        f"{name}: expected shape {list(shape)}, found {list(stored[name].shape)}"
        for name, shape in expected.items()
        if name in stored and stored[name].shape != shape
    ]
    if problems:
        raise CheckpointFormatError(f"{path}: {directory.few(problems)}")


def _check_tied(path: Path, config: DecoderConfig, stored: Mapping[str, Stored]) -> None:
    if not config.tie_embeddings or UNEMBEDDING not in stored:
        return
    embedding = table_of(config)["embed/embedding"]
    embed, unembed = stored[embedding].open(), stored[UNEMBEDDING].open()
    rows = range(0, config.vocab_size, _ROWS_AT_ONCE)
    same = embed.shape == unembed.shape and all(
        np.array_equal(embed[i : i + _ROWS_AT_ONCE], unembed[i : i + _ROWS_AT_ONCE]) for i in rows
    )
    if not same:
        raise CheckpointFormatError(
            f"{path}: tie_word_embeddings is true, but {UNEMBEDDING} differs from {embedding}: "
            "set it to false in config.json, or remove the tensor"
        )


def _common_dtype(path: Path, plan: list[Leaf], stored: Mapping[str, Stored]) -> str:
    names = sorted(
        {stored[name].dtype for leaf in plan if not leaf.keeps_float32 for name in leaf.names}
    )
    if len(names) > 1 or names[0] not in ("F32", "BF16"):
        raise CheckpointFormatError(
            f"{path}: tensors are {' and '.join(names)}: give dtype='float32' or 'bfloat16'"
        )
    return str(DTYPES[names[0]])


def _check_params(plan: list[Leaf], flat: Mapping[str, Any]) -> None:
    expected = {leaf.path: leaf.shape for leaf in plan}
    problems = [f"missing {path}" for path in expected if path not in flat]
    problems += [f"unexpected {path}" for path in flat if path not in expected]
    problems += [
        f"{path}: expected shape {list(shape)}, found {list(flat[path].shape)}"
        for path, shape in expected.items()
        if path in flat and flat[path].shape != shape
    ]
    if problems:
        raise CheckpointFormatError(f"params are not this config's: {directory.few(problems)}")
