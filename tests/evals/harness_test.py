import json
import pathlib
import random
from collections import Counter

import pytest

pytest.importorskip("inspect_ai")

from jaxlab.config import ConfigError
from jaxlab.evals import compare, harness, results
from jaxlab.evals.general365 import generate
from jaxlab.evals.settings import Benchmark, Run, Sampling, Subject
from jaxlab.grading.rows import sample_seed
from tests.conftest import ROOT
from tests.evals import scripted

HERE = pathlib.Path(__file__).parent


@pytest.fixture
def sums(tmp_path):
    """Twelve rows whose question names the answer."""
    path = tmp_path / "sums.jsonl"
    rows = [{"id": f"r{i}", "question": f"{i} plus 0", "answer": f"#### {i}"} for i in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _run(path, name="gsm8k", samples=2, batch=4, seed=0, limit=None, **options):
    return Run(
        Subject(name="scripted"),
        Benchmark(name, str(path), samples, limit, options),
        Sampling(batch=batch),
        seed=seed,
    )


def _evaluate(run, workdir, answer, **more):
    workdir.mkdir(exist_ok=True)
    task = harness.prepare(run, workdir, regrade=False)
    log = harness.generate(run, task, workdir, scripted.model(answer, **more))
    outcome = harness.finish(run, task, log, workdir)
    return outcome, results.read(workdir / "samples.jsonl")


@pytest.mark.usefixtures("drawn")
def test_a_run_from_rows_to_report(sums, tmp_path):
    # Even answers are right in both samples, odd ones are never.
    def answer(prompt, seed):
        n = int(prompt.split()[1])
        return f"so\n#### {n if n % 2 == 0 else n + 1}"

    outcome, graded = _evaluate(_run(sums), tmp_path / "run", answer)
    assert outcome.failures == []
    assert outcome.scores["avg@2"] == outcome.scores["pass@2"] == outcome.scores["maj@2"] == 0.5
    assert outcome.scores["parse_failure_rate"] == 0
    assert Counter((r.id, r.sample) for r in graded) == Counter(
        (f"r{i}", s) for i in range(12) for s in (1, 2)
    )
    assert {r.grader for r in graded} == {"rule"}
    assert all(r.input_tokens == 3 and r.output_tokens == len(r.completion) for r in graded)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["rows"][0]["avg@2"] == 0.5
    assert report["facts"]["references that do not equal themselves"] == []
    text = (tmp_path / "run" / "report.md").read_text()
    assert "| 12 | 0.500 [" in text
    assert all(path.exists() for path in outcome.files)


def test_seeds_depend_on_row_and_sample_alone(sums, tmp_path):
    seen = []
    for batch, limit in [(1, None), (7, None), (4, 5)]:
        calls = {}

        def answer(prompt, seed, calls=calls):
            calls.setdefault(prompt, set()).add(seed)
            return "#### 1"

        _evaluate(_run(sums, batch=batch, limit=limit), tmp_path / f"run{batch}", answer)
        seen.append(calls)
    assert seen[0] == seen[1]
    assert len(seen[2]) == 5
    assert seen[2].items() <= seen[0].items()
    prompt = next(prompt for prompt in seen[0] if " 3 plus" in prompt)
    assert seen[0][prompt] == {sample_seed(0, "r3", 1), sample_seed(0, "r3", 2)}


def test_truncated_answers_are_wrong_unless_asked_otherwise(sums, tmp_path):
    def answer(prompt, seed):
        return f"#### {prompt.split()[1]}"

    for truncated, score in [("wrong", 0.0), ("graded", 1.0)]:
        run = _run(sums, samples=1, truncated=truncated)
        outcome, _ = _evaluate(run, tmp_path / truncated, answer, stop="max_tokens")
        assert outcome.scores["avg@1"] == score
        assert outcome.scores["truncated_share"] == 1.0


def test_samples_that_fail_are_named_and_tried_again(sums, tmp_path):
    broken = True
    asked = []

    def answer(prompt, seed):
        asked.append(prompt)
        if broken and "7 plus" in prompt:
            raise RuntimeError("no such luck")
        return f"#### {prompt.split()[1]}"

    run = _run(sums, samples=1)
    outcome, graded = _evaluate(run, tmp_path / "run", answer)
    assert len(graded) == 11
    assert [failure.partition(":")[0] for failure in outcome.failures] == ["r7"]
    assert "no such luck" in outcome.failures[0]
    broken = False
    asked.clear()
    outcome, graded = _evaluate(run, tmp_path / "run", answer)
    assert outcome.failures == []
    assert len(graded) == 12
    assert len(asked) == 1
    asked.clear()
    _evaluate(run, tmp_path / "run", answer)
    assert asked == []  # a finished run is only reported again


@pytest.fixture
def killed(forks):
    """Starts a run that kills itself; whether it has finished all the same."""

    def start(workdir, rows, samples, answers):
        done = forks.run(HERE / "killed_program.py", workdir, rows, samples, answers, cwd=ROOT)
        assert done.returncode in (0, -9), done.stderr[-3000:]
        return done.returncode == 0

    return start


@pytest.mark.parametrize("kills", [2, pytest.param(200, marks=pytest.mark.slow)])
def test_killed_runs_lose_nothing_and_count_nothing_twice(killed, tmp_path, kills):
    rng = random.Random(kills)
    count, samples = 10 * kills, 2
    path = tmp_path / "rows.jsonl"
    rows = [{"id": f"r{i}", "question": f"{i} plus 0", "answer": f"#### {i}"} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    workdir = tmp_path / "run"
    workdir.mkdir()
    deaths = 0
    while not killed(workdir, path, samples, rng.randint(5, 14) if deaths < kills else 0):
        deaths += 1
        assert deaths <= kills
    assert deaths == kills
    graded = results.read(workdir / "samples.jsonl")
    assert Counter((r.id, r.sample) for r in graded) == Counter(
        (f"r{i}", s) for i in range(count) for s in range(1, samples + 1)
    )
    assert all(result.correct for result in graded)
    asked = Counter((workdir / "answers.txt").read_text().split())
    assert set(asked) == {
        str(sample_seed(0, f"r{i}", s)) for i in range(count) for s in range(1, samples + 1)
    }
    # Only what was under way, at most four samples, is asked again after a kill.
    assert sum(asked.values()) - len(asked) <= 4 * deaths


def test_what_a_killed_run_finished_is_graded_again_and_the_rest_is_asked(killed, sums, tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    assert not killed(workdir, sums, 1, 9)

    def answer(prompt, seed):
        asked.append(prompt)
        return f"#### {prompt.split()[1]}"

    asked, run = [], _run(sums, samples=1)
    outcome = harness.evaluate(run, workdir, again=True)
    before = results.read(workdir / "samples.jsonl")
    # Of nine answers at most four were under way.
    assert 4 <= len(before) <= 9
    assert outcome.scores["avg@1"] == 1.0
    outcome = harness.evaluate(run, workdir, model=scripted.model(answer))
    assert len(asked) == 12 - len(before)
    assert len(results.read(workdir / "samples.jsonl")) == 12
    assert outcome.scores["avg@1"] == 1.0


@pytest.fixture
def problems(tmp_path):
    path = tmp_path / "general365.jsonl"
    generate.write(path, 16)
    return path


def test_general365_by_rule_and_again_by_a_judge(problems, tmp_path, monkeypatch):
    """Graded by rule without a judge, then by a scripted judge without generating."""
    rows = [json.loads(line) for line in problems.read_text().splitlines()]
    answers = {row["question"]: row["answer"] for row in rows}
    texts = [row for row in rows if row["answer_type"] not in ("number", "interval")]
    asked = []

    def answer(prompt, seed):
        asked.append(prompt)
        return f"\\boxed{{{answers[prompt]}}}"

    workdir = tmp_path / "run"
    run = _run(problems, "general365", samples=1, grader="rule")
    outcome, graded = _evaluate(run, workdir, answer)
    assert outcome.scores["accuracy"] == 1.0
    assert {r.grader for r in graded} == {"rule"}
    harness.config_lib.save_json(run, workdir / "config.json")

    judged = []

    def judge(prompt, seed):
        judged.append(prompt)
        # Not a verdict for seating, wrong for the rest.
        return "I think so" if "sits in seat" in prompt else '{"accuracy": false}'

    judge_model = scripted.model(judge)
    get_model = harness.inspect_ai.model.get_model

    def named(model=None, **more):
        return judge_model if model == "scripted/judge" else get_model(model, **more)

    monkeypatch.setattr(harness.inspect_ai.model, "get_model", named)
    other = _run(problems, "general365", samples=1, grader="cascade", judge="scripted/judge")
    with pytest.raises(ConfigError, match="add --regrade"):
        harness.prepare(other, workdir, regrade=False)
    asked.clear()
    task = harness.prepare(other, workdir, regrade=True)
    outcome = harness.finish(other, task, harness.regrade(other, workdir), workdir)
    assert asked == []
    assert len(judged) == len(texts)
    assert outcome.scores["accuracy"] == pytest.approx(1 - len(texts) / len(rows))
    graded = results.read(workdir / "samples.jsonl")
    assert Counter(r.reason for r in graded if r.grader.startswith("judge:")) == {
        "no_verdict": 4,
        "mismatch": len(texts) - 4,
    }
    facts = json.loads((workdir / "report.json").read_text())["facts"]
    assert any(grader.startswith("judge:") for grader in facts["graders"])


def test_another_run_in_the_same_directory_is_refused(sums, tmp_path):
    run = _run(sums)
    harness.config_lib.save_json(run, tmp_path / "config.json")
    harness.prepare(_run(sums, batch=9), tmp_path, regrade=False)
    with pytest.raises(ConfigError, match=r"holds another run .seed was 0, now is 1"):
        harness.prepare(_run(sums, seed=1), tmp_path, regrade=False)
    with pytest.raises(FileNotFoundError, match="no finished answer"):
        harness.regrade(run, tmp_path)


@pytest.mark.parametrize(
    ("run", "cause"),
    [
        (Run(Subject(name="m"), Benchmark("math")), "benchmark.path: name a"),
        (Run(Subject(), Benchmark("math", "x")), "model: give path, or name"),
        (Run(Subject("a", "b"), Benchmark("math", "x")), "model: give path, or name"),
        (Run(Subject(name="m"), Benchmark("general365", "x")), "options.judge: name a model"),
    ],
)
def test_bad_configs(run, cause, tmp_path):
    with pytest.raises(ConfigError, match=cause):
        harness.prepare(run, tmp_path, regrade=False)


def test_an_unknown_option_is_named(sums, tmp_path):
    with pytest.raises(ConfigError, match=r"benchmark\.options\.promt is not .* mean 'prompt'\?"):
        harness.prepare(_run(sums, promt="x"), tmp_path, regrade=False)
    with pytest.raises(
        ConfigError, match=r"benchmark\.options\.judge is not a known key"
    ):  # has no judge
        harness.prepare(_run(sums, judge="x"), tmp_path, regrade=False)


def test_compare(sums, tmp_path):
    def script(right):
        return lambda prompt, seed: f"#### {prompt.split()[1] if right(prompt) else -1}"

    for name, below in [("a", 3), ("b", 11), ("c", 3)]:
        answer = script(lambda prompt, below=below: int(prompt.split()[1]) < below)
        _evaluate(_run(sums, samples=1), tmp_path / name, answer)
    runs = [tmp_path / name for name in "abc"]
    (table,) = compare.write(tmp_path / "table", runs)
    first, better, same = table.rows
    assert "p" not in first
    assert (better["better"], better["worse"]) == (8, 0)
    assert better["p"] == 2 / 2**8
    assert better["p (Holm)"] == 4 / 2**8
    assert better["difference"].mean == pytest.approx(8 / 12)
    assert same["p"] == 1.0
    assert "12 rows that all runs have" in (tmp_path / "table" / "compare.md").read_text()
    with pytest.raises(ValueError, match="two work directories"):
        compare.write(tmp_path / "table", runs[:1])
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        compare.write(tmp_path / "table", [runs[0], tmp_path / "none"])
    with pytest.raises(ValueError, match=r"--compare names .*a twice: a run does not differ"):
        compare.write(tmp_path / "table", [runs[0], runs[1], tmp_path / "b" / ".." / "a"])
