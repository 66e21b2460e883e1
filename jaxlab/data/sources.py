"""Rows by number, from files of JSON lines or prepared TensorFlow Datasets: `len(rows)`, `rows[i]`.

Which row comes when is `jaxlab.data.index`'s business, so rows have no order and no state.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxlab.grading.sources import Jsonl, row_index

TFDS = "tfds:"


def read(path: str | Path, required: Sequence[str]) -> "Jsonl | Tfds":
    """The rows of a .jsonl file, or of "tfds:NAME/SPLIT", a prepared TensorFlow Datasets split.

    Args:
        path: a file; or the name of a data set ("gsm8k", "c4/en:3.*.*") behind "tfds:", and its
            split behind the last slash. It lies where tfds looks for it (TFDS_DATA_DIR).
        required: fields that every row must hold as strings.

    Raises:
        FileNotFoundError, ValueError: naming the file or data set, the row, and the cause.
    """
    if not str(path).startswith(TFDS):
        return Jsonl(path, required)
    name, _, split = str(path).removeprefix(TFDS).rpartition("/")
    if not name or not split:
        raise ValueError(f"{path}: name data set and split, such as {TFDS}gsm8k/train")
    return Tfds(name, split, required)


class Tfds:
    """A prepared TensorFlow Datasets split, read without TensorFlow (file format array_record).

    Text features come as str, everything else as tfds decodes it (numpy).
    """

    def __init__(
        self,
        name: str,
        split: str,
        required: Sequence[str] = (),
        data_dir: str | Path | None = None,
    ):
        """Opens `split` of data set `name` ("gsm8k", "mnist:3.*.*", ...).

        Raises:
            ValueError: the data set is unknown, has no such split, was not prepared as
                array_record in `data_dir`, or lacks a required field of text.
        """
        import tensorflow_datasets as tfds

        try:
            self._data = tfds.data_source(name, split=split, data_dir=data_dir, download=False)
        except Exception as error:
            cause = str(error).strip().partition("\n")[0] or type(error).__name__
            build = f"tfds build {name} --file_format=array_record"
            if data_dir is not None:
                build += f" --data_dir={data_dir}"
            raise ValueError(
                f"tfds data set {name!r}, split {split!r}: {cause}; prepare it once with `{build}`"
            ) from error
        features = self._data.dataset_info.features
        self._name = f"{TFDS}{name}/{split}"
        self._texts = [key for key in features if isinstance(features[key], tfds.features.Text)]
        for field in required:
            if field not in self._texts:
                raise ValueError(
                    f"{self._name}: has no field {field!r} of text; it has "
                    f"{', '.join(self._texts) or 'none'}"
                )

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, i: int) -> dict[str, Any]:
        row = dict(self._data[row_index(i, len(self))])
        for key in self._texts:
            if isinstance(row[key], bytes):
                try:
                    row[key] = row[key].decode()
                except UnicodeDecodeError as error:
                    raise ValueError(
                        f"{self.where(i)}: field {key!r} is not UTF-8 ({error.reason} at byte "
                        f"{error.start})"
                    ) from None
        return row

    def where(self, i: int) -> str:
        """'tfds:NAME/SPLIT[i]', for error messages."""
        return f"{self._name}[{i}]"
