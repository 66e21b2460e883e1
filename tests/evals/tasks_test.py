"""The benchmarks as tasks of inspect_ai: their options, their judge, and graders that fail."""

import json
import pathlib
import re
import shlex

import pytest

pytest.importorskip("inspect_ai")

import inspect_ai
import inspect_ai.model
from inspect_ai._util.config import parse_cli_args
from inspect_ai._util.error import PrerequisiteError

from jaxlab.config import ConfigError
from jaxlab.evals import grader_errors, harness, options, tasks
from jaxlab.evals.settings import Benchmark, Run, Subject
from jaxlab.grading.graders import Verdict
from jaxlab.grading.rows import Panel, Row
from tests.evals import scripted

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()


@pytest.fixture
def rows(tmp_path):
    """Three rows, one of which a rule would leave to a judge."""
    path = tmp_path / "rows.jsonl"
    kinds = ("number", "number", "text")
    lines = [
        {"id": f"r{i}", "question": f"{i} plus 0", "answer": str(i), "answer_type": kind}
        for i, kind in enumerate(kinds)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def _args(words):
    """Arguments of a task as `inspect eval -T` makes them of what is typed."""
    return parse_cli_args(shlex.split(words))


MISSPELT = [
    ("general365", "grader=rul", "'rule'"),
    ("general365", "grader=Cascde", "'cascade'"),
    ("general365", "grader=rule bad_rows=erorr", "'error'"),
    ("general365", "grader=rule anchor=boxd", "'boxed'"),
    ("general365", "grader=rule truncated=wrnog", "'wrong'"),
    ("general365", "grader=rule float_round=feild", "'field'"),
    ("general365", "grader=rule prompt=boxe", "'boxed'"),
    ("general365", "grader=rule subset=nubmer", "'number'"),
    ("general365", "grader=rule fields='{anser: a}'", "'answer'"),
    ("general365", "grder=rule", "'grader'"),
    ("general365", "grader=rule sample=2", "'samples'"),
    ("math", "prompt=boxde", "'boxed'"),
    ("math", "bad-rows=skp", "'skip'"),
    ("math", "lmit=2", "'limit'"),
    ("gsm8k", "prompt=gsm8", "'gsm8k'"),
    ("ajbench", "arm=texts", "'text'"),
    ("ajbench", "scaffold=reac", "'react'"),
    ("ajbench", "replay=treu", "'true'"),
    ("ajbench", "postgres=whee", "'wheel'"),
    ("ajbench", "web=snapshoot", "'snapshot'"),
    ("ajbench", "observation=a11", "'a11y'"),
    ("ajbench", "on_parse_fail=drp", "'drop'"),
    ("ajbench", "subdomains=DS-SQLit", "'DS-SQLite'"),
    ("ajbench", "subdomains=GUI-Page,DS-Postgre", "'DS-Postgres'"),
    ("ajbench", "servers='{DS-Postgre: {command: x}}'", "'DS-Postgres'"),
    ("ajbench", "servers='{DS-Postgres: {command: x, arg: [y]}}'", "'args'"),
    ("ajbench", "sacffold=loop", "'scaffold'"),
    ("household", "engine=fsat", "'fast'"),
    ("household", "library=growin skills=x", "'growing'"),
    ("webshop", "library=forzen skills=x", "'frozen'"),
    ("webshop", "product=3", "'products'"),
]


@pytest.mark.parametrize(("name", "words", "near"), MISSPELT)
def test_misspelt_options_are_refused_with_the_nearest(rows, tmp_path, name, words, near):
    """By inspect_ai, and by the door."""
    given = _args(words)
    with pytest.raises(grader_errors.Refused, match=f"did you mean {near}") as refused:
        getattr(tasks, name)(str(rows), **given)
    assert "\n" not in str(refused.value)
    assert isinstance(refused.value, PrerequisiteError)  # which it prints without a traceback
    if given.keys() & {"sample", "lmit"}:
        return  # the door has them elsewhere
    run = Run(Subject(name="scripted"), Benchmark(name, str(rows), options=given))
    with pytest.raises(ValueError, match=f"did you mean {near}"):
        harness.prepare(run, tmp_path / "run", regrade=False)


@pytest.mark.parametrize(
    ("name", "words", "cause"),
    [
        ("math", "samples=two", "math.samples: expected int, got 'two'"),
        ("math", "samples=0", "samples must be at least 1, not 0"),
        ("math", "limit=1.5", "math.limit: expected int | None, got 1.5"),
        ("math", "seed=null", "math.seed: expected int, got None"),
        ("math", "truncated=true", "expected one of 'wrong', 'graded', got True"),
        ("general365", "grader=rule judge_votes=0", "judge_votes must be at least 1, not 0"),
        ("general365", "grader=rule float_round=16", "from 0 to 15, not 16"),
        ("general365", "grader=rule subset=text,number", "general365.subset: expected str, got ["),
        ("ajbench", "read_only=2", "ajbench.read_only: expected bool, got 2 (int)"),
        ("ajbench", "max_turns=0", "max_turns must be at least 1, not 0"),
        ("ajbench", "time_limit=-1", "time_limit must be at least 1, not -1"),
    ],
)
def test_values_of_the_wrong_kind_are_refused(rows, name, words, cause):
    with pytest.raises(ConfigError, match=re.escape(cause)):
        getattr(tasks, name)(str(rows), **_args(words))


def test_what_a_command_line_makes_of_words_is_understood(rows):
    """YAML makes False of "off", a number of digits, and a list of commas."""

    def ids(words):
        made = tasks.general365(str(rows), grader="rule", **_args(words))
        return [sample.id for sample in made.dataset]

    assert ids("float_round=off") == ids("float_round=2") == ["r0", "r1", "r2"]
    assert ids("ids=r0,r2") == ["r0", "r2"]
    assert ids("ids=r1 limit=null") == ids("fields='{id: id}' ids=r1") == ["r1"]
    assert ids("subset=text") == ["r2"]
    with pytest.raises(grader_errors.Refused, match=r"general365\.path: name the rows by -T path="):
        tasks.general365()
    with pytest.raises(grader_errors.Refused, match=r"none\.jsonl: no such file"):
        tasks.math("none.jsonl")


@pytest.mark.parametrize("grader", ["cascade", "judge"])
def test_a_grader_without_its_judge_is_refused_when_the_task_is_built(rows, tmp_path, grader):
    with pytest.raises(grader_errors.Refused, match=r"^judge: .*-T grader=rule") as refused:
        tasks.general365(str(rows), grader=grader)
    assert "\n" not in str(refused.value)
    with pytest.raises(PrerequisiteError, match=r"^judge: "):
        inspect_ai.eval(
            "jaxlab/general365",
            task_args={"path": str(rows), "grader": grader},
            model=scripted.model(lambda prompt, seed: "1"),
            log_dir=str(tmp_path),
        )
    assert not list(tmp_path.glob("*.eval"))
    with pytest.raises(grader_errors.Refused, match="nowhere"):
        tasks.general365(str(rows), grader=grader, judge="nowhere/gpt")
    tasks.general365(str(rows), grader="rule")
    tasks.general365(str(rows), grader=grader, judge="mockllm/model")


def _eval(task, tmp_path, answer=lambda prompt, seed: prompt.split()[0], **more):
    (log,) = inspect_ai.eval(
        task,
        model=scripted.model(answer),
        log_dir=str(tmp_path / "logs"),
        display="none",
        **more,
    )
    return log


def _metrics(log):
    return {
        metric.name: metric.value
        for score in log.results.scores
        for metric in score.metrics.values()
    }


def test_the_command_of_the_docs_grades_by_rule(rows, tmp_path):
    """And a judge by inspect_ai's role does as well as one by name."""
    (command,) = re.findall(r"`(inspect eval jaxlab/general365 [^`]*)`", PAGE)
    words = command.replace("rows.jsonl", str(rows))
    given = _args(" ".join(re.findall(r"-T (\S+)", words)))
    assert given == {"path": str(rows), "grader": "rule"}
    log = _eval("jaxlab/general365", tmp_path, task_args=given)
    assert log.status == "success"
    found = _metrics(log)
    assert found["mean"] == 1.0
    assert found["grader_errors"] == 0
    # All options stand in the log, also those that were not given.
    assert log.eval.task_args["anchor"] == "stated"
    judge = scripted.model(lambda prompt, seed: '{"accuracy": false}')
    del given["grader"]
    log = _eval("jaxlab/general365", tmp_path, task_args=given, model_roles={"grader": judge})
    assert _metrics(log)["mean"] == pytest.approx(2 / 3)


def _fails_on(name, error):
    def grade(row, text):
        if row.id == name and callable(error):
            error()
        if row.id == name:
            raise error
        return Verdict(True, text, "match")

    rows = tuple(Row(f"r{i}", f"{i} plus 0", str(i), f"r{i}") for i in range(3))
    return tasks.benchmark(Panel(rows), lambda row: row.question, tasks.by_rule(grade), samples=2)


def test_graders_that_fail_are_counted_by_kind_in_the_result(tmp_path):
    log = _eval(_fails_on("r1", KeyError("x")), tmp_path)
    assert log.status == "success"
    found = _metrics(log)
    assert found["mean"] == pytest.approx(2 / 3)
    # One for each of the two answers, and not for their mean.
    assert found["grader_errors"] == found["grader_errors: KeyError"] == 2


class _Unauthorised(Exception):
    status_code = 401


@pytest.mark.parametrize(
    "error",
    [
        PrerequisiteError("no model"),
        ConfigError("no option"),
        ModuleNotFoundError("no package"),
        _Unauthorised("no key"),
        lambda: inspect_ai.model.get_model("nowhere/no model"),
    ],
)
def test_errors_of_the_set_up_end_the_run(tmp_path, error):
    log = _eval(_fails_on("r1", error), tmp_path)
    assert log.status == "error"
    assert "no " in log.error.message


def test_every_option_has_one_place():
    """What a task takes is what the dataclasses have."""
    for name, cls in options.OPTIONS.items():
        parameters = tasks._parameters(cls)
        assert parameters.keys() == set(options.names(cls))
        assert set(options.names(options.GRADING[name])) <= parameters.keys()
