"""What the files of a row hold: images, clips, chunks of actions, features.

Pillow and PyAV are the extra `lary`; they are imported where they are used. Every error names the
file.
"""

import importlib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from jaxlab.evals.lary import tracks
from jaxlab.evals.lary.rows import Panel, Row
from jaxlab.grading.rows import BadRows, Rejected

T = TypeVar("T")
Mode = Literal["absolute", "relative"]


@dataclass(frozen=True)
class Features:
    """The release's .npz: tokens float32[..., D]; indices int[...] of codes, empty without any."""

    tokens: np.ndarray
    indices: np.ndarray


def image(path: str | Path) -> np.ndarray:
    """An image, uint8[H, W, 3].

    Raises:
        ValueError: it cannot be decoded.
        ModuleNotFoundError: Pillow is missing.
    """
    pillow = needs("PIL.Image", "Pillow")
    try:
        with pillow.open(path) as file:
            return np.asarray(file.convert("RGB"))
    except FileNotFoundError:
        raise
    # Pillow's decoders raise what they like on damaged files, SyntaxError among it.
    except Exception as error:
        raise ValueError(f"{path}: not an image that can be read: {error}") from error


def pair(panel: Panel, row: Row) -> np.ndarray:
    """The two images of a row, uint8[2, H, W, 3].

    Raises:
        ValueError: one cannot be decoded, or they differ in size.
    """
    source, target = (image(panel.path(row, name)) for name in ("src_img", "tgt_img"))
    if source.shape != target.shape:
        raise ValueError(
            f"{panel.path(row, 'tgt_img')}: size {target.shape[:2]}, but the source image's is "
            f"{source.shape[:2]}"
        )
    return np.stack([source, target])


def clip(
    path: str | Path,
    indices: Sequence[int],
    past_end: Literal["error", "last"] = "error",
) -> np.ndarray:
    """Frames of a video, uint8[len(indices), H, W, 3], in the order of the indices.

    The video is decoded from its beginning up to the last frame that is asked for, and no other
    frames are kept.

    Args:
        path: the video.
        indices: numbers of frames, from 0; any order.
        past_end: what an index beyond the end is: an error, or, as in the released code, the last
            frame.

    Raises:
        ValueError: it cannot be decoded, or it is too short.
        ModuleNotFoundError: PyAV is missing.
    """
    av = needs("av", "PyAV")
    wanted, found, last, count = set(indices), {}, None, 0
    try:
        with av.open(str(path)) as file:
            for count, frame in enumerate(file.decode(video=0), start=1):
                last = frame
                if count - 1 in wanted:
                    found[count - 1] = frame.to_ndarray(format="rgb24")
                if count > max(wanted):
                    break
    except FileNotFoundError:
        raise
    except (av.FFmpegError, IndexError) as error:
        # Damage is no end: past_end=last must not fill up with the frame before it.
        raise ValueError(f"{path}: decoding ended after {count} frames: {error}") from error
    if last is None:
        raise ValueError(f"{path}: the video has no frame")
    if len(found) < len(wanted):
        if past_end == "error":
            raise ValueError(
                f"{path}: frame {min(wanted - found.keys())} is asked for, but there are {count}; "
                "past_end=last takes the last one"
            )
        found.update(dict.fromkeys(wanted - found.keys(), last.to_ndarray(format="rgb24")))
    return np.stack([found[index] for index in indices])


def chunk(path: str | Path, steps: int, dims: int) -> np.ndarray:
    """A chunk of actions, float32[steps, dims], from an .npy of that many numbers in any shape.

    Raises:
        ValueError: it is no .npy of numbers, has another size, or holds a NaN or an infinity.
    """
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: not an .npy that can be read: {error}") from error
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        raise ValueError(f"{path}: expected an array of numbers, got {_what(values)}")
    if values.size != steps * dims:
        raise ValueError(
            f"{path}: {values.size} numbers of shape {values.shape}, expected {steps} steps of "
            f"{dims}"
        )
    _check_finite(path, values)
    return values.reshape(steps, dims).astype(np.float32)


def features(path: str | Path) -> Features:
    """The features of a row, as the release writes them.

    Raises:
        ValueError: the file is no .npz with finite numbers `tokens`.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            if "tokens" not in file:
                raise ValueError(f"no array tokens; there are {', '.join(file) or 'none'}")
            tokens = file["tokens"]
            indices = file["indices"] if "indices" in file else np.zeros(0, np.int64)
    except (ValueError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise ValueError(f"{path}: not an .npz of features: {error}") from error
    if tokens.dtype.kind not in "fiu" or tokens.size == 0 or tokens.ndim == 0:
        raise ValueError(f"{path}: tokens must be numbers [..., D], got {_what(tokens)}")
    _check_finite(path, tokens)
    return Features(tokens.astype(np.float32), indices)


def actions(panel: Panel, row: Row, mode: Mode = "absolute") -> np.ndarray:
    """A row's target: its chunk [steps, D], or the chunk's last step less its first, [1, D].

    Raises:
        ValueError: as in `chunk`; or the mode is none.
    """
    if mode not in ("absolute", "relative"):
        raise ValueError(f'mode must be "absolute" or "relative", got {mode!r}')
    values = chunk(panel.path(row, "action"), row.steps, len(tracks.TRACKS[panel.track].dims))
    return values if mode == "absolute" else values[-1:] - values[:1]


def load(panel: Panel, row: Row) -> dict[str, np.ndarray]:
    """All that a row's files hold: features, else images or frames; and the chunk.

    Raises:
        ValueError, OSError: one of them is bad, by its file.
    """
    found = {}
    if row.la_path:
        found["tokens"] = features(panel.path(row, "la_path")).tokens
    elif row.video_path:
        found["frames"] = clip(panel.path(row, "video_path"), row.sample_indices)
    else:
        found["frames"] = pair(panel, row)
    return found | ({"action": actions(panel, row)} if row.steps else {})


def each(
    panel: Panel,
    load: Callable[[Row], T],
    bad_rows: BadRows = "error",
    rejected: list[Rejected] | None = None,
) -> Iterator[tuple[Row, T]]:
    """What `load` makes of every row.

    Args:
        panel: rows.
        load: raises ValueError or OSError, with the file, for a row that is bad.
        bad_rows: "error" ends at the first; "skip" leaves it out, with an account in `rejected`.
        rejected: the account; asked for by "skip", since nothing is left out without one.

    Raises:
        ValueError: "row: file: cause" for the first bad row.
    """
    if bad_rows == "skip" and rejected is None:
        raise ValueError("bad_rows=skip needs a list of the rejected rows")
    for row in panel.rows:
        try:
            value = load(row)
        except (ValueError, OSError) as error:
            if bad_rows == "error":
                raise ValueError(
                    f"{row.id}: {error}; bad_rows=skip leaves such rows out"
                ) from error
            assert rejected is not None
            rejected.append(Rejected(row.id, str(error)))
        else:
            yield row, value


def _check_finite(path: str | Path, values: np.ndarray) -> None:
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
        first = tuple(map(int, wrong[0]))
        raise ValueError(
            f"{path}: {len(wrong)} of {values.size} numbers are not finite, the first is "
            f"{values[first]} at {list(first)}"
        )


def _what(values: object) -> str:
    if isinstance(values, np.ndarray):
        return f"{values.dtype} of shape {values.shape}"
    return type(values).__name__


def needs(module: str, name: str) -> Any:
    """A module of the extra `lary`; ModuleNotFoundError says how to install it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"{name} is missing: pip install 'jaxlab[lary]'") from None
