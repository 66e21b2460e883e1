import asyncio
import random

import pytest

from jaxlab.agents import skill1, skill1_terse
from jaxlab.agents.skill1_script import Rehearsal, Script
from jaxlab.envs import household
from jaxlab.envs.household import generate
from jaxlab.envs.household.setting import TEMPLATES, Sizes

AMONG = tuple(r for r in generate.inventory("made_up") if r.number in (7, 207, 307, 407))
TOKENIZER = skill1_terse.tokenizer()


def game(index, habit=1.0):
    return generate.game("train", index, AMONG, Sizes(8, 8, 1, habit))


@pytest.mark.parametrize(
    ("text", "skill"),
    [
        ("mug at shelf 1 when mug", ("mug at shelf 1", "mug")),
        ("mug at shelf 1", None),
        ("mug at shelf 1 when ", None),
        (" when mug", None),
        ("", None),
        ("when when when", ("when", "when")),
    ],
)
def test_skills(text, skill):
    found = skill1_terse.read_skill(text, "the task")
    assert (found and (found.strategy, found.description)) == skill


def test_queries_rankings_and_actions():
    assert skill1_terse.read_query(" mug \n fridge") == ("mug fridge", True)
    assert skill1_terse.read_query("") == ("", False)
    assert skill1_terse.read_query("x" * 10**6) == ("x" * 200, True)
    assert skill1_terse.read_rank("3 1", 3) == ([2, 0, 1], True)
    assert skill1_terse.read_rank("9 0 mug", 3) == ([0, 1, 2], False)
    for order in ((0, 1, 2), (2, 0, 1)):
        assert skill1_terse.read_rank(skill1_terse.ranking(order), 3) == (list(order), True)
    commands = ("go to shelf 1", "go to shelf 2", "take mug 1 from shelf 1", "look")
    replies = ("go shelf", "go shelf 2", "take mug shelf", "look")
    for command, reply in zip(commands, replies, strict=True):
        assert skill1_terse.acting(command) == reply
        assert skill1_terse.read_action(reply, commands) == (command, True)
        assert skill1_terse.read_action(command.replace(" ", "  "), commands) == (command, True)
    assert skill1_terse.read_action("fly", commands) == ("fly", False)
    # What could mean two things is not guessed at.
    assert skill1_terse.read_action("open box", ("open box", "open box 1")) == ("open box", True)
    assert skill1_terse.read_action("go shelf", ("go to shelf", "go to shelf 1"))[1] is False


def test_the_thing_of_every_task_is_at_one_place():
    """Of both templates of all families it is the last word but one."""
    for templates in TEMPLATES.values():
        for template in templates:
            task = template.format(o="mug", r="shelf", l="desklamp")
            assert skill1_terse.short(task).split()[-2] == "mug"
            assert skill1_terse.query(task, "You see a bed 1.").endswith(
                f"{skill1_terse.short(task)} query"
            )
    assert skill1_terse.short("heat some mug and put it in shelf.") == "heat mug shelf"
    assert skill1_terse.short("find two mug and put them in shelf.") == "two mug shelf"


def test_observations_keep_what_tells_something():
    env = household.load(game(0))
    assert skill1_terse.brief(env.reset().text).startswith("bed desk drawer 2")
    assert skill1_terse.brief("You arrive at drawer 1. The drawer 1 is closed.") == (
        "drawer drawer closed"
    )
    assert skill1_terse.brief("On the drawer 1, you see a mug 1, and a pen 2.") == "mug pen 2"


def run(index, lessons, quality=1.0, right=1.0, steps=10):
    """An episode of the script; also what was asked and answered."""
    one = game(index)
    env = household.load(one, max_steps=steps)
    script = Script(env, skill1_terse, random.Random(index), quality)
    library = Rehearsal(env, random.Random(index), 3, right) if lessons else None
    turns = []

    async def generate(phase, prompt, choices):
        reply = script.reply(phase, prompt, choices)
        turns.append((phase, prompt, reply, choices))
        return reply

    play = skill1.play(
        env, one.task, generate, library, distil=True, history=12, words=skill1_terse
    )
    return asyncio.run(play), turns, one


def test_the_script_is_understood_and_knows_all_words():
    """Its replies are choices where there are any, and no word of it is unknown."""
    unknown = TOKENIZER.backend.token_to_id(skill1_terse.UNKNOWN)
    phases = set()
    for index in range(12):
        played, turns, one = run(index, lessons=index % 2)
        assert not any(played.counts.values())
        for phase, prompt, reply, choices in turns:
            phases.add(phase)
            assert not choices or reply in choices
            for text in (prompt, reply):
                assert unknown not in TOKENIZER.encode(text), text
        if played.reward:
            thing = one.id.split("-")[1].lower()
            assert played.skill.description == thing
            places = [c.split(" from ")[1] for c in played.actions if c.startswith("take")]
            told = {f"{thing} at {skill1_terse.short(place)}" for place in places}
            assert played.skill.strategy in told
    assert phases == {"query", "rank", "act", "distil"}


def test_a_true_lesson_is_worth_much():
    """With one it hardly searches; without, ten actions are too few for half of the games."""
    won = {told: sum(run(i, told)[0].reward for i in range(60)) for told in (True, False)}
    assert won[True] >= 55
    assert won[False] <= 36
