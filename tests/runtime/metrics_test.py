import io
import json
import sys

import jax.numpy as jnp
import pytest

from jaxlab.runtime import metrics


def _rows(path):
    return [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]


def test_rows_are_strict_json(tmp_path):
    with metrics.MetricsWriter(tmp_path) as writer:
        writer.write(1, {"loss": jnp.float32(0.5)})
        writer.write(2, {"loss": float("nan"), "norm": float("inf"), "lr": 1})
        # Flushed: another process can already read both rows.
        assert len(_rows(tmp_path / "metrics.jsonl")) == 2
    assert _rows(tmp_path / "metrics.jsonl") == [
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": None, "norm": None, "lr": 1.0, "nonfinite": ["loss", "norm"]},
    ]
    assert (tmp_path / "metrics.jsonl").read_text().startswith('{"step": 1')


def test_metric_may_not_be_called_step(tmp_path):
    with pytest.raises(ValueError, match="step"):
        metrics.MetricsWriter(tmp_path).write(1, {"step": 2.0})


def test_resumed_run_has_no_duplicates_and_no_torn_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with metrics.MetricsWriter(tmp_path) as writer:
        for step in range(1, 6):
            writer.write(step, {"loss": step})
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])  # killed in the middle of the last row
    with metrics.MetricsWriter(tmp_path) as writer:
        writer.truncate_after(3)
        writer.write(4, {"loss": 4})
    assert path.read_bytes() == whole[: whole.index(b'{"step": 5')]


def test_torn_line_is_dropped_without_a_resume(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "lo')
    with metrics.MetricsWriter(tmp_path) as writer:
        writer.write(2, {"loss": 2})
    assert [row["step"] for row in _rows(path)] == [1, 2]


def test_tensorboard_gets_the_same_numbers(tmp_path):
    with metrics.MetricsWriter(tmp_path, tensorboard=True) as writer:
        writer.truncate_after(0)
        writer.write(1, {"loss": 0.5})
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"loss" in events.read_bytes()


def test_absent_wandb_names_the_cure(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxlab\[wandb\]'"):
        metrics.MetricsWriter(tmp_path, wandb={"project": "p"})


class _Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_progress_leaves_compilation_out_of_the_rates():
    clock, stream = _Clock(), io.StringIO()
    progress = metrics.Progress(100, stream=stream, every=5.0, clock=clock)
    clock.now += 60.0  # compilation, in the first step
    progress.update(1, {"loss": 2.0}, tokens=1000)
    for step in range(2, 12):
        clock.now += 0.5
        progress.update(step, {"loss": 1.23456}, tokens=1000)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "step 1/100 | loss 2 | elapsed 1:00 | left ?"
    # 89 steps of 0.5 s are left; 10 x 1000 tokens in 5 s.
    assert lines[1:] == [
        "step 11/100 | loss 1.235 | 500 ms/step | 2,000 tok/s | elapsed 1:05 | left 0:44"
    ]


def test_progress_prints_the_last_step_and_rewrites_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    clock = _Clock()
    plain, terminal = io.StringIO(), Terminal()
    for stream in (plain, terminal):
        progress = metrics.Progress(2, stream=stream, clock=clock)
        progress.update(1)
        clock.now += 1.0
        progress.update(2)
        progress.close()
    assert plain.getvalue().splitlines()[-1].startswith("step 2/2 | 1 s/step")
    assert terminal.getvalue().count("\r") == 2
    assert terminal.getvalue().count("\n") == 1
