"""Our rules against a transcript that ALFWorld 0.4.2 wrote (real_test.py writes it again)."""

import json
import pathlib

import pytest

from jaxlab.envs import household
from jaxlab.envs.household import planner
from jaxlab.envs.household.wording import Wording

HERE = pathlib.Path(__file__).parent
PROBLEM = (HERE / "tiny.pddl").read_text()
TRANSCRIPT = [json.loads(line) for line in (HERE / "tiny_transcript.jsonl").open()]


def tiny(**options):
    return household.Game("tiny", "", "put a hot apple in fridge.", PROBLEM, **options)


def play(env, commands):
    env.reset()
    return [env.step(command) for command in commands]


def test_every_step_is_that_of_the_real_engine():
    env = household.load(tiny(), max_steps=None)
    for command, text, reward, done, admissible in TRANSCRIPT:
        step = env.reset() if command is None else env.step(command)
        assert (command, step.text, step.reward, step.done) == (command, text, reward, done)
        assert list(step.admissible) == admissible, command


def test_a_thing_laid_into_the_drawer_beside_is_spoken_of():
    """The real engine's: it lies in drawer 1, and is not in drawer 2, where it was."""
    commands = ["go to drawer 1", "open drawer 1", "open drawer 2", "take knife 1 from drawer 2"]
    last = play(household.load(tiny()), [*commands, "move knife 1 to drawer 1", "look"])[-1]
    assert last.text == "You are facing the drawer 2, and drawer 1. Next to it, you see a knife 1."


def test_archives_before_0_4_put_things_down_in_other_words():
    words = Wording(
        "put {o} in/on {r}", "You put the {o} in/on the {r}.", "location", None, ("sinktype",)
    )
    env = household.load(tiny(words=words))
    commands = ["go to countertop 1", "take apple 1 from countertop 1", "go to sinkbasin 1"]
    steps = play(env, commands)
    assert steps[0].text.startswith("You arrive at loc 5. On the countertop 1, you see a apple 1")
    assert "help" not in steps[-1].admissible
    # This sink is no SinkType.
    assert "clean apple 1 with sinkbasin 1" not in steps[-1].admissible
    assert "put apple 1 in/on sinkbasin 1" in steps[-1].admissible
    done = env.step("put apple 1 in/on sinkbasin 1")
    assert done.text == "You put the apple 1 in/on the sinkbasin 1."


@pytest.mark.parametrize("action", ["", "x" * 1_000_000, "take \x00 from \ud800", "go to", "open"])
def test_any_text_is_answered(action):
    env = household.load(tiny())
    before = env.reset()
    assert env.step(action).text == "Nothing happens."
    assert env.step("look").admissible == before.admissible


def test_an_episode_ends_after_its_steps_and_is_not_stepped_after():
    env = household.load(tiny(), max_steps=2)
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        env.step("look")
    steps = play(env, ["look", "look"])
    assert [(step.reward, step.done) for step in steps] == [(0.0, False), (0.0, True)]
    with pytest.raises(RuntimeError, match="the episode is over"):
        env.step("look")
    assert not env.reset().done


def test_the_oracle_wins_from_the_beginning_and_from_amid_a_mess():
    env = household.load(tiny())
    env.reset()
    plan = planner.plan(env.state)
    assert len(plan) == 7
    assert play(env, plan)[-1].reward == 1.0
    commands = [command for command, *_ in TRANSCRIPT[1:50]]
    play(env := household.load(tiny(), max_steps=None), commands)
    for command in planner.plan(env.state):
        step = env.step(command)
    assert step.reward == 1.0


def test_two_environments_of_one_game_do_not_share_their_state():
    one, two = (household.load(tiny(), max_steps=None) for _ in range(2))
    assert one.world is two.world
    first = two.reset()
    play(one, [command for command, *_ in TRANSCRIPT[1:-1]])
    assert two.step("look").admissible == first.admissible
    assert two.reset() == one.reset()
