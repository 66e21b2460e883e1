"""Runs that are stopped, and second runs in the same directory, on a loop that does not compile."""

import contextlib
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time

import pytest

from jaxlab import config as config_lib
from jaxlab import doors, train
from jaxlab.runtime import workdir as workdir_lib
from jaxlab.runtime.checkpoint import Checkpointer
from tests.trainers import quick_program

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setitem(train.TRAINERS, "quick", (quick_program.Quick, quick_program.program))


def _config(**changes):
    lengths = {"steps": 4, "log_every": 1, "eval_every": 100, "checkpoint_every": 2}
    lengths |= changes.pop("train", {})
    return {"trainer": "quick", "train": lengths} | changes


def _refused(capsys, run, code=2):
    """Runs what is to be refused; returns the one line."""
    with pytest.raises(SystemExit) as leaving:
        run()
    assert leaving.value.code == code
    lines = capsys.readouterr().err.splitlines()
    (line,) = [line for line in lines if not line.startswith("step ")]
    assert line.startswith("error: ")
    return line


def _files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != workdir_lib.LOCK
    }


def test_the_second_run_in_a_directory_is_refused(capsys, tmp_path):
    train.train(_config(), tmp_path)
    unfinished = tmp_path / "checkpoints" / "9.orbax-checkpoint-tmp-0"
    unfinished.mkdir()
    (unfinished / "half").touch()
    capsys.readouterr()
    before = _files(tmp_path)
    with workdir_lib.lock(tmp_path):
        line = _refused(capsys, lambda: train.train(_config(train={"steps": 8}), tmp_path))
        assert f"another process is at work in {tmp_path}" in line
        study = {"stages": {"a": _config()}}
        assert "another process" in _refused(capsys, lambda: train.run(study, tmp_path))
    assert _files(tmp_path) == before


def test_two_interrupts_end_the_program_at_once_and_leave_no_lock(tmp_path):
    workdir = tmp_path / "run"
    config = tmp_path / "config.py"
    text = "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({})"
    lengths = {"steps": 10**6, "checkpoint_every": 1, "log_every": 1}
    config.write_text(text.format(_config(train=lengths, seconds=0.01)))
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.trainers.quick_program",
            f"--config={config}",
            f"--workdir={workdir}",
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        limit = time.monotonic() + 120
        while not list(workdir.glob("checkpoints/[1-9]")):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < limit
            time.sleep(0.01)
        with pytest.raises(workdir_lib.WorkdirError, match=f"process {process.pid} on"):
            workdir_lib.lock(workdir)
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=10)
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert "interrupted twice" in stderr
    workdir_lib.lock(workdir).close()
    assert Checkpointer(workdir / "checkpoints").latest() >= 1


def test_a_request_during_the_last_save_of_a_stage_leaves_before_the_next(tmp_path, monkeypatch):
    save = Checkpointer.save

    def interrupted(self, step, state):
        os.kill(os.getpid(), signal.SIGTERM)
        return save(self, step, state)

    monkeypatch.setattr(Checkpointer, "save", interrupted)
    stages = {"first": _config(train={"checkpoint_every": 4}), "second": _config()}
    with pytest.raises(SystemExit) as leaving:
        train.run({"stages": stages}, tmp_path)
    assert leaving.value.code == 143
    assert Checkpointer(tmp_path / "first" / "checkpoints").latest() == 4
    assert not (tmp_path / "second").exists()
    assert not (tmp_path / "report.md").exists()


WANDB = """
import json, pathlib
class Run:
    def log(self, values, step): note("log", step)
    def finish(self, exit_code=0): note("finish", exit_code)
def note(*event):
    with open({!r}, "a") as file: file.write(json.dumps(event) + "\\n")
def init(**arguments):
    if arguments["project"] == "closed": raise OSError("no\\nnetwork")
    note("init", arguments["config"])
    return Run()
"""


@pytest.fixture
def wandb(tmp_path, monkeypatch):
    """A stand-in for the package; returns a function that gives what it was called with."""
    events = tmp_path / "events"
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "wandb.py").write_text(WANDB.format(str(events)))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    yield lambda: [json.loads(line) for line in events.read_text().splitlines()]
    sys.modules.pop("wandb", None)


def test_wandb_gets_the_config_and_a_finished_run(wandb, tmp_path):
    config = _config(train={"wandb": "p"}, seed=3)
    train.train(config, tmp_path / "run")
    first, *_, last = wandb()
    assert first == ["init", config_lib.to_json(train.settings(config))]
    assert last == ["finish", 0]


def test_wandb_is_told_of_runs_that_die(wandb, tmp_path, monkeypatch, capsys):
    def dying(**changes):
        with pytest.raises((SystemExit, ZeroDivisionError)) as death:
            train.train(_config(train={"wandb": "p"}, **changes), tmp_path / "run")
        assert wandb()[-1][0] == "finish"
        return death.value, wandb()[-1][1]

    assert dying(nan_at=1)[1] == 1
    with monkeypatch.context() as patch:
        patch.setattr(quick_program, "sleep", lambda _: 1 / 0)
        error, code = dying()
        assert (type(error), code) == (ZeroDivisionError, 1)
        patch.setattr(quick_program, "sleep", lambda _: os.kill(os.getpid(), signal.SIGTERM))
        assert dying()[1] == 143
    capsys.readouterr()
    closed = _config(train={"wandb": "closed"})
    line = _refused(capsys, lambda: train.train(closed, tmp_path / "other"), code=1)
    assert "Weights & Biases cannot be reached: no network" in line


@pytest.fixture
def limited():
    """A context in which no file can be larger than so many bytes, as on a full disk."""

    @contextlib.contextmanager
    def limit(size):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit


def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(capsys, caplog, limited, tmp_path):
    train.train(_config(model={"size": 10_000}), tmp_path)
    before = _files(tmp_path / "checkpoints")
    capsys.readouterr()
    longer = _config(model={"size": 10_000}, train={"steps": 8})
    with limited(30_000):
        line = _refused(capsys, lambda: train.train(longer, tmp_path), code=1)
    assert "the checkpoint of step 6 in" in line
    assert "could not be written (File too large); the last one, of step 4, stays" in line
    now = _files(tmp_path / "checkpoints")
    assert {name: now[name] for name in now if not name.startswith("6.")} == before
    assert not [record for record in caplog.records if record.exc_info]
    train.train(longer, tmp_path)
    assert Checkpointer(tmp_path / "checkpoints").latest() == 8


def test_a_full_disk_while_metrics_are_written(capsys, limited, tmp_path):
    long = _config(train={"steps": 200, "checkpoint_every": 1000})
    with limited(5_000):
        line = _refused(capsys, lambda: train.train(long, tmp_path), code=1)
    assert "File too large" in line


def test_a_full_disk_before_training_is_not_the_inputs_fault(capsys):
    def fill():
        with doors.reading_input():
            # As libraries in Rust say it.
            raise Exception("No space left on device (os error 28)")

    assert "No space left on device" in _refused(capsys, fill, code=1)
