"""Frozen features as a probe's data: rows of LARY with their features, in memory-mapped arrays.

No jax here: an encoder is handed in. `jaxlab.evals.feature_store` keeps the features, which are
those of the rows' own files where there is no encoder.
"""

import dataclasses
import functools
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxlab.evals import components, feature_store
from jaxlab.evals.feature_data import FeatureData, Synthetic, panels_of, warn, written
from jaxlab.evals.feature_store import Encoder
from jaxlab.evals.lary import media, metrics, normalise, report, rows, splits, tracks
from jaxlab.evals.metrics import Bootstrap
from jaxlab.evals.tables import Table

__all__ = ["FeatureData", "Opened", "Side", "Synthetic"]

logger = logging.getLogger(__name__)


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


class NotSingleFrames(ValueError):
    """Features of which one frame's cannot be taken."""


class Opened:
    """The data of a run: sides train, val and, where asked for, inner."""

    def __init__(self, data: FeatureData, workdir: Path, encoder: Encoder | None = None):
        """Read rows and features; the latter stay in WORKDIR/features, or the store.

        Args:
            data: what is read.
            workdir: of the run.
            encoder: that `data.encoder` names, if it names one.

        Raises:
            ValueError: rows, features or chunks do not fit, by row and file; or there are no files.
            FileNotFoundError: a file is missing.
        """
        self._data, self._encoder = data, encoder
        if data.synthetic is not None:
            files = written(data.synthetic, workdir, features=encoder is None)
            data = dataclasses.replace(data, **files)
        panels, self.left_out = panels_of(data, data.features)
        self.panel = panels[1]
        self.track = tracks.TRACKS[self.panel.track]
        self.classes = tuple(sorted({name for panel in panels for name in panel.classes}))
        made = self._data.synthetic
        beside = Path(made.path) if made is not None and made.path else workdir
        store = Path(data.store) if data.store else beside / "features"
        sides = [self._side(panel, store) for panel in panels]
        if data.split == "grouped":
            sides = _regrouped(sides, data.fraction)
        warn(self.left_out)
        train, self.val = sides
        self.inner: Side | None = None
        if data.inner:
            split = splits.grouped(train.rows, data.inner)
            mask = _held(train.rows, split.val)
            self.inner, train = train.where(mask), train.where(~mask)
        self.train = train
        self._components: components.Components | None = None
        if data.pca:
            self._components = components.fit(
                lambda ids: self._chosen(self.train.read(ids)), len(train), data.pca
            )
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
        tokens = self._chosen(side.read(chosen))
        if self._components is None:
            return tokens
        return self._components(tokens)[:, None]

    def _chosen(self, tokens: np.ndarray) -> np.ndarray:
        kind = self._data.input
        if kind == "both":
            return tokens
        if tokens.ndim != 4 or tokens.shape[1] != 2:
            raise NotSingleFrames(
                f"input={kind} needs features [2, N, D] of a pair's frames, got "
                f"{tokens.shape[1:]}; encoder.apart=True gives those of a model of clips"
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
            scalars = _scalars({"micro": found.micro, "macro": found.macro}, found.robots)
            clean = ~self._leaks
            if side is self.val and 0 < clean.sum() < len(clean):
                scalars["micro_clean"] = float((predicted == side.targets)[clean].mean())
            return scalars, found.tables()
        error = metrics.chunk_error(
            predicted.reshape(side.targets.shape),
            side.targets,
            self.track.dims,
            self.track.groups,
            robots=robots,
            **shared,
        )
        return _scalars({"mse": error.mse, **error.groups}, error.robots), error.tables()

    def write(
        self,
        workdir: Path,
        written: Sequence[Table],
        scores: Mapping[str, float] = {},
        predicted: np.ndarray | None = None,
    ) -> None:
        """Write probe.md and probe.json, and plots: what was scored, and its scores.

        Args:
            workdir: gets them.
            written: the tables of `score`.
            scores: by name.
            predicted: of val, as of `score`, for confusion.png (of classes) and latents.png; None:
                nothing is drawn.
        """
        about = self.about()
        lines = [f"# Probe of {self.panel.track}", ""]
        lines += [f"- {key}: {value}" for key, value in about.items()]
        for table in written:
            lines += ["", *table.markdown()]
        if predicted is not None:
            for name, caption in self._draw(workdir, predicted).items():
                lines += ["", f"![{caption}]({name})", "", caption]
        (workdir / "probe.md").write_text("\n".join(lines) + "\n")
        kept = {name: float(value) for name, value in scores.items() if np.isfinite(value)}
        tables = [table.to_json() for table in written]
        content = {"about": about, "scores": kept, "tables": tables}
        (workdir / "probe.json").write_text(json.dumps(content, indent=1) + "\n")

    def about(self) -> dict[str, Any]:
        """What is scored: the encoder, rows, settings, and what knows nothing of a row scores."""
        data = self._data
        encoder = None
        if data.encoder is not None:
            encoder = Path(data.encoder.path or "").name
        elif data.synthetic is not None:
            encoder = data.synthetic.encoder
        about: dict[str, Any] = {
            "track": self.panel.track,
            "encoder": encoder,
            "numbers": int(np.prod(self.inputs(self.val, np.arange(1)).shape[1:])),
            "rows of train": len(self.train),
            "rows of val": len(self.val),
            "rows left out": len(self.left_out),
            "rows of val whose twin or reversal is in train": int(self._leaks.sum()),
            "split": data.split,
            "input": data.input,
            "components": data.pca,
        }
        if self._components is not None:
            about["variance in the components"] = round(self._components.share, 4)
        if self.track.kind == "chunk":
            about |= {"actions": data.mode, "normalised by": data.norm}
            about["mean predictor"] = float(np.mean(np.square(self.val.targets, dtype=np.float64)))
        else:
            most = np.bincount(self.train.targets).argmax()
            about["share of the most frequent class"] = float((self.val.targets == most).mean())
        return about

    def _draw(self, workdir: Path, predicted: np.ndarray) -> dict[str, str]:
        """Name of each picture -> caption."""
        from jaxlab.evals import feature_plots

        drawn, colours = {}, self.val.targets
        if self.track.kind == "label":
            counts = np.zeros((len(self.classes),) * 2, np.int64)
            np.add.at(counts, (predicted, self.val.targets), 1)
            feature_plots.confusion(workdir / "confusion.png", counts, self.classes)
            drawn["confusion.png"] = "Predicted class by true class, as shares of the true class."
        else:
            colours = colours[:, -1, 0]
        if len(self.val) > 2:
            feature_plots.latents(
                workdir / "latents.png",
                lambda ids: self.inputs(self.val, ids),
                colours,
                self.classes,
            )
            drawn["latents.png"] = "What the probe sees of val, along its first two components."
        return drawn

    @functools.cached_property
    def _leaks(self) -> np.ndarray:
        """Rows of val whose frames, or these backwards in time, are in train or inner: bool[N]."""
        trained = (*self.train.rows, *(self.inner.rows if self.inner else ()))
        seen = {row.frames for row in trained}
        return np.array(
            [row.frames in seen or row.reversed_frames in seen for row in self.val.rows]
        )

    def _side(self, panel: rows.Panel, folder: Path) -> Side:
        """Rows of a panel whose features and chunks can be read."""
        if self._encoder is None and not panel.rows[0].la_path:
            raise ValueError(
                f"{panel.rows[0].id}: no la_path: a probe needs features, or data.encoder.path"
            )
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
        bad_rows = self._data.bad_rows
        if self._encoder is None:
            kept, tokens = feature_store.read(panel, folder, bad_rows, self.left_out)
        else:
            kept, tokens = feature_store.extract(
                panel, self._encoder, folder, bad_rows, self.left_out
            )
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


def summary(workdir: Path, runs: Mapping[str, Path], title: str) -> list[Path]:
    """Write the benchmark's report of those runs that are of probes; returns its files."""
    return report.write(workdir, report.read(runs), title)


def kind_of(path: str) -> str:
    """What the rows of a file of LARYBench are to tell: a "label" or a "chunk".

    Raises:
        ValueError, FileNotFoundError: as of `rows.read`.
    """
    return tracks.TRACKS[rows.read(path, bad_rows="skip", beside=()).track].kind


def _regrouped(sides: Sequence[Side], fraction: float) -> list[Side]:
    """Both sides' rows, divided anew by group."""
    first, second = sides
    both = Side(
        first.rows + second.rows,
        first.files + second.files,
        np.concatenate([first.index, second.index + sum(map(len, first.files))]),
        np.concatenate([first.targets, second.targets]),
    )
    mask = _held(both.rows, splits.grouped(both.rows, fraction).val)
    return [both.where(~mask), both.where(mask)]


def _held(rows_: Sequence[rows.Row], val: Sequence[rows.Row]) -> np.ndarray:
    """Rows that a grouped split puts into val, bool[N]: by group, since files may share a name."""
    groups = {row.group for row in val}
    return np.array([row.group in groups for row in rows_])


def _scalars(whole: Mapping[str, Bootstrap], robots: Mapping[str, Bootstrap]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in whole.items():
        found |= {name: value.mean, f"{name}_low": value.low, f"{name}_high": value.high}
    return found | {f"robot_{name or 'none'}": one.mean for name, one in robots.items()}
