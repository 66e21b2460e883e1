"""Rows of LARY: the CSV files of its tracks, read and checked, with what leaks between splits.

    panel = rows.read("calvin_metadata_val.csv", root="DATA_DIR", missing="skip")

The files of the other splits that lie beside a file (train, val, seen_train, seen_val, unseen in
its name) are read too. Classes are numbered over all of them: the released code numbers each file's
own, so that ids shift when one lacks a class. `Panel.leakage` compares with them.
"""

import csv
import dataclasses
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from jaxlab.evals.lary import tracks
from jaxlab.grading.rows import BadRows, Rejected

logger = logging.getLogger(__name__)

SPLITS = ("seen_train", "seen_val", "unseen", "train", "val")
FRAMES = 9  # of a clip

_SPLIT = re.compile(rf"(?<![^_]){'(' + '|'.join(SPLITS) + ')'}(?![^_])")
_STEPS = re.compile(r"_(\d+)to(\d+)\.npy$")
_EPISODE = re.compile(r"(?:ep_?|demo_?|episode_?)\d+")
_FOLDERS = {"src_img": "images", "tgt_img": "images", "action": "actions"}


@dataclass(frozen=True, slots=True)
class Row:
    """One row; fields are named as the columns, and "" where the file has no such column.

    Attributes:
        id: file name and line.
        action: the class, or the file of the chunk.
        sample_indices: frames of the clip.
        episode: rows of one are not independent: folders up to the episode or demonstration; the
            first image or the video where the path names none.
        group: what must not be divided between splits: the episode, with the segment if there is
            one, so that a pair and its reversal are together.
        steps: of the chunk, by its file name; else the track's.
    """

    id: str
    action: str
    src_img: str = ""
    tgt_img: str = ""
    video_path: str = ""
    sample_indices: tuple[int, ...] = ()
    la_path: str = ""
    src_state: str = ""
    tgt_state: str = ""
    task_id: str = ""
    episode_id: str = ""
    type: str = ""
    robot_type: str = ""
    dataset: str = ""
    perspective: str = ""
    episode: str = ""
    group: str = ""
    steps: int = 0

    @property
    def frames(self) -> tuple[str, ...]:
        """What is seen, in order: the images' paths without their folder, or video and frames."""
        if self.video_path:
            return (self.video_path, *map(str, self.sample_indices))
        return (_bare(self.src_img), _bare(self.tgt_img))

    @property
    def reversed_frames(self) -> tuple[str, ...]:
        """The same backwards in time."""
        if self.video_path:
            return (self.video_path, *map(str, self.sample_indices[::-1]))
        return self.frames[::-1]


@dataclass(frozen=True)
class Leak:
    """A row and one of another split: a "twin" of the same frames, or a "reversal" of them."""

    row: str
    other: str
    kind: Literal["twin", "reversal"]


@dataclass(frozen=True)
class Missing:
    """A row left out because a file is missing: "file:line" and the file's path."""

    where: str
    path: str


@dataclass(frozen=True)
class Panel:
    """The rows of a file, and what was left out of them.

    Attributes:
        rows: in the file's order.
        track: a key of `tracks.TRACKS`.
        split: one of `SPLITS`, "" if the file's name has none.
        classes: sorted, of this file and those beside it; the number of one is its id. Empty for
            chunks.
        leakage: rows whose twin or reversal is in a file beside.
        beside: the files compared with; without any, nothing is known of leakage.
        missing: rows left out for a file that is not there.
        rejected: rows left out because they are malformed.
        root: folder of the data; None: no file was looked for.
        base: where the track's own folders are; None without a root.
        features: folders in which `la_path` is looked for.
    """

    rows: tuple[Row, ...]
    track: str
    split: str
    classes: tuple[str, ...] = ()
    leakage: tuple[Leak, ...] = ()
    beside: tuple[Path, ...] = ()
    missing: tuple[Missing, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    root: Path | None = None
    base: Path | None = None
    features: tuple[Path, ...] = ()

    @cached_property
    def class_ids(self) -> dict[str, int]:
        """Class -> id."""
        return {name: i for i, name in enumerate(self.classes)}

    @cached_property
    def robots(self) -> dict[str, int]:
        """Robot -> number of its rows; "" is a robot that the file does not name."""
        return dict(Counter(row.robot_type for row in self.rows))

    @cached_property
    def counts(self) -> dict[str, int]:
        """Class -> number of its rows here, 0 where it is only in a file beside."""
        found = Counter(row.action for row in self.rows)
        return {name: found[name] for name in self.classes}

    def path(self, row: Row, column: str) -> Path:
        """Where a file of a row is.

        Folders `images` and `actions` are put in where the cell does not hold them, as the files
        made by extraction do not.

        Raises:
            ValueError: the panel was read without a root, or the row has no such file.
        """
        cell = getattr(row, column)
        if not cell:
            raise ValueError(f"{row.id}: the row has no {column}")
        if Path(cell).is_absolute():
            return Path(cell)
        if self.base is None:
            raise ValueError(f"{row.id}: {column} is relative: read the rows with root=DIR")
        if column == "la_path":
            # A cell with folders starts from the last of them, the store itself.
            folders = self.features[-1:] if "/" in cell else self.features
            paths = [folder / cell for folder in folders]
            return next((path for path in paths if path.exists()), paths[0])
        folder = _FOLDERS.get(column) if tracks.TRACKS[self.track].kind == "chunk" else None
        if folder is None or folder in Path(cell).parts:
            return self.base / cell
        return self.base / folder / cell


def read(
    path: str | Path,
    root: str | Path | None = None,
    missing: Literal["error", "skip"] = "error",
    *,
    bad_rows: BadRows = "error",
    beside: Sequence[str | Path] | None = None,
    features: str | Path | None = None,
) -> Panel:
    """The rows of a file of LARYBench.

    Args:
        path: the CSV; UTF-8, lines ended by \\n or \\r\\n.
        root: the release's DATA_DIR (it holds `regression` or `classification`), or the folder
            that the file's paths start from. None: no file is looked for, and every row is
            returned.
        missing: what to do with a row whose files are not all there: "error", or "skip", which
            keeps an account in `Panel.missing`. Rows with a `la_path` need it and their chunk,
            others their images or video and their chunk.
        bad_rows: "error" ends at the first malformed row; "skip" keeps an account in
            `Panel.rejected`.
        beside: files of the other splits; None: those that lie beside the file under its name.
        features: the release's LARY_LA_DIR, or the folder of the .npz files; None: the root.

    Raises:
        FileNotFoundError: there is no such CSV; or a row's file is missing.
        ValueError: "file:line: cause" for the first malformed row; a column is missing; there is no
            usable row.
    """
    for name, value in (("missing", missing), ("bad_rows", bad_rows)):
        if value not in ("error", "skip"):
            raise ValueError(f'{name} must be "error" or "skip", got {value!r}')
    path = Path(path)
    track, found, rejected = _read(path, bad_rows)
    split = _SPLIT.search(path.stem)
    if beside is None:
        others = _siblings(path, split)
    else:
        others = tuple(map(Path, beside))
    labels = {row.action for row in found}
    places: dict[tuple[str, ...], str] = {}
    for other in others:
        other_track, other_rows, bad = _read(other, "skip")
        if bad:
            logger.warning(
                "%s: %d malformed rows are left out of classes and leakage, the first is %s: %s",
                *(other, len(bad), bad[0].where, bad[0].cause),
            )
        if other_track != track:
            raise ValueError(f"{other} is of track {other_track}, {path} of {track}")
        labels.update(row.action for row in other_rows)
        places.update((row.frames, row.id) for row in other_rows)
    panel = Panel(
        tuple(found),
        track,
        split[1] if split else "",
        tuple(sorted(labels)) if tracks.TRACKS[track].kind == "label" else (),
        tuple(_leaks(found, places)),
        others,
        rejected=tuple(rejected),
    )
    return panel if root is None else _look(panel, path, Path(root), missing, features)


def _read(path: Path, bad_rows: BadRows) -> tuple[str, list[Row], list[Rejected]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the path of a CSV of LARYBench")
    found, rejected, track = [], [], ""
    # A byte that is no UTF-8 becomes half a surrogate pair, which `_row` refuses.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        lines = csv.reader(file, strict=True)
        try:
            header = [name.strip() for name in next(lines, [])]
            for cells in lines:
                if not cells:
                    continue
                where = f"{path}:{lines.line_num}"
                named = dict(zip(header, cells, strict=False))
                if not track:
                    track = _track(path, header, named)
                try:
                    if len(cells) != len(header):
                        raise ValueError(f"{len(cells)} cells, where {len(header)} are named")
                    found.append(_row(f"{path.name}:{lines.line_num}", track, named))
                except ValueError as error:
                    if bad_rows == "error":
                        raise ValueError(
                            f"{where}: {error}; bad_rows=skip leaves such rows out"
                        ) from None
                    rejected.append(Rejected(where, str(error)))
        except csv.Error as error:
            raise ValueError(f"{path}:{lines.line_num}: not CSV: {error}") from None
    if not found:
        if not track:
            _track(path, header, None)
        raise ValueError(f"{path}: no usable row, {len(rejected)} bad ones")
    return track, found, rejected


def _track(path: Path, header: list[str], cells: dict[str, str] | None) -> str:
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise ValueError(f"{path}: the column {twice[0]} occurs twice")
    try:
        return tracks.of(header, cells)
    except ValueError as error:
        if cells is None and "no column" not in str(error):
            return ""
        raise ValueError(f"{path}: {error}") from None


def _row(identity: str, track: str, cells: Mapping[str, str]) -> Row:
    """One row; ValueError says what is wrong with it."""
    columns = tracks.TRACKS[track].columns
    known = {name: cells[name].strip() for name in (*columns, "la_path") if name in cells}
    for name, cell in known.items():
        if not cell and name != "robot_type":
            raise ValueError(f"{name} is empty")
        if not cell.isprintable():
            raise ValueError(f"{name} holds what cannot be printed: {cell!r:.60}")
    if not tracks.belongs(track, known):
        rule = tracks.TRACKS[track].where
        raise ValueError(f"{rule and rule[0]} says that the row is not of track {track}")
    indices = _indices(known.pop("sample_indices")) if "sample_indices" in columns else ()
    episode, group = _groups(known.get("video_path") or known["src_img"])
    steps = 0
    if tracks.TRACKS[track].kind == "chunk":
        match = _STEPS.search(known["action"])
        steps = int(match[2]) - int(match[1]) + 1 if match else tracks.TRACKS[track].steps
        if steps < 1:
            raise ValueError(f"the chunk {known['action']!r} ends before it begins")
    return Row(identity, **known, sample_indices=indices, episode=episode, group=group, steps=steps)


def _indices(cell: str) -> tuple[int, ...]:
    numbers = cell.strip("[]").split(",")
    if len(numbers) != FRAMES or not all(number.strip().isdecimal() for number in numbers):
        raise ValueError(f"sample_indices must be {FRAMES} frame numbers, got {cell!r:.60}")
    return tuple(map(int, numbers))


def _groups(seen: str) -> tuple[str, str]:
    """Episode and group of a row by the path of what is seen."""
    parts = _bare(seen).split("/")
    for i, part in enumerate(parts[:-1]):
        if _EPISODE.fullmatch(part):
            return "/".join(parts[: i + 1]), "/".join(parts[:-1])
    return "/".join(parts), "/".join(parts)


def _bare(path: str) -> str:
    return "/".join(part for part in path.split("/") if part not in ("images", "actions"))


def _siblings(path: Path, split: re.Match[str] | None) -> tuple[Path, ...]:
    if split is None:
        return ()
    name, (begin, end) = path.name, split.span()
    names = (name[:begin] + other + name[end:] for other in SPLITS if other != split[1])
    return tuple(path.with_name(other) for other in names if path.with_name(other).is_file())


def _leaks(found: Sequence[Row], places: Mapping[tuple[str, ...], str]) -> Iterator[Leak]:
    if not places:
        return
    for row in found:
        if row.frames in places:
            yield Leak(row.id, places[row.frames], "twin")
        if row.reversed_frames in places:
            yield Leak(row.id, places[row.reversed_frames], "reversal")


def _look(
    panel: Panel,
    path: Path,
    root: Path,
    missing: Literal["error", "skip"],
    features: str | Path | None,
) -> Panel:
    """The panel with its folders, without the rows whose files are missing."""
    track = tracks.TRACKS[panel.track]
    whole = any((root / name).is_dir() for name in ("regression", "classification"))
    split = panel.split.removeprefix("seen_")
    base = root / track.folder.format(split=split) if whole else root
    store = root if features is None else Path(features)
    panel = _with(panel, root=root, base=base, features=_feature_folders(panel, path, store))
    columns = tuple(name for name in track.files if name == "action")
    kept, absent = [], []
    for row in panel.rows:
        for column in ("la_path", *columns) if row.la_path else track.files:
            place = panel.path(row, column)
            if place.exists():
                continue
            where = f"{path}:{row.id.rpartition(':')[2]}"
            if missing == "error":
                raise FileNotFoundError(
                    f"{where}: {column} is missing: {place.absolute()}; missing=skip leaves such "
                    "rows out"
                )
            absent.append(Missing(where, str(place.absolute())))
            break
        else:
            kept.append(row)
    if not kept:
        raise FileNotFoundError(
            f"{path}: files of all {len(absent)} rows are missing, the first is {absent[0].path}"
        )
    return _with(panel, rows=tuple(kept), missing=tuple(absent))


def _feature_folders(panel: Panel, path: Path, store: Path) -> tuple[Path, ...]:
    """Where the release keeps features that its files name without a folder, and the folder itself.

    STORE/calvin/stride_5/val/dinov2 for val_la_calvin_5_dinov2.csv, and STORE/TRACK/MODEL for sets
    without stride.
    """
    name = re.fullmatch(
        r"(?P<split>\w+?)_la_(?P<set>.+?)(?:_(?P<stride>\d+))?_(?P<model>[^_]+)", path.stem
    )
    if name is None:
        return (store,)
    if name["stride"] is None:
        return (store / name["set"] / name["model"], store)
    stride = f"stride_{name['stride']}"
    return (store / name["set"] / stride / name["split"] / name["model"], store)


def _with(panel: Panel, **changes: object) -> Panel:
    return dataclasses.replace(panel, **changes)  # type: ignore[arg-type]
