"""ALFWorld's own engine beside ours; `make test-agents` runs it."""

import copy
import json
import random
import sys

import pytest

from benchmarks import household_parity
from jaxlab.envs import household
from jaxlab.envs.household import catalogue, generate, real, wording
from tests.envs.household import play_test

pytestmark = pytest.mark.agents


@pytest.fixture(autouse=True, scope="module")
def alfworld(tmp_path_factory):
    """ALFWorld makes a folder for its downloads when it is imported; not in anybody's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALFWORLD_DATA", str(tmp_path_factory.mktemp("alfworld")))
        yield pytest.importorskip("alfworld", reason="needs the extra agents")


def small(index):
    return generate.game("train", index, generate.inventory("alfworld"), household_parity.SMALL)


def test_the_transcript_is_what_the_engine_says():
    env = household.load(play_test.tiny(), engine="textworld", max_steps=None)
    for command, *expected in play_test.TRANSCRIPT:
        step = env.reset() if command is None else env.step(command)
        found = [step.text, step.reward, step.done, list(step.admissible)]
        assert json.loads(json.dumps(found)) == expected, command


@pytest.mark.parametrize("index", range(12))
def test_no_step_differs(index):
    """Two games of every family: text, reward, end and commands, at random and to the end."""
    steps, found, won = household_parity.side_by_side(small(index), 12, random.Random(index))
    assert not found
    assert won
    assert steps > 12


def test_a_planted_difference_is_found(monkeypatch):
    game = small(0)
    monkeypatch.setattr(household_parity.household, "load", _with_overview(household.load))
    steps, found, _ = household_parity.side_by_side(game, 3, random.Random(0))
    assert steps == 0
    assert [one.split(":")[0] for one in found] == ["text"]


def _with_overview(load):
    def changed(game, engine, max_steps):
        env = load(game, engine, max_steps)
        if engine == "fast":
            env.world = copy.copy(env.world)
            env.world.overview = "a mug 1"
        return env

    return changed


def test_plans_of_the_engine_win_in_ours():
    for index in range(6):
        game = small(index)
        plan = household.load(game, engine="textworld").plan()
        fast = household.load(game)
        fast.reset()
        rewards = [fast.step(command).reward for command in plan]
        assert rewards[-1] == 1.0
        # Theirs stops at the first plan that it finds, ours fetches things one by one.
        assert len(game.walkthrough) <= len(plan) + 2


def test_episodes_end_as_ours_do():
    game = small(3)
    before = sys.argv[:]
    real_, fast = (household.load(game, engine=e, max_steps=2) for e in ("textworld", "fast"))
    for env in (real_, fast):
        with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
            env.step("look")
        env.reset()
        assert [env.step("look").done for _ in range(2)] == [False, True]
        with pytest.raises(RuntimeError, match="the episode is over"):
            env.step("look")
    # Fast Downward's translator writes there.
    assert sys.argv == before


def test_a_goal_out_of_reach_is_named():
    problem = play_test.PROBLEM.replace("(heatable Apple_bar__plus_01)", "")
    game = household.Game("cold", "", "put a hot apple in fridge.", problem)
    with pytest.raises(household.GameError, match=r"cold: .*no plan reaches its goal"):
        household.load(game, engine="textworld")
    env = household.load(game)
    env.reset()
    with pytest.raises(household.GameError, match="no plan reaches the goal"):
        generate.planner.plan(env.state)


def test_the_installed_rules_are_ours():
    rules = real.rules()
    assert wording.wording(rules.domain, wording.without_task(rules.grammar)) == wording.PACKAGE


def test_the_catalogue_is_that_of_the_generator():
    from alfworld.gen import constants

    def whole(things):
        return {thing for thing in things if not thing.endswith("Sliced")}

    theirs = constants.VAL_RECEPTACLE_OBJECTS.items()
    movable = set(constants.MOVABLE_RECEPTACLES)
    assert {k: whole(v) for k, v in theirs if k not in movable} == catalogue.CONTENTS
    able = {k: whole(v) for k, v in constants.VAL_ACTION_OBJECTS.items()}
    assert able["Heatable"] == catalogue.HEATABLE
    assert able["Coolable"] == catalogue.COOLABLE
    assert able["Cleanable"] == catalogue.CLEANABLE
    assert able["Sliceable"] == catalogue.SLICEABLE
    assert movable == catalogue.HOLLOW


def test_generated_games_are_found_by_the_loader_of_alfworld(tmp_path):
    from alfworld.agents.environment.alfred_tw_env import AlfredTWEnv

    assert generate.main([str(tmp_path), "--games=3", "--rooms=made_up"]) == 0
    config = {
        "env": {"goal_desc_human_anns_prob": 0, "task_types": [1, 2, 3, 4, 5, 6]},
        "dataset": {"data_path": str(tmp_path), "num_train_games": -1},
    }
    assert len(AlfredTWEnv(config).game_files) == 3
