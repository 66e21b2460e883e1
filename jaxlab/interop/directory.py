"""The files of a HuggingFace checkpoint directory: which there are, and replacing them whole."""

import contextlib
import fcntl
import glob
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxlab import json_file
from jaxlab.interop import safetensors_io
from jaxlab.interop.safetensors_io import Stored
from jaxlab.json_file import CheckpointFormatError, Kind

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PARITY = "parity.json"
CHANNELS = "channels.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    GENERATION_CONFIG,
)
CODE_FILES = tuple(sorted((Path(__file__).parent / "remote_code").glob("*.py")))


def _is_shard_of_directory(name: object) -> bool:
    return isinstance(name, str) and name.endswith(".safetensors") and Path(name).name == name


# Of an index: tensor name -> file of the same directory.
_WEIGHT_MAP = Kind(
    "an object of .safetensors files in this directory by tensor",
    lambda value: (
        isinstance(value, dict) and bool(value) and all(map(_is_shard_of_directory, value.values()))
    ),
)
_OURS = {
    CONFIG,
    SINGLE,
    INDEX,
    PARITY,
    CHANNELS,
    *TOKENIZER_FILES,
    *(file.name for file in CODE_FILES),
}


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of a directory's files, which know their file's name alone, with the whole path."""
    try:
        yield
    except CheckpointFormatError as error:
        raise CheckpointFormatError(f"{path}/{error}") from error


def write_json(file: Path, data: dict[str, Any]) -> None:
    """Sorted and indented, as HuggingFace writes it."""
    file.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def tensors(path: Path) -> dict[str, Stored]:
    """Every tensor of a directory by name, from model.safetensors or from an index and its shards.

    Raises:
        CheckpointFormatError: there is neither, a shard of the index is missing or damaged, or a
            shard lacks tensors that the index places there.
    """
    if (path / SINGLE).is_file():
        return safetensors_io.read_header(path / SINGLE)
    if not (path / INDEX).is_file():
        raise CheckpointFormatError(
            f"{path}: neither {SINGLE} nor {INDEX}; pickled weights (*.bin) are not read: "
            "save them again with transformers' save_pretrained"
        )
    index = json_file.read(path / INDEX)
    if "weight_map" not in index:
        raise CheckpointFormatError(f"{path / INDEX}: no weight_map")
    json_file.check(index, {"weight_map": _WEIGHT_MAP}, str(path / INDEX))
    weight_map = index["weight_map"]
    files = sorted(set(weight_map.values()))
    absent = [name for name in files if not (path / name).is_file()]
    if absent:
        raise CheckpointFormatError(f"{path}: {INDEX} names files that are missing: {few(absent)}")
    headers = {name: safetensors_io.read_header(path / name) for name in files}
    lost = [name for name, file in weight_map.items() if name not in headers[file]]
    if lost:
        raise CheckpointFormatError(
            f"{path}: {INDEX} names tensors that their files lack: {few(lost)}"
        )
    return {name: headers[file][name] for name, file in weight_map.items()}


def shard_files(names_and_sizes: dict[str, int], max_shard_bytes: int) -> dict[str, list[str]]:
    """File name -> its tensors, in order; a tensor larger than a shard has one of its own.

    Args:
        names_and_sizes: tensor name -> bytes, in the order in which they are to be written.
        max_shard_bytes: most bytes of tensors in a file.
    """
    shards: list[list[str]] = [[]]
    used = 0
    for name, size in names_and_sizes.items():
        if shards[-1] and used + size > max_shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += size
    if len(shards) == 1:
        return {SINGLE: shards[0]}
    count = len(shards)
    return {f"model-{i:05}-of-{count:05}.safetensors": names for i, names in enumerate(shards, 1)}


def tokenizer_files(path: Path) -> dict[str, Path]:
    """Those of a tokenizer's files, and generation_config.json, that the directory has, by name.

    Raises:
        CheckpointFormatError: it has none.
    """
    found = {name: path / name for name in TOKENIZER_FILES if (path / name).is_file()}
    if not found:
        raise CheckpointFormatError(f"{path}: no tokenizer files ({few(list(TOKENIZER_FILES))})")
    return found


def carries_our_code(path: Path) -> bool:
    """Whether the directory's Python files are, byte for byte, those that go with a checkpoint."""
    found = {file.name: file.read_bytes() for file in path.glob("*.py")}
    return found == {file.name: file.read_bytes() for file in CODE_FILES}


def check_replaceable(out: Path, overwrite: bool) -> None:
    """Refuse to replace a directory that holds anything but a checkpoint.

    Raises:
        FileExistsError: it does, and `overwrite` is false; or `out` is a file.
    """
    if not out.exists() or (out.is_dir() and overwrite):
        return
    if not out.is_dir():
        raise FileExistsError(f"{out} is a file, not a directory: give another one")
    names = sorted(entry.name for entry in out.iterdir())
    others = [name for name in names if name not in _OURS and not _is_shard(name)]
    if names and (others or CONFIG not in names):
        raise FileExistsError(
            f"{out} holds other files than a checkpoint's ({few(others or names)}): give another "
            "directory, or --overwrite (from Python overwrite=True) to replace it"
        )


@contextlib.contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A sibling directory to write into, which takes the place of `out` if all goes well."""
    out.parent.mkdir(parents=True, exist_ok=True)
    _sweep(out)
    staged = out.with_name(f".{out.name}.{os.getpid()}.new")
    previous = out.with_name(f".{out.name}.{os.getpid()}.old")
    staged.mkdir()
    held = os.open(staged, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield staged
        if out.exists():
            out.rename(previous)
        staged.rename(out)
    finally:
        os.close(held)
        shutil.rmtree(staged, ignore_errors=True)
    shutil.rmtree(previous, ignore_errors=True)


def _sweep(out: Path) -> None:
    """Remove what killed programs left of replacing `out`, and bring back what they moved away."""
    for previous in sorted(out.parent.glob(f".{glob.escape(out.name)}.*.old")):
        if out.exists():
            shutil.rmtree(previous, ignore_errors=True)
        else:
            previous.rename(out)
    for staged in out.parent.glob(f".{glob.escape(out.name)}.*.new"):
        held = os.open(staged, os.O_RDONLY)
        try:
            # A program that still writes there holds it.
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(staged, ignore_errors=True)
        except OSError:
            continue
        finally:
            os.close(held)


def few(names: list[str], limit: int = 5) -> str:
    """The first of many names, on one line."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _is_shard(name: str) -> bool:
    return name.startswith("model-") and name.endswith(".safetensors")
