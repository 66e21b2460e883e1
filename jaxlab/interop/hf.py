"""HuggingFace checkpoint directories (config.json and safetensors) <-> DecoderConfig and params.

    config, params = hf.load(path)
    logits = Decoder(config).apply({"params": params}, tokens)
    hf.save(out, config, params, like=path)

Families: llama, qwen2 (Qwen2.5 too) and qwen3, dense; qwen3_moe, deepseek_v3 and glm4_moe_lite,
with experts; fg2_gdn, decoders with gated-delta layers, whose directories carry their PyTorch code;
and flash-linear-attention's kda and gated_deltanet. `families.FAMILIES` has them all.
Nothing here needs PyTorch.
"""

import itertools
import logging
import math
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxlab import json_file
from jaxlab.interop import delta_json, directory, families, fp8, safetensors_io
from jaxlab.interop.families import DELTA_FAMILIES, Family
from jaxlab.interop.families.codecs import Target
from jaxlab.interop.names import Group, flatten, groups, nest, replaced
from jaxlab.interop.safetensors_io import DTYPES, Stored
from jaxlab.json_file import CheckpointFormatError
from jaxlab.models.decoder import DecoderConfig, Params

__all__ = ["CheckpointFormatError", "load", "read_config", "save"]

DType = Literal["float32", "bfloat16"]
ShardingOf = Callable[[str, tuple[int, ...]], jax.sharding.Sharding | None]
Tensors = Mapping[str, Stored | fp8.Quantised]
_LOG = logging.getLogger(__name__)
_ROWS_AT_ONCE = 4096
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def read_config(path: str | Path) -> Any:
    """Config of the directory's config.json: `DecoderConfig`, or that of another family's module.

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
        return families.read(data)


def inspect(path: str | Path) -> DecoderConfig:
    """As `read_config`, after a look at the headers of the weights: `load` will find them whole.

    Raises:
        CheckpointFormatError: as `load` does; or the model is no decoder.
    """
    config = _read_headers(Path(path)).config
    if not isinstance(config, DecoderConfig):
        raise CheckpointFormatError(
            f"{path}: a {type(config).__name__} is no language model: give a decoder's directory"
        )
    return config


def load(
    path: str | Path,
    *,
    dtype: DType | None = "float32",
    compute_dtype: DType = "float32",
    sharding: ShardingOf | None = None,
    scan_layers: bool = False,
    remat: bool = False,
    change: Callable[[Any], Any] = lambda config: config,
) -> tuple[Any, Params]:
    """Read a checkpoint directory; weights in blocks of 8-bit floats come as what they stand for.

    Tensors are read, converted and put on their devices one at a time (with scan_layers, one
    stacked parameter at a time): host memory holds that one beside what stays on the host, and of
    a parameter divided over several hosts only the block that its devices have.

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
        The config, a `DecoderConfig` or that of another family's module, and params as nested dicts
        of jax.Array.

    Raises:
        CheckpointFormatError: a file is missing, unreadable or truncated; the model is of a kind
            that is not supported; a tensor is missing, unexpected, or of another shape.
    """
    path = Path(path)
    config, family, plain, stored = _read_headers(path)
    param_dtype: Any = dtype or _common_dtype(path, plain, stored)
    config = replaced(
        config,
        dtype=compute_dtype,
        param_dtype=param_dtype,
        scan_layers=scan_layers,
        remat=remat,
    )
    config = change(config)
    params = {}
    for group in groups(config, family) if scan_layers else plain:
        stored_as = np.dtype(np.float32 if group.keeps_float32 else param_dtype)
        wanted = zip(group.paths, group.shapes, strict=True)
        places = [sharding(leaf, shape) if sharding else None for leaf, shape in wanted]
        targets = _read(group, places, stored, stored_as)
        for leaf, place, target in zip(group.paths, places, targets, strict=True):
            # Transfers run behind the program: without a wait the host would hold many sources.
            params[leaf] = _put(target, place).block_until_ready()
    return config, nest(params)


def save(
    out: str | Path,
    config: Any,
    params: Params,
    *,
    family: str | None = None,
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
        config: of the model, which knows what it was read as.
        params: of `Decoder(config)`, on any devices; gathered one parameter at a time.
        family: a name of `families.FAMILIES` that has this model; None is the config's. A model
            with gated-delta layers is fg2_gdn, or kda or gated_deltanet where it is one: None is
            that of `like`, or fg2_gdn without one.
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
    kind, data = _config_json(config, family, like)
    plan, flat = groups(config, kind), flatten(params)
    _check_params(plan, flat)
    dtypes = {
        group.paths: np.dtype(
            np.float32 if group.keeps_float32 else dtype or flat[group.paths[0]].dtype
        )
        for group in plan
    }
    # Wider dtypes come first: see safetensors_io.write.
    plan.sort(key=lambda group: -dtypes[group.paths].itemsize)
    widest = next(str(dtypes[group.paths]) for group in plan if not group.keeps_float32)
    ids = {"bos": bos_token_id, "eos": eos_token_id, "pad": pad_token_id}
    data |= {"dtype": widest, "torch_dtype": widest}
    data |= {f"{name}_token_id": value for name, value in ids.items() if value is not None}
    # Everything that can be refused is refused by now: process 0 alone must not fail below, while
    # the others wait for it.
    copies = _copies(data, like, tokenizer_from)
    _write(out, data, copies, plan, flat, dtypes, max_shard_bytes)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"hf.save {out}")
    return out


def _write(
    out: Path,
    data: dict[str, Any],
    copies: Mapping[str, Path],
    plan: list[Group],
    flat: Mapping[str, Any],
    dtypes: Mapping[tuple[str, ...], np.dtype],
    max_shard_bytes: int,
) -> None:
    """Gather and write; called by every process, of which process 0 alone writes."""
    arrays = (
        _stored_arrays(group, [flat[path] for path in group.paths], dtypes[group.paths])
        for group in plan
    )
    specs = {
        name: (dtypes[group.paths], shape) for group in plan for name, shape in group.stored.items()
    }
    values = itertools.chain.from_iterable(arrays)
    if jax.process_index() == 0:
        with directory.replacing(out) as staged:
            directory.write_json(staged / directory.CONFIG, data)
            for name, source in copies.items():
                shutil.copyfile(source, staged / name)
            _write_shards(staged, specs, values, max_shard_bytes)
    else:
        # Gathering is collective: every process takes part in it.
        for _ in values:
            pass


def _copies(
    data: Mapping[str, Any], like: str | Path | None, tokenizer_from: str | Path | None
) -> dict[str, Path]:
    """Files that are written as they are, by name."""
    copies = directory.tokenizer_files(Path(tokenizer_from)) if tokenizer_from is not None else {}
    if like is not None and (Path(like) / directory.GENERATION_CONFIG).is_file():
        copies[directory.GENERATION_CONFIG] = Path(like) / directory.GENERATION_CONFIG
    if data["model_type"] == delta_json.MODEL_TYPE:
        copies |= {file.name: file for file in directory.CODE_FILES}
    return copies


class _Headers(NamedTuple):
    """A directory whose tensors are those of its model."""

    config: Any
    family: Family
    plan: list[Group]
    stored: Tensors


def _read_headers(path: Path) -> _Headers:
    config = read_config(path)
    data = json_file.read(path / directory.CONFIG)
    family = families.of_json(data)
    plan, files = groups(config, family), directory.tensors(path)
    with directory.naming(path):
        block = fp8.block_size(data)
    stored = fp8.dequantised(files, block, str(path))
    unused = [re.compile(pattern) for pattern in family.left_out(data)]
    dropped = [name for name in stored if any(one.fullmatch(name) for one in unused)]
    if dropped:
        _LOG.info("%s: %d tensors left out: %s", path, len(dropped), directory.few(dropped))
        stored = {name: tensor for name, tensor in stored.items() if name not in set(dropped)}
    tied = family.tied(config)
    _check_names_and_shapes(path, plan, stored, tied)
    _check_tied(path, stored, tied)
    return _Headers(config, family, plan, stored)


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


def _stored_arrays(group: Group, values: list[Any], dtype: np.dtype) -> Iterator[np.ndarray]:
    """The group's tensors as the checkpoint has them, on the host, in the order of its names."""
    hosts = [_gathered(value) for value in values]
    for i in range(len(group.names)):
        layer = [host[i] for host in hosts] if group.stacked else hosts
        for tensor in group.codec.write(layer):
            yield np.asarray(tensor, dtype=dtype, order="C")


def _gathered(value: Any) -> np.ndarray:
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        return multihost_utils.process_allgather(value, tiled=True)
    return np.asarray(value)


def _read(
    group: Group,
    places: Sequence[jax.sharding.Sharding | None],
    stored: Tensors,
    dtype: np.dtype,
) -> list[Target]:
    """What this process needs of the parameters: tensors transposed, converted and stacked."""
    targets = []
    for shape, place in zip(group.shapes, places, strict=True):
        part = _own(shape, place)
        size = tuple(one.stop - one.start for one in part) or shape
        # Never a view of the file: jax may keep using the host's memory, and the file may change.
        targets.append(Target(np.empty(size, dtype), shape, part))
    for i, names in enumerate(group.names):
        layer = targets if not group.stacked else [_of_layer(target, i) for target in targets]
        layer = [one for one in layer if one is not None]
        if layer:
            group.codec.read([stored[name].open for name in names], layer)
    return targets


def _own(shape: tuple[int, ...], place: jax.sharding.Sharding | None) -> tuple[slice, ...]:
    """The smallest block of an array that has all that this process's devices hold; (): all."""
    if place is None or place.is_fully_addressable or not shape:
        return ()
    blocks = place.addressable_devices_indices_map(shape).values()
    ends = [[one.indices(n)[:2] for one, n in zip(b or (), shape, strict=True)] for b in blocks]
    return tuple(
        slice(min(begin for begin, _ in axis), max(end for _, end in axis))
        for axis in zip(*ends, strict=True)
    )


def _of_layer(target: Target, i: int) -> Target | None:
    """Of a target of stacked layers that of layer i; None where it has nothing of it."""
    first = target.part[0].start if target.part else 0
    if not first <= i < first + len(target.out):
        return None
    return Target(target.out[i - first, ...], target.shape[1:], target.part[1:])


def _put(target: Target, place: jax.sharding.Sharding | None) -> jax.Array:
    if place is None:
        return jax.device_put(target.out)
    shape = target.shape
    starts = [one.start for one in target.part] or [0] * len(shape)

    def block(index: tuple[slice, ...] | None) -> np.ndarray:
        ends = (one.indices(n)[:2] for one, n in zip(index or (), shape, strict=True))
        return target.out[
            tuple(slice(a - s, b - s) for (a, b), s in zip(ends, starts, strict=True))
        ]

    return jax.make_array_from_callback(shape, place, block)


def _config_json(
    config: Any, name: str | None, like: str | Path | None
) -> tuple[Family, dict[str, Any]]:
    """The family that the model is written as, and its config.json."""
    if like is None:
        family = families.of_config(config, name)
        return family, family.to_json(config)
    other = json_file.read(Path(like) / directory.CONFIG)
    with directory.naming(Path(like)):
        likes = families.of_json(other).name
    family = families.of_config(config)
    both_delta = family.name in DELTA_FAMILIES and likes in DELTA_FAMILIES
    if both_delta and name is None:
        name = likes
    family = families.of_config(config, name)
    data = family.to_json(config)
    if likes == family.name:
        return family, {key: x for key, x in other.items() if key not in family.owned} | data
    if not both_delta:
        raise CheckpointFormatError(
            f"like={like} is a {likes} checkpoint and the model a {family.name}: "
            "give a checkpoint of the same family"
        )
    return family, {key: other[key] for key in _TOKEN_IDS if key in other} | data


def _check_names_and_shapes(
    path: Path, plan: list[Group], stored: Tensors, tied: Mapping[str, str]
) -> None:
    expected = {name: shape for group in plan for name, shape in group.stored.items()}
    problems = [f"missing {name} {list(expected[name])}" for name in expected if name not in stored]
    problems += [
        f"unexpected {name} {list(stored[name].shape)}"
        for name in stored
        # Buffers of old Llama files; tied tensors are compared in _check_tied.
        if name not in expected and name not in tied and not name.endswith(".inv_freq")
    ]
    problems += [
        f"{name}: expected shape {list(shape)}, found {list(stored[name].shape)}"
        for name, shape in expected.items()
        if name in stored and stored[name].shape != shape
    ]
    if problems:
        raise CheckpointFormatError(f"{path}: {directory.few(problems)}")


def _check_tied(path: Path, stored: Tensors, tied: Mapping[str, str]) -> None:
    for name, other in tied.items():
        if name not in stored:
            continue
        one, two = stored[name].open(), stored[other].open()
        same = one.shape == two.shape and all(
            np.array_equal(one[i : i + _ROWS_AT_ONCE], two[i : i + _ROWS_AT_ONCE])
            for i in range(0, len(one), _ROWS_AT_ONCE)
        )
        if not same:
            raise CheckpointFormatError(
                f"{path}: tie_word_embeddings is true, but {name} differs from {other}: "
                "set it to false in config.json, or remove the tensor"
            )


def _common_dtype(path: Path, plan: list[Group], stored: Tensors) -> str:
    names = sorted(
        {stored[name].dtype for group in plan if not group.keeps_float32 for name in group.stored}
    )
    if len(names) > 1 or names[0] not in ("F32", "BF16"):
        raise CheckpointFormatError(
            f"{path}: tensors are {' and '.join(names)}: give dtype='float32' or 'bfloat16'"
        )
    return str(DTYPES[names[0]])


def _check_params(plan: list[Group], flat: Mapping[str, Any]) -> None:
    expected = {
        path: shape for group in plan for path, shape in zip(group.paths, group.shapes, strict=True)
    }
    problems = [f"missing {path}" for path in expected if path not in flat]
    problems += [f"unexpected {path}" for path in flat if path not in expected]
    problems += [
        f"{path}: expected shape {list(shape)}, found {list(flat[path].shape)}"
        for path, shape in expected.items()
        if path in flat and flat[path].shape != shape
    ]
    if problems:
        raise CheckpointFormatError(f"params are not this config's: {directory.few(problems)}")
