"""The door: a real checkpoint, what it prints, how it goes on, and what it refuses."""

import importlib
import json
import re

import pytest
from absl import flags
from absl.testing import flagsaver

pytest.importorskip("inspect_ai")

from jaxlab import heavy as door
from jaxlab.evals.heavy import generators
from tests.evals import random_model

QUESTION = "What is 1 + 1?"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A random model of bytes whose context holds a deliberation."""
    return random_model.save(tmp_path_factory.mktemp("model"), max_position=4096, gain=2.0)


@pytest.fixture
def loaded(monkeypatch):
    """The models that the door has loaded."""
    models, load = [], generators.load

    def noting(*arguments, **more):
        models.append(load(*arguments, **more))
        return models[-1]

    monkeypatch.setattr(generators, "load", noting)
    return models


def run(*words, **options):
    with flagsaver.flagsaver(**options):
        flags.FLAGS.mark_as_parsed()
        door.main(["heavy", *words])


def test_a_checkpoint_thinks_reads_each_context_once_and_goes_on(
    checkpoint, loaded, tmp_path, capsys, monkeypatch
):
    # The first model of a process: inspect_ai tells of hooks, which jaxlab's progress has.
    importlib.import_module("jaxlab.evals.progress")
    monkeypatch.setattr("inspect_ai.hooks._startup._registry_hooks_loaded", False)
    options = {
        "model": str(checkpoint),
        "workdir": str(tmp_path / "run"),
        "width": 4,
        "samples": 4,
        "max_tokens": 16,
        "domain": "text",
    }
    run(QUESTION, **options)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    told = capsys.readouterr()
    assert told.out.strip() == result["text"].strip()
    assert "think 4/4" in told.err
    assert "deliberate 4/4" in told.err
    assert "4 of 4 thinkers" in told.err
    assert len(set(result["thinkers"])) == 4
    assert len(result["deliberations"][0]) == 4
    manifest = result["manifest"]
    assert manifest["unit"] == f"tokens of {checkpoint}"
    # Each of the two contexts was read once, whatever the number of texts.
    read = {stage: call["prompt_tokens"] for stage, call in manifest["calls"].items()}
    assert read["think"] == len(QUESTION)
    assert read["deliberate"] == manifest["rounds"][0]["caches"][0]["prompt_tokens"]
    assert loaded[0].api.prefilled == sum(read.values())
    # The same again asks for nothing; one more deliberation reads the context again.
    run(QUESTION, **options)
    assert loaded[1].api.prefilled == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["text"] == result["text"]
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        run(QUESTION, **options, temperature=0.5)
    assert left.value.code == 2
    assert "texts of" in capsys.readouterr().err


def test_saved_thinkers_and_the_skill_file(checkpoint, loaded, tmp_path, capsys):
    path = tmp_path / "texts.json"
    path.write_text(json.dumps(["one \\boxed{2}", "two \\boxed{3}"]))
    options = {"thinkers": str(path), "model": str(checkpoint), "max_tokens": 16, "samples": 4}
    run(QUESTION, **options, domain="text")
    assert "2 of 2 thinkers" in capsys.readouterr().err
    run(skill=True)
    assert capsys.readouterr().out.startswith("---\nname: heavy\n")


class Sums:
    """Prompts in the alphabet of the modular sum: attempts stand before the question."""

    cut_mark = ""

    def thinking(self, question):
        return question

    def attempt(self, kind, number, text, fence):
        return text

    def deliberation(self, question, attempts):
        return " ".join([*attempts, question])

    def answer(self, text):
        return text.rpartition("# ")[2] or None


def test_a_run_of_training_thinks_in_its_own_alphabet(modsum_run, capsys):
    import asyncio

    from jaxlab.agents import heavy
    from jaxlab.agents.heavy_options import Sampling

    model = generators.load(str(modsum_run / "student"), padding="power_of_two")
    sampling = Sampling(max_tokens=9, top_k=None)
    options = generators.fitted(
        heavy.Heavy(width=2, samples=3, cache_tokens=12), model, model, sampling, ()
    )
    generate, tokenizer = generators.generator(model, sampling), generators.tokenizer(model)
    result = asyncio.run(heavy.think("3 7 10 =", generate, options, tokenizer, prompts=Sums()))
    model.api.close()
    assert [len(result.thinkers), len(result.deliberations[0])] == [2, 3]
    assert result.manifest["calls"]["think"]["errors"] == []
    cache = result.manifest["rounds"][0]["caches"][0]
    assert cache["tokens"] <= 12
    assert model.api.prefilled == 4 + cache["prompt_tokens"]
    # English is not in its alphabet: a line says so.
    with pytest.raises(SystemExit) as left:
        run("Why?", model=str(modsum_run / "student"), max_tokens=9)
    assert left.value.code == 2
    assert "cannot encode a text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        ([], {"model": "m/m"}, "the question is missing: give it in quotes"),
        ([QUESTION], {}, "--model is missing: Thinks"),
        (["What", "is"], {"model": "m/m"}, "unexpected argument 'is': put the question in quotes"),
        ([QUESTION], {"model": "m/m"}, "model m/m: .*not recognized"),
        ([QUESTION], {"model": "./none"}, "model ./none: there is no such directory"),
        ([QUESTION], {"model": "m/m", "id": "3"}, "--id chooses texts of --thinkers"),
        ([], {"model": "m/m", "thinkers": "none.json"}, "none.json: no such file"),
        ([QUESTION], {"model": "m/m", "mcp": True}, "--mcp takes its questions from its client"),
        ([QUESTION], {"model": "m/m", "width": 0}, "width must be at least 1, not 0"),
        ([], {"mcp": True, "model": "m/m", "workdir": "w"}, "--mcp keeps no texts"),
        ([], {"report": "nowhere"}, "there is no nowhere"),
        ([QUESTION], {"report": "nowhere"}, "--report takes a log alone"),
    ],
)
def test_bad_input_is_one_line_and_code_2(words, options, message, capsys):
    with pytest.raises(SystemExit) as left:
        run(*words, **options)
    assert left.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert re.search(message, err), err


@pytest.mark.parametrize(
    ("answer", "source", "round_", "note"),
    [
        ("4", "deliberation", 1, "2 of 3 deliberations give this one"),
        (None, "deliberation", 2, "no deliberation has an answer in this form"),
        ("4", "vote", 0, "no deliberation gives an answer: this is the thinkers' vote"),
    ],
)
def test_what_is_said_of_the_answer(answer, source, round_, note, capsys):
    samples = [[{"answer": "4"}, {"answer": "4"}, {"answer": "3"}], [{"answer": None}]]
    manifest = {
        "answer_from": source,
        "round": round_,
        "rounds": [{"samples": each} for each in samples],
        "wanted": 2,
        "distinct_answers": 1,
        "tokens": 9,
        "seconds": 1.0,
    }
    door._say(door.Result(answer, "so 4", ["a", "b"], [], manifest))
    assert f"1 distinct answers, {note}" in capsys.readouterr().err


def test_a_question_beyond_the_models_length_is_bad_input(checkpoint, capsys):
    with pytest.raises(SystemExit) as left:
        run("long " * 1000, model=str(checkpoint), max_tokens=16)
    assert left.value.code == 2
    assert "and the model reads 4080 at most" in capsys.readouterr().err
