"""Models of known behaviour shop through the harness, to the report."""

import json
import re

import pytest

from jaxlab.agents import skill1_shopping
from jaxlab.agents.skill_encoders import HashedProjection
from jaxlab.agents.skill_library import Episode, Skill, SkillLibrary
from jaxlab.envs import webshop
from jaxlab.envs.webshop import generate, shoppers
from jaxlab.evals import harness, settings
from jaxlab.evals.settings import Benchmark, Run, Subject
from jaxlab.evals.webshop.options import Options
from tests.evals import scripted

# Instruction -> actions that buy what it asks for.
PLANS = {}


@pytest.fixture(scope="module", autouse=True)
def plans():
    shop = generate.shop(50)
    for goal in generate.panel(shop):
        PLANS[goal.instruction] = shoppers.plan(webshop.WebShop(shop, goal), goal)


def answer(prompt):
    """The oracle: it knows the plan of each task, and what it is asked for."""
    task = re.search(r"[Tt]ask(?: is to)?: (.*)", prompt).group(1)
    if "<query>how" in prompt.lower():
        return "<query>fire</query>"
    if "<rank>" in prompt:
        return "<rank>1</rank>"
    if "JSON object" in prompt:
        return '{"action_lesson": "buy it now", "description_head": "shopping"}'
    taken = re.search(r"You have taken (\d+) actions", prompt)
    return f"<action>{PLANS[task][int(taken.group(1)) if taken else 0]}</action>"


def evaluate(tmp_path, reply=answer, limit=3, path="made_up", replay=None, **options):
    benchmark = Benchmark("webshop", str(path), limit=limit, options={"products": 50, **options})
    run = Run(Subject(name="scripted"), benchmark, library=replay or settings.Replay())
    asked = scripted.model(lambda prompt, seed: reply(prompt))
    outcome = harness.evaluate(run, tmp_path, model=asked)
    lines = (tmp_path / "samples.jsonl").read_text().splitlines()
    return outcome, [json.loads(line) for line in lines], (tmp_path / "report.md").read_text()


def test_the_oracle_buys_what_is_asked_for(tmp_path):
    outcome, samples, report = evaluate(tmp_path)
    assert outcome.scores["success"] == 1.0
    for sample in samples:
        assert sample["meta"]["actions"] == list(PLANS[sample["prompt"]])
        # A search of the model's own words is one of the things that it can do.
        assert sample["meta"]["inadmissible"] == sample["meta"]["act"] == 0
    assert "By category" in report
    assert "mean reward" in report


def test_half_a_purchase_is_no_success_and_has_its_reward(tmp_path):
    """Who leaves the options out gets part of the reward, and the library learns of no success."""

    def careless(prompt):
        reply = answer(prompt)
        if reply.startswith("<action>click[") and "buy now" not in reply and "b0" not in reply:
            return "<action>click[buy now]</action>"
        return reply

    skills = tmp_path / "skills.sqlite"
    grown = {"library": "growing", "skills": str(skills)}
    outcome, samples, report = evaluate(tmp_path / "run", careless, limit=2, **grown)
    rewards = [sample["meta"]["reward"] for sample in samples]
    assert all(0 < reward < 1 for reward in rewards)
    assert outcome.scores["success"] == 0
    assert f"{sum(rewards) / 2:.3f}" in report
    with SkillLibrary(skills, readonly=True) as library:
        assert len(library) == 0


def test_a_saved_library_is_scored_again_and_stays_as_it_is(tmp_path):
    skills = tmp_path / "skills.sqlite"
    with SkillLibrary(skills, HashedProjection(32)) as library:
        for name in ("water", "fire"):
            library.learn(1, [Episode(1.0, skill=Skill(f"lesson of {name}", f"for {name}"))])
    before = skills.read_bytes()
    prompts = []

    def reply(prompt):
        prompts.append(prompt)
        return answer(prompt)

    replay = settings.Replay(path=str(tmp_path))
    outcome, samples, _ = evaluate(tmp_path / "run", reply, limit=2, replay=replay)
    assert outcome.scores["success"] == 1.0
    assert {sample["meta"]["skill"] for sample in samples} == {2}
    acting = [prompt for prompt in prompts if prompt.startswith("You act in an online shop")]
    assert all("similar tasks: lesson of fire\n" in prompt for prompt in acting)
    assert skills.read_bytes() == before
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["benchmark"]["options"]["library"] == "frozen"
    # Another encoder is refused, and taken where that is asked for.
    other = settings.Replay(path=str(tmp_path), encoder=settings.Encoder(reembed=True))
    outcome, samples, _ = evaluate(tmp_path / "again", limit=1, replay=other)
    assert {sample["meta"]["skill"] for sample in samples} == {2}
    assert skills.read_bytes() == before


def test_a_library_is_searched_by_a_sentence_encoder(tmp_path):
    from tests.interop.sentence_encoder_test import write

    skills, folder = tmp_path / "skills.sqlite", write(tmp_path / "encoder")
    with SkillLibrary(skills) as library:
        library.learn(1, [Episode(1.0, skill=Skill("lesson of mugs", "where are mugs"))])
    encoder = settings.Encoder(path=str(folder))
    with pytest.raises(ValueError, match="field 'encoder' is 'hashed projection of 128"):
        evaluate(tmp_path / "no", replay=settings.Replay(str(skills), encoder))
    encoder = settings.Encoder(path=str(folder), reembed=True)
    replay = settings.Replay(str(skills), encoder)
    _, samples, _ = evaluate(tmp_path / "run", limit=1, replay=replay)
    assert samples[0]["meta"]["skill"] == 1


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"products": 0}, "products must be at least 1"),
        ({"encoder": "x"}, "library is off"),
        ({"path": "nowhere"}, "nowhere: is no folder of WebShop's files, nor made_up"),
        ({"replay": settings.Replay(path="/nowhere")}, "/nowhere: there is no skill library"),
        ({"replay": settings.Replay(path="/a"), "skills": "/b"}, "skills=/a, and benchmark.opt"),
    ],
)
def test_bad_options_are_named(tmp_path, options, cause):
    with pytest.raises((ValueError, FileNotFoundError), match=cause):
        evaluate(tmp_path / "run", **options)


def test_a_misspelt_library_is_no_growing_one():
    with pytest.raises(ValueError, match="library='frozn' is not one of off, frozen, growing"):
        Options(library="frozn", skills="x")


def test_a_benchmark_without_actions_has_no_use_for_a_library(tmp_path):
    run = Run(Subject(name="x"), Benchmark("math", "x"), library=settings.Replay(path="y"))
    with pytest.raises(ValueError, match="library: a model does not act in math"):
        harness.resolved(run)


def test_a_folder_of_webshops_files(tmp_path):
    row = {
        "asin": "B01",
        "category": "fashion",
        "query": "polo",
        "product_category": "Clothing › Men",
        "name": "A Polo",
        "full_description": "",
        "small_description": [],
        "pricing": "$9.00",
        "customization_options": {},
    }
    human = {"instruction": "a polo.", "instruction_attributes": ["x"], "instruction_options": []}
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "items_shuffle.json").write_text(json.dumps([row, row]))
    (folder / "items_ins_v2.json").write_text(json.dumps({"B01": {"attributes": ["x"]}}))
    with pytest.raises(ValueError, match="has no goals among 1 products"):
        evaluate(tmp_path / "none", path=folder)
    (folder / "items_human_ins.json").write_text(json.dumps({"B01": [human]}))
    buy = ["search[polo]", "click[b01]", "click[buy now]"]

    def reply(prompt):
        taken = re.search(r"You have taken (\d+) actions", prompt)
        return f"<action>{buy[int(taken.group(1)) if taken else 0]}</action>"

    outcome, _, report = evaluate(tmp_path / "run", reply, path=folder)
    assert outcome.scores["success"] == 1.0
    assert "products that are there twice: 1" in report


def test_prompts_of_a_shop_speak_of_no_household():
    texts = [
        skill1_shopping.query("t", "x"),
        skill1_shopping.rank("t", "x", []),
        skill1_shopping.act("t", "s", 1, [("a", "b")], "x", ("search[<query>]",)),
        skill1_shopping.distil("t", True, [("a", "b")]),
    ]
    assert not any("household" in text for text in texts)
    assert all("online shop" in text for text in texts)
    assert skill1_shopping.read_action(
        "<action>search[Red Lamp]</action>", ("search[<query>]",)
    ) == ("search[Red Lamp]", True)
