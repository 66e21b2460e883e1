"""Checkpoints in 8-bit floats with a scale for every block, as DeepSeek and Qwen release them.

A tensor NAME [out, in] of dtype F8_E4M3 comes with NAME_scale_inv, float32 [ceil(out / a),
ceil(in / b)]: the value of an entry is its own times its block's.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from jaxlab import json_file
from jaxlab.interop.safetensors_io import Stored
from jaxlab.json_file import BOOL, NULL, SIZE, TEXT, CheckpointFormatError

_DTYPE, _SUFFIX = "F8_E4M3", "_scale_inv"
_KINDS = {
    "quant_method": TEXT,
    "fmt": TEXT | NULL,
    "activation_scheme": TEXT | NULL,
    "weight_block_size": json_file.list_of(SIZE) | NULL,
    "scale_fmt": TEXT | NULL,
    "dequantize": BOOL | NULL,
    "modules_to_not_convert": json_file.list_of(TEXT) | NULL,
    "ignored_layers": json_file.list_of(TEXT) | NULL,
}


def block_size(data: Mapping[str, Any]) -> tuple[int, int] | None:
    """Rows and columns of a block, of a config.json; None without quantization_config.

    Raises:
        CheckpointFormatError: naming the key of another kind of quantisation.
    """
    given = data.get("quantization_config")
    if not given:
        return None
    where = "config.json: quantization_config"
    json_file.check(given, _KINDS, where)
    unknown = sorted(given.keys() - _KINDS.keys())
    size = given.get("weight_block_size") or []
    problems = [
        ("quant_method", given.get("quant_method") != "fp8"),
        *((key, True) for key in unknown),
        ("fmt", given.get("fmt") not in (None, "e4m3")),
        ("weight_block_size", len(size) != 2),
    ]
    for key, wrong in problems:
        if wrong:
            raise CheckpointFormatError(
                f"{where}.{key} {json_file.show(given.get(key))} is not supported; supported: "
                "unquantized weights, and quant_method fp8 (e4m3) with a weight_block_size"
            )
    return size[0], size[1]


@dataclasses.dataclass(frozen=True)
class Quantised:
    """A tensor in blocks, which opens as float32.

    Attributes:
        values: of dtype F8_E4M3.
        scale: of its blocks.
        block: rows and columns of one.
    """

    values: Stored
    scale: Stored
    block: tuple[int, int]
    # What such a checkpoint was before.
    dtype: str = "BF16"

    @property
    def shape(self) -> tuple[int, ...]:
        """As stored."""
        return self.values.shape

    def open(self) -> np.ndarray:
        """The tensor, a copy."""
        values = self.values
        raw = np.memmap(values.file, np.uint8, "r", values.offset, values.shape)
        out = raw.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
        scale, (high, wide) = np.asarray(self.scale.open(), np.float32), self.block
        for i, row in enumerate(scale):
            strip = out[i * high : (i + 1) * high]
            strip *= np.repeat(row, wide)[: out.shape[1]]
        return out


def dequantised(
    stored: Mapping[str, Stored], block: tuple[int, int] | None, where: str
) -> dict[str, Stored | Quantised]:
    """The tensors of a directory with those in blocks as one each; scales are no tensors.

    Args:
        stored: of the files.
        block: of `block_size`.
        where: the directory, for errors.

    Raises:
        CheckpointFormatError: a scale is missing, belongs to no tensor, or is of another shape.
    """
    found: dict[str, Stored | Quantised] = dict(stored)
    if block is None:
        return found
    for name, values in stored.items():
        if values.dtype != _DTYPE:
            continue
        scale = found.pop(name + _SUFFIX, None)
        if not isinstance(scale, Stored):
            raise CheckpointFormatError(f"{where}: missing {name}{_SUFFIX}, the scale of {name}")
        blocks = tuple(-(-n // size) for n, size in zip(values.shape, block, strict=False))
        if len(values.shape) != 2 or scale.shape != blocks:
            raise CheckpointFormatError(
                f"{where}: {name}{_SUFFIX}: expected shape {list(blocks)} for blocks of "
                f"{list(block)}, found {list(scale.shape)}"
            )
        found[name] = Quantised(values, scale, block)
    return found
