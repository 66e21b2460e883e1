import dataclasses

import pytest

from jaxlab.envs.protocol import Batch, Step, admits, bounded


@dataclasses.dataclass
class Echo:
    """Says what it hears; ends at "end", dies at "die", and at reset where it is told to."""

    stillborn: bool = False

    def reset(self):
        if self.stillborn:
            raise OSError("no such world")
        return Step("hello")

    def step(self, action):
        if action == "die":
            raise ZeroDivisionError("division by zero")
        if action == "flood":
            return Step("w" * 100_000)
        return Step(action, 1.0, action == "end")


def test_one_that_dies_costs_its_episode_and_no_other():
    batch = Batch([Echo(), Echo(stillborn=True), Echo()])
    first = batch.reset()
    assert first[1] == Step("", done=True, error="OSError: no such world")
    assert batch.live == [0, 2]
    steps = batch.step(["die", None, "on"])
    assert steps[0] == Step("", done=True, error="ZeroDivisionError: division by zero")
    assert steps[1] is None
    assert steps[2] == Step("on", 1.0)
    assert batch.live == [2]
    assert batch.counts == {"steps": 2, "cut_actions": 0, "cut_texts": 0, "died": 2}
    with pytest.raises(ValueError, match=r"environments \[0\] are over"):
        batch.step(["on", None, "on"])
    assert batch.restart(0) == Step("hello")
    assert batch.live == [0, 2]
    assert batch.restart(1).error == "OSError: no such world"
    assert batch.live == [0, 2]


def test_actions_and_texts_are_cut_and_counted():
    batch = Batch([Echo(), Echo(), Echo()], max_action=20, max_text=30)
    batch.reset()
    steps = batch.step(["a" * 10**6, "flood", 7])
    assert steps[0].text == "a" * 14 + " [...]"
    assert steps[1].text == "w" * 24 + " [...]"
    assert steps[2].text == "7"
    assert batch.counts == {"steps": 3, "cut_actions": 2, "cut_texts": 1, "died": 0}


def test_an_ended_episode_is_no_longer_live():
    batch = Batch([Echo()])
    batch.reset()
    assert batch.step(["end"]) == [Step("end", 1.0, True)]
    assert batch.live == []
    with pytest.raises(ValueError, match="2 actions for 1 environments"):
        batch.step(["a", "b"])


@pytest.mark.parametrize("limit", [0, 3, 6, 7, 10])
def test_bounded_is_never_longer_than_its_limit(limit):
    assert len(bounded("x" * 50, limit)) == limit
    assert bounded("x" * limit, limit) == "x" * limit


def test_a_part_in_angle_brackets_stands_for_any_text():
    commands = ("look", "search[<query>]", "click[< prev]", "click[a+b]")
    for action in ("look", "search[red lamp]", "search[a\nb]", "search[[]]", "click[< prev]"):
        assert admits(commands, action), action
    for action in ("", "Look", "search[]", "search[a", "asearch[a]", "click[prev]", "click[aab]"):
        assert not admits(commands, action), action
    assert not admits((), "look")
