"""A run that is killed, preempted, damaged or moved to other devices ends where it would have."""

import json
import os
import pathlib
import signal
import socket
import time

import jax
import numpy as np
import pytest

from jaxlab import train
from jaxlab.runtime.checkpoint import Checkpointer

ROOT = pathlib.Path(__file__).parents[2]
HERE = pathlib.Path(__file__).parent
TIMES = ("step_seconds", "tokens_per_second", "model_flops_per_second")


def _config():
    # As the door loads it: the tests are no package.
    namespace: dict = {}
    exec(compile((HERE / "resume_config.py").read_text(), "resume_config.py", "exec"), namespace)
    return namespace["get_config"]().to_dict()


@pytest.fixture
def start(forks):
    """Begins the run of resume_config.py in a process of its own."""

    def begin(workdir, variant="", **env):
        flags = f"--config={HERE / 'resume_config.py'}{variant}", f"--workdir={workdir}"
        return forks.start("jaxlab.train", *flags, cwd=ROOT, **env)

    return begin


def _signal_when(process, condition, number):
    """Sends the signal as soon as the condition holds; returns the exit code and stderr."""
    limit = time.monotonic() + 300
    while not condition():
        assert not process.ended(), process.wait().stderr
        assert time.monotonic() < limit, "the moment never came"
        time.sleep(0.005)
    os.kill(process.pid, number)
    done = process.wait(600)
    return done.returncode, done.stderr


def _rows(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def _last_logged(workdir):
    """The last whole row's step, of a file that is being written."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return max((json.loads(line)["step"] for line in lines), default=-1)


def _params(workdir, step=12):
    return Checkpointer(workdir / "checkpoints").restore_params(step)


def _check_identical(workdir, reference):
    jax.tree.map(np.testing.assert_array_equal, _params(workdir), _params(reference))
    assert _rows(workdir) == _rows(reference)
    for name in ("samples.jsonl", "histograms.jsonl"):
        assert (workdir / name).read_bytes() == (reference / name).read_bytes()


def _check_close(workdir, reference):
    """The same batches and the same samples; params and losses up to the order of sums."""
    rows, expected = _rows(workdir), _rows(reference)
    assert len(rows) == len(expected)
    for row, other in zip(rows, expected, strict=True):
        assert row.keys() == other.keys()
        for name in ("step", "reward", "response_length", "eval/avg@2", "eval/response_length"):
            assert row.get(name) == other.get(name), (row["step"], name)
        for name in ("loss", "grad_norm", "eval/entropy"):
            if name in other:
                assert row[name] == pytest.approx(other[name], rel=1e-3, abs=1e-5), name
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5),
        _params(workdir),
        _params(reference),
    )
    assert (workdir / "samples.jsonl").read_bytes() == (reference / "samples.jsonl").read_bytes()


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The uninterrupted run, on one device."""
    workdir = tmp_path_factory.mktemp("reference")
    train.train(_config(), workdir)
    return workdir


def test_the_reference_learns_something_to_compare(reference):
    steps = [row["step"] for row in _rows(reference) if "loss" in row]
    assert steps == list(range(1, 13))
    first, last = _params(reference, 4), _params(reference)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), first, last)
    assert all(x > 1e-3 for x in jax.tree.leaves(moved))


def test_killed_damaged_and_preempted_it_ends_bit_for_bit_the_same(tmp_path, reference, start):
    """SIGKILL, a damaged checkpoint, SIGTERM, and then to the end: one run, resumed twice.

    checkpoint_test.py kills more often, while checkpoints are written; a step of it is cheap.
    """
    saved = tmp_path / "checkpoints"
    code, stderr = _signal_when(start(tmp_path), (saved / "8").exists, signal.SIGKILL)
    assert code == -signal.SIGKILL, stderr
    assert not (saved / "12").exists()
    # The newest checkpoint is damaged, the one before it is not.
    newest = Checkpointer(saved).latest()
    assert Checkpointer(saved).steps() == [4, newest]
    (victim, *_) = sorted((saved / str(newest) / "state" / "d").iterdir())
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    # It goes on from step 4, so that only a resumed run has cut the rows behind it and logs a 5.
    resumed = (tmp_path / "metrics.jsonl").stat().st_mtime
    code, stderr = _signal_when(
        start(tmp_path),
        lambda: (
            (tmp_path / "metrics.jsonl").stat().st_mtime > resumed and _last_logged(tmp_path) >= 5
        ),
        signal.SIGTERM,
    )
    assert code == 143, stderr
    (named,) = [line for line in stderr.splitlines() if "is damaged" in line]
    assert str(saved / str(newest)) in named
    # Threads of the reading library may have told of the damage before.
    assert "Traceback" not in stderr.partition(named)[2]
    latest = Checkpointer(saved).latest()
    assert 5 <= latest < 12
    assert _last_logged(tmp_path) == latest
    train.train(_config(), tmp_path)
    _check_identical(tmp_path, reference)


def test_other_meshes_see_the_same_batches(tmp_path, reference, forks):
    process = forks.run(HERE / "devices_program.py", tmp_path, cwd=ROOT, timeout=600)
    assert process.returncode == 0, process.stderr[-4000:]
    # On 8 devices up to step 5, which it saves, then on one; on two, replicated, is the test below.
    assert Checkpointer(tmp_path / "checkpoints").latest() == 5
    train.train(_config(), tmp_path)
    _check_close(tmp_path, reference)


def test_two_processes_train_one_model(tmp_path, reference, start):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = [
        start(
            tmp_path,
            ":hosts",
            JAXLAB_COORDINATOR=f"localhost:{port}",
            JAXLAB_NUM_PROCESSES="2",
            JAXLAB_PROCESS_ID=str(index),
        )
        for index in range(2)
    ]
    for process in processes:
        done = process.wait(600)
        assert done.returncode == 0, done.stderr[-4000:]
    _check_close(tmp_path, reference)
    assert (tmp_path / "report.json").exists()
