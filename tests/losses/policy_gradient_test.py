import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.losses.policy_gradient import estimate_kl, policy_gradient, surrogate

MASK = jnp.array([[True, True, False], [True, False, False]])


def one_token(rho, advantage, **options):
    """Loss and gradient in logp of one token whose ratio is given."""

    def loss(logp):
        zero = jnp.zeros(1)
        return jnp.sum(surrogate(logp, zero, jnp.array([advantage]), **options)[0])

    return jax.value_and_grad(loss)(jnp.log(jnp.array([rho])))


@pytest.mark.parametrize(
    ("rho", "advantage", "kind", "loss", "slope"),
    [
        (1.1, 2.0, "ppo_clip", -2.2, -2.2),
        (1.5, 2.0, "ppo_clip", -2.4, 0.0),
        (0.5, 2.0, "ppo_clip", -1.0, -1.0),
        (1.5, -2.0, "ppo_clip", 3.0, 3.0),
        (0.5, -2.0, "ppo_clip", 1.6, 0.0),
        (5.0, -2.0, "ppo_clip", 10.0, 10.0),
        (5.0, -2.0, "dual_clip", 6.0, 0.0),
        (5.0, 2.0, "dual_clip", -2.4, 0.0),
    ],
)
def test_clips_by_hand(rho, advantage, kind, loss, slope):
    value, gradient = one_token(rho, advantage, ratio=kind)
    assert value == pytest.approx(loss, rel=1e-5)
    assert gradient[0] == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_without_ratio_it_is_reinforce():
    value, gradient = one_token(0.5, 2.0, ratio="none")
    assert value == pytest.approx(-2.0 * np.log(0.5), rel=1e-6)
    assert gradient[0] == -2.0


def test_the_log_ratio_is_clamped():
    huge, _ = surrogate(jnp.array([1e4]), jnp.zeros(1), jnp.array([-1.0]))
    assert huge[0] == pytest.approx(np.exp(20.0), rel=1e-5)


def test_on_policy_gradient_is_that_of_the_advantage():
    logp = jnp.log(jnp.array([[0.5, 0.3, 0.9], [0.2, 0.7, 0.1]]))
    advantages = jnp.array([1.0, -0.5])

    def loss(logp):
        return policy_gradient(logp, advantages, MASK)[0]

    value, gradient = jax.jit(jax.value_and_grad(loss))(logp)
    assert value == pytest.approx(-(1.0 - 0.5) / 2)
    np.testing.assert_allclose(gradient, [[-0.25, -0.25, 0.0], [0.25, 0.0, 0.0]], rtol=1e-6)


def test_masked_nan_reaches_neither_loss_nor_gradient():
    bad = jnp.where(MASK, -0.5, jnp.nan)

    def loss(logp):
        return policy_gradient(logp, bad, MASK, old_logp=bad, reference_logp=bad, kl_weight=0.1)[0]

    value, gradient = jax.value_and_grad(loss)(bad)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))


def test_empty_mask_gives_zero():
    logp = jnp.full((2, 3), -1.0)
    loss, metrics = policy_gradient(logp, jnp.ones(2), jnp.zeros((2, 3), bool))
    assert loss == 0.0
    assert all(np.isfinite(value) for value in metrics.values())


def test_kl_estimators_by_hand():
    r = jnp.array([0.3, -0.2])
    np.testing.assert_allclose(estimate_kl(r, "k1"), r)
    np.testing.assert_allclose(estimate_kl(r, "k2"), np.square(r) / 2, rtol=1e-6)
    np.testing.assert_allclose(estimate_kl(r, "k3"), np.exp(-r) - 1 + r, rtol=1e-5)
    assert estimate_kl(jnp.array([1e-4]), "k3")[0] == pytest.approx(5e-9, rel=1e-2)


@pytest.mark.parametrize("estimator", ["k1", "k2"])
def test_expected_gradient_of_the_kl_term_is_that_of_the_exact_kl(estimator):
    logits = jnp.array([0.2, -0.4, 0.9, 0.0])
    reference = jax.nn.log_softmax(jnp.array([1.0, 0.3, -0.5, 0.1]))

    def exact(logits):
        logp = jax.nn.log_softmax(logits)
        return jnp.sum(jnp.exp(logp) * (logp - reference))

    def sampled(logits, token):
        logp = jax.nn.log_softmax(logits)[token].reshape(1, 1)
        return policy_gradient(
            logp,
            jnp.zeros(1),
            jnp.ones((1, 1), bool),
            reference_logp=reference[token].reshape(1, 1),
            kl_weight=1.0,
            kl_estimator=estimator,
        )[0]

    each_token = jax.jit(jax.vmap(jax.grad(sampled), in_axes=(None, 0)))
    gradients = each_token(logits, jnp.arange(4))
    expected = jax.nn.softmax(logits) @ gradients
    np.testing.assert_allclose(expected, jax.grad(exact)(logits), atol=1e-6)


def test_bad_options_are_named():
    logp = jnp.zeros((2, 3))
    with pytest.raises(ValueError, match=r"ratio='clip'.*none, ppo_clip, dual_clip"):
        policy_gradient(logp, jnp.ones(2), MASK, ratio="clip")
    with pytest.raises(ValueError, match=r"kl_estimator='k4'.*k1, k2, k3"):
        policy_gradient(logp, jnp.ones(2), MASK, kl_estimator="k4")
    with pytest.raises(ValueError, match="needs reference_logp"):
        policy_gradient(logp, jnp.ones(2), MASK, kl_weight=0.1)
    with pytest.raises(AssertionError):
        policy_gradient(logp, jnp.ones((2, 4)), MASK)
