import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.credit.perplexity import branch_weights, correlation, scope_weights, shrunk

# Figure 2 of the paper: perplexities of three correct answers by the student, of three wrong ones
# by the teacher.
CORRECT = np.array([[True, True, True, False, False, False]])
STUDENT = -np.log([[1.2, 2.6, 3.8, 9.0, 9.0, 9.0]])
TEACHER = -np.log([[7.0, 7.0, 7.0, 4.5, 2.9, 1.7]])


def test_the_numbers_of_figure_2():
    correct, wrong = scope_weights(STUDENT, TEACHER, CORRECT)
    np.testing.assert_allclose(correct, [[0.158, 0.342, 0.500, 0, 0, 0]], atol=5e-4)
    # The figure prints 0.510 where its perplexities give 0.5092.
    np.testing.assert_allclose(wrong, [[0, 0, 0, 0.192, 0.298, 0.510]], atol=1e-3)
    assert correct.dtype == wrong.dtype == jnp.float32


def test_tau_is_the_temperature():
    sharp, _ = scope_weights(STUDENT, TEACHER, CORRECT, tau=0.5)
    np.testing.assert_allclose(sharp[0, :3], np.array([1.2, 2.6, 3.8]) ** 2 / 22.64, rtol=1e-5)
    flat, even = scope_weights(STUDENT, TEACHER, CORRECT, tau=1e6)
    np.testing.assert_allclose(flat[0, :3], 1 / 3, rtol=1e-5)
    np.testing.assert_allclose(even[0, 3:], 1 / 3, rtol=1e-5)
    one, other = scope_weights(STUDENT, TEACHER, CORRECT, tau=1e-4)
    np.testing.assert_array_equal(one, [[0, 0, 1, 0, 0, 0]])
    np.testing.assert_array_equal(other, [[0, 0, 0, 0, 0, 1]])


def test_norms_signs_and_bounds():
    kept = {"norm": "mean1"}
    mean1, _ = scope_weights(STUDENT, TEACHER, CORRECT, **kept)
    np.testing.assert_allclose(mean1[0, :3], 3 * np.array([1.2, 2.6, 3.8]) / 7.6, rtol=1e-5)
    powers, _ = scope_weights(STUDENT, TEACHER, CORRECT, norm="none")
    np.testing.assert_allclose(powers[0, :3], [1.2, 2.6, 3.8], rtol=1e-5)
    uniform, _ = scope_weights(STUDENT, TEACHER, CORRECT, norm="uniform")
    np.testing.assert_allclose(uniform[0, :3], 1 / 3, rtol=1e-6)
    inverted, _ = scope_weights(STUDENT, TEACHER, CORRECT, student_sign=-1)
    inverse = 1 / np.array([1.2, 2.6, 3.8])
    np.testing.assert_allclose(inverted[0, :3], inverse / inverse.sum(), rtol=1e-5)
    bounded, _ = scope_weights(STUDENT, TEACHER, CORRECT, max_perplexity=2.6)
    np.testing.assert_allclose(bounded[0, :3], np.array([1.2, 2.6, 2.6]) / 6.4, rtol=1e-5)


def test_empty_branches_are_zeros_and_single_members_weigh_one():
    correct = np.array([[True] * 3, [False] * 3, [True, False, False]])
    nan = np.where(correct, np.nan, -0.5)
    with jax.debug_nans(True):
        right, wrong = scope_weights(np.full((3, 3), -0.5), np.full((3, 3), -2.0), correct)
    np.testing.assert_allclose(right.sum(1), [1, 0, 1], rtol=1e-6)
    np.testing.assert_allclose(wrong.sum(1), [0, 1, 1], rtol=1e-6)
    assert right[2, 0] == 1.0
    # What is outside of a branch does not matter.
    np.testing.assert_array_equal(scope_weights(-np.ones((3, 3)), nan, correct)[1], wrong)


def test_extreme_perplexities_stay_finite():
    logp = np.array([[-1e6, -1.0, 0.0, -2e3]])
    for norm in ("sum1", "mean1", "none"):
        for tau in (1e-3, 1.0):
            for sign in (1, -1):
                options = {"tau": tau, "norm": norm, "sign": sign}
                found = branch_weights(logp, np.ones((1, 4), bool), **options)
                assert np.all(np.isfinite(found)), options


def test_weights_are_constants_and_bad_options_are_named():
    gradient = jax.grad(lambda x: scope_weights(x, x, CORRECT)[0].max())(jnp.asarray(STUDENT))
    np.testing.assert_array_equal(gradient, 0.0)
    with pytest.raises(ValueError, match="tau must be above 0, not 0"):
        scope_weights(STUDENT, TEACHER, CORRECT, tau=0.0)
    with pytest.raises(ValueError, match=r"norm='sum'.*sum1, mean1, none, uniform"):
        scope_weights(STUDENT, TEACHER, CORRECT, norm="sum")
    with pytest.raises(AssertionError):
        scope_weights(STUDENT[:, :2], TEACHER, CORRECT)


def test_correlation_says_which_way_the_weights_go():
    right, wrong = scope_weights(STUDENT, TEACHER, CORRECT)
    assert 0.9 < correlation(right, STUDENT, CORRECT) <= 1.0
    assert -1.0 <= correlation(wrong, TEACHER, ~CORRECT) < -0.9
    inverted, _ = scope_weights(STUDENT, TEACHER, CORRECT, student_sign=-1)
    assert correlation(inverted, STUDENT, CORRECT) < -0.9
    uniform, _ = scope_weights(STUDENT, TEACHER, CORRECT, norm="uniform")
    assert correlation(uniform, STUDENT, CORRECT) == 0.0
    single = np.array([[True, False, False, False, False, False]])
    assert correlation(right, STUDENT, single) == 0.0


def test_trust_in_few_lucky_answers():
    correct = np.arange(8) < np.array([0, 1, 4, 8])[:, None]
    np.testing.assert_array_equal(shrunk(correct, chance=0.125, strength=0.0), 1.0)
    found = shrunk(correct, chance=0.125, strength=1.0)
    np.testing.assert_allclose(found[:, 0], [0, 0, 3 / 4, 7 / 8], rtol=1e-6)
