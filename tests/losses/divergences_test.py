import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.losses import divergences

LN2, LN3 = math.log(2.0), math.log(3.0)
STUDENT = jnp.log(jnp.array([0.5, 0.25, 0.25]))
TEACHER = jnp.log(jnp.array([0.125, 0.125, 0.75]))


def test_constants_of_three_words():
    forward = 0.75 * LN3 - 0.375 * LN2
    reverse = 1.25 * LN2 - 0.25 * LN3
    assert divergences.forward_kl(STUDENT, TEACHER) == pytest.approx(forward, rel=1e-6)
    assert divergences.reverse_kl(STUDENT, TEACHER) == pytest.approx(reverse, rel=1e-6)
    assert divergences.entropy(STUDENT) == pytest.approx(1.5 * LN2, rel=1e-6)
    assert divergences.jeffreys_mix(STUDENT, TEACHER, 0.25) == pytest.approx(
        0.75 * forward + 0.25 * reverse, rel=1e-6
    )
    # M = beta T + (1 - beta) S at beta = 1/4.
    mixture = (0.40625, 0.21875, 0.375)
    teacher_part = sum(
        t * math.log(t / m) for t, m in zip((0.125, 0.125, 0.75), mixture, strict=True)
    )
    student_part = sum(s * math.log(s / m) for s, m in zip((0.5, 0.25, 0.25), mixture, strict=True))
    assert divergences.jsd(STUDENT, TEACHER, 0.25) == pytest.approx(
        0.25 * teacher_part + 0.75 * student_part, rel=1e-5
    )


def test_ends_of_jsd_are_the_two_kls():
    assert divergences.jsd(STUDENT, TEACHER, 0.0) == divergences.forward_kl(STUDENT, TEACHER)
    assert divergences.jsd(STUDENT, TEACHER, 1.0) == divergences.reverse_kl(STUDENT, TEACHER)
    with pytest.warns(UserWarning, match="close to an end"):
        near = divergences.jsd(STUDENT, TEACHER, 1e-3)
    assert near < 0.01 * divergences.forward_kl(STUDENT, TEACHER)


@pytest.mark.parametrize("function", [divergences.jsd, divergences.jeffreys_mix])
@pytest.mark.parametrize("beta", [-0.1, 1.5])
def test_beta_outside_the_unit_interval_is_refused(function, beta):
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        function(STUDENT, TEACHER, beta)


def test_shapes_must_agree():
    with pytest.raises(AssertionError):
        divergences.forward_kl(STUDENT, TEACHER[:2])


def test_extreme_logits_stay_finite_with_their_gradients():
    student = jnp.array([1e4, -1e4, 0.0, 3.0])
    teacher = jnp.array([-1e4, 1e4, 1.0, -3.0])
    for function in (divergences.forward_kl, divergences.reverse_kl, divergences.jsd):

        def loss(logits, function=function):
            return function(divergences.log_probs(logits), divergences.log_probs(teacher))

        value, gradient = jax.value_and_grad(loss)(student)
        assert np.isfinite(value)
        assert np.all(np.isfinite(gradient))
    # Disjoint support: the Jensen-Shannon divergence is at its bound.
    assert value == pytest.approx(LN2, rel=1e-6)


def test_forbidden_words_count_nothing():
    student = jnp.array([0.3, -0.2, -jnp.inf, -jnp.inf])
    teacher = jnp.array([0.1, 0.4, -jnp.inf, 1.0])

    def loss(logits):
        return divergences.reverse_kl(divergences.log_probs(logits), divergences.log_probs(teacher))

    value, gradient = jax.value_and_grad(loss)(student)
    p = np.exp([0.3, -0.2]) / np.sum(np.exp([0.3, -0.2]))
    q = np.exp([0.1, 0.4]) / np.sum(np.exp([0.1, 0.4, 1.0]))
    np.testing.assert_allclose(value, np.sum(p * np.log(p / q)), rtol=1e-6)
    assert np.all(np.isfinite(gradient))
    np.testing.assert_array_equal(gradient[2:], 0.0)


def test_bfloat16_logits_are_cast_before_the_temperature_and_jsd_is_not_negative():
    logits = jax.random.normal(jax.random.key(0), (64, 50)).astype(jnp.bfloat16)
    np.testing.assert_array_equal(
        divergences.log_probs(logits, 0.6),
        jax.nn.log_softmax(logits.astype(jnp.float32) / 0.6, axis=-1),
    )
    near = divergences.log_probs(logits.astype(jnp.float32) * 1.001)
    assert jnp.min(divergences.jsd(divergences.log_probs(logits), near)) > -1e-7


def test_gradient_of_jsd_against_float64_differences():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        student, teacher = jnp.asarray(rng.normal(size=(2, 7)))

        def loss(logits):
            log_probs = divergences.log_probs
            return divergences.jsd(log_probs(logits), log_probs(teacher), 0.3)

        gradient = jax.grad(loss)(student)
        step = 1e-6
        differences = [
            (loss(student + step * e) - loss(student - step * e)) / (2 * step) for e in np.eye(7)
        ]
        np.testing.assert_allclose(gradient, np.array(differences), rtol=1e-6, atol=1e-9)
