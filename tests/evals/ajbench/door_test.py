"""Through the door: a random model of ours judges what was replayed on files."""

import json
import pathlib
import shutil
import tempfile

import pytest

pytest.importorskip("inspect_ai")

from jaxlab.evals import results
from tests.evals import random_model
from tests.evals.ajbench import layout


@pytest.fixture
def model(tmp_path):
    return random_model.save(tmp_path / "model", max_position=4096)


def test_a_random_model_judges(door_process, model, base, tmp_path):
    """Its replies are noise: none is a verdict, and each is accounted for.

    The other sub-domains go through the door in subdomains_test, with a judge that needs no jax.
    """
    layout.write(tmp_path, ("filesystem",))
    own_tmp = tempfile.mkdtemp(dir=base)
    pathlib.Path(own_tmp).chmod(0o711)
    workdir = tmp_path / "run"
    options = {
        "states": tmp_path / "states",
        "tools": ("read_text_file",),
        "record_characters": 40,
        "max_turns": 1,
    }
    done = door_process(
        "evaluate",
        "--config=configs/eval_ajbench.py:tiny",
        f"--config.model.path={model}",
        f"--config.benchmark.path={tmp_path / 'src'}",
        "--config.eval.prompt_multiple=512",  # every width is a program of its own
        *(f"--config.benchmark.options.{name}={value}" for name, value in options.items()),
        f"--workdir={workdir}",
        TMPDIR=own_tmp,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    graded = results.read(workdir / "samples.jsonl")
    assert len(graded) == 2
    for result in graded:
        assert result.meta["turns"] == 1
        assert result.output_tokens > 8
        assert result.reason == "no_verdict"
        # Replayed as recorded: the same calls fail.
        assert (result.meta["replay"]["failed"], result.meta["replay"]["diverged"]) == (1, 0)
    report = json.loads((workdir / "report.json").read_text())
    assert report["rows"][0]["parse_failure_rate"] == 1.0
    # The process has ended, and taken everything along.
    assert list(pathlib.Path(own_tmp).glob("jaxlab-ajbench-*/*")) == []
    shutil.rmtree(own_tmp)
