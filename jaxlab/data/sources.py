"""Random-access sources: `len(source)` and `source[i] -> dict`, nothing else.

Which example comes when is `jaxlab.data.index`'s business, so a source has no order and no state.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxlab.grading.sources import Jsonl as Jsonl
from jaxlab.grading.sources import row_index


class Tfds:
    """A prepared TensorFlow Datasets split, read without TensorFlow (file format array_record).

    Text features come as str, everything else as tfds decodes it (numpy).
    """

    def __init__(self, name: str, split: str, data_dir: str | Path | None = None):
        """Opens `split` of data set `name` ("gsm8k", "mnist:3.*.*", ...).

        Raises:
            ValueError: the data set is unknown, has no such split, or was not prepared as
                array_record in `data_dir`.
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
        self._name = f"{name}/{split}"
        self._texts = [key for key in features if isinstance(features[key], tfds.features.Text)]

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
                        f"{self._name}[{i}]: field {key!r} is not UTF-8 ({error.reason} at byte "
                        f"{error.start})"
                    ) from None
        return row


class Generated:
    """`n` examples made on demand: `source[i]` is `fn(i)`, which must be a pure function of i."""

    def __init__(self, fn: Callable[[int], dict[str, Any]], n: int):
        """Raises ValueError if `n` is below 1."""
        if n < 1:
            raise ValueError(f"a generated source needs n >= 1, got {n}")
        self._fn, self._n = fn, n

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self._fn(row_index(i, self._n))
