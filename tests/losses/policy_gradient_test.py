import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.losses.distillation import distill
from jaxlab.losses.methods.grpo import Grpo
from jaxlab.losses.policy_gradient import estimate_kl, surrogate
from jaxlab.losses.types import Group

MASK = jnp.array([[True, True, False], [True, False, False]])


def grpo(logp, advantage, mask, method=None, **more):
    """A method of rewards on given log-probabilities of the tokens, the words 0."""
    rest = jnp.where(mask, jnp.log(-jnp.expm1(jnp.where(mask, logp, -1.0))), jnp.nan)
    both = jnp.stack([logp, rest], axis=-1)
    tokens = jnp.zeros(mask.shape, jnp.int32)
    return distill(method or Grpo(), both, None, tokens, mask, advantage=advantage, **more)


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
        return grpo(logp, advantages, MASK)[0]

    value, gradient = jax.jit(jax.value_and_grad(loss))(logp)
    assert value == pytest.approx(-(1.0 - 0.5) / 2)
    np.testing.assert_allclose(gradient, [[-0.25, -0.25, 0.0], [0.25, 0.0, 0.0]], rtol=1e-6)


def test_masked_nan_reaches_neither_loss_nor_gradient():
    bad = jnp.where(MASK, -0.5, jnp.nan)

    def loss(logp):
        method = Grpo(kl_weight=0.1)
        return grpo(logp, jnp.ones(2), MASK, method, old_logp=bad, reference_logp=bad)[0]

    value, gradient = jax.jit(jax.value_and_grad(loss))(bad)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))


def test_empty_mask_gives_zero():
    logp = jnp.full((2, 3), -1.0)
    loss, metrics = grpo(logp, jnp.ones(2), jnp.zeros((2, 3), bool))
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
        return distill(
            Grpo(kl_weight=1.0, kl_estimator=estimator),
            jax.nn.log_softmax(logits)[None, None],
            None,
            token.reshape(1, 1),
            jnp.ones((1, 1), bool),
            advantage=jnp.zeros(1),
            reference_logp=reference[token].reshape(1, 1),
        )[0]

    each_token = jax.jit(jax.vmap(jax.grad(sampled), in_axes=(None, 0)))
    gradients = each_token(logits, jnp.arange(4))
    expected = jax.nn.softmax(logits) @ gradients
    np.testing.assert_allclose(expected, jax.grad(exact)(logits), atol=1e-6)


def test_bad_options_are_named():
    with pytest.raises(ValueError, match=r"ratio='clip'.*none, importance, ppo_clip, dual_clip"):
        Grpo(ratio="clip")
    with pytest.raises(ValueError, match=r"kl_estimator='k4'.*k1, k2, k3"):
        Grpo(kl_estimator="k4")
    assert Grpo(kl_weight=0.1).needs.reference
    with pytest.raises(ValueError, match=r"\[3,1\]"):
        grpo(jnp.full((2, 3), -1.0), jnp.ones(3), MASK)


def test_groups_of_equal_rewards_are_kept_or_dropped():
    group = Group(jnp.full((2, 3), 5), jnp.ones((2, 3), bool), jnp.array([[1.0, 1, 1], [0, 1, 0]]))
    kept, dropped = Grpo().credit(group), Grpo(zero_variance="drop").credit(group)
    np.testing.assert_array_equal(kept.advantage[0], 0.0)
    np.testing.assert_allclose(kept.advantage[1], np.array([-1, 2, -1]) / np.sqrt(2), rtol=1e-4)
    assert kept.keep is None
    np.testing.assert_array_equal(dropped.keep, [[False] * 3, [True] * 3])
    assert kept.metrics["zero_variance_share"] == 0.5
