import pytest

from jaxlab.credit.steps import returns, step_advantages


def test_returns_by_hand():
    assert returns([0.0, 0.0, 1.0], 0.5) == [0.25, 0.5, 1.0]
    assert returns([1.0, -1.0, 2.0], 1.0) == [2.0, 1.0, 2.0]
    assert returns([], 0.5) == []
    with pytest.raises(ValueError, match=r"discount=1.5 is outside of \[0, 1\]"):
        returns([1.0], 1.5)


def test_steps_from_one_state_are_compared():
    """Task 0 stands twice before "hall": returns 1 and 0.5, so +-1; without F +-0.25."""
    tasks = [0, 0, 0, 0, 1, 1]
    states = ["hall", "door", "hall", "attic", "hall", "hall"]
    values = [1.0, 0.7, 0.5, 0.1, 0.3, 0.3]
    found = step_advantages(tasks, states, values, eps=0.0)
    assert found == pytest.approx([1.0, 0.0, -1.0, 0.0, 0.0, 0.0])
    plain = step_advantages(tasks, states, values, normalise=False)
    assert plain == pytest.approx([0.25, 0.0, -0.25, 0.0, 0.0, 0.0])


def test_a_state_that_one_episode_meets_twice_is_a_group():
    assert step_advantages([0, 0, 0], ["a", "a", "a"], [0.0, 0.0, 3.0], normalise=False) == [
        -1.0,
        -1.0,
        2.0,
    ]
