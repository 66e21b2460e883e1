"""safetensors files, one tensor at a time.

A file is a little-endian uint64 with the header's length, the header (a JSON object from tensor
name to dtype, shape and byte range), and the tensors' bytes back to back. The safetensors package
writes only whole dictionaries, and its reader keeps the whole file mapped; here a tensor is mapped
while it is copied and written when it is at hand, so memory never holds more than one of them.

Source: https://github.com/huggingface/safetensors, section "Format".
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np

from jaxlab import json_file
from jaxlab.json_file import CheckpointFormatError

DTYPES = {
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# Of 8-bit floats, which `jaxlab.interop.fp8` reads, the size alone is known here.
_WIDTHS = {name: dtype.itemsize for name, dtype in DTYPES.items()} | {"F8_E4M3": 1}
_LENGTH_BYTES = 8
_ENTRY = {
    "dtype": json_file.TEXT,
    "shape": json_file.list_of(json_file.COUNT),
    "data_offsets": json_file.list_of(json_file.whole(0, 2**62)),
}


@dataclasses.dataclass(frozen=True)
class Stored:
    """Where a tensor lies.

    Attributes:
        file: the safetensors file.
        dtype: its name in the header, such as "BF16".
        shape: as stored.
        offset: of its first byte in the file.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def open(self) -> np.ndarray:
        """The tensor as a read-only view of the file; copy what should outlive it.

        Raises:
            CheckpointFormatError: a dtype other than float32, bfloat16 and float16.
        """
        if self.dtype not in DTYPES:
            raise CheckpointFormatError(
                f"{self.file}: dtype {self.dtype} is not supported; supported: {', '.join(DTYPES)}"
            )
        return np.memmap(self.file, DTYPES[self.dtype], "r", self.offset, self.shape)


def read_header(file: Path) -> dict[str, Stored]:
    """Tensors of one file by name.

    Raises:
        CheckpointFormatError: no such file, an unreadable header, or fewer bytes than it promises.
    """
    if not file.is_file():
        raise CheckpointFormatError(f"{file}: no such file")
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        if size < _LENGTH_BYTES or length > size - _LENGTH_BYTES:
            raise CheckpointFormatError(
                f"{file}: truncated or no safetensors file: {size} bytes do not hold its header"
            )
        text = stream.read(length)
    try:
        header = json_file.parse(text)
        if not isinstance(header, dict):
            raise ValueError(f"expected a JSON object, not {json_file.show(header)}")
        header.pop("__metadata__", None)
        for name, entry in header.items():
            _check_entry(name, entry)
    except (ValueError, RecursionError) as error:
        raise CheckpointFormatError(f"{file}: no valid safetensors header: {error}") from error
    start = _LENGTH_BYTES + length
    _check_ranges(file, {name: entry["data_offsets"] for name, entry in header.items()}, start)
    return {
        name: Stored(file, entry["dtype"], tuple(entry["shape"]), start + entry["data_offsets"][0])
        for name, entry in header.items()
    }


def _check_entry(name: str, entry: object) -> None:
    """Check a tensor of a header by itself.

    Raises:
        ValueError: naming the tensor and its key.
    """
    if not isinstance(entry, dict) or not _ENTRY.keys() <= entry.keys():
        raise ValueError(f"{name}: expected an object with {', '.join(_ENTRY)}")
    json_file.check(entry, _ENTRY, name)
    if len(entry["data_offsets"]) != 2 or entry["data_offsets"][0] > entry["data_offsets"][1]:
        raise ValueError(f"{name}: data_offsets {entry['data_offsets']} are no range")
    first, last = entry["data_offsets"]
    width = _WIDTHS.get(entry["dtype"])
    if width is not None and last - first != width * math.prod(entry["shape"]):
        raise ValueError(f"{name} has {last - first} bytes for shape {entry['shape']}")


def _check_ranges(file: Path, offsets: Mapping[str, Sequence[int]], start: int) -> None:
    """Check that tensors fill the file behind the header, byte `start`, without gap or overlap.

    Raises:
        CheckpointFormatError: naming the file.
    """
    size = file.stat().st_size
    places = sorted((first, last, name) for name, (first, last) in offsets.items())
    end = start + max((last for _, last, _ in places), default=0)
    if size != end:
        cause = "truncated" if size < end else "too long"
        raise CheckpointFormatError(
            f"{file}: {cause}: {size} bytes where its header promises {end}; fetch it again"
        )
    for (_, before, name), (first, _, other) in itertools.pairwise([(0, 0, "header"), *places]):
        if first != before:
            cause = "overlaps with" if first < before else "leaves a gap behind"
            raise CheckpointFormatError(
                f"{file}: no valid safetensors header: {other} {cause} {name}"
            )


def write(
    file: Path,
    tensors: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
    values: Iterable[np.ndarray],
) -> None:
    """Write one file.

    Args:
        file: to write.
        tensors: name to dtype and shape, in file order, wider dtypes first: readers expect each
            tensor to be aligned to its own dtype.
        values: their values in the same order; each is consumed before the next is asked for.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dtype, shape) in tensors.items():
        end = offset + _bytes(_NAMES[dtype], shape)
        header[name] = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": (offset, end)}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(_LENGTH_BYTES, "little"))
        stream.write(text)
        for (dtype, shape), value in zip(tensors.values(), values, strict=True):
            if (value.dtype, value.shape) != (dtype, shape):
                raise ValueError(f"promised {dtype}{shape}, got {value.dtype}{value.shape}")
            stream.write(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)


def _bytes(dtype: str, shape: Sequence[int]) -> int:
    return DTYPES[dtype].itemsize * math.prod(shape)
