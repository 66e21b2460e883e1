import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.losses.cross_entropy import cross_entropy

LOGITS = jnp.log(jnp.array([[[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]]]))
TOKENS = jnp.array([[0, 1]])
BOTH = jnp.ones((1, 2), bool)


def test_constants_of_three_words():
    loss, metrics = cross_entropy(LOGITS, TOKENS, BOTH)
    assert loss == pytest.approx(2 * math.log(2.0), rel=1e-6)
    assert metrics["accuracy"] == 0.5
    assert metrics["nll"] == loss
    entropy = 1.5 * math.log(2.0) + 0.25 * math.log(8.0) - 0.75 * math.log(0.75)
    assert metrics["student_entropy"] == pytest.approx(entropy / 2, rel=1e-6)


def test_shifted_logits_change_the_z_loss_alone():
    loss, metrics = cross_entropy(LOGITS + 3.0, TOKENS, BOTH, z_loss=0.1)
    assert metrics["nll"] == pytest.approx(2 * math.log(2.0), rel=1e-6)
    assert loss == pytest.approx(2 * math.log(2.0) + 0.1 * 9.0, rel=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gradient_is_probability_minus_one_hot(dtype):
    logits = LOGITS.astype(dtype)
    gradient = jax.grad(lambda x: cross_entropy(x, TOKENS, BOTH)[0])(logits)
    expected = (jax.nn.softmax(logits.astype(jnp.float32)) - jax.nn.one_hot(TOKENS, 3)) / 2
    assert gradient.dtype == dtype
    np.testing.assert_allclose(gradient.astype(jnp.float32), expected, rtol=1e-2, atol=1e-6)


def test_masked_positions_may_hold_anything():
    logits = LOGITS.at[0, 1].set(jnp.nan)
    tokens = TOKENS.at[0, 1].set(-100)
    mask = jnp.array([[True, False]])
    value, gradient = jax.value_and_grad(lambda x: cross_entropy(x, tokens, mask)[0])(logits)
    assert value == pytest.approx(math.log(2.0), rel=1e-6)
    np.testing.assert_array_equal(gradient[0, 1], 0.0)
    assert np.all(np.isfinite(gradient))


def test_empty_mask_gives_zero():
    value, gradient = jax.value_and_grad(
        lambda x: cross_entropy(x, TOKENS, jnp.zeros((1, 2), bool))[0]
    )(LOGITS)
    assert value == 0.0
    np.testing.assert_array_equal(gradient, 0.0)


def test_shapes_must_agree():
    with pytest.raises(AssertionError):
        cross_entropy(LOGITS, TOKENS[:, :1], BOTH)
