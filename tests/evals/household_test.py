"""Models of known behaviour play the panel through the harness, to the report."""

import dataclasses
import json
import re

import pytest

from jaxlab.agents.skill_library import Episode, Skill, SkillLibrary
from jaxlab.envs import household as games
from jaxlab.envs.household import generate
from jaxlab.envs.protocol import Step
from jaxlab.evals import harness
from jaxlab.evals.household import metrics
from jaxlab.evals.metrics import wilson
from jaxlab.evals.results import Result
from jaxlab.evals.settings import Benchmark, Run, Subject
from tests.evals import scripted

# Task -> commands that win, of the panel's tasks that no other has too.
PLANS = {}


@pytest.fixture(scope="module", autouse=True)
def plans():
    for game in generate.panel("made_up"):
        PLANS[game.task] = game.walkthrough


def answer(prompt):
    """The oracle: it knows the plan of each task, and what it is asked for."""
    task = re.search(r"[Tt]ask(?: is to)?: (.*)", prompt).group(1)
    if "<query>" in prompt:
        return "<query>where things are</query>"
    if "<rank>" in prompt:
        return "<think>hm</think> 9 <rank>2, 2, 77, 1</rank>"
    if "JSON object" in prompt:
        return 'So: {"action_lesson": "open it first", "navigation_lesson": "no", ' + (
            f'"description_head": "tasks like {task}"}}'
        )
    taken = re.search(r"You have taken (\d+) actions", prompt)
    command = PLANS[task][int(taken.group(1)) if taken else 0]
    return f"<think>I plan.</think> <action> {command.upper()} </action>"


def evaluate(tmp_path, reply=answer, limit=3, path="made_up", **options):
    benchmark = Benchmark("household", str(path), limit=limit, options=options)
    run = Run(Subject(name="scripted"), benchmark)
    asked = scripted.model(lambda prompt, seed: reply(prompt))
    outcome = harness.evaluate(run, tmp_path, model=asked)
    lines = (tmp_path / "samples.jsonl").read_text().splitlines()
    return outcome, [json.loads(line) for line in lines], (tmp_path / "report.md").read_text()


def test_the_oracle_wins_and_the_report_says_so(tmp_path):
    outcome, samples, report = evaluate(tmp_path, limit=6)
    assert outcome.scores["success"] == 1.0
    assert not outcome.failures
    for sample in samples:
        assert sample["meta"]["actions"] == list(PLANS[sample["prompt"]])
        assert sample["meta"]["inadmissible"] == 0
    # Wilson's interval of 6 of 6: 1 / (1 + z^2 / 6).
    assert "1.000 [0.610, 1.000]" in report
    assert "By family" in report
    assert "unseen" in report


def test_a_model_that_writes_nonsense_loses_and_is_counted(tmp_path):
    floods = "\x00<action>" * 3000 + "\ud800"
    outcome, samples, report = evaluate(tmp_path, lambda prompt: floods, limit=2, max_steps=3)
    assert outcome.scores["success"] == 0
    assert [sample["meta"]["steps"] for sample in samples] == [3, 3]
    assert [sample["meta"]["act"] for sample in samples] == [3, 3]
    assert "| 3.000 | 1.000 | 6 |" in report


def test_a_frozen_library_is_asked_and_left_as_it_is(tmp_path):
    skills = tmp_path / "skills.sqlite"
    with SkillLibrary(skills) as library:
        for name in ("mugs", "lamps"):
            library.learn(1, [Episode(1.0, skill=Skill(f"lesson of {name}", f"for {name}"))])
        before = library.entries()
    prompts = []

    def reply(prompt):
        prompts.append(prompt)
        return answer(prompt)

    options = {"library": "frozen", "skills": str(skills)}
    outcome, samples, _ = evaluate(tmp_path / "run", reply, limit=2, **options)
    assert outcome.scores["success"] == 1.0
    with SkillLibrary(skills, readonly=True) as library:
        assert library.entries() == before
        offered = library.retrieve(["where things are"], greedy=True)[0]
    # The ranking puts the second candidate first, and that one's lesson alone is in the prompt.
    second, first = offered[1].entry, offered[0].entry
    acting = [prompt for prompt in prompts if prompt.startswith("You act in")]
    assert all(f"similar tasks: {second.skill.strategy}" in prompt for prompt in acting)
    assert not any(first.skill.strategy in prompt for prompt in acting)
    assert {sample["meta"]["skill"] for sample in samples} == {second.id}


def test_a_growing_library_learns_from_every_game(tmp_path):
    skills = tmp_path / "skills.sqlite"
    options = {"library": "growing", "skills": str(skills)}
    outcome, samples, report = evaluate(tmp_path / "run", limit=3, **options)
    assert outcome.scores["success"] == 1.0
    with SkillLibrary(skills, readonly=True) as library:
        entries = library.entries()
    assert len(entries) == 3
    assert {e.skill.strategy for e in entries} == {"Action Insight: open it first"}
    assert sum(e.selections for e in entries) == 2
    # The first game finds an empty library.
    assert sorted(s["meta"]["skill"] is not None for s in samples) == [False, True, True]
    assert "| games with a skill |" in report or "games with a skill" in report


def test_an_environment_that_dies_is_counted_and_teaches_nothing(tmp_path, monkeypatch):
    skills = tmp_path / "skills.sqlite"
    with SkillLibrary(skills) as library:
        library.learn(1, [Episode(1.0, skill=Skill("open it first", "for mugs"))])
        before = library.entries()

    class Broken:
        def reset(self):
            return Step("a room", admissible=("look",))

        def step(self, action):
            raise OSError("the planner is gone")

    monkeypatch.setattr(games, "load", lambda *_: Broken())
    options = {"library": "growing", "skills": str(skills)}
    outcome, samples, report = evaluate(tmp_path / "run", limit=2, **options)
    assert outcome.scores["success"] == 0
    assert [sample["meta"]["died"] for sample in samples] == [1, 1]
    lines = report.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("| steps a game"))
    cells = [[cell.strip() for cell in lines[i].split("|")] for i in (head, head + 2)]
    assert dict(zip(*cells, strict=True))["died"] == "2"
    assert "whose environment failed" in report
    with SkillLibrary(skills, readonly=True) as library:
        assert library.entries() == before


def test_a_folder_of_games_and_what_is_none(tmp_path, real_data):
    rules = games.files.Rules(
        real_data("alfworld/alfred.pddl").read_text(), real_data("alfworld/alfred.twl2").read_text()
    )
    folder = tmp_path / "games"
    for game in generate.panel("made_up")[:2]:
        path = games.write(game, folder, rules)
    outcome, samples, _ = evaluate(tmp_path / "run", path=folder, limit=None)
    assert outcome.scores["success"] == 1.0
    assert len(samples) == 2
    again = folder / "again" / path.parent.parent.name / path.parent.name / path.name
    again.parent.mkdir(parents=True)
    again.write_text(path.read_text())
    with pytest.raises(ValueError, match=r"game\.tw-pddl: the game .* is in .* too"):
        evaluate(tmp_path / "twice", path=folder)
    again.unlink()
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "solvable": False}))
    outcome, samples, report = evaluate(tmp_path / "fewer", path=folder, limit=None)
    assert outcome.scores["success"] == 1.0
    assert len(samples) == 1
    assert f"{path}: its field 'solvable' is false" in report
    path.write_text(path.read_text()[:500])
    with pytest.raises(ValueError, match=r"game\.tw-pddl: is no JSON"):
        evaluate(tmp_path / "cut", path=folder)
    with pytest.raises(FileNotFoundError, match="is no folder of games, nor alfworld or made_up"):
        evaluate(tmp_path / "none", path=tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"has no game\.tw-pddl in it"):
        evaluate(tmp_path / "empty-run", path=tmp_path / "empty")


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"library": "frozen"}, "skills names the library's file"),
        ({"skills": "x"}, "skills names the library's file"),
        ({"library": "frozen", "skills": "/nowhere"}, "/nowhere: there is no skill library"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"similarity_weight": 2.0}, "between 0 and 1"),
        ({"engine": "fsat"}, "'fast'"),
    ],
)
def test_bad_options_are_named(tmp_path, options, cause):
    with pytest.raises(ValueError, match=cause):
        evaluate(tmp_path, **options)


def test_wilson_by_hand():
    """5 of 10: centre .5, half width z sqrt(.025 + z^2/400) / (1 + z^2/10)."""
    low, high = wilson(5, 10)
    assert (low, high) == (pytest.approx(0.2366, abs=1e-4), pytest.approx(0.7634, abs=1e-4))
    assert wilson(0, 10) == (0.0, pytest.approx(0.2775, abs=1e-4))
    assert wilson(0, 0) == (0.0, 1.0)


def test_families_are_counted_apart():
    base = Result("g", 1, True, "won", "match", "the game", "g", {"family": "a", "split": "seen"})
    other = dataclasses.replace(base, id="h", correct=False, meta={"family": "b", "split": "seen"})
    rows = metrics.tables([base, base, other])[1].rows
    assert [(row["family"], row["won"], row["of"]) for row in rows] == [("a", 2, 2), ("b", 0, 1)]
