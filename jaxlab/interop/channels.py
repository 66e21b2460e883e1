"""channels.json beside a checkpoint: calibrated channels of two-level attention's token index.

    {"channels": [[[3, 0, ...], ...], null, ...], "model": "3f2c..", "tokens": 16384, "text": ".."}

For each layer and key head all channels, best first; null for layers without attention. "model"
tells these weights from others of the same shapes, "text" is the calibration text's SHA-256.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxlab import json_file
from jaxlab.interop.directory import CHANNELS
from jaxlab.json_file import CheckpointFormatError
from jaxlab.models.decoder import Params

MAKE = "python -m jaxlab.calibrate --model {} --text FILE"


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Channels of one model.

    Attributes:
        channels: int32 [KV, D] of each layer, best first; None for layers without attention.
        model: `fingerprint` of the model's params.
        tokens: of the text that were read.
        text: SHA-256 of the text.
    """

    channels: tuple[np.ndarray | None, ...]
    model: str
    tokens: int
    text: str

    def check(self, params: Params, where: str) -> None:
        """Raises a ValueError unless these are channels of the params in the directory `where`."""
        if fingerprint(params) != self.model:
            raise ValueError(
                f"{where}/{CHANNELS} was made with another model's weights; make it anew: "
                + MAKE.format(where)
            )


def fingerprint(params: Params) -> str:
    """Hex digits that tell trained weights apart, whatever the dtype and layout they are held in.

    Of the first rows of the embedding table and the last norm, in bfloat16: what stands there moves
    with every training step, and is a whole model's smallest part.
    """
    digest = hashlib.sha256()
    for array in (params["embed"]["embedding"][:8], params["final_norm"]["scale"]):
        digest.update(np.asarray(array).astype(ml_dtypes.bfloat16).tobytes())
    return digest.hexdigest()[:16]


def save(directory: Path, calibration: Calibration) -> Path:
    """Writes the file, and returns its path; it is replaced whole."""
    held: dict[str, Any] = dataclasses.asdict(calibration)
    held["channels"] = [None if x is None else x.tolist() for x in calibration.channels]
    path, new = directory / CHANNELS, directory / f"{CHANNELS}.new"
    new.write_text(json.dumps(held) + "\n", encoding="utf-8")
    new.replace(path)
    return path


def read(directory: Path | None) -> Calibration:
    """The channels beside a checkpoint.

    Args:
        directory: of the model; None for one from scratch.

    Raises:
        ValueError: there are none; the message says how to make them.
        CheckpointFormatError: the file is damaged.
    """
    if directory is None:
        raise ValueError("a model from scratch has no calibrated channels: use another calibration")
    path = directory / CHANNELS
    if not path.is_file():
        raise ValueError(f"{directory} has no {CHANNELS}; make it with: {MAKE.format(directory)}")
    held = json_file.read(path)
    kinds = {"model": json_file.TEXT, "tokens": json_file.COUNT, "text": json_file.TEXT}
    for key in (*kinds, "channels"):
        if key not in held:
            raise CheckpointFormatError(f"{path}: no {key}")
    json_file.check(held, kinds, str(path))
    if not isinstance(held["channels"], list):
        raise CheckpointFormatError(f"{path}: channels is no list of layers")
    layers = tuple(_layer(path, i, layer) for i, layer in enumerate(held["channels"]))
    return Calibration(layers, held["model"], held["tokens"], held["text"])


def _layer(path: Path, number: int, layer: Any) -> np.ndarray | None:
    """One layer's channels, each head's a permutation."""
    if layer is None:
        return None
    try:
        found = np.asarray(layer)
        good = found.ndim == 2 and (np.sort(found, axis=1) == np.arange(found.shape[1])).all()
    except ValueError:
        good = False
    if not good or not np.issubdtype(found.dtype, np.integer):
        raise CheckpointFormatError(
            f"{path}: channels[{number}] is no list of key heads, each with every channel once"
        )
    return found.astype(np.int32)
