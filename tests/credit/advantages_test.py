import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.credit.advantages import (
    group_centred,
    group_normalised,
    leave_one_out,
)

REWARDS = jnp.array([[1.0, 0.0, 0.0, 1.0], [2.0, 0.0, 0.0, 0.0]])


def test_group_normalised_by_hand():
    advantages = group_normalised(REWARDS, eps=0.0)
    np.testing.assert_allclose(advantages[0], [1.0, -1.0, -1.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(advantages[1], np.array([3.0, -1, -1, -1]) / 3**0.5, rtol=1e-6)
    sample = group_normalised(REWARDS, eps=0.0, ddof=1)
    np.testing.assert_allclose(sample, advantages * (3 / 4) ** 0.5, rtol=1e-6)


@pytest.mark.parametrize("function", [group_normalised, group_centred, leave_one_out])
@pytest.mark.parametrize("size", [3, 7])
def test_equal_rewards_give_exactly_zero(function, size):
    # The mean of a few 0.1 is not 0.1, and GRPO divides what is left by eps.
    advantages = jax.jit(function)(jnp.full((2, size), 0.1))
    np.testing.assert_array_equal(advantages, 0.0)


def test_centred_is_not_scaled():
    np.testing.assert_allclose(group_centred(REWARDS)[1], [1.5, -0.5, -0.5, -0.5])


def test_leave_one_out_by_hand():
    np.testing.assert_allclose(leave_one_out(REWARDS)[1], [2, -2 / 3, -2 / 3, -2 / 3], rtol=1e-6)


def test_groups_that_are_too_small_are_refused():
    with pytest.raises(ValueError, match="at least 2"):
        leave_one_out(jnp.ones((3, 1)))
    with pytest.raises(ValueError, match="more than 1"):
        group_normalised(jnp.ones((3, 1)), ddof=1)
    np.testing.assert_array_equal(group_normalised(jnp.ones((3, 1))), 0.0)


def test_rewards_must_be_grouped():
    with pytest.raises(AssertionError):
        group_normalised(jnp.ones(4))
