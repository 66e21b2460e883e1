"""The line that says how long an evaluation will take."""

import io
import json

import pytest

pytest.importorskip("inspect_ai")

from jaxlab.evals import harness, logs, progress
from jaxlab.evals.settings import Benchmark, Run, Sampling, Subject
from tests.evals import scripted


def test_the_time_left_is_that_of_the_samples_of_this_process():
    now, out = [100.0], io.StringIO()
    remaining = progress.Remaining(10, before=4, every=10, stream=out, clock=lambda: now[0])
    for seconds in (105, 111, 112, 113, 125, 126):
        now[0] = float(seconds)
        remaining.one()
    assert out.getvalue().splitlines() == [
        # Two of the six in 11 s; then a line every ten seconds, and one at the end.
        "6/10 samples | elapsed 0:00:11 | left 0:00:22",
        "9/10 samples | elapsed 0:00:25 | left 0:00:05",
        "10/10 samples | elapsed 0:00:26 | left 0:00:00",
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
        return f"#### {prompt.split()[1]}"

    outcome = harness.evaluate(run, workdir, model=scripted.model(answer))
    assert len(outcome.failures) == 4
    assert "12/12 samples" in capsys.readouterr().err
    assert progress.finished(logs.newest(workdir, header_only=True)) == 8
    broken.clear()
    assert not harness.evaluate(run, workdir, model=scripted.model(answer)).failures
    shown = [line for line in capsys.readouterr().err.splitlines() if "samples | el" in line]
    assert shown[-1].startswith("12/12 samples")
    assert progress.finished(logs.newest(workdir, header_only=True)) == 12
    assert progress.finished(None) == 0
