"""A user's copy of LARYBench as a dataset of tensorflow-datasets, in array_record files.

    python -m jaxlab.evals.lary dataset --csv=calvin_metadata_val.csv --root=DATA_DIR --out=DIR

Images are stored as their files are, clips as the frames that the row names. TensorFlow is not
needed; the folder that is printed is opened by `tfds.builder_from_directory(...).as_data_source()`.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxlab.evals.lary import media, tracks
from jaxlab.evals.lary.rows import FRAMES, Panel, Row

_TEXTS = ("id", "episode", "group", "robot_type", "dataset", "perspective")


class Lary(tfds.core.GeneratorBasedBuilder):
    """One panel, in the order of its rows."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, panel: Panel, **options: Any):
        """Make a builder of the rows of a panel, which was read with a root."""
        self._panel = panel
        super().__init__(config=f"{panel.track}_{panel.split or 'all'}", **options)

    BUILDER_CONFIGS = [  # noqa: RUF012  the library's name for what may be built
        tfds.core.BuilderConfig(name=f"{track}_{split}")
        for track in tracks.TRACKS
        for split in ("train", "val", "seen_train", "seen_val", "unseen", "all")
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        panel, track = self._panel, tracks.TRACKS[self._panel.track]
        features: dict[str, Any] = {name: tfds.features.Text() for name in _TEXTS}
        if "video_path" in track.columns:
            features["frames"] = tfds.features.Sequence(tfds.features.Image(), length=FRAMES)
            features["sample_indices"] = tfds.features.Tensor(shape=(FRAMES,), dtype=np.int64)
        else:
            features |= {"src_img": tfds.features.Image(), "tgt_img": tfds.features.Image()}
        if track.kind == "label":
            # The names of the features are the classes' ids, over all splits.
            features["action"] = tfds.features.ClassLabel(names=panel.classes)
        else:
            shape = (None, len(track.dims))
            features["action"] = tfds.features.Tensor(shape=shape, dtype=np.float32)
        return self.dataset_info_from_configs(
            description=f"LARYBench, {panel.track} {panel.split}: {len(panel.rows)} rows.",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager
        return {self._panel.split or "all": self._generate_examples(self._panel)}

    def _generate_examples(self, panel: Panel) -> Iterator:
        for i, (_, example) in enumerate(media.each(panel, lambda row: _example(panel, row))):
            yield i, example


def write(panel: Panel, out: str | Path) -> Path:
    """Write a panel below `out`; returns the dataset's directory.

    Raises:
        FileExistsError: there is one already, perhaps of other rows.
        ValueError: the panel was read without a root, or a row's file is bad, by row and file.
    """
    if panel.root is None:
        raise ValueError("a dataset needs the files: read the rows with root=DIR")
    builder = Lary(panel=panel, data_dir=str(out))
    if Path(builder.data_dir).exists():
        raise FileExistsError(f"{builder.data_dir} is there already: remove it, or choose --out")
    builder.download_and_prepare(file_format="array_record")
    return Path(builder.data_dir)


def _example(panel: Panel, row: Row) -> dict[str, Any]:
    example: dict[str, Any] = {name: getattr(row, name) for name in _TEXTS}
    if row.video_path:
        frames = media.clip(panel.path(row, "video_path"), row.sample_indices)
        example["frames"] = list(map(_png, frames))
        example["sample_indices"] = np.array(row.sample_indices)
    else:
        media.pair(panel, row)  # a damaged file ends here, not in the dataset's reader
        example |= {name: str(panel.path(row, name)) for name in ("src_img", "tgt_img")}
    return example | {"action": media.actions(panel, row) if row.steps else row.action}


def _png(frame: np.ndarray) -> bytes:
    """The bytes of an image: tensorflow-datasets itself would encode it by TensorFlow."""
    file = io.BytesIO()
    media.needs("PIL.Image", "Pillow").fromarray(frame).save(file, "png")
    return file.getvalue()
