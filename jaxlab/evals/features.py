"""Frozen features as a probe's data: rows of LARY with their features, in memory-mapped arrays.

No jax here. Features are the release's .npz files, read once into an array below the work
directory; a reading that was killed goes on.
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxlab import ranges
from jaxlab.evals.lary import baselines, media, metrics, normalise, rows, splits, tracks, world
from jaxlab.evals.metrics import Bootstrap
from jaxlab.evals.tables import Table
from jaxlab.grading.rows import Rejected

logger = logging.getLogger(__name__)

_BLOCK = 256  # rows between two notes of how far the reading has come


@dataclasses.dataclass(frozen=True)
class Synthetic:
    """The synthetic world as data, which is written once.

    Attributes:
        pairs: image pairs.
        target: "label": 27 classes; "chunk": actions of two robots.
        encoder: of the pairs; see `jaxlab.evals.lary.baselines`.
        seed: of the world and of the encoder.
        path: folder that holds the world, or gets it; "@NAME" in a config is stage NAME's. None:
            the work directory.
    """

    pairs: int
    target: Literal["label", "chunk"] = "label"
    encoder: baselines.Encoder = "random"
    seed: int = 0
    path: str | None = None

    def __post_init__(self) -> None:
        """Check ranges."""
        ranges.check_choices(self)
        ranges.check_counts(self, "pairs")
        ranges.check(self, "seed", least=0)


@dataclasses.dataclass(frozen=True)
class FeatureData:
    """What a probe is trained and scored on.

    Attributes:
        train: CSV of LARYBench with `la_path`; None with `synthetic`.
        val: CSV of the same track.
        root: the release's DATA_DIR, for chunks of actions.
        features: the release's LARY_LA_DIR; None: the root.
        synthetic: the synthetic world instead of files.
        missing: rows whose files are missing: an error, or left out with a count.
        bad_rows: rows that are malformed, or whose files are: likewise.
        split: "official"; "grouped" divides the rows of both files anew, no segment between sides.
        fraction: of the rows in val, for "grouped".
        inner: share of train that is not trained on, by groups, to choose a head by; 0: none.
        input: which frames of a pair are seen: "both", "source", "target", or "difference".
        mode: of chunks: "absolute", or "relative", the last step less the first.
        norm: of chunks: moments of train by "robot" or of "all", or the release's, "shipped".
        unknown_robots: a robot that train does not have: "error", or "identity" with a count.
    """

    train: str | None = None
    val: str | None = None
    root: str | None = None
    features: str | None = None
    synthetic: Synthetic | None = None
    missing: Literal["error", "skip"] = "error"
    bad_rows: Literal["error", "skip"] = "error"
    split: Literal["official", "grouped"] = "official"
    fraction: float = 0.25
    inner: float = 0.0
    input: Literal["both", "source", "target", "difference"] = "both"
    mode: media.Mode = "absolute"
    norm: Literal["robot", "all", "shipped"] = "robot"
    unknown_robots: Literal["error", "identity"] = "error"

    def __post_init__(self) -> None:
        """Check that there is one source of rows, and ranges."""
        ranges.check_choices(self)
        files = (self.train, self.val, self.root, self.features)
        if self.synthetic is not None and any(files):
            raise ValueError(
                "synthetic: the world has its own files; leave train, val, root and features out"
            )
        if not 0 <= self.inner < 1 or not 0 < self.fraction < 1:
            raise ValueError(
                f"inner in [0, 1) and fraction in (0, 1), not {self.inner}, {self.fraction}"
            )
        if self.norm == "shipped" and self.mode == "relative":
            raise ValueError("norm: the release's constants are of absolute actions")


@dataclasses.dataclass(frozen=True)
class Side:
    """Rows with features and targets; features stay in their files until they are read.

    Attributes:
        rows: N of them.
        files: memory-mapped features float32[M, ...], of one shape but for M.
        index: int64[N], each row's place in the files laid end to end.
        targets: ids int32[N], or chunks float32[N, S, D].
    """

    rows: tuple[rows.Row, ...]
    files: tuple[np.ndarray, ...]
    index: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, chosen: np.ndarray) -> np.ndarray:
        """Features float32[n, ...] of some rows."""
        places = self.index[chosen]
        found = np.empty((len(places), *self.files[0].shape[1:]), np.float32)
        begin = 0
        for file in self.files:
            here = (places >= begin) & (places < begin + len(file))
            found[here] = file[places[here] - begin]
            begin += len(file)
        return found

    def where(self, mask: np.ndarray) -> "Side":
        """The rows where the mask, bool[N], is true."""
        kept = tuple(row for row, keep in zip(self.rows, mask, strict=True) if keep)
        return Side(kept, self.files, self.index[mask], self.targets[mask])


class Opened:
    """The data of a run: sides train, val and, where asked for, inner."""

    def __init__(self, data: FeatureData, workdir: Path):
        """Read rows and features; the latter stay in WORKDIR/features.

        Raises:
            ValueError: rows, features or chunks do not fit, by row and file; or there are no files.
            FileNotFoundError: a file is missing.
        """
        self._data = data
        data = _written(data, workdir) if data.synthetic is not None else data
        if data.train is None or data.val is None or data.root is None:
            raise ValueError("data: train, val and root are needed, or synthetic")
        options: dict[str, Any] = {"missing": data.missing, "bad_rows": data.bad_rows}
        panels = []
        self.left_out: list[Rejected] = []
        for path in (data.train, data.val):
            panel = rows.read(path, data.root, features=data.features, **options)
            missing = [Rejected(one.where, f"missing: {one.path}") for one in panel.missing]
            self.left_out += [*missing, *panel.rejected]
            panels.append(panel)
        self.panel = panels[1]
        self.track = tracks.TRACKS[self.panel.track]
        self.classes = tuple(sorted({name for panel in panels for name in panel.classes}))
        if panels[0].track != self.panel.track:
            raise ValueError(f"train is of track {panels[0].track}, val of {self.panel.track}")
        sides = [self._side(panel, workdir / "features") for panel in panels]
        if data.split == "grouped":
            sides = _regrouped(sides, data.fraction)
        for left in self.left_out[:5]:
            logger.warning("left out: %s: %s", left.where, left.cause)
        if self.left_out:
            logger.warning("%d rows left out in all", len(self.left_out))
        train, self.val = sides
        self.inner: Side | None = None
        if data.inner:
            split = splits.grouped(train.rows, data.inner)
            held = {row.id for row in split.val}
            mask = np.array([row.id in held for row in train.rows])
            self.inner, train = train.where(mask), train.where(~mask)
        self.train = train
        if self.track.kind == "chunk":
            self._normalise(data)

    @property
    def outputs(self) -> int:
        """Numbers that a probe predicts for a row."""
        return len(self.classes) or int(np.prod(self.train.targets.shape[1:]))

    def weights(self) -> np.ndarray | None:
        """Probabilities of the training rows under which classes are balanced; None for chunks."""
        if self.track.kind == "chunk":
            return None
        return splits.balanced_weights(self.train.targets, len(self.classes))

    def inputs(self, side: Side, chosen: np.ndarray) -> np.ndarray:
        """Features of some rows of a side, as the probe sees them.

        Raises:
            ValueError: frames are to be chosen, and the features are not of pairs.
        """
        tokens = side.read(chosen)
        kind = self._data.input
        if kind == "both":
            return tokens
        if tokens.ndim != 4 or tokens.shape[1] != 2:
            raise ValueError(
                f"input={kind} needs features [2, N, D] of a pair's frames, got {tokens.shape[1:]}"
            )
        source, target = tokens[:, :1], tokens[:, 1:]
        return {"source": source, "target": target, "difference": target - source}[kind]

    def score(
        self, side: Side, predicted: np.ndarray, num_resamples: int = 200
    ) -> tuple[dict[str, float], list[Table]]:
        """Scalars, and tables of a report, of predictions for a side: ids [N], or z-scores."""
        episodes = [row.episode for row in side.rows]
        names = [row.robot_type for row in side.rows]
        shared: dict[str, Any] = {"clusters": episodes, "num_resamples": num_resamples}
        robots = names if set(names) != {""} else None
        if self.track.kind == "label":
            found = metrics.accuracy(predicted, side.targets, self.classes, robots=robots, **shared)
            scalars = {"micro": found.micro, "macro": found.macro}
            return _scalars(scalars, found.robots), found.tables()
        error = metrics.chunk_error(
            predicted.reshape(side.targets.shape),
            side.targets,
            self.track.dims,
            self.track.groups,
            robots=robots,
            **shared,
        )
        return _scalars({"mse": error.mse, **error.groups}, error.robots), error.tables()

    def write(self, workdir: Path, written: Sequence[Table]) -> None:
        """Write probe.md and probe.json: what was scored, and the tables of its scores."""
        data = self._data
        about: dict[str, Any] = {
            "track": self.panel.track,
            "rows of train": len(self.train),
            "rows of val": len(self.val),
            "rows left out": len(self.left_out),
            "rows of val whose twin or reversal is in train": self._leaking(),
            "split": data.split,
            "input": data.input,
        }
        if self.track.kind == "chunk":
            about |= {"actions": data.mode, "normalised by": data.norm}
        lines = [f"# Probe of {self.panel.track}", ""]
        lines += [f"- {key}: {value}" for key, value in about.items()]
        for table in written:
            lines += ["", *table.markdown()]
        (workdir / "probe.md").write_text("\n".join(lines) + "\n")
        content = {"about": about, "tables": [table.to_json() for table in written]}
        (workdir / "probe.json").write_text(json.dumps(content, indent=1) + "\n")

    def _leaking(self) -> int:
        """Rows of val whose frames, or the same backwards in time, are in train or inner."""
        trained = (*self.train.rows, *(self.inner.rows if self.inner else ()))
        seen = {row.frames for row in trained}
        return sum(row.frames in seen or row.reversed_frames in seen for row in self.val.rows)

    def _side(self, panel: rows.Panel, folder: Path) -> Side:
        """Rows of a panel whose features and chunks can be read."""
        if not panel.rows[0].la_path:
            raise ValueError(f"{panel.rows[0].id}: no la_path: a probe needs features")
        good: list[rows.Row] = []
        targets: list[Any] = []

        def target(row: rows.Row) -> Any:
            if self.track.kind == "label":
                return self.classes.index(row.action)
            return media.actions(panel, row, self._data.mode)

        for row, value in media.each(panel, target, self._data.bad_rows, self.left_out):
            if targets and np.shape(value) != np.shape(targets[0]):
                raise ValueError(
                    f"{row.id}: a chunk of {np.shape(value)}, others are {np.shape(targets[0])}"
                )
            good.append(row)
            targets.append(value)
        panel = dataclasses.replace(panel, rows=tuple(good))
        kept, tokens = _store(panel, folder, self._data.bad_rows, self.left_out)
        kind = np.int32 if self.track.kind == "label" else np.float32
        values = np.asarray(targets, kind)[kept]
        return Side(tuple(good[i] for i in kept), (tokens,), np.arange(len(kept)), values)

    def _normalise(self, data: FeatureData) -> None:
        if data.norm == "shipped":
            found = normalise.Normaliser.shipped(self.panel.track)
        else:
            pairs = zip(self.train.rows, self.train.targets, strict=True)
            found = normalise.Normaliser.fit(pairs, by_robot=data.norm == "robot")
        for name in ("train", "val", "inner"):
            side = getattr(self, name)
            if side is None:
                continue
            values, strangers = found(side.rows, side.targets, data.unknown_robots)
            for stranger in strangers[:5]:
                logger.warning("%s: %s", stranger.where, stranger.cause)
            if strangers:
                logger.warning("%d rows of %s keep their units", len(strangers), name)
            setattr(self, name, dataclasses.replace(side, targets=values))


def _store(
    panel: rows.Panel, folder: Path, bad_rows: Literal["error", "skip"], left_out: list[Rejected]
) -> tuple[list[int], np.ndarray]:
    """Numbers of the rows that could be read, and their features as one array of a file."""
    paths = [panel.path(row, "la_path") for row in panel.rows]
    named = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    key = hashlib.sha256(json.dumps(named).encode()).hexdigest()[:16]
    place = folder / key
    place.mkdir(parents=True, exist_ok=True)
    note = place / "read.json"
    state: dict[str, Any] = {"next": 0, "kept": [], "bad": []}
    if note.exists():
        state = json.loads(note.read_text())
    path = place / "tokens.npy"
    array = np.lib.format.open_memmap(path, "r+") if state["next"] else None
    while state["next"] < len(panel.rows):
        begin = state["next"]
        for i in range(begin, min(begin + _BLOCK, len(panel.rows))):
            row = panel.rows[i]
            try:
                tokens = media.features(paths[i]).tokens
                if array is None:
                    shape = (len(panel.rows), *tokens.shape)
                    array = np.lib.format.open_memmap(path, "w+", np.float32, shape)
                if tokens.shape != array.shape[1:]:
                    raise ValueError(f"features of {tokens.shape}, others are {array.shape[1:]}")
            except (ValueError, OSError) as error:
                if bad_rows == "error":
                    raise ValueError(f"{row.id}: {error}; bad_rows=skip leaves it out") from None
                state["bad"].append([row.id, str(error)])
                continue
            array[len(state["kept"])] = tokens
            state["kept"].append(i)
        state["next"] = begin + _BLOCK
        if array is not None:
            array.flush()
            part = note.with_suffix(".part")
            part.write_text(json.dumps(state))
            part.rename(note)
    if array is None:
        raise ValueError(f"{panel.rows[0].id}: no row has features that can be read")
    if state["bad"] and bad_rows == "error":
        # An earlier run of this folder left them out.
        where, cause = state["bad"][0]
        raise ValueError(f"{where}: {cause}; bad_rows=skip leaves it out")
    left_out += [Rejected(where, cause) for where, cause in state["bad"]]
    return state["kept"], np.load(path, mmap_mode="r")[: len(state["kept"])]


def _written(data: FeatureData, workdir: Path) -> FeatureData:
    """The files of the synthetic world and of its features; those that are there stay."""
    made = data.synthetic
    assert made is not None
    place = workdir if made.path is None else Path(made.path)
    root = place / f"world-{made.pairs}-{made.seed}"
    kind = "synthetic_pairs" if made.target == "label" else "synthetic"
    names = ("train", "val") if made.target == "label" else ("seen_train", "seen_val")
    done = root / "done"
    if not done.exists():
        world.write(root, made.pairs, made.seed)
        done.touch()
    found = []
    for name in names:
        panel = rows.read(root / f"{kind}_metadata_{name}.csv", root)
        found.append(str(baselines.extract(panel, root / "la", made.encoder, made.seed)))
    files = {"train": found[0], "val": found[1], "root": str(root), "features": str(root / "la")}
    changes: dict[str, Any] = {"synthetic": None, **files}
    return dataclasses.replace(data, **changes)


def _regrouped(sides: Sequence[Side], fraction: float) -> list[Side]:
    """Both sides' rows, divided anew by group."""
    first, second = sides
    both = Side(
        first.rows + second.rows,
        first.files + second.files,
        np.concatenate([first.index, second.index + sum(map(len, first.files))]),
        np.concatenate([first.targets, second.targets]),
    )
    held = {row.id for row in splits.grouped(both.rows, fraction).val}
    mask = np.array([row.id in held for row in both.rows])
    return [both.where(~mask), both.where(mask)]


def _scalars(whole: Mapping[str, Bootstrap], robots: Mapping[str, Bootstrap]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in whole.items():
        found |= {name: value.mean, f"{name}_low": value.low, f"{name}_high": value.high}
    return found | {f"robot_{name or 'none'}": one.mean for name, one in robots.items()}
