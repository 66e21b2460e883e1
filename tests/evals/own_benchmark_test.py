"""The benchmark of docs/evaluation.md, run from there."""

import json
import pathlib
import re
import shlex

import pytest

pytest.importorskip("inspect_ai")

from jaxlab.config import ConfigError
from jaxlab.evals import harness, results
from jaxlab.evals.settings import Benchmark, Run, Subject
from tests.evals import random_model, scripted

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
SECTION = PAGE.partition("## Your own benchmark\n")[2].partition("\n## ")[0]
WORDS = ["stone", "river", "oak", "tower", "ant", "harbour"]


# By language; the commands have none.
BLOCKS = dict(re.findall(r"^```(\w*)\n(.*?)^```$", SECTION, re.DOTALL | re.MULTILINE))


@pytest.fixture
def benchmark(tmp_path):
    """The file of the page, and rows."""
    file, rows = tmp_path / "backwards.py", tmp_path / "words.jsonl"
    file.write_text(BLOCKS["python"])
    rows.write_text("".join(json.dumps({"word": word}) + "\n" for word in WORDS))
    return file, rows


def _run(benchmark, samples=1, **options):
    file, rows = map(str, benchmark)
    return Run(Subject(name="scripted"), Benchmark(file, rows, samples, options=options))


def test_it_has_thirty_lines():
    assert len([line for line in BLOCKS["python"].splitlines() if line]) <= 30


def test_the_command_runs_on_a_checkpoint(benchmark, door_process, tmp_path):
    model = random_model.save(tmp_path / "MODEL")
    command = BLOCKS[""].partition("\ninspect")[0].replace("\\\n", " ")
    for name, path in {
        "runs/": f"{tmp_path}/runs/",
        "=backwards.py": f"={benchmark[0]}",
        "words.jsonl": str(benchmark[1]),
        "MODEL": str(model),
    }.items():
        assert name in command
        command = command.replace(name, path)
    python, module, door_name, *flags = shlex.split(command)
    assert (python, module, door_name) == ("python", "-m", "jaxlab.evaluate")
    done = door_process(
        "evaluate", *flags, "--config.eval.max_new_tokens=8", "--config.eval.batch=8"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    workdir = tmp_path / "runs" / "backwards"
    graded = results.read(workdir / "samples.jsonl")
    assert len(graded) == 4 * len(WORDS)
    assert all(1 <= result.output_tokens <= 8 for result in graded)
    text = (workdir / "report.md").read_text()
    assert "| problems | avg@4 | pass@2 | pass@4 | pass^4 | maj@4 |" in text
    assert "| level | problems | avg@4 |" in text


def test_answers_are_graded_kept_and_graded_again(benchmark, tmp_path):
    asked, broken = [], ["oak"]

    def answer(prompt, seed):
        word = prompt.split()[1]
        if word in broken:
            raise RuntimeError("no such luck")
        asked.append(seed)
        return f"It is {word[::-1]}." if len(word) > 3 else ""

    workdir = tmp_path / "run"
    outcome = harness.evaluate(_run(benchmark, 2), workdir, model=scripted.model(answer))
    assert len(outcome.failures) == 2
    # The same run again asks what failed, and nothing else.
    broken.clear()
    outcome = harness.evaluate(_run(benchmark, 2), workdir, model=scripted.model(answer))
    assert outcome.scores["avg@2"] == pytest.approx(4 / 6)
    assert outcome.scores["parse_failure_rate"] == pytest.approx(2 / 6)
    assert len(asked) == len(set(asked)) == 2 * len(WORDS)
    report = json.loads((workdir / "report.json").read_text())
    assert report["title"].startswith("backwards: ")
    levels = {row["level"]: row["avg@2"]["mean"] for row in report["tables"][1]["rows"]}
    assert levels == {"3": 0.0, "5": 1.0, "7": 1.0}

    harness.evaluate(_run(benchmark, 2), workdir, model=scripted.model(answer))
    assert len(asked) == 2 * len(WORDS)  # a finished run is only reported again

    # Another grader, and tables of its own.
    file, _ = benchmark
    table = "\n\ndef tables(results):\n    return [Table('Own', [{'rows': len(results)}])]\n"
    text = file.read_text().replace("== row.answer", "!= row.answer")
    file.write_text("from jaxlab.evals.tables import Table\n" + text + table)
    harness.evaluate(_run(benchmark, 2), workdir, again=True)
    assert len(asked) == 2 * len(WORDS)
    graded = results.read(workdir / "samples.jsonl")
    assert [r.reason for r in graded].count("mismatch") == 8
    assert not any(r.correct for r in graded)
    assert json.loads((workdir / "report.json").read_text())["tables"][0]["title"] == "Own"


@pytest.mark.parametrize("name", ["question", "cluster", "input_tokens"])
def test_meta_under_a_name_of_ours_is_refused(benchmark, tmp_path, name):
    file, _ = benchmark
    file.write_text(file.read_text().replace('"level":', f'"{name}":'))
    with pytest.raises(ValueError, match=f"meta of a row cannot have the name '{name}'"):
        harness.prepare(_run(benchmark), tmp_path, regrade=False)


def test_a_scorer_of_inspect_needs_no_notes(tmp_path):
    file = tmp_path / "plain.py"
    file.write_text(
        "from inspect_ai import Task, task\n"
        "from inspect_ai.dataset import Sample\n"
        "from inspect_ai.scorer import exact\n"
        "@task\n"
        "def plain(path, samples=1, limit=None, seed=0):\n"
        "    rows = [Sample(input=c, target='X', id=c) for c in path]\n"
        "    return Task(dataset=rows, scorer=exact(), epochs=samples)\n"
    )
    run = _run((file, "XY"))
    outcome = harness.evaluate(run, tmp_path, model=scripted.model(lambda prompt, seed: prompt))
    assert outcome.scores["avg@1"] == 0.5
    graded = results.read(tmp_path / "samples.jsonl")
    assert [(r.id, r.reason, r.grader) for r in graded] == [
        ("X", "match", "exact"),
        ("Y", "mismatch", "exact"),
    ]


def test_bad_rows_files_and_names(benchmark, tmp_path):
    file, rows = benchmark
    with pytest.raises(
        ConfigError, match=r"benchmark\.options\.promt is not a known key; valid keys: none"
    ):
        harness.prepare(_run(benchmark, promt="x"), tmp_path, regrade=False)
    text = file.read_text()
    file.write_text(text.replace("seed: int = 0)", "seed: int = 0, way: Way | None = None)"))
    with file.open("a") as stream:
        stream.write("\nfrom typing import Literal\nWay = Literal['up', 'down']\n")
    file.write_text("from __future__ import annotations\n" + file.read_text())
    harness.prepare(_run(benchmark, way="up"), tmp_path, regrade=False)
    for options, near in [({"way": "donw"}, "'down'"), ({"wya": "up"}, "'way'")]:
        with pytest.raises(ConfigError, match=rf"benchmark\.options\.w.*did you mean {near}\?"):
            harness.prepare(_run(benchmark, **options), tmp_path, regrade=False)
    file.write_text(text)
    with rows.open("a") as stream:
        stream.write('{"word": ""}\n')
    with pytest.raises(ValueError, match=r"words\.jsonl:7: field 'word' must be a string"):
        harness.prepare(_run(benchmark), tmp_path, regrade=False)
    with pytest.raises(FileNotFoundError, match=r"none\.py: no such file; name a benchmark"):
        harness.prepare(_run(("none.py", rows)), tmp_path, regrade=False)
    for text, cause in [("import nowhere", "ModuleNotFoundError"), ("", "no function backwards")]:
        file.write_text(text)
        with pytest.raises(ValueError, match=cause):
            harness.prepare(_run(benchmark), tmp_path, regrade=False)
    with pytest.raises(ValueError, match=r"name: 'maths' is none of gsm8k, .* nor a \.py file"):
        Benchmark("maths")
