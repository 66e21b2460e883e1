"""LARY's panel of one encoder: a probe of each track, and the controls beside it.

Features are extracted once and serve all probes. Every probe has a work directory of its own below
the panel's, so that a panel that was killed goes on.
"""

import dataclasses
import logging
import pathlib
from collections.abc import Iterator
from typing import Any, Literal

from jaxlab import config as config_lib
from jaxlab import ranges
from jaxlab.evals import features
from jaxlab.evals.feature_data import FeatureData
from jaxlab.evals.feature_store import EncoderOptions
from jaxlab.runtime.settings import Mesh
from jaxlab.trainers import encoders, loop, probe
from jaxlab.trainers.probe import Probe

logger = logging.getLogger(__name__)

Control = Literal["source", "target", "difference", "matched", "grouped", "relative"]


@dataclasses.dataclass(frozen=True)
class Files:
    """A track's CSVs; a track without files is left out."""

    train: str | None = None
    val: str | None = None


@dataclasses.dataclass(frozen=True)
class Panel:
    """An evaluation of one encoder.

    Attributes:
        tracks: name -> its files. Names are those of the report's work directories.
        encoder: what is evaluated; None: the features that the files name (`la_path`).
        data: what the tracks share: root, features, missing, bad_rows, inner, norm and so on.
        labels: the probe of classes; its `data` are those of the panel.
        chunks: the probe of actions, likewise.
        controls: which probes stand beside the plain one: of one frame ("source", "target"), of the
            frames' difference, of the first principal components ("matched"), on a split that
            divides no segment ("grouped", of classes), and of relative actions. Those of one frame
            and of the difference are left out where features are not of single frames.
        matched: so many components.
        mesh: devices.
        title: heading of the report.
    """

    tracks: dict[str, Files]
    labels: Probe
    chunks: Probe
    encoder: EncoderOptions | None = None
    data: FeatureData = dataclasses.field(default_factory=FeatureData)
    controls: tuple[Control, ...] = (
        "source",
        "target",
        "difference",
        "matched",
        "grouped",
        "relative",
    )
    matched: int = 256
    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    title: str = "LARY"

    def __post_init__(self) -> None:
        """Check that tracks have both files or none."""
        ranges.check_counts(self, "matched")
        for name, files in self.tracks.items():
            if (files.train is None) != (files.val is None):
                raise ValueError(f"tracks.{name}: train and val, both or none")


def probes(config: Panel, workdir: pathlib.Path) -> Iterator[tuple[str, Probe]]:
    """Name and settings of each probe, the plain one of a track before its controls.

    Raises:
        ValueError, FileNotFoundError: there is no track; or its file cannot be read.
    """
    if not any(files.train for files in config.tracks.values()):
        raise ValueError(
            "tracks: give the files of one at least, as --config.tracks.calvin.train=CSV and "
            "--config.tracks.calvin.val=CSV"
        )
    for name, files in config.tracks.items():
        if files.train is None or files.val is None:
            continue
        label = features.kind_of(files.train) == "label"
        kept: dict[str, Any] = {"train": files.train, "val": files.val}
        kept |= {"encoder": config.encoder, "store": config.data.store or str(workdir / "features")}
        data = dataclasses.replace(config.data, **kept)
        base = dataclasses.replace(config.labels if label else config.chunks, mesh=config.mesh)
        yield name, dataclasses.replace(base, data=data)
        for control in config.controls:
            if (label and control == "relative") or (not label and control == "grouped"):
                continue
            changes = _CHANGES[control] or {"pca": config.matched}
            seen = dataclasses.replace(data, **changes)
            if "input" in changes and seen.encoder is not None:
                # A model of clips sees both frames at once otherwise.
                apart = encoders.sees_clips(seen.encoder)
                seen = dataclasses.replace(
                    seen, encoder=dataclasses.replace(seen.encoder, apart=apart)
                )
            yield f"{name}_{control}", dataclasses.replace(base, data=seen)


_CHANGES: dict[str, dict[str, Any]] = {
    **{name: {"input": name} for name in ("source", "target", "difference")},
    "matched": {},
    "grouped": {"split": "grouped"},
    "relative": {"mode": "relative"},
}


def run(config: Panel, workdir: pathlib.Path) -> list[pathlib.Path]:
    """Train what is not trained yet, and write the report.

    Returns:
        The report's files.
    """
    runs: dict[str, pathlib.Path] = {}
    for name, one in probes(config, workdir):
        place = workdir / name
        runs[name] = place
        settings = config_lib.to_json(one)
        done = (place / "probe.json").exists()
        # A probe that was killed goes on from its checkpoint, and with its settings.
        begun = done or (place / "checkpoints").exists()
        if begun and config_lib.load_json(place / "config.json") != settings:
            raise ValueError(f"{place} holds a probe of other settings: give another --workdir")
        if done:
            continue
        place.mkdir(parents=True, exist_ok=True)
        config_lib.save_json(one, place / "config.json")
        logger.info("== %s", name)
        try:
            made = probe.program(one, place)
        except features.NotSingleFrames as error:
            logger.warning("%s is left out: %s", name, error)
            del runs[name]
            continue
        loop.run(made, one.train, place)
    return features.summary(workdir, runs, config.title)
