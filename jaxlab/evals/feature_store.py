"""Features of rows as one memory-mapped array: read from files, or made by an encoder, once.

No jax here: an encoder is handed in. What was made is noted as it goes, so that a run that was
killed goes on; the next rows are decoded in threads while the encoder is at work.
"""

import dataclasses
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxlab import ranges
from jaxlab.evals.lary import media, rows
from jaxlab.grading.rows import Rejected

logger = logging.getLogger(__name__)

BadRows = Literal["error", "skip"]
_BATCH = 64  # rows of a batch where there is no encoder
_NOTE_EVERY = 2.0  # seconds
_LOG_EVERY = 10.0  # seconds


@dataclasses.dataclass(frozen=True)
class EncoderOptions:
    """A frozen encoder, and what is taken of it.

    Attributes:
        path: a HuggingFace directory (DINOv2, DINOv3, SigLIP, SigLIP 2, V-JEPA 2), a work directory
            of the trainer "representation" ("@NAME" in a config is stage NAME's), or a file of your
            own, PATH.py, with `encoder()` (see `jaxlab.trainers.encoders`).
        size: images are resized to a square of this side, bicubic and without a crop, as in LARY's
            release; None: what the directory's image processor says. A model that was trained here
            has a size of its own, which this must be if it is given; a file of your own prepares
            its images by itself.
        skip: so many of the last layers are left out; 1: penultimate features.
        apart: whether a model of clips sees each frame by itself, repeated, as the controls of one
            frame need; models of images always do.
        stage: of latent action models: features "before" or "after" the quantiser.
        batch: rows at a time.
        store: precision of the file.
    """

    path: str | None = None
    size: int | None = None
    skip: int = 0
    apart: bool = False
    stage: Literal["before", "after"] = "after"
    batch: int = 32
    store: Literal["float32", "float16"] = "float32"

    def __post_init__(self) -> None:
        """Check ranges."""
        ranges.check_choices(self)
        ranges.check_counts(self, "size", "batch")
        ranges.check(self, "skip", least=0)


@dataclasses.dataclass(frozen=True)
class Encoder:
    """What features are made by.

    Attributes:
        key: digest of weights and options; features of another key are made anew.
        batch: rows that `encode` gets, always so many.
        dtype: of the features' file.
        prepare: frames uint8[F, H, W, 3] of a row -> what is encoded of it; called in threads.
        encode: [batch, ...] -> features [batch, ...]; may return before they are computed, as jax
            does.
    """

    key: str
    batch: int
    dtype: np.dtype
    prepare: Callable[[np.ndarray], np.ndarray]
    encode: Callable[[np.ndarray], Any]


def read(
    panel: rows.Panel, folder: Path, bad_rows: BadRows, left_out: list[Rejected]
) -> tuple[list[int], np.ndarray]:
    """The features in the rows' own files (`la_path`); see `collect`."""
    paths = [panel.path(row, "la_path") for row in panel.rows]

    def load(i: int) -> np.ndarray:
        return media.features(paths[i]).tokens

    place = folder / _digest(paths)
    return collect(place, panel.rows, load, None, bad_rows, left_out)


def extract(
    panel: rows.Panel,
    encoder: Encoder,
    folder: Path,
    bad_rows: BadRows,
    left_out: list[Rejected],
) -> tuple[list[int], np.ndarray]:
    """The features of the rows' images or clips; see `collect`.

    They are made once for these frames (paths, sizes, times of change, numbers of frames) and this
    encoder.
    """
    names = ("video_path",) if panel.rows[0].video_path else ("src_img", "tgt_img")
    paths = [panel.path(row, name) for row in panel.rows for name in names]
    indices = [row.sample_indices for row in panel.rows]

    def load(i: int) -> np.ndarray:
        row = panel.rows[i]
        if row.video_path:
            frames = media.clip(panel.path(row, "video_path"), row.sample_indices)
        else:
            frames = media.pair(panel, row)
        return encoder.prepare(frames)

    place = folder / _digest(paths, encoder.key, str(encoder.dtype), indices)
    return collect(place, panel.rows, load, encoder, bad_rows, left_out)


def collect(
    place: Path,
    panel_rows: Sequence[rows.Row],
    load: Callable[[int], np.ndarray],
    encoder: Encoder | None,
    bad_rows: BadRows,
    left_out: list[Rejected],
) -> tuple[list[int], np.ndarray]:
    """Fill the array of a folder, from where it was left.

    Args:
        place: gets tokens.npy, and read.json, the note of how far it is.
        panel_rows: whose features they are.
        load: number of a row -> what the encoder sees, or the features where there is none.
        encoder: of batches of rows; None: `load` gives the features.
        bad_rows: whether a row whose files are bad is an error, or left out with an account.
        left_out: the account.

    Returns:
        Numbers of the rows that could be read, and their features, float[n, ...].

    Raises:
        ValueError: the first bad row, by row and file; or there is no good one.
    """
    place.mkdir(parents=True, exist_ok=True)
    note, path = place / "read.json", place / "tokens.npy"
    state: dict[str, Any] = {"next": 0, "kept": [], "bad": []}
    if note.exists():
        state = json.loads(note.read_text())
    array = np.lib.format.open_memmap(path, "r+") if state["kept"] else None
    total, batch = len(panel_rows), encoder.batch if encoder else _BATCH
    progress = _Progress(place.name, state["next"], total)
    noted = time.monotonic()

    def save() -> None:
        if array is not None:
            array.flush()
        part = note.with_suffix(".part")
        part.write_text(json.dumps(state))
        part.rename(note)

    def keep(end: int, good: list[int], bad: list[list[str]], features: Any) -> None:
        nonlocal array, noted
        if good:
            values = np.asarray(features)[: len(good)]
            if array is None:
                kind = np.dtype(np.float32) if encoder is None else encoder.dtype
                shape = (total, *values.shape[1:])
                array = np.lib.format.open_memmap(path, "w+", kind, shape)
            begin = len(state["kept"])
            array[begin : begin + len(good)] = values
            state["kept"] += good
        # With the rows before `end`, so that a run that goes on from there counts none twice.
        state["bad"] += bad
        state["next"] = end
        progress.log(end)
        if time.monotonic() - noted > _NOTE_EVERY:
            save()
            noted = time.monotonic()

    waiting: tuple[int, list[int], list[list[str]], Any] | None = None
    shape = None if array is None or encoder is not None else array.shape[1:]
    for end, loaded in _batches(load, state["next"], total, batch):
        good, values, bad = [], [], []
        for i, value in loaded:
            shape = shape or getattr(value, "shape", None)
            error = value if isinstance(value, Exception) else None
            if error is None and value.shape != shape:
                what = "features" if encoder is None else "images"
                cure = "" if encoder is None else "; encoder.size=N resizes all to a square"
                error = ValueError(f"{what} of {value.shape}, others are {shape}{cure}")
            if error is None:
                good.append(i)
                values.append(value)
            elif bad_rows == "error":
                raise ValueError(
                    f"{panel_rows[i].id}: {error}; bad_rows=skip leaves it out"
                ) from error
            else:
                bad.append([panel_rows[i].id, str(error)])
        features: Any = None
        if good:
            # One shape for the compiled program: the last row fills up.
            values += [values[-1]] * (batch - len(values)) if encoder else []
            features = encoder.encode(np.stack(values)) if encoder else np.stack(values)
        if waiting is not None:
            keep(*waiting)
        waiting = (end, good, bad, features)
    if waiting is not None:
        keep(*waiting)
        save()
    if array is None:
        raise ValueError(f"{panel_rows[0].id}: no row has features that can be read")
    if state["bad"] and bad_rows == "error":
        # An earlier run of this folder left them out.
        where, cause = state["bad"][0]
        raise ValueError(f"{where}: {cause}; bad_rows=skip leaves it out")
    left_out += [Rejected(where, cause) for where, cause in state["bad"]]
    return state["kept"], np.load(path, mmap_mode="r")[: len(state["kept"])]


def _batches(
    load: Callable[[int], np.ndarray], begin: int, total: int, batch: int
) -> Iterator[tuple[int, list[tuple[int, Any]]]]:
    """(end, [(row, what was loaded or why not), ...]) of each batch, the next being loaded."""

    def attempt(i: int) -> Any:
        try:
            return load(i)
        except (ValueError, OSError) as error:
            return error

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        ahead: list[tuple[int, list[tuple[int, Any]]]] = []
        for first in range(begin, total, batch):
            end = min(first + batch, total)
            ahead.append((end, [(i, pool.submit(attempt, i)) for i in range(first, end)]))
            if len(ahead) > 1:
                yield _waited(ahead.pop(0))
        while ahead:
            yield _waited(ahead.pop(0))


def _waited(one: tuple[int, list[tuple[int, Any]]]) -> tuple[int, list[tuple[int, Any]]]:
    end, futures = one
    return end, [(i, future.result()) for i, future in futures]


class _Progress:
    """A line from time to time: rows, rate, and how long it will take."""

    def __init__(self, name: str, done: int, total: int):
        self._name, self._first, self._total = name, done, total
        self._begun = self._last = time.monotonic()
        if 0 < done < total:
            logger.info("features %s: going on from row %d of %d", name, done, total)

    def log(self, done: int) -> None:
        now = time.monotonic()
        if now - self._last < _LOG_EVERY and done < self._total:
            return
        self._last = now
        rate = (done - self._first) / max(now - self._begun, 1e-9)
        left = (self._total - done) / max(rate, 1e-9)
        logger.info(
            "features %s: %d of %d rows, %.1f rows/s, %.0f s left",
            *(self._name, done, self._total, rate, left),
        )


def _digest(paths: Sequence[Path], *more: Any) -> str:
    named = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(json.dumps([named, *more]).encode()).hexdigest()[:16]
