"""A work directory holds the answers of one run, in one grading."""

import dataclasses
import functools
import json
import os
import re
import signal
import sys
import types

import pytest

pytest.importorskip("inspect_ai")

from inspect_ai.log._recorders.buffer.database import SampleBufferDatabase

from jaxlab import evaluate
from jaxlab.config import ConfigError
from jaxlab.evals import fingerprint, harness, results
from jaxlab.evals.settings import Benchmark, Run, Sampling, Subject
from jaxlab.grading.math import prompts
from jaxlab.runtime import workdir
from tests.evals import scripted


def _write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def sums(tmp_path):
    """Three rows with ids."""
    path = tmp_path / "sums.jsonl"
    _write(path, [{"id": f"r{i}", "question": f"{i} plus 0", "answer": str(i)} for i in range(3)])
    return path


def _run(rows, model=None, name="math", **options):
    subject = Subject(name="scripted") if model is None else Subject(path=str(model))
    return Run(subject, Benchmark(str(name), str(rows), 1, options=options), Sampling(batch=2))


def _right(prompt, seed):
    return f"\\boxed{{{prompt.split()[0]}}}"


def _evaluate(run, workdir, answer=_right, **more):
    return harness.evaluate(run, workdir, model=scripted.model(answer), **more)


def test_rows_that_changed_under_the_same_path_are_refused(sums, tmp_path):
    _evaluate(_run(sums), tmp_path / "run")
    rows = [{"id": f"r{i}", "question": f"{i} plus 1", "answer": str(i + 1)} for i in range(3)]
    before = results.read(tmp_path / "run" / "samples.jsonl")
    _write(sums, rows)
    for again in (False, True):
        with pytest.raises(ConfigError, match=r"run holds answers to other rows .* another --work"):
            _evaluate(_run(sums), tmp_path / "run", again=again)
    assert results.read(tmp_path / "run" / "samples.jsonl") == before
    # Their order is no other panel.
    _write(sums, reversed(rows))
    _evaluate(_run(sums), tmp_path / "other")
    _write(sums, rows)
    _evaluate(_run(sums), tmp_path / "other")


def test_prompts_that_changed_are_refused(sums, tmp_path, monkeypatch):
    _evaluate(_run(sums), tmp_path / "run")
    monkeypatch.setitem(prompts.TEMPLATES, "boxed", "{question} Box it.")
    with pytest.raises(ConfigError, match=r"holds answers to other prompts or references"):
        _evaluate(_run(sums), tmp_path / "run")


@pytest.fixture
def model(tmp_path):
    """A directory whose weights are larger than what is read of them."""
    folder = tmp_path / "MODEL"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(os.urandom(1 << 20))
    return folder


def test_a_newer_checkpoint_is_refused(sums, model, tmp_path):
    _evaluate(_run(sums, model), tmp_path / "run")
    _evaluate(_run(sums, model), tmp_path / "run")
    (model / "README.md").write_text("no reason to ask again")
    _evaluate(_run(sums, model), tmp_path / "run")
    (model / "model.safetensors").write_bytes(os.urandom(1 << 20))
    with pytest.raises(ConfigError, match=r"holds answers of another checkpoint .*--workdir"):
        _evaluate(_run(sums, model), tmp_path / "run")
    # Whoever gave the answers, they can be graded again.
    _evaluate(_run(sums, model), tmp_path / "run", again=True)


def test_fingerprints(model, tmp_path):
    found = [fingerprint.of_model(model)]
    (model / "config.json").write_text('{"a": 1}')
    found.append(fingerprint.of_model(model))
    assert None not in found
    assert found[0] != found[1]
    assert fingerprint.of_model(tmp_path / "none") is None
    run = tmp_path / "training"
    for part in ("model", "checkpoints/100", "checkpoints/200.orbax-checkpoint-tmp"):
        (run / part).mkdir(parents=True)
    (run / "model" / "decoder.json").write_text("{}")
    (run / "checkpoints" / "100" / "manifest.json").write_text('{"files": {"a": [1, 2]}}')
    first = fingerprint.of_model(run)
    assert first.startswith("step 100, ")
    # The same step, trained again.
    (run / "checkpoints" / "100" / "manifest.json").write_text('{"files": {"a": [1, 3]}}')
    assert fingerprint.of_model(run) not in (None, first)
    (run / "checkpoints" / "1000").mkdir()
    assert fingerprint.of_model(run).startswith("step 1000, ")


OWN = """
from inspect_ai import task
from jaxlab.evals import tasks
from jaxlab.grading import rows
from jaxlab.grading.graders import Verdict
from jaxlab.grading.math.rows import parse

def grade(row, text):
    {body}

@task
def own(path, samples=1, limit=None, seed=0):
    return tasks.benchmark(rows.read(path, parse), lambda row: row.question, tasks.by_rule(grade))
"""
RIGHT, WRONG = (f"return Verdict({right}, 'a', '{'mis' * (not right)}match')" for right in (1, 0))

TABLES = """
def tables(results):
    from jaxlab.evals.math import metrics
    return metrics.tables(results)
"""


@pytest.fixture
def own(sums, tmp_path):
    """Evaluates a benchmark of the user's with a grader of this body; scores, failures, answers."""
    file, asked = tmp_path / "own.py", []

    def answer(prompt, seed):
        asked.append(prompt)
        return "x" * 5000  # so long that a log keeps it apart

    def evaluate(body=None, again=False):
        if body is not None:
            file.write_text(OWN.format(body=body))
        asked.clear()
        outcome = _evaluate(_run(sums, name=file), tmp_path / "run", answer, again=again)
        graded = results.read(tmp_path / "run" / "samples.jsonl")
        assert all(result.completion == "x" * 5000 for result in graded)
        return outcome, graded, len(asked)

    return evaluate


def _score(found):
    return found[0].scores["avg@1"], found[2]


def test_the_newest_grading_stays(own, tmp_path):
    assert _score(own(RIGHT)) == (1.0, 3)
    assert _score(own(WRONG, again=True)) == (0.0, 0)
    assert _score(own()) == (0.0, 0)
    assert _score(own(RIGHT, again=True)) == (1.0, 0)
    assert _score(own()) == (1.0, 0)
    assert len(list((tmp_path / "run" / "logs").glob("*.eval"))) == 1
    assert not list((tmp_path / "run").glob("*.eval"))


def test_a_grader_that_changed_is_not_taken_for_the_one_of_the_scores(own, tmp_path):
    assert _score(own(RIGHT)) == (1.0, 3)
    with pytest.raises(ConfigError, match=r"graded by a benchmark file that has changed.*--regr"):
        own(WRONG)
    assert _score(own(again=True)) == (0.0, 0)
    assert "- grading: file=" in (tmp_path / "run" / "report.md").read_text()
    # What grades nothing may change.
    assert _score(own(f"# as before\n    {WRONG}\n{TABLES}")) == (0.0, 0)


def test_a_score_between_right_and_wrong_is_named(own):
    outcome, graded, _ = own("return Verdict(0.5 if row.id == 'r1' else 1, 'a', 'match')")
    assert outcome.ungraded == ["r1: the score 0.5 is neither right (1) nor wrong (0)"]
    assert [result.reason for result in graded] == ["match", "grader_error", "match"]
    outcome, _, asked = own(RIGHT, again=True)
    assert (outcome.scores["avg@1"], outcome.ungraded, asked) == (1.0, [], 0)


def test_the_config_names_the_grading_of_the_scores(tmp_path):
    rows = tmp_path / "rows.jsonl"
    _write(rows, [{"question": "q", "answer": "3.14", "answer_type": "number", "float_round": "2"}])

    def go(places, again=False):
        run = _run(rows, name="general365", grader="rule", float_round=places)
        return _evaluate(run, tmp_path / "run", lambda p, s: "\\boxed{3.1416}", again=again).scores

    assert go("field")["accuracy"] == 1.0
    with pytest.raises(ConfigError, match=r"float_round was 'field', now is 'off'.* --regrade"):
        go("off")
    before = (tmp_path / "run" / "config.json").read_text()
    assert go("off", again=True)["accuracy"] == 0.0
    assert go("off")["accuracy"] == 0.0
    # As if it had ended between the log and the config.
    (tmp_path / "run" / "config.json").write_text(before)
    with pytest.raises(ConfigError, match=r"float_round was 'off', now is 'field'"):
        go("field")
    assert go("off")["accuracy"] == 0.0


FAILS = "if row.id in {ids}: raise RuntimeError('a bug')\n    " + RIGHT


@pytest.mark.parametrize("ids", [["r1"], ["r0", "r1", "r2"]])
def test_a_grader_that_fails_costs_no_answer(own, tmp_path, ids):
    outcome, graded, asked = own(FAILS.format(ids=ids))
    assert asked == 3
    assert outcome.scores["avg@1"] == pytest.approx(1 - len(ids) / 3)
    assert outcome.failures == []
    assert outcome.ungraded == [f"{row}: RuntimeError: a bug" for row in ids]
    assert [r.id for r in graded if r.reason == "grader_error" and not r.parsed] == ids
    text = (tmp_path / "run" / "report.md").read_text()
    assert f"| grader_error | {len(ids)} |" in text
    assert text.splitlines()[2] == (
        f"**The grader failed on {len(ids)} of 3 answers, which count as wrong: "
        f"RuntimeError {len(ids)}.** Mend the grader, and grade again by `--regrade`."
    )
    content = json.loads((tmp_path / "run" / "report.json").read_text())
    assert list(content)[:2] == ["title", "grader_errors"]
    assert content["grader_errors"] == outcome.grader_errors == {"RuntimeError": len(ids)}
    assert outcome.scores["grader_errors"] == len(ids)
    assert f"- answers on which the grader failed: {ids[0]}: RuntimeError: a bug" in text
    assert _score(own()) == (pytest.approx(1 - len(ids) / 3), 0)  # still, and nothing asked
    outcome, _, asked = own(RIGHT, again=True)
    assert (outcome.scores["avg@1"], outcome.ungraded, asked) == (1.0, [], 0)


def test_a_grader_that_lacks_something_ends_the_run(own, sums, tmp_path):
    """Answers that could not be graded would only cost."""
    _write(sums, [{"question": f"{i} plus 0", "answer": str(i)} for i in range(16)])
    fails, asked = "if row.question[0] == '{}': raise ImportError('no sympy')\n    " + RIGHT, []
    (tmp_path / "own.py").write_text(OWN.format(body=fails.format(1)))
    run = _run(sums, name=tmp_path / "own.py")
    with pytest.raises(RuntimeError, match=r"^the grader cannot work: no sympy$"):
        _evaluate(run, tmp_path / "run", lambda prompt, seed: asked.append(prompt) or "x")
    assert len(asked) < 12
    # Of the finished answers, which keep their grades.
    (tmp_path / "own.py").write_text(OWN.format(body=fails.format(0)))
    with pytest.raises(RuntimeError, match=r"^the grader cannot work: no sympy$"):
        harness.evaluate(run, tmp_path / "run", again=True)
    (tmp_path / "own.py").write_text(OWN.format(body=RIGHT))
    with pytest.raises(ConfigError, match="add --regrade"):
        _evaluate(run, tmp_path / "run")
    harness.evaluate(run, tmp_path / "run", again=True)
    outcome = _evaluate(run, tmp_path / "run", lambda prompt, seed: asked.append(prompt) or "x")
    assert (outcome.scores["avg@1"], outcome.failures, outcome.ended) == (1.0, [], None)


def test_a_run_begun_from_python_goes_on_at_the_door(sums, tmp_path, config):
    """Options that were left out are those that the door writes out."""
    _evaluate(_run(sums, name="gsm8k"), tmp_path / "run")
    written = config("eval_gsm8k")["benchmark"]["options"]
    _evaluate(_run(sums, name="gsm8k", **written), tmp_path / "run")
    for changed in ({"prompt": "bare"}, {"truncated": "graded"}):
        with pytest.raises(ConfigError, match=r"options\.\w+ was '\w+', now is '\w+'"):
            _evaluate(_run(sums, name="gsm8k", **written | changed), tmp_path / "run")
    # As an earlier version wrote it, without an option that there is now.
    path = tmp_path / "run" / "config.json"
    content = json.loads(path.read_text())
    del content["benchmark"]["options"]["bad_rows"]
    path.write_text(json.dumps(content))
    _evaluate(_run(sums, name="gsm8k"), tmp_path / "run")


def test_the_answers_of_a_run_that_failed_are_graded_again(own, sums, tmp_path):
    own(RIGHT)  # writes the file

    def answer(prompt, seed):
        if prompt.startswith("1"):
            raise RuntimeError("no such luck")
        return "x"

    run = _run(sums, name=tmp_path / "own.py")
    workdir = tmp_path / "failed"
    assert len(_evaluate(run, workdir, answer).failures) == 1
    (tmp_path / "own.py").write_text(OWN.format(body=WRONG))
    outcome = harness.evaluate(run, workdir, again=True)
    assert outcome.scores["avg@1"] == 0.0
    assert [failure.partition(":")[0] for failure in outcome.failures] == ["r1"]
    asked = []
    outcome = _evaluate(run, workdir, lambda prompt, seed: asked.append(prompt) or "x")
    assert (len(asked), outcome.scores["avg@1"], outcome.failures) == (1, 0.0, [])


@pytest.fixture
def ctrl_c():
    """Heeded as in a terminal: a shell's background job begins with the signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield functools.partial(signal.raise_signal, signal.SIGINT)
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_keeps_what_is_finished(sums, tmp_path, ctrl_c):
    _write(sums, [{"question": f"{i} plus 0", "answer": str(i)} for i in range(20)])
    asked = []

    def answer(prompt, seed):
        asked.append(prompt)
        if len(asked) == 6:
            ctrl_c()
        return _right(prompt, seed)

    with pytest.raises(KeyboardInterrupt):
        _evaluate(_run(sums), tmp_path, answer)
    assert len(asked) < 20
    outcome = _evaluate(_run(sums), tmp_path, answer, again=True)
    assert re.fullmatch(r"after [3-9] of 20 answers: it was stopped", outcome.ended)
    outcome = _evaluate(_run(sums), tmp_path, answer)
    assert (outcome.scores["avg@1"], outcome.ended) == (1.0, None)
    assert len(asked) <= 20 + 2  # those that were under way
    assert len(set(asked)) == 20


def test_a_disk_that_is_full_is_the_cause_and_no_sample_is(sums, tmp_path, monkeypatch):
    _write(sums, [{"question": f"{i} plus 0", "answer": str(i)} for i in range(30)])
    asked = []

    def answer(prompt, seed):
        asked.append(prompt)
        return _right(prompt, seed)

    write = SampleBufferDatabase.complete_sample

    def complete_sample(*arguments, **more):
        if len(asked) > 5:
            raise OSError("No space left on device")
        return write(*arguments, **more)

    monkeypatch.setattr(SampleBufferDatabase, "complete_sample", complete_sample)
    outcome = _evaluate(_run(sums), tmp_path, answer)
    assert re.fullmatch(r"after \d+ of 30 answers: .*No space left on device.*", outcome.ended)
    text = (tmp_path / "report.md").read_text()
    assert f"- the run ended early: {outcome.ended}" in text
    monkeypatch.undo()
    assert _evaluate(_run(sums), tmp_path, answer).ended is None


def test_the_door_says_how_an_interrupted_run_goes_on(sums, tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(harness, "subject", lambda run: None)
    monkeypatch.setattr(harness, "generate", interrupted)
    monkeypatch.setattr(evaluate, "REGRADE", types.SimpleNamespace(value=False))
    with pytest.raises(SystemExit) as left:
        evaluate._benchmark(_run(sums), tmp_path / "run")
    assert left.value.code == 143
    said = "stopped: the finished answers are kept, and the same command goes on\n"
    assert capsys.readouterr().err == said


def test_one_process_at_a_time(sums, tmp_path):
    with workdir.lock(tmp_path), pytest.raises(ValueError, match="another process is at work in"):
        _evaluate(_run(sums), tmp_path)
    assert not (tmp_path / "logs").exists()
    assert _evaluate(_run(sums), tmp_path).scores["avg@1"] == 1.0


def test_answers_that_are_not_in_the_log_yet_are_beside_it(sums, tmp_path, monkeypatch):
    _write(sums, [{"question": f"{i} plus 0", "answer": str(i)} for i in range(12)])
    monkeypatch.setattr(harness, "SHARED_S", 1)
    seen = []

    def answer(prompt, seed):
        seen.extend((tmp_path / "logs").glob(".buffer/*/manifest.json"))
        return _right(prompt, seed)

    harness.evaluate(_run(sums), tmp_path, model=scripted.model(answer, seconds=0.5))
    assert seen
    assert not list((tmp_path / "logs").glob(".buffer/*/*"))


def test_a_judge_that_fails_is_accounted_for(tmp_path, monkeypatch):
    rows = tmp_path / "rows.jsonl"
    _write(rows, [{"question": "who", "answer": "Tom", "answer_type": "text"}])

    def refuse(prompt, seed):
        raise ConnectionError("no network")

    models = {"judge": scripted.model(refuse)}
    get_model = harness.inspect_ai.model.get_model
    monkeypatch.setattr(
        harness.inspect_ai.model,
        "get_model",
        lambda name=None, **more: models.get(name) or get_model(name, **more),
    )
    run = _run(rows, name="general365", judge="judge")
    outcome = _evaluate(run, tmp_path / "run", lambda prompt, seed: "Tom")
    (graded,) = results.read(tmp_path / "run" / "samples.jsonl")
    assert (graded.reason, graded.correct) == ("grader_error", False)
    assert outcome.ungraded == [f"{graded.id}: ConnectionError: no network"]
    votes = ['{"accuracy": true}', '{"accuracy": false}', '{"accuracy": true}']
    models["judge"] = scripted.model(lambda prompt, seed: votes.pop())
    run = _run(rows, name="general365", judge="judge", judge_votes=3)
    assert harness.evaluate(run, tmp_path / "run", again=True).scores["accuracy"] == 1.0
    assert votes == []
    text = (tmp_path / "run" / "report.md").read_text()
    assert "grader=cascade, judge=judge, judge_votes=3, float_round=field" in text


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("openai/gpt-4.1", "pip install openai"),
        ("nowhere/gpt", "nowhere of model 'nowhere/gpt' not recognized"),
        ("gpt-4.1", "should be in the format"),
    ],
)
def test_a_model_that_cannot_be_asked_is_found_before_any_answer(
    sums, tmp_path, monkeypatch, name, cause
):
    monkeypatch.setitem(sys.modules, "openai", None)
    rows = tmp_path / "rows.jsonl"
    _write(rows, [{"question": "who", "answer": "Tom", "answer_type": "text"}])
    run = _run(rows, name="general365", judge=name)
    with pytest.raises(ConfigError, match=rf"options\.judge={name}: [^\n\[]*{cause}[^\n\[]*$"):
        harness.prepare(run, tmp_path / "run", regrade=False)
    run = dataclasses.replace(run, model=Subject(name=name))
    with pytest.raises(ConfigError, match=rf"model\.name={name}: [^\n\[]*{cause}[^\n\[]*$"):
        harness.subject(run)
    assert not (tmp_path / "run").exists()


def test_a_task_without_a_scorer_and_a_missing_package(own, sums, tmp_path, monkeypatch):
    file = tmp_path / "own.py"
    file.write_text(
        "from inspect_ai import Task, task\n"
        "@task\n"
        "def own(path, samples=1, limit=None, seed=0):\n"
        "    return Task()\n"
    )
    with pytest.raises(ConfigError, match=r"the task in .*own\.py has no scorer"):
        harness.prepare(_run(sums, name=file), tmp_path, regrade=False)
    monkeypatch.setattr(harness, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs sympy; .* pip install jaxlab\[evals\]"):
        harness.prepare(_run(sums), tmp_path, regrade=False)


def test_answers_after_an_error_are_named_in_the_report(sums, tmp_path):
    failed = []

    def answer(prompt, seed):
        if prompt.startswith("1") and not failed:
            failed.append(prompt)
            raise RuntimeError("no such luck")
        return _right(prompt, seed)

    assert _evaluate(_run(sums), tmp_path / "run", answer).scores["avg@1"] == 1.0
    facts = json.loads((tmp_path / "run" / "report.json").read_text())["facts"]
    (line,) = facts["answers that were asked for again after an error"]
    assert line.startswith("r1: ")
    assert "no such luck" in line


@pytest.fixture
def leave(sums, tmp_path, monkeypatch, capsys):
    """What the door says, and its exit code, for a benchmark whose reply is this."""

    def door(reply, most=1.0, body=None):
        name = "math"
        if body is not None:
            name = tmp_path / "own.py"
            name.write_text(OWN.format(body=body))
        run = _run(sums, name=name)
        run = dataclasses.replace(
            run, benchmark=dataclasses.replace(run.benchmark, max_parse_failures=most)
        )
        monkeypatch.setattr(harness, "subject", lambda run: scripted.model(lambda p, s: reply))
        monkeypatch.setattr(evaluate, "REGRADE", types.SimpleNamespace(value=False))
        monkeypatch.delenv("JAXLAB_DEBUG", raising=False)
        workdir = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        try:
            evaluate._benchmark(run, workdir)
        except SystemExit as left:
            assert (workdir / "report.md").exists()
            return left.code, capsys.readouterr().err
        return 0, capsys.readouterr().err

    return door


def test_exit_codes(leave):
    assert leave("I do not know")[0] == 0  # by default the share is only reported
    code, said = leave("I do not know", 0.5)
    assert code == 1
    assert "nothing could be compared in 100.0% of the completions, more than the 50.0%" in said
    assert leave("\\boxed{7}", 0.0)[0] == 0  # wrong, but an answer
    code, said = leave("x", body=FAILS.format(ids=["r1"]))
    assert code == 1
    assert (
        "failed on 1 answers, which count as wrong (RuntimeError 1); the first is r1: Run" in said
    )
    with pytest.raises(ValueError, match=r"max_parse_failures must be in \[0, 1\], not 2"):
        Benchmark("math", max_parse_failures=2)
