"""Runs that are stopped, and second runs in the same directory, on a loop that does not compile."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from jaxlab import train
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
    (line,) = capsys.readouterr().err.splitlines()
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
