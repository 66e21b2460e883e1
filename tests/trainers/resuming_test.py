"""What a work directory holds against the run that is to go on in it, without compiling."""

import json
import logging
import shutil
import sys

import pytest

from jaxlab import config as config_lib
from jaxlab import train
from jaxlab.runtime.checkpoint import Checkpointer
from jaxlab.trainers import resuming
from tests.trainers import quick_program
from tests.trainers.leaving_test import _config, _files, _refused


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setitem(train.TRAINERS, "quick", (quick_program.Quick, quick_program.program))
    monkeypatch.setitem(train.TRAINERS, "other", train.TRAINERS["quick"])


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run of four steps, which read a text."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(train.TRAINERS, "quick", (quick_program.Quick, quick_program.program))
        folder = tmp_path_factory.mktemp("done")
        (folder / "text.txt").write_text("one")
        data = {"options": {"train": str(folder / "text.txt")}}
        train.train(_config(data=data), folder / "run")
    return folder


@pytest.fixture
def run(done, tmp_path):
    """A copy of it: its directory and its config."""
    shutil.copytree(done / "run", tmp_path / "run")
    text = tmp_path / "text.txt"
    text.write_text("one")
    recorded = tmp_path / "run" / "config.json"
    recorded.write_text(recorded.read_text().replace(str(done / "text.txt"), str(text)))
    return tmp_path / "run", _config(data={"options": {"train": str(text)}})


CHANGED = {
    "fewer steps": ({"train": {"steps": 3}}, "train.steps: 3 is less than the 4 steps"),
    "stop_after": (
        {"train": {"steps": 8, "stop_after": 1}},
        "train.stop_after: 1 is less than the 4 steps",
    ),
    "size": ({"model": {"size": 5}}, "model.size was 3, now is 5: the checkpoint"),
    "slots": ({"optim": {"slots": 2}}, "optim.slots was 1, now is 2: the checkpoint"),
    "fewer slots": ({"optim": {"slots": 0}}, "optim.slots was 1, now is 0: the checkpoint"),
    "trainer": ({"trainer": "other"}, "trainer: "),
    "a service that is absent": (
        {"train": {"steps": 8, "wandb": "p"}},
        "logging to Weights & Biases needs the wandb package: pip install 'jaxlab[wandb]'",
    ),
}


@pytest.mark.parametrize(("changes", "message"), CHANGED.values(), ids=CHANGED)
def test_what_does_not_fit_is_refused_and_nothing_is_written(
    capsys, monkeypatch, run, changes, message
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    workdir, config = run
    before = _files(workdir)
    merged = {
        key: {**config.get(key, {}), **value} if isinstance(value, dict) else value
        for key, value in changes.items()
    }
    line = _refused(capsys, lambda: train.train({**config, **merged}, workdir))
    assert message in line
    assert _files(workdir) == before


def test_other_content_under_the_same_path(capsys, run):
    workdir, config = run
    text = workdir.parent / "text.txt"
    text.write_text("two")
    before = _files(workdir)
    longer = {**config, "train": {**config["train"], "steps": 6}}
    line = _refused(capsys, lambda: train.train(longer, workdir))
    assert f"data.options.train: the content of {text} is not what it was" in line
    assert _files(workdir) == before
    # Without a checkpoint there is nothing that it would not fit.
    shutil.rmtree(workdir / "checkpoints")
    (workdir / "metrics.jsonl").unlink()
    train.train(longer, workdir)


def test_another_path_is_told_and_done(run, caplog):
    workdir, config = run
    other = workdir.parent / "other.txt"
    other.write_text("two")
    changed = {**config, "data": {"options": {"train": str(other)}}}
    with caplog.at_level(logging.WARNING, "jaxlab"):
        train.train({**changed, "train": {**config["train"], "steps": 6}}, workdir)
    assert "config changed since this run began: data.options.train: " in caplog.text
    assert "train.steps: 4 -> 6" in caplog.text
    assert Checkpointer(workdir / "checkpoints").latest() == 6
    # And from now on it is that one.
    assert resuming.inputs(changed) == json.loads((workdir / "inputs.json").read_text())


def test_the_recorded_config_is_complete_and_defaults_are_no_change(run, caplog):
    workdir, config = run
    complete = json.loads((workdir / "config.json").read_text())
    assert complete == config_lib.to_json(train.settings(config))
    assert complete["train"]["keep_checkpoints"] == 3
    # As written by a program that leaves defaults out, and the other way round.
    (workdir / "config.json").write_text(json.dumps(config))
    with caplog.at_level(logging.WARNING, "jaxlab"):
        train.train(complete, workdir)
    assert caplog.text == ""


def test_metrics_without_their_checkpoints(capsys, run, caplog):
    workdir, config = run
    shutil.rmtree(workdir / "checkpoints")
    before = _files(workdir)
    line = _refused(capsys, lambda: train.train(config, workdir))
    assert "metrics.jsonl goes to step 4, but" in line
    assert "holds no checkpoint: bring it back" in line
    assert _files(workdir) == before
    # A run that was killed before, or while, it saved begins again, and says so.
    (workdir / "checkpoints" / "2.orbax-checkpoint-tmp-1").mkdir(parents=True)
    with caplog.at_level(logging.WARNING, "jaxlab"):
        train.train(config, workdir)
    assert "no checkpoint was saved: the run begins again" in caplog.text


def test_checkpoints_without_metrics_are_told(run, caplog):
    workdir, config = run
    (workdir / "metrics.jsonl").unlink()
    with caplog.at_level(logging.WARNING, "jaxlab"):
        train.train(config, workdir)
    assert "a checkpoint of step 4 and no metrics.jsonl: earlier rows are missing" in caplog.text


def test_runs_studies_and_evaluations_are_not_mixed(capsys, run, tmp_path):
    workdir, config = run
    before = _files(workdir)
    study = {"stages": {"a": _config(), "b": _config()}}
    line = _refused(capsys, lambda: train.run(study, workdir))
    assert f"{workdir} holds a single run, not stages" in line
    assert _files(workdir) == before
    parent = tmp_path / "study"
    train.run(study, parent)
    capsys.readouterr()
    before = _files(parent)
    line = _refused(capsys, lambda: train.train(config, parent))
    assert f"{parent} holds other runs (a, b)" in line
    assert _files(parent) == before
    (parent / "config.json").unlink()
    assert "other runs (a, b)" in _refused(capsys, lambda: train.train(config, parent))
    evaluation = tmp_path / "evaluation"
    evaluation.mkdir()
    (evaluation / "config.json").write_text('{"benchmark": {}}')
    line = _refused(capsys, lambda: train.train(config, evaluation))
    assert "holds an evaluation" in line


def test_a_study_is_compared_as_a_whole_before_its_first_stage(capsys, tmp_path):
    stages = {"a": _config(), "b": _config()}
    train.run({"stages": stages}, tmp_path)
    capsys.readouterr()
    before = _files(tmp_path)
    longer = _config(train={"steps": 8})
    changed = {"stages": {"a": longer, "b": _config(train={"steps": 2})}}
    assert "train.steps: 2 is less than" in _refused(capsys, lambda: train.run(changed, tmp_path))
    assert _files(tmp_path) == before


STUDIES = {
    "none": ({"stages": None}, "config.stages: expected dict[str, dict[str, Any]], got None"),
    "empty": ({"stages": {}}, "config: stages is empty: name at least one stage"),
    "a list": ({"stages": [1]}, "config.stages: expected dict"),
    "no config": ({"stages": {"a": None}}, "config.stages.a: expected dict"),
    "unknown key": ({"stages": {"a": {}}, "exprt": {}}, "exprt is not a known key; did you mean"),
    "name": ({"stages": {"../a": {}}}, "'../a' cannot be the name of a directory"),
    "part": ({"stages": {"checkpoints": {}}}, "'checkpoints' is what a run calls a part"),
    "nothing": ({}, "config.trainer: None is not one of"),
    "url": (_config(data={"train": "gs://b/t"}), "config.data.train: gs://b/t is a URL"),
}


@pytest.mark.parametrize(("config", "message"), STUDIES.values(), ids=STUDIES)
def test_bad_studies(capsys, tmp_path, config, message):
    assert message in _refused(capsys, lambda: train.run(config, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_exports_of_stages_are_checked_before_training(capsys, tmp_path):
    stages = {"a": _config()}
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "notes.txt").touch()
    for out, message in {
        "a": "is a directory of the run",
        ".": "is a directory of the run",
        "a/checkpoints": "is a directory of the run",
        "kept": "holds other files than a checkpoint's (notes.txt): give another",
        "s3://b/model": "export.a: s3://b/model is a URL",
    }.items():
        config = {"stages": stages, "export": {"a": out}}
        assert message in _refused(capsys, lambda config=config: train.run(config, tmp_path))
    for outs in ({"a": "o", "b": "o"}, {"a": "o/p", "b": "o"}, {"a": "o", "b": "./o/p"}):
        config = {"stages": stages | {"b": _config()}, "export": outs}
        line = _refused(capsys, lambda config=config: train.run(config, tmp_path))
        assert "give each stage a directory of its own" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept"]


def test_home_and_empty_names(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "t.txt").write_text("text")
    train.run(_config(data={"train": "~/t.txt"}), "~/run")
    recorded = json.loads((tmp_path / "run" / "config.json").read_text())
    assert recorded["data"]["train"] == str(tmp_path / "t.txt")
    capsys.readouterr()
    assert "--workdir is empty" in _refused(capsys, lambda: train.run(_config(), ""))
    assert "gs://b/run is a URL" in _refused(capsys, lambda: train.run(_config(), "gs://b/run"))


def test_another_default_of_the_code_is_told(tmp_path):
    old = {"optim": {"b2": 0.9, "rate": 1.0, "eps": 1.0}, "seed": 0}
    new = {"optim": {"b2": 0.95, "rate": 2.0, "eps": 2.0}, "seed": 0}
    config = {"optim": {"rate": 2.0}}
    assert resuming.written(config, tmp_path) is None
    (tmp_path / "run.json").write_text('{"written": ["optim.eps"]}')
    found = resuming.changes(new, old, resuming.written(config, tmp_path))
    began = "than when this run began"
    changed = "config changed since this run began"
    assert resuming.told(found) == [
        f"the code has another default {began}: optim.b2: 0.9 -> 0.95",
        f"{changed}: optim.eps: 1.0 -> 2.0",  # given then, left out now
        f"{changed}: optim.rate: 1.0 -> 2.0",
    ]
    assert not any(change.default for change in resuming.changes(new, old))
