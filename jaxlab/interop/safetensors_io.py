"""safetensors files, one tensor at a time.

A file is a little-endian uint64 with the header's length, the header (a JSON object from tensor
name to dtype, shape and byte range), and the tensors' bytes back to back. The safetensors package
writes only whole dictionaries, and its reader keeps the whole file mapped; here a tensor is mapped
while it is copied and written when it is at hand, so memory never holds more than one of them.

Source: https://github.com/huggingface/safetensors, section "Format".
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

DTYPES = {
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LENGTH_BYTES = 8


class CheckpointFormatError(ValueError):
    """A checkpoint directory that is damaged, incomplete, or of a kind that is not supported."""


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
    start = _LENGTH_BYTES + length
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        stored, end = {}, start
        for name, entry in header.items():
            shape, (first, last) = tuple(entry["shape"]), entry["data_offsets"]
            stored[name] = Stored(file, entry["dtype"], shape, start + first)
            end = max(end, start + last)
            if entry["dtype"] in DTYPES and last - first != _bytes(entry["dtype"], shape):
                raise ValueError(f"{name} has {last - first} bytes for shape {list(shape)}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointFormatError(f"{file}: no valid safetensors header: {error!r}") from error
    if size < end:
        raise CheckpointFormatError(
            f"{file}: truncated: {size} bytes where its header promises {end}; fetch it again"
        )
    return stored


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


def _bytes(dtype: str, shape: tuple[int, ...]) -> int:
    return DTYPES[dtype].itemsize * math.prod(shape)
