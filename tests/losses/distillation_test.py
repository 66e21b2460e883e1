import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.losses.distillation import aopd, distill, gkd, opd
from jaxlab.losses.divergences import log_probs
from jaxlab.losses.methods.aopd import Aopd, Guide
from jaxlab.losses.methods.gkd import FullReverseKl, Gkd
from jaxlab.losses.methods.opd import Opd
from jaxlab.losses.teacher_view import top_k

LN2, LN3 = math.log(2.0), math.log(3.0)
STUDENT = jnp.log(jnp.array([[[0.5, 0.25, 0.25]] * 2]))
TEACHER = jnp.log(jnp.array([[[0.125, 0.125, 0.75]] * 2]))
TOKENS = jnp.array([[0, 2]])
BOTH = jnp.ones((1, 2), bool)

B, T, V = 3, 5, 11


def batch(seed=0, dtype=jnp.float32):
    """Student logits, teacher logits, tokens and a ragged mask."""
    keys = jax.random.split(jax.random.key(seed), 3)
    student = 2 * jax.random.normal(keys[0], (B, T, V))
    teacher = 2 * jax.random.normal(keys[1], (B, T, V))
    tokens = jax.random.randint(keys[2], (B, T), 0, V)
    mask = jnp.arange(T)[None] < jnp.array([5, 2, 4])[:, None]
    return student.astype(dtype), teacher.astype(dtype), tokens, mask


def full_reverse_kl(student_logp, teacher_logp, mask):
    return distill(FullReverseKl(), student_logp, teacher_logp, None, mask)


def value_and_grad(function, logits, *args, **options):
    """Loss, gradient in the student's logits, and metrics."""

    def loss(logits):
        return function(log_probs(logits), *args, **options)

    (value, metrics), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(logits)
    return value, gradient, metrics


@jax.jit
def every_method(student_logp, teacher_logp, tokens, mask):
    """Name -> (loss, metrics) of each public function."""
    return {
        "opd": opd(student_logp, teacher_logp, tokens, mask),
        "gkd": gkd(student_logp, teacher_logp, mask),
        "gkd_fkl": gkd(student_logp, teacher_logp, mask, beta=0.0),
        "full_reverse_kl": full_reverse_kl(student_logp, teacher_logp, mask),
        "aopd": aopd(student_logp, teacher_logp, tokens, mask, top_k=4),
    }


def test_constants_of_three_words():
    forward = 0.75 * LN3 - 0.375 * LN2
    reverse = 1.25 * LN2 - 0.25 * LN3
    # A = -2 ln 2 on word 0 and ln 3 on word 2; -log S is ln 2 and 2 ln 2.
    opd_terms = (-2 * LN2 * LN2, LN3 * 2 * LN2)
    loss, metrics = opd(STUDENT, TEACHER, TOKENS, BOTH)
    assert loss == pytest.approx(sum(opd_terms) / 2, rel=1e-6)
    assert metrics["kl_forward"] == pytest.approx(forward, rel=1e-6)
    assert metrics["kl_reverse"] == pytest.approx(reverse, rel=1e-6)
    assert metrics["student_entropy"] == pytest.approx(1.5 * LN2, rel=1e-6)
    assert metrics["advantage_min"] == pytest.approx(-2 * LN2, rel=1e-6)
    assert metrics["advantage_negative_share"] == pytest.approx(
        4 * LN2**2 / (4 * LN2**2 + LN3**2), rel=1e-6
    )
    assert gkd(STUDENT, TEACHER, BOTH, beta=0.0)[0] == pytest.approx(forward, rel=1e-6)
    assert gkd(STUDENT, TEACHER, BOTH, beta=1.0)[0] == pytest.approx(reverse, rel=1e-6)
    assert full_reverse_kl(STUDENT, TEACHER, BOTH)[0] == pytest.approx(reverse, rel=1e-6)
    # Word 0 is guided: top-2 of the teacher are words 2 and 0.
    guided = (0.75 * LN3 - 0.25 * LN2) / 2
    loss, metrics = aopd(STUDENT, TEACHER, TOKENS, BOTH, top_k=2)
    assert loss == pytest.approx((guided + opd_terms[1]) / 2, rel=1e-6)
    assert metrics["guided_share"] == 0.5
    assert metrics["student_mass"] == pytest.approx(0.75, rel=1e-6)
    assert metrics["teacher_mass"] == pytest.approx(0.875, rel=1e-6)
    loss, _ = aopd(STUDENT, TEACHER, TOKENS, BOTH, top_k=2, divide_by_k=False)
    assert loss == pytest.approx((2 * guided + opd_terms[1]) / 2, rel=1e-6)


def reference_aopd(student, teacher, tokens, mask, k, tau):
    """Eq. 1, 7, 9, 10 in float64, token by token."""
    total, sequences = 0.0, 0
    for b in range(len(tokens)):
        terms = []
        for t in np.flatnonzero(mask[b]):
            s = student[b, t] - np.logaddexp.reduce(student[b, t])
            p = teacher[b, t] - np.logaddexp.reduce(teacher[b, t])
            y = tokens[b, t]
            if np.exp(p[y]) - np.exp(s[y]) <= tau:
                top = np.argsort(-p)[:k]
                terms.append(np.sum(np.exp(p[top]) * (p[top] - s[top])) / k)
            else:
                terms.append(-(p[y] - s[y]) * s[y])
        total += np.mean(terms)
        sequences += 1
    return total / sequences


@pytest.mark.parametrize("tau", [-0.2, 0.0, 0.3])
def test_aopd_against_a_float64_loop(tau):
    student, teacher, tokens, mask = batch()
    method = jax.jit(functools.partial(aopd, tau=tau, top_k=4))
    loss, _ = method(log_probs(student), log_probs(teacher), tokens, mask)
    expected = reference_aopd(*(np.float64(x) for x in (student, teacher)), tokens, mask, 4, tau)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert loss.dtype == jnp.float32
    assert loss.shape == ()


@pytest.mark.parametrize("ratio", ["none", "dual_clip"])
def test_tau_minus_one_is_opd(ratio):
    student, teacher, tokens, mask = batch()
    args = (log_probs(teacher), tokens, mask)
    loss, gradient, metrics = value_and_grad(aopd, student, *args, tau=-1.0, ratio=ratio)
    expected, expected_gradient, _ = value_and_grad(opd, student, *args, ratio=ratio)
    np.testing.assert_array_equal(loss, expected)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-6, atol=1e-8)
    assert metrics["guided_share"] == 0.0


@pytest.mark.parametrize("support", ["full", "teacher_topk"])
@pytest.mark.parametrize("divide_by_k", [True, False])
def test_tau_one_is_gkd_on_the_same_support(support, divide_by_k):
    student, teacher, tokens, mask = batch()
    teacher = log_probs(teacher)
    options = {"support": support, "top_k": 4, "divide_by_k": divide_by_k}
    loss, gradient, metrics = value_and_grad(
        aopd, student, teacher, tokens, mask, tau=1.0, **options
    )
    expected, expected_gradient, _ = value_and_grad(gkd, student, teacher, mask, 0.0, **options)
    np.testing.assert_array_equal(loss, expected)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-6, atol=1e-8)
    assert metrics["guided_share"] == 1.0


def test_tau_at_the_limits_holds_for_saturated_probabilities():
    # T(y) - S(y) rounds to exactly -1 on the first token and to +1 on the second.
    student = log_probs(jnp.array([[[200.0, 0.0], [0.0, 200.0]]]))
    teacher = log_probs(jnp.array([[[0.0, 200.0], [200.0, 0.0]]]))
    tokens = jnp.zeros((1, 2), jnp.int32)
    for tie in ("guided", "pg"):
        for tau, share in ((-1.0, 0.0), (1.0, 1.0)):
            _, metrics = aopd(student, teacher, tokens, BOTH, tau=tau, tie=tie)
            assert metrics["guided_share"] == share


def test_gate_at_zero_sees_what_probabilities_round_away():
    nearly_one, nearer_one = jnp.array([-5e-9]), jnp.array([-1e-9])
    assert jnp.exp(nearly_one) == jnp.exp(nearer_one) == 1.0
    for tie in ("guided", "pg"):
        gate = Aopd(tie=tie).gate
        assert gate(nearly_one, nearer_one)[0]
        assert not gate(nearer_one, nearly_one)[0]


def test_gate_by_tiny_differences_of_probability():
    gate = Aopd(tau=-1e-9).gate
    high = jnp.log1p(-jnp.array([1e-3]))
    low = jnp.array([-16.0])
    assert gate(low - 0.1, low)[0]  # e^-16 (e^-0.1 - 1) = -1.07e-8
    assert not gate(low - 0.001, low)[0]  # -1.1e-10
    assert not gate(high, low)[0]
    assert gate(low, high)[0]


@pytest.mark.parametrize(("tie", "share"), [("guided", 1.0), ("pg", 0.0)])
@pytest.mark.parametrize("gate_space", ["prob", "logprob"])
def test_ties(tie, share, gate_space):
    student, _, tokens, mask = batch()
    logp = log_probs(student)
    _, metrics = aopd(logp, logp, tokens, mask, tie=tie, gate_space=gate_space)
    assert metrics["guided_share"] == share


def test_gate_in_log_space_compares_the_advantage():
    # A = -2 ln 2 = -1.39 and ln 3 = 1.10; differences of probability -0.375 and 0.5.
    share = {
        (space, tau): aopd(STUDENT, TEACHER, TOKENS, BOTH, tau=tau, gate_space=space)[1][
            "guided_share"
        ]
        for space in ("prob", "logprob")
        for tau in (-0.5, 0.6)
    }
    assert share["prob", -0.5] == 0.0
    assert share["logprob", -0.5] == 0.5
    assert share["prob", 0.6] == 1.0
    assert share["logprob", 0.6] == 0.5


def test_expected_opd_gradient_is_that_of_the_full_reverse_kl():
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        student, teacher = jnp.asarray(rng.normal(size=(2, 1, 1, 7)))
        mask = jnp.ones((1, 1), bool)

        @jax.jit
        def sampled(logits, tokens):
            return opd(log_probs(logits), log_probs(teacher), tokens, mask)[0]

        each = [jax.grad(sampled)(student, jnp.array([[token]])) for token in range(7)]
        gradients = jnp.stack(each)
        expected = jnp.einsum("v,v...->...", jnp.exp(log_probs(student))[0, 0], gradients)
        exact = jax.jit(
            jax.grad(lambda x: full_reverse_kl(log_probs(x), log_probs(teacher), mask)[0])
        )(student)
        np.testing.assert_allclose(expected, exact, rtol=1e-6, atol=1e-9)


def test_student_that_is_the_teacher_has_no_loss():
    student, _, tokens, mask = batch()
    logp = log_probs(student)
    for name, (loss, metrics) in every_method(logp, logp, tokens, mask).items():
        assert loss == pytest.approx(0.0, abs=1e-7), name
        assert metrics["kl_forward"] == 0.0
    for renormalise in ("topk", "tail_bucket"):
        _, gradient, _ = value_and_grad(
            aopd, student, logp, tokens, mask, top_k=4, renormalise=renormalise
        )
        np.testing.assert_allclose(gradient, 0.0, atol=1e-7)


@pytest.mark.parametrize("renormalise", ["none", "topk", "tail_bucket"])
@pytest.mark.parametrize("divergence", ["fkl", "rkl", "jeffreys_mix", "jsd"])
def test_top_k_matching_against_float64(divergence, renormalise):
    student, teacher, _, mask = batch()
    k, beta = 4, 0.3
    loss, _ = gkd(
        log_probs(student),
        log_probs(teacher),
        mask,
        beta,
        divergence=divergence,
        support="teacher_topk",
        top_k=k,
        renormalise=renormalise,
        agg="token_mean",
    )
    terms = []
    for s, t in zip(np.float64(student[mask]), np.float64(teacher[mask]), strict=True):
        s, t = (np.exp(x - np.logaddexp.reduce(x)) for x in (s, t))
        order = np.argsort(-t)
        if renormalise == "tail_bucket":
            s, t = (np.append(x[order[:k]], x[order[k:]].sum()) for x in (s, t))
        else:
            s, t = s[order[:k]], t[order[:k]]
        if renormalise == "topk":
            s, t = s / s.sum(), t / t.sum()
        fkl, rkl = np.sum(t * np.log(t / s)), np.sum(s * np.log(s / t))
        m = beta * t + (1 - beta) * s
        jsd = beta * np.sum(t * np.log(t / m)) + (1 - beta) * np.sum(s * np.log(s / m))
        mix = (1 - beta) * fkl + beta * rkl
        terms.append({"fkl": fkl, "rkl": rkl, "jeffreys_mix": mix, "jsd": jsd}[divergence])
    assert loss == pytest.approx(np.mean(terms), rel=1e-5)


def test_truncated_forward_kl_may_be_negative_and_is_not_clamped():
    # The student has more mass than the teacher on the teacher's two best words.
    student = log_probs(jnp.array([[[3.0, 3.0, -3.0, -3.0]]]))
    teacher = log_probs(jnp.array([[[0.5, 0.4, 0.0, 0.0]]]))
    mask = jnp.ones((1, 1), bool)
    options = {"support": "teacher_topk", "top_k": 2}
    assert gkd(student, teacher, mask, 0.0, **options)[0] < 0.0
    assert gkd(student, teacher, mask, 0.0, renormalise="topk", **options)[0] > 0.0
    loss, metrics = gkd(student, teacher, mask, 0.0, renormalise="tail_bucket", **options)
    assert loss > 0.0
    assert metrics["student_mass"] > metrics["teacher_mass"]
    gradient = jax.grad(lambda x: gkd(log_probs(x), teacher, mask, 0.0, **options)[0])(student)
    assert np.any(gradient != 0.0)


def test_renormalised_top_k_is_blind_to_mass_outside_and_the_tail_bucket_is_not():
    teacher = log_probs(jnp.array([[[2.0, 1.0, 0.0, 0.0]]]))
    drifted = log_probs(jnp.array([[[2.0, 1.0, 5.0, 0.0]]]))
    mask = jnp.ones((1, 1), bool)
    options = {"support": "teacher_topk", "top_k": 2}
    blind, _ = gkd(drifted, teacher, mask, 0.0, renormalise="topk", **options)
    seeing, _ = gkd(drifted, teacher, mask, 0.0, renormalise="tail_bucket", **options)
    assert blind == pytest.approx(0.0, abs=1e-6)
    assert seeing > 0.5


def test_top_k_of_more_than_the_vocabulary_is_the_vocabulary():
    student, teacher, tokens, mask = batch()
    student, teacher = log_probs(student), log_probs(teacher)
    wide = aopd(student, teacher, tokens, mask, top_k=1000, renormalise="tail_bucket")
    whole = aopd(student, teacher, tokens, mask, top_k=V)
    jax.tree.map(np.testing.assert_array_equal, wide, whole)
    assert whole[1]["teacher_mass"] == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("length", [300, 1000, 1024])
def test_blockwise_top_k_is_top_k_with_its_ties(length):
    x = jax.random.normal(jax.random.key(length), (6, length))
    x = x.at[3:].set(jnp.round(x[3:]))
    for k in (1, 3):
        jax.tree.map(np.testing.assert_array_equal, top_k(x, k), tuple(jax.lax.top_k(x, k)))


def test_branches_of_the_guided_tokens():
    student, teacher, tokens, mask = batch()
    args = (log_probs(teacher), tokens, mask)
    masked = value_and_grad(aopd, student, *args, negative_branch="mask")
    zero_weight = value_and_grad(aopd, student, *args, guide_weight=0.0)
    np.testing.assert_allclose(masked[0], zero_weight[0], rtol=1e-6)
    np.testing.assert_allclose(masked[1], zero_weight[1], rtol=1e-6, atol=1e-8)
    as_opd = value_and_grad(aopd, student, *args, negative_branch="pg")
    np.testing.assert_array_equal(as_opd[0], value_and_grad(opd, student, *args)[0])
    assert masked[2]["guided_share"] == as_opd[2]["guided_share"] > 0.0
    scaled = value_and_grad(aopd, student, *args, opd_weight=1.25, negative_branch="mask")
    np.testing.assert_allclose(scaled[0], 1.25 * masked[0], rtol=1e-6)


def test_adv_clip_bounds_the_loss_and_not_the_statistic():
    loss, metrics = opd(STUDENT, TEACHER, TOKENS, BOTH, adv_clip=0.5)
    assert loss == pytest.approx((-0.5 * LN2 + 0.5 * 2 * LN2) / 2, rel=1e-6)
    assert metrics["advantage_min"] == pytest.approx(-2 * LN2, rel=1e-6)


def test_old_policy_defines_advantage_gate_and_ratio():
    # Under the old policy both tokens had 0.6: A = ln(0.125/0.6) and ln(0.75/0.6).
    old = jnp.full((1, 2), math.log(0.6))
    loss, metrics = aopd(
        STUDENT, TEACHER, TOKENS, BOTH, old_logp=old, ratio="ppo_clip", negative_branch="mask"
    )
    # rho = 0.5/0.6 and 0.25/0.6; A > 0 on the second, where a small ratio is not clipped.
    assert loss == pytest.approx(-(0.25 / 0.6) * math.log(0.75 / 0.6) / 2, rel=1e-5)
    assert metrics["ratio_mean"] == pytest.approx(0.375 / 0.6, rel=1e-5)
    assert metrics["ratio_max"] == pytest.approx(0.5 / 0.6, rel=1e-5)
    assert metrics["clip_share"] == 0.0
    # The second was above the teacher under this old policy, so both are guided.
    _, metrics = aopd(STUDENT, TEACHER, TOKENS, BOTH, old_logp=jnp.full((1, 2), math.log(0.9)))
    assert metrics["guided_share"] == 1.0


def test_a_wild_ratio_stays_finite():
    old = jnp.full((1, 2), -1e4)
    for ratio in ("ppo_clip", "dual_clip"):
        _, gradient, metrics = value_and_grad(
            opd, STUDENT, TEACHER, TOKENS, BOTH, old_logp=old, ratio=ratio
        )
        assert np.all(np.isfinite(gradient))
        assert metrics["ratio_max"] == pytest.approx(math.exp(20.0), rel=1e-5)


def test_nothing_is_differentiated_through_teacher_advantage_or_gate():
    student, teacher, tokens, mask = batch()

    def of_teacher(teacher):
        results = every_method(log_probs(student), log_probs(teacher), tokens, mask)
        return sum(loss for loss, _ in results.values())

    np.testing.assert_array_equal(jax.grad(of_teacher)(teacher), 0.0)

    def of_old(old):
        return aopd(log_probs(student), log_probs(teacher), tokens, mask, old_logp=old)[0]

    np.testing.assert_array_equal(jax.jit(jax.grad(of_old))(jnp.full((B, T), -1.0)), 0.0)
    # With A constant, the gradient of OPD in log S(y) is -A and nothing else.
    logp, teacher_logp = log_probs(student), log_probs(teacher)
    gradient = jax.grad(lambda x: opd(x, teacher_logp, tokens, mask, agg="token_mean")[0])(logp)
    pick = jax.nn.one_hot(tokens, V)
    expected = -pick * (teacher_logp - logp) * mask[..., None] / jnp.sum(mask)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["gkd", "gkd_fkl", "full_reverse_kl", "aopd_guided"])
def test_gradients_against_float64_differences(name):
    with jax.enable_x64(True):
        rng = np.random.default_rng(2)
        student, teacher = jnp.asarray(rng.normal(size=(2, 1, 2, 6)))
        teacher = log_probs(teacher)

        @jax.jit
        def loss(logits):
            logp = log_probs(logits)
            if name == "aopd_guided":
                options = {"tau": 1.0, "top_k": 3, "renormalise": "tail_bucket"}
                return aopd(logp, teacher, TOKENS, BOTH, **options)[0]
            return every_method(logp, teacher, TOKENS, BOTH)[name][0]

        gradient, step = jax.grad(loss)(student), 1e-4
        direction = jnp.asarray(rng.normal(size=student.shape))
        slope = (loss(student + step * direction) - loss(student - step * direction)) / (2 * step)
        np.testing.assert_allclose(jnp.sum(gradient * direction), slope, rtol=1e-5)


def test_jitted_equals_not_jitted():
    student, teacher, tokens, mask = batch()
    args = (log_probs(student), log_probs(teacher), tokens, mask)
    jitted = every_method(*args)
    plain = every_method.__wrapped__(*args)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), plain, jitted)


def test_metrics_are_float32_scalars_even_from_bfloat16():
    student, teacher, tokens, mask = batch(dtype=jnp.bfloat16)
    exact = every_method(log_probs(student.astype(jnp.float32)), log_probs(teacher), tokens, mask)
    for name, (loss, metrics) in every_method(
        log_probs(student), log_probs(teacher), tokens, mask
    ).items():
        assert loss.dtype == jnp.float32
        assert loss == exact[name][0]
        assert all(x.dtype == jnp.float32 and x.shape == () for x in metrics.values())
    rounded = log_probs(student).astype(jnp.bfloat16)
    for loss, _ in every_method(rounded, log_probs(teacher), tokens, mask).values():
        assert loss.dtype == jnp.float32


def test_extreme_logits_give_finite_losses_and_gradients():
    rng = np.random.default_rng(3)
    student, teacher = jnp.asarray(rng.choice([-1e4, 0.0, 1e4], size=(2, B, T, V)), jnp.float32)
    _, _, tokens, mask = batch()

    def total(logits):
        results = every_method(log_probs(logits), log_probs(teacher), tokens, mask)
        return sum(loss for loss, _ in results.values()), results

    gradient, results = jax.grad(total, has_aux=True)(student)
    assert np.all(np.isfinite(gradient))
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(results))


def test_words_forbidden_by_minus_infinity():
    student, teacher, tokens, mask = batch()
    student, teacher = student.at[..., -1].set(-jnp.inf), teacher.at[..., -2:].set(-jnp.inf)
    student, teacher = (jax.nn.log_softmax(x) for x in (student, teacher))
    tokens = jnp.minimum(tokens, V - 2)

    def total(logp):
        results = every_method(logp, teacher, tokens, mask)
        return sum(loss for loss, _ in results.values())

    value, gradient = jax.value_and_grad(total)(student)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))


def test_masked_positions_may_hold_nan_and_wild_tokens():
    student, teacher, tokens, mask = batch()
    clean = every_method(log_probs(student), log_probs(teacher), tokens, mask)
    hole = ~mask[..., None]
    wild = jnp.where(mask, tokens, -100)

    def total(logits):
        results = every_method(
            jnp.where(hole, jnp.nan, log_probs(logits)),
            jnp.where(hole, jnp.nan, log_probs(teacher)),
            wild,
            mask,
        )
        return sum(loss for loss, _ in results.values()), results

    gradient, results = jax.grad(total, has_aux=True)(student)
    jax.tree.map(np.testing.assert_array_equal, results, clean)
    assert np.all(np.isfinite(gradient))
    np.testing.assert_array_equal(gradient[~mask], 0.0)


def test_empty_mask_gives_zero_and_finite_gradients():
    student, teacher, tokens, mask = batch()

    def total(logits):
        nothing = jnp.zeros_like(mask)
        results = every_method(log_probs(logits), log_probs(teacher), tokens, nothing)
        return sum(loss for loss, _ in results.values()), results

    gradient, results = jax.grad(total, has_aux=True)(student)
    np.testing.assert_array_equal(gradient, 0.0)
    assert all(np.isfinite(x) for x in jax.tree.leaves(results))
    assert all(loss == 0.0 for loss, _ in results.values())


def test_microbatches_equal_the_whole():
    student, teacher, tokens, mask = batch()
    student, teacher = log_probs(student), log_probs(teacher)
    for agg, denominator in (("seq_mean_token_mean", B), ("token_mean", jnp.sum(mask))):
        whole, _ = aopd(student, teacher, tokens, mask, agg=agg)
        part = jax.jit(functools.partial(aopd, agg=agg, denominator=denominator))
        parts = [
            part(*(x[b : b + 1] for x in (student, teacher, tokens, mask)))[0] for b in range(B)
        ]
        np.testing.assert_allclose(sum(parts), whole, rtol=1e-6)


@pytest.mark.parametrize(
    ("option", "choices"),
    [
        ("gate_space", "prob, logprob"),
        ("tie", "guided, pg"),
        ("negative_branch", "fkl, mask, pg"),
        ("divergence", "fkl, rkl, jeffreys_mix, jsd"),
        ("support", "full, teacher_topk"),
        ("renormalise", "none, topk, tail_bucket"),
        ("ratio", "none, importance, ppo_clip, dual_clip"),
        ("agg", "seq_mean_token_mean, token_mean"),
    ],
)
def test_an_unknown_option_is_named_with_its_choices(option, choices):
    with pytest.raises(ValueError, match=f"{option}='nonsense'.*{choices}"):
        aopd(STUDENT, TEACHER, TOKENS, BOTH, **{option: "nonsense"})


def test_bad_numbers_keys_and_shapes_are_refused():
    with pytest.raises(ValueError, match="top_k must be at least 1, not 0"):
        Guide(top_k=0)
    with pytest.raises(ValueError, match=r"beta=1.5 is outside \[0, 1\]"):
        Gkd(beta=1.5)
    with pytest.raises(TypeError, match="tua"):
        Aopd(tua=0.0)
    with pytest.raises(AssertionError):
        opd(STUDENT, TEACHER[..., :2], TOKENS, BOTH)
    with pytest.raises(AssertionError):
        opd(STUDENT, TEACHER, TOKENS[:, :1], BOTH)
    with pytest.raises(AssertionError):
        distill(Opd(), STUDENT, None, TOKENS, BOTH)
