"""Settings of LARY's data, for probes and for encoders; their rows and frames. No jax."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from jaxlab import ranges
from jaxlab.evals.feature_store import Encoder, EncoderOptions, extract
from jaxlab.evals.lary import baselines, media, rows, world
from jaxlab.grading.rows import Rejected

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Synthetic:
    """The synthetic world as data, which is written once.

    Attributes:
        pairs: image pairs.
        target: "label": 27 classes; "chunk": actions of two robots.
        encoder: of the pairs, where the data have none of their own; see
            `jaxlab.evals.lary.baselines`.
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
        train: CSV of LARYBench, with `la_path` where there is no encoder; None with `synthetic`.
        val: CSV of the same track.
        root: the release's DATA_DIR, for chunks of actions.
        features: the release's LARY_LA_DIR; None: the root.
        synthetic: the synthetic world instead of files.
        encoder: whose features of the rows' images or clips are made, once; None: those of
            `la_path`.
        store: folder of the features as they are read; None: beside the synthetic world, or
            WORKDIR/features.
        missing: rows whose files are missing: an error, or left out with a count.
        bad_rows: rows that are malformed, or whose files are: likewise.
        split: "official"; "grouped" divides the rows of both files anew, no segment between sides.
        fraction: of the rows in val, for "grouped".
        inner: share of train that is not trained on, by groups, to choose a head by; 0: none.
        input: which frames of a pair are seen: "both", "source", "target", or "difference".
        pca: features are flattened and mapped to so many principal components of train, which
            matches the sizes of encoders; 0: as they are.
        mode: of chunks: "absolute", or "relative", the last step less the first.
        norm: of chunks: moments of train by "robot" or of "all", or the release's, "shipped".
        unknown_robots: a robot that train does not have: "error", or "identity" with a count.
    """

    train: str | None = None
    val: str | None = None
    root: str | None = None
    features: str | None = None
    synthetic: Synthetic | None = None
    encoder: EncoderOptions | None = None
    store: str | None = None
    missing: Literal["error", "skip"] = "error"
    bad_rows: Literal["error", "skip"] = "error"
    split: Literal["official", "grouped"] = "official"
    fraction: float = 0.25
    inner: float = 0.0
    input: Literal["both", "source", "target", "difference"] = "both"
    pca: int = 0
    mode: media.Mode = "absolute"
    norm: Literal["robot", "all", "shipped"] = "robot"
    unknown_robots: Literal["error", "identity"] = "error"

    def __post_init__(self) -> None:
        """Check that there is one source of rows, and ranges."""
        ranges.check_choices(self)
        ranges.check(self, "pca", least=0)
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
class FrameData:
    """Images or clips without their actions, which an encoder is trained on.

    Attributes:
        train: CSV of LARYBench; None with `synthetic`.
        val: CSV of the same track, on which the encoder is measured.
        root: the release's DATA_DIR.
        synthetic: the synthetic world instead of files.
        store: folder of the frames as they are read; None: as of `FeatureData`.
        missing: rows whose files are missing: an error, or left out with a count.
        bad_rows: rows that are malformed, or whose files are: likewise.
    """

    train: str | None = None
    val: str | None = None
    root: str | None = None
    synthetic: Synthetic | None = None
    store: str | None = None
    missing: Literal["error", "skip"] = "error"
    bad_rows: Literal["error", "skip"] = "error"

    def __post_init__(self) -> None:
        """Check that there is one source of rows."""
        ranges.check_choices(self)
        if self.synthetic is not None and any((self.train, self.val, self.root)):
            raise ValueError(
                "synthetic: the world has its own files; leave train, val and root out"
            )


def written(made: Synthetic, workdir: Path, features: bool) -> dict[str, Any]:
    """The files of the synthetic world, as settings; those that are there stay.

    Args:
        made: the world.
        workdir: gets it where it names no folder.
        features: whether its own encoder's features are wanted.
    """
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
        path = root / f"{kind}_metadata_{name}.csv"
        if features:
            path = baselines.extract(rows.read(path, root), root / "la", made.encoder, made.seed)
        found.append(str(path))
    files = {"synthetic": None, "train": found[0], "val": found[1], "root": str(root)}
    return files | ({"features": str(root / "la")} if features else {})


class Frames:
    """Frames without actions: `train` and `val`, memory-mapped float[N, F, ...]."""

    def __init__(self, data: FrameData, workdir: Path, encoder: Encoder):
        """Read rows and frames, as the encoder gives them; they stay in WORKDIR/features.

        Raises:
            ValueError, FileNotFoundError: as of `Opened`.
        """
        beside = workdir
        if data.synthetic is not None:
            beside = Path(data.synthetic.path or workdir)
            files = written(data.synthetic, workdir, features=False)
            data = dataclasses.replace(data, **files)
        panels, left_out = panels_of(data, None)
        store = Path(data.store) if data.store else beside / "features"
        self.train, self.val = (
            extract(panel, encoder, store, data.bad_rows, left_out)[1] for panel in panels
        )
        warn(left_out)


def panels_of(
    data: FeatureData | FrameData, features: str | None
) -> tuple[list[rows.Panel], list[Rejected]]:
    """The rows of train and val, and those left out.

    Args:
        data: which files.
        features: folder of `la_path`, or None.

    Raises:
        ValueError, FileNotFoundError: as of `rows.read`; or there are no files, or of two tracks.
    """
    if data.train is None or data.val is None or data.root is None:
        raise ValueError("data: train, val and root are needed, or synthetic")
    panels, left_out = [], []
    for path in (data.train, data.val):
        panel = rows.read(path, data.root, data.missing, bad_rows=data.bad_rows, features=features)
        left_out += [Rejected(one.where, f"missing: {one.path}") for one in panel.missing]
        left_out += panel.rejected
        panels.append(panel)
    if panels[0].track != panels[1].track:
        raise ValueError(f"train is of track {panels[0].track}, val of {panels[1].track}")
    return panels, left_out


def warn(left_out: Sequence[Rejected]) -> None:
    """Log the first rows that were left out, and their number."""
    for left in left_out[:5]:
        logger.warning("left out: %s: %s", left.where, left.cause)
    if left_out:
        logger.warning("%d rows left out in all", len(left_out))
