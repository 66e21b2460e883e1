import json
import pathlib
import subprocess
import sys

import pytest
import tensorflow_datasets as tfds

from jaxlab.evals.general365 import dataset, generate, rows


def _command(*arguments):
    command = [sys.executable, "-m", "jaxlab.evals.general365", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_dataset_has_the_rows_of_the_file(tmp_path):
    done = _command(f"--out={tmp_path}", "--format=tfds", "--seeds=4", "--difficulty=1", "--seed=3")
    name = "general365_generated/seeds4_difficulty1_seed3"
    folder = tmp_path / name / "2.0.0"
    assert done.stdout.splitlines()[-1] == f"wrote 16 rows to {folder}"
    wanted = list(generate.generate(4, difficulty=1, seed=3))
    # As its users read it, by name.
    source = tfds.data_source(name, split="test", data_dir=tmp_path)
    assert len(source) == 16
    found = [
        {key: [x.decode() for x in value] if key == "category" else value.decode()}
        for i, row in enumerate(source)
        for key, value in row.items()
    ]
    assert found == [{key: row[key]} for row in wanted for key in sorted(row)]
    # As a path of the benchmark.
    generate.write(tmp_path / "rows.jsonl", 4, difficulty=1, seed=3)
    assert rows.read(folder) == rows.read(tmp_path / "rows.jsonl")
    assert "tensorflow" not in sys.modules


def test_a_dataset_of_several_splits_is_no_panel(tmp_path):
    done = _command(f"--out={tmp_path}", "--format=tfds", "--seeds=1", "--difficulty=1")
    folder = pathlib.Path(done.stdout.split()[-1])
    info = folder / "dataset_info.json"
    content = json.loads(info.read_text())
    content["splits"] += [{**content["splits"][0], "name": "train"}]
    info.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="one split in array_record files is needed"):
        rows.read(folder)


def test_a_folder_that_is_no_dataset(tmp_path):
    with pytest.raises(ValueError, match=r"is no dataset: name a \.jsonl file, or the folder"):
        rows.read(tmp_path)


def test_counts_below_one_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="are needed, got 0, 2"):
        dataset.write(tmp_path, 0)
    assert list(tmp_path.iterdir()) == []
