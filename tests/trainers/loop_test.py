"""The loop around a fake program that records what it is asked for, and in which order."""

import contextlib
import itertools
import json
import os
import signal
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlab.runtime import profiling
from jaxlab.runtime.checkpoint import Checkpointer, CheckpointError
from jaxlab.runtime.preemption import Preemption
from jaxlab.trainers import loop
from jaxlab.trainers.settings import Train, Until
from jaxlab.trainers.state import TrainState, apply_gradients, create

OPTIMIZER = optax.sgd(0.5)
TIMES = ("step_seconds", "tokens_per_second", "model_flops_per_second")
# Line separators to Unicode, not to jsonl.
STRANGE = "a\u2028b\u0085c\rd"


class Killed(BaseException):
    """Stands for SIGKILL: nobody handles it."""


class Fake:
    """Pulls w towards the number of the step. `events` is what happened, in order."""

    def __init__(self, *, die_at=None, signal_at=None, evaluation=None, nan_at=None, skip=False):
        self.events: list[Any] = []
        self._die_at, self._signal_at, self._nan_at = die_at, signal_at, nan_at
        self._signal_in_evaluation = evaluation

        def update(state, target):
            loss, grads = jax.value_and_grad(lambda p: jnp.sum((p["w"] - target) ** 2))(
                state.params
            )
            new, metrics = apply_gradients(state, grads, loss, OPTIMIZER, skip)
            return new._replace(step=state.step + 1), metrics | {"loss": loss}

        self._update = jax.jit(update, donate_argnums=0)

    def program(self):
        abstract = jax.eval_shape(self._create)
        return loop.Program(abstract, self._init, self._step, self._evaluate, ("loss", "reward"))

    def _create(self):
        return create({"w": jnp.ones(3)}, OPTIMIZER)

    def _init(self):
        self.events.append("init")
        return self._create()

    def _step(self, state, index):
        self.events.append(("step", index))
        assert int(state.step) == index
        if index == self._die_at:
            raise Killed
        if index == self._signal_at:
            os.kill(os.getpid(), signal.SIGTERM)
        target = jnp.float32(np.nan if index == self._nan_at else index)
        new, metrics = self._update(state, target)

        def host_metrics():
            self.events.append(("read", index + 1))
            return {"reward": 10.0 * index, "tokens": 7}

        return loop.StepOutput(new, metrics, host_metrics)

    def _evaluate(self, state, index):
        self.events.append(("evaluate", index))
        assert int(state.step) == index
        if index == self._signal_in_evaluation:
            os.kill(os.getpid(), signal.SIGTERM)
            self.events.append("went on evaluating")
        samples = [{"completion": STRANGE}, {"completion": str(index)}]
        score = float(state.params["w"].sum())
        return loop.Evaluation({"eval/score": score}, samples, [{"counts": [index]}])


def _train(**changes):
    return Train(**{"steps": 8, "log_every": 1, "eval_every": 4, "checkpoint_every": 3} | changes)


def _rows(workdir, name="metrics.jsonl"):
    # Bytes: str.splitlines would split at U+2028.
    lines = (workdir / name).read_bytes().split(b"\n")
    assert lines.pop() == b""
    rows = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def _all_rows(workdir):
    return [_rows(workdir, name) for name in ("metrics.jsonl", "samples.jsonl", "histograms.jsonl")]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """An uninterrupted run: its work directory and its last params."""
    workdir = tmp_path_factory.mktemp("reference")
    state = loop.run(Fake().program(), _train(), workdir)
    return workdir, np.asarray(state.params["w"])


def _check_like(reference, workdir, state):
    expected, params = reference
    np.testing.assert_array_equal(state.params["w"], params)
    assert int(state.step) == 8
    assert _all_rows(workdir) == _all_rows(expected)
    saved = Checkpointer(workdir / "checkpoints").restore_params(8)
    np.testing.assert_array_equal(saved["w"], params)


def test_step_time_leaves_out_evaluations_and_checkpoints(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(loop, "time", types.SimpleNamespace(monotonic=lambda: clock[0]))
    program = Fake().program()

    def takes(seconds, function):
        def timed(*args):
            clock[0] += seconds
            return function(*args)

        return timed

    save = Checkpointer.save
    monkeypatch.setattr(Checkpointer, "save", takes(1000, save))
    program = program._replace(step=takes(1, program.step), evaluate=takes(100, program.evaluate))
    loop.run(program, _train(eval_every=2, checkpoint_every=2, log_every=4), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step_seconds"] for row in rows if "loss" in row] == [1.0, 1.0]
    assert [row["tokens_per_second"] for row in rows if "loss" in row] == [7.0, 7.0]


def test_the_order_of_a_step(tmp_path, monkeypatch):
    fake = Fake()
    save, reached = Checkpointer.save, Preemption.reached

    def recording_save(self, step, state):
        fake.events.append(("checkpoint", step))
        return save(self, step, state)

    def recording_reached(self, step):
        fake.events.append(("preemption", step))
        return reached(self, step)

    monkeypatch.setattr(Checkpointer, "save", recording_save)
    monkeypatch.setattr(Preemption, "reached", recording_reached)
    loop.run(fake.program(), _train(steps=4, eval_every=2, checkpoint_every=3), tmp_path)
    assert fake.events == [
        "init",
        ("evaluate", 0),
        ("preemption", 0),
        ("step", 0),
        ("preemption", 1),
        ("step", 1),
        ("read", 1),  # while step 1 runs
        ("read", 2),  # what is evaluated has been checked
        ("evaluate", 2),
        ("preemption", 2),
        ("step", 2),
        ("preemption", 3),
        ("read", 3),  # what is saved has been checked
        ("checkpoint", 3),
        ("step", 3),
        ("read", 4),
        ("evaluate", 4),
        ("preemption", 4),
        ("checkpoint", 4),
        ("preemption", 5),  # a request while the last state was saved
    ]


def test_rows(reference):
    workdir, _ = reference
    metrics, samples, histograms = _all_rows(workdir)
    trained = [row for row in metrics if "loss" in row]
    assert [row["step"] for row in trained] == list(range(1, 9))
    assert [row["reward"] for row in trained] == [10.0 * i for i in range(8)]
    assert trained[0].keys() == {"step", "loss", "grad_norm", "update_norm", "reward"}
    # Each step goes half of the gradient 2 (w - i) downhill, which is all the way to i.
    np.testing.assert_allclose([row["loss"] for row in trained], [3.0] + 7 * [3.0], rtol=1e-6)
    evaluated = [(row["step"], row["eval/score"]) for row in metrics if "eval/score" in row]
    assert evaluated == [(0, 3.0), (4, 9.0), (8, 21.0)]
    assert samples[:2] == [
        {"step": 0, "completion": STRANGE},
        {"step": 0, "completion": "0"},
    ]
    assert histograms == [{"step": i, "counts": [i]} for i in (0, 4, 8)]


def test_log_every_skips_rows_but_not_the_last(tmp_path):
    loop.run(Fake().program(), _train(log_every=3, stop_after=7), tmp_path)
    steps = [row["step"] for row in _rows(tmp_path) if "loss" in row]
    assert steps == [3, 6, 7]


@pytest.mark.parametrize("die_at", range(8))
def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path, reference, die_at):
    with pytest.raises(Killed):
        loop.run(Fake(die_at=die_at).program(), _train(), tmp_path)
    again = Fake()
    state = loop.run(again.program(), _train(), tmp_path)
    assert ("init" in again.events) == (die_at < 3)
    _check_like(reference, tmp_path, state)


def test_torn_last_lines_are_dropped(tmp_path, reference):
    with pytest.raises(Killed):
        loop.run(Fake(die_at=4).program(), _train(), tmp_path)
    for name in ("metrics.jsonl", "samples.jsonl", "histograms.jsonl"):
        with (tmp_path / name).open("a") as file:
            file.write('{"step": 3, "compl')
    _check_like(reference, tmp_path, loop.run(Fake().program(), _train(), tmp_path))


def test_preemption_saves_and_leaves(tmp_path, reference):
    with pytest.raises(SystemExit) as leaving:
        loop.run(Fake(signal_at=4).program(), _train(), tmp_path)
    assert leaving.value.code == 143
    assert Checkpointer(tmp_path / "checkpoints").latest() == 5
    again = Fake()
    state = loop.run(again.program(), _train(), tmp_path)
    assert again.events[0] == ("step", 5)
    _check_like(reference, tmp_path, state)


def test_a_request_during_the_last_save_leaves_before_what_comes_next(
    tmp_path, reference, monkeypatch
):
    save = Checkpointer.save

    def interrupted(self, step, state):
        saved = save(self, step, state)
        if step == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        return saved

    monkeypatch.setattr(Checkpointer, "save", interrupted)
    with pytest.raises(SystemExit) as leaving:
        loop.run(Fake().program(), _train(), tmp_path)
    assert leaving.value.code == 143
    monkeypatch.undo()
    again = Fake()
    state = loop.run(again.program(), _train(), tmp_path)
    assert again.events == []
    _check_like(reference, tmp_path, state)


@pytest.mark.parametrize(("signal_at", "in_evaluation"), [(None, 4), (3, None)])
def test_an_evaluation_gives_way_and_is_made_up_for(tmp_path, reference, signal_at, in_evaluation):
    first = Fake(signal_at=signal_at, evaluation=in_evaluation)
    with pytest.raises(SystemExit) as leaving:
        loop.run(first.program(), _train(), tmp_path)
    assert leaving.value.code == 143
    assert "went on evaluating" not in first.events
    assert Checkpointer(tmp_path / "checkpoints").latest() == 4
    assert not [row for row in _rows(tmp_path) if row["step"] == 4 and "eval/score" in row]
    again = Fake()
    state = loop.run(again.program(), _train(), tmp_path)
    assert again.events[0] == ("evaluate", 4)
    _check_like(reference, tmp_path, state)


def test_stop_after_goes_on_later(tmp_path, reference):
    state = loop.run(Fake().program(), _train(stop_after=4), tmp_path)
    assert int(state.step) == 4
    assert Checkpointer(tmp_path / "checkpoints").latest() == 4
    _check_like(reference, tmp_path, loop.run(Fake().program(), _train(), tmp_path))


def test_a_score_ends_a_run(tmp_path, reference):
    """Before the first step, at an evaluation, after a kill, never; and it stays ended."""
    scores = {row["step"]: row["eval/score"] for row in _rows(reference[0]) if "eval/score" in row}
    assert scores[0] < scores[4] < scores[8]
    for step, at_least in ((0, scores[0]), (4, scores[4]), (8, scores[8] + 1)):
        train = _train(until=Until("score", at_least))
        with contextlib.suppress(Killed):
            loop.run(Fake(die_at=3).program(), train, tmp_path / str(step))
        loop.run(Fake().program(), train, tmp_path / str(step))
        assert Checkpointer(tmp_path / str(step) / "checkpoints").latest() == step
        before = _rows(tmp_path / str(step))
        assert before == [row for row in _rows(reference[0]) if row["step"] <= step]
        again = Fake()
        loop.run(again.program(), train, tmp_path / str(step))
        assert again.events == []
        assert _rows(tmp_path / str(step)) == before
    with pytest.raises(ValueError, match=r"until.metric: 'scoer' is not evaluated; score are"):
        loop.run(Fake().program(), _train(until=Until("scoer", 1.0)), tmp_path / "misspelt")


def test_a_finished_run_has_nothing_to_do(tmp_path, reference):
    loop.run(Fake().program(), _train(), tmp_path)
    again = Fake()
    state = loop.run(again.program(), _train(), tmp_path)
    assert again.events == []
    _check_like(reference, tmp_path, state)


def test_nonfinite_stops_and_names_step_and_checkpoint(tmp_path):
    with pytest.raises(
        loop.NonFiniteError,
        match=r"^step 6: loss and grad_norm not finite; the last checkpoint is 3 \(train.nonfinite",
    ):
        loop.run(Fake(nan_at=5).program(), _train(checkpoint_every=3), tmp_path)
    saver = Checkpointer(tmp_path / "checkpoints")
    assert saver.steps() == [3]
    np.testing.assert_allclose(saver.restore_params()["w"], [2.0] * 3, rtol=1e-6)
    last = _rows(tmp_path)[-1]
    assert (last["step"], last["loss"]) == (6, None)
    assert {"loss", "grad_norm"} <= set(last["nonfinite"])


def test_nonfinite_before_any_checkpoint(tmp_path):
    with pytest.raises(loop.NonFiniteError, match=r"^step 1: .*there is no checkpoint yet"):
        loop.run(Fake(nan_at=0).program(), _train(), tmp_path)


def test_nonfinite_skips_and_goes_on(tmp_path):
    config = _train(nonfinite="skip", eval_every=1)
    state = loop.run(Fake(nan_at=5, skip=True).program(), config, tmp_path)
    assert int(state.step) == 8
    rows = _rows(tmp_path)
    skipped = {row["step"]: row["skipped"] for row in rows if "skipped" in row}
    assert skipped == {step: float(step == 6) for step in range(1, 9)}
    scores = {row["step"]: row["eval/score"] for row in rows if "eval/score" in row}
    assert scores[5] == scores[6] == 12.0
    assert scores[7] == 18.0


def test_the_profiled_window(tmp_path, monkeypatch):
    fake = Fake()
    monkeypatch.setattr(jax.profiler, "start_trace", lambda path: fake.events.append(path))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: fake.events.append("stop"))
    config = _train(profile_start=1, eval_every=100, checkpoint_every=100)
    loop.run(fake.program(), config, tmp_path)
    path = str(tmp_path / "profile")
    traced = list(
        itertools.takewhile(lambda e: e != "stop", fake.events[fake.events.index(path) :])
    )
    steps = [event[1] for event in traced if event[0] == "step"]
    assert steps == [1, 2, 3, 4, 5]


def test_a_trace_is_closed_with_the_run(tmp_path, monkeypatch):
    fake = Fake()
    monkeypatch.setattr(jax.profiler, "start_trace", lambda path: fake.events.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: fake.events.append("stop"))
    loop.run(fake.program(), _train(profile_start=6), tmp_path)
    assert fake.events.count("start") == fake.events.count("stop") == 1


@pytest.mark.parametrize(
    "name",
    ["steps", "log_every", "eval_every", "checkpoint_every", "keep_checkpoints", "keep_every"],
)
def test_counts_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, not 0"):
        _train(**{name: 0})


@pytest.mark.parametrize(("keep_every", "kept"), [(None, [7, 8]), (3, [3, 6, 7, 8])])
def test_only_the_newest_checkpoints_and_every_nth_stay(tmp_path, keep_every, kept):
    settings = _train(checkpoint_every=1, keep_checkpoints=2, keep_every=keep_every)
    state = loop.run(Fake().program(), settings, tmp_path)
    assert Checkpointer(tmp_path / "checkpoints").steps() == kept
    assert isinstance(state, TrainState)


def test_model_flops_are_a_rate_and_a_share_of_the_peak(tmp_path, monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(loop, "time", types.SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setitem(profiling.PEAK_FLOPS, jax.devices()[0].device_kind, 1e12)
    program = Fake().program()

    def step(state, index):
        clock[0] += 2
        output = program.step(state, index)
        counted = {"model_flops": 1e12}
        return output._replace(host_metrics=lambda: output.host_metrics() | counted)

    loop.run(program._replace(step=step), _train(log_every=4), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    # The metrics of a step are read while the next one, of 2 seconds, runs.
    first, last = [row for row in rows if "loss" in row]
    assert last["model_flops_per_second"] == 0.5e12
    assert last["mfu"] == 0.5
    assert "model_flops" not in first
    assert "mfu 0.5" in capsys.readouterr().err


def test_state_on_the_host_is_part_of_a_checkpoint(tmp_path):
    def run(steps, held):
        fake = Fake()

        def step(state, index):
            held.append(index)
            return fake._step(state, index)

        def load(value):
            held[:] = value

        program = fake.program()._replace(
            step=step, host_state=loop.HostState(lambda: list(held), load)
        )
        loop.run(program, Train(steps=steps, checkpoint_every=2, eval_every=100), tmp_path)
        return held

    assert run(3, []) == [0, 1, 2]
    assert run(5, ["lost"]) == [0, 1, 2, 3, 4]
    other = tmp_path / "other"
    loop.run(Fake().program(), Train(steps=2), other)
    program = Fake().program()._replace(host_state=loop.HostState(list, print))
    with pytest.raises(CheckpointError, match="step 2 has no host state"):
        loop.run(program, Train(steps=4), other)
