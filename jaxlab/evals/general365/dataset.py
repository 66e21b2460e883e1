"""Generated problems as a dataset of tensorflow-datasets, for programs that read those.

    python -m jaxlab.evals.general365 --out=DIR --format=tfds --seeds=180

    name = "general365_generated/seeds180_difficulty2_seed0"
    rows = tfds.data_source(name, split="test", data_dir="DIR")

The files are array_record, which is read and written without TensorFlow, and which `tfds.load` does
not read: it wants `download_and_prepare(file_format="tfrecord")`, and TensorFlow.
The directory DIR/NAME/2.0.0 is also a path of the benchmark.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from jaxlab.evals.general365 import generate


@dataclasses.dataclass
class Config(tfds.core.BuilderConfig):
    """The arguments of `generate.generate`, which make the config's name."""

    name: str = ""
    seeds: int = 180
    difficulty: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        """Name the config by what is in it."""
        self.name = f"seeds{self.seeds}_difficulty{self.difficulty}_seed{self.seed}"
        self.description = f"{self.seeds} seed problems with three variants each."


class General365Generated(tfds.core.GeneratorBasedBuilder):
    """Problems in the schema of General365, in the order of `generate.generate`."""

    VERSION = tfds.core.Version("2.0.0")
    BUILDER_CONFIGS = [Config()]  # noqa: RUF012  the library's name for the default

    def _info(self) -> tfds.core.DatasetInfo:
        texts = ("id", "question", "answer", "answer_type", "float_round", "seed_id", "variant")
        features: dict[str, Any] = {name: tfds.features.Text() for name in texts}
        features["category"] = tfds.features.Sequence(tfds.features.Text())
        return self.dataset_info_from_configs(
            description="Reasoning problems in eight categories, generated with exact answers.",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager
        return {"test": self._generate_examples(self.builder_config)}

    def _generate_examples(self, config: Config) -> Iterator:
        yield from enumerate(generate.generate(config.seeds, config.difficulty, config.seed))


def write(path: str | Path, seeds: int, difficulty: int = 2, seed: int = 0) -> tuple[int, Path]:
    """Write a dataset below `path`; returns its number of rows and its directory.

    One that is there already is left as it is.

    Raises:
        ValueError: a count is out of range.
    """
    generate.check(seeds, difficulty)
    builder = General365Generated(
        data_dir=str(path), config=Config(seeds=seeds, difficulty=difficulty, seed=seed)
    )
    builder.download_and_prepare(file_format="array_record")
    return builder.info.splits["test"].num_examples, Path(builder.data_dir)
