"""The line that says how long an evaluation will take."""

import functools
import io
import json

import pytest

pytest.importorskip("inspect_ai")

from jaxlab.evals import harness, logs, progress
from jaxlab.evals.settings import Benchmark, Run, Sampling, Subject
from tests.evals import scripted


def test_the_time_left_is_that_of_the_samples_of_this_process():
    now, out = [100.0], io.StringIO()
    before = [("a", True), ("a", True), ("b", False), ("b", None)]
    remaining = progress.Remaining(10, before, every=10, stream=out, clock=lambda: now[0])
    # Two samples after half a minute of compilation, then one every six seconds.
    for seconds, right in ((130, True), (130.5, False), (136, False), (142, False), (148, True)):
        now[0] = float(seconds)
        remaining.one(("c", right))
    now[0] = 154.0
    remaining.end([*before, *(("c", right) for right in (True, False, False, False, True, None))])
    assert out.getvalue().splitlines() == [
        # Nothing is known yet of how long a sample takes without compilation.
        "5/10 samples | accuracy 0.667 | elapsed 0:00:30 | left 0:02:30",
        "8/10 samples | accuracy 0.417 | elapsed 0:00:42 | left 0:00:12",
        # Rows count alike, however many of their answers have a verdict.
        "10/10 samples | accuracy 0.467 | elapsed 0:00:54",
    ]


def test_a_run_that_goes_on_has_less_to_do(tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    lines = [{"question": f"{i} plus 0", "answer": f"#### {i}"} for i in range(6)]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = Run(Subject(name="scripted"), Benchmark("gsm8k", str(rows), samples=2), Sampling(batch=1))
    workdir, broken = tmp_path / "run", ["2 plus 0", "5 plus 0"]

    def answer(prompt, seed):
        if any(name in prompt for name in broken):
            raise OSError("the network is down")
        return f"#### {0 if '4 plus' in prompt else prompt.split()[1]}"

    outcome = harness.evaluate(run, workdir, model=scripted.model(answer))
    assert len(outcome.failures) == 4
    last = _last_line(capsys)
    assert last.startswith(f"12/12 samples | accuracy {outcome.scores['avg@2']:.3f} | elapsed")
    newest = functools.partial(logs.newest, workdir, header_only=True)
    assert len(progress.finished(newest(), lambda score: True)) == 8
    broken.clear()
    outcome = harness.evaluate(run, workdir, model=scripted.model(answer))
    assert not outcome.failures
    assert _last_line(capsys).startswith("12/12 samples | accuracy 0.833 | elapsed")
    assert outcome.scores["avg@2"] == pytest.approx(5 / 6)
    assert len(progress.finished(newest(), lambda score: True)) == 12
    assert progress.finished(None, lambda score: True) == []


def _last_line(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if "samples | acc" in line][-1]
