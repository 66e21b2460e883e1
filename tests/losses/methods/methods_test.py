"""Every method: a number worked by hand, finite differences, and what it asks for."""

import dataclasses
import functools
import math
import pathlib
import re
import sys
import textwrap
import types

import jax
import numpy as np
import pytest

from jaxlab import config
from jaxlab.losses.distillation import distill
from jaxlab.losses.divergences import log_probs
from jaxlab.losses.methods.gigpo import Gigpo
from jaxlab.losses.methods.grpo import Grpo
from jaxlab.losses.methods.names import METHODS, Loss, table
from jaxlab.losses.methods.opd import Opd
from jaxlab.losses.methods.scope import CORRECT, WRONG, Scope, ScopeReleased
from jaxlab.losses.types import Group

ROOT = pathlib.Path(__file__).parents[3]
LN2, LN3 = math.log(2.0), math.log(3.0)
STUDENT = np.log(np.array([[[0.5, 0.25, 0.25]] * 2], np.float32))
TEACHER = np.log(np.array([[[0.125, 0.125, 0.75]] * 2], np.float32))
REFERENCE = np.log(np.array([[0.25, 0.25]], np.float32))
TOKENS = np.array([[0, 2]], np.int32)
BOTH = np.ones((1, 2), bool)
# A = log T - log S is -2 ln 2 at the first token and ln 3 at the second; -log S is ln 2 and 2 ln 2.
A = np.array([-2 * LN2, LN3])
NLL = np.array([LN2, 2 * LN2])
REVERSE_KL = 1.25 * LN2 - 0.25 * LN3
TEACHER_ENTROPY = 0.25 * 3 * LN2 + 0.75 * (2 * LN2 - LN3)


def _mean(values):
    return float(np.mean(values))


def _half_kl():
    """KL(T||S) of the two likeliest words of the teacher (2 and 0), renormalised."""
    t, s = np.array([0.75, 0.125]) / 0.875, np.array([0.25, 0.5]) / 0.75
    return float(np.sum(t * np.log(t / s)))


def _guided():
    return (0.75 * LN3 - 0.25 * LN2) / 2


# Options of each method, and its loss of the two tokens with advantage 2 and branch `CORRECT`.
BY_HAND = {
    "opd": ({}, _mean(A * NLL)),
    "aopd": ({"guide": {"top_k": 2}}, _mean([_guided(), LN3 * 2 * LN2])),
    "gkd": ({"beta": 0.0}, 0.75 * LN3 - 0.375 * LN2),
    "full_reverse_kl": ({}, REVERSE_KL),
    "cross_entropy": ({}, _mean(NLL)),
    # rho = 1 at every token, and the sum over tokens.
    "scope": ({}, -2.0),
    "scope_released": ({}, _mean(NLL)),
    # 0.5 of what follows.
    "discounted_opd": ({"discount": 0.5}, _mean(np.array([A[0] + A[1] / 2, A[1]]) * NLL)),
    # A + 0.25 log(T / R): log(0.125 / 0.25) and log(0.75 / 0.25).
    "exopd": ({}, _mean((A + 0.25 * np.array([-LN2, LN3])) * NLL)),
    # T / S is 1/4 and 3.
    "power_opd": ({"power": 1.0}, _mean(np.array([-0.75, 2.0]) * NLL)),
    "vopd": ({}, _mean((A + REVERSE_KL) * NLL)),
    "eopd": (
        {"threshold": TEACHER_ENTROPY - 0.01, "guide": {"top_k": 2}},
        _mean(A * NLL) + _half_kl(),
    ),
    "grpo": ({}, -2.0),
    "dr_grpo": ({}, -4.0),
    "rloo": ({}, 2 * float(np.sum(NLL))),
    "dapo": ({}, -2.0),
    "gspo": ({}, -2.0),
    "gigpo": ({}, -2.0),
    "kdrl": ({"beta_start": 1.0, "beta_end": 0.0}, -2.0 + 0.5 * _mean(A**2) * 0.75),
}


def method(name, **options):
    @dataclasses.dataclass(frozen=True)
    class Section:
        loss: Loss

    return config.build(Section, {"loss": {"name": name, **options}}).loss


@functools.cache
def _program(chosen):
    return jax.jit(functools.partial(distill, chosen))


def loss_of(chosen, student_logp, **more):
    needs = chosen.needs
    given = {
        "advantage": np.array([2.0], np.float32) if needs.reward else None,
        "branch": np.array([CORRECT], np.int32) if needs.reward else None,
        "reference_logp": REFERENCE if needs.reference else None,
        "progress": 0.25,
    }
    teacher = TEACHER if needs.teacher else None
    given |= more
    return _program(chosen)(student_logp, teacher, TOKENS, BOTH, **given)


@functools.cache
def _credit(chosen):
    return jax.jit(chosen.credit)


def credit_of(chosen, group):
    return jax.tree.map(np.asarray, _credit(chosen)(group))


def _log_softmax(logits):
    return logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_by_hand(name):
    options, expected = BY_HAND[name]
    loss, metrics = loss_of(method(name, **options), STUDENT)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert all(np.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize("name", METHODS)
def test_gradients_against_float64_differences(name):
    """Through the student alone: what the method takes for a constant is held fixed."""
    if name == "vopd":
        pytest.skip("its baseline is a constant made of the current student; see below")
    options, _ = BY_HAND[name]
    chosen = method(name, **options)
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        logits = rng.normal(size=(1, 2, 3))
        old = np.take_along_axis(_log_softmax(logits), TOKENS[..., None], -1)[..., 0] + 1e-3

        @jax.jit
        @jax.value_and_grad
        def loss(logits):
            return loss_of(chosen, log_probs(logits), old_logp=old)[0]

        direction, step = rng.normal(size=logits.shape), 1e-5
        above, below = (loss(logits + sign * step * direction)[0] for sign in (1, -1))
        slope = (np.asarray(above) - np.asarray(below)) / (2 * step)
        found = np.sum(np.asarray(loss(logits)[1]) * direction)
        np.testing.assert_allclose(found, slope, rtol=1e-5, atol=1e-9)


def test_the_baseline_of_vopd_changes_no_expected_gradient():
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        student, teacher = rng.normal(size=(2, 1, 1, 5))
        mask = np.ones((1, 1), bool)

        def gradient(chosen):
            def sampled(logits, token):
                logp, other = log_probs(logits), _log_softmax(teacher)
                return distill(chosen, logp, other, token[None, None], mask)[0]

            each = jax.jit(jax.vmap(jax.grad(sampled), (None, 0)))(student, np.arange(5))
            return np.einsum("v,v...->...", np.exp(_log_softmax(student))[0, 0], each)

        np.testing.assert_allclose(gradient(method("vopd")), gradient(Opd()), atol=1e-9)


def test_gspo_is_grpo_with_the_ratio_of_the_completion():
    old = np.log(np.array([[0.4, 0.2]], np.float32))
    ratio = math.sqrt(0.5 / 0.4 * 0.25 / 0.2)
    loss, metrics = loss_of(method("gspo", clip_high=0.5), STUDENT, old_logp=old)
    assert loss == pytest.approx(-2.0 * ratio, rel=1e-5)
    assert metrics["ratio_max"] == pytest.approx(ratio, rel=1e-5)
    loss, metrics = loss_of(method("gspo", clip_high=0.1), STUDENT, old_logp=old)
    assert loss == pytest.approx(-2.0 * 1.1, rel=1e-5)
    assert metrics["clip_share"] == 1.0


def _group(reward, stopped=True, student=-1.0, teacher=-2.0, length=4):
    reward = np.asarray(reward, np.float32)

    def full(value, dtype=np.float32):
        return np.broadcast_to(np.asarray(value, dtype), reward.shape)

    return Group(
        length=full(length, np.int32),
        stopped=full(stopped, bool),
        reward=reward,
        student_mean_logp=full(student),
        teacher_mean_logp=full(teacher),
    )


def test_gigpo_of_one_turn_compares_the_rewards_twice():
    """Rewards 1, 0, 0, 0: mean 1/4, deviation sqrt(3)/4."""
    group, normalised = _group([[1, 0, 0, 0]]), np.array([[3, -1, -1, -1]]) / 3**0.5
    centred = np.array([[0.75, -0.25, -0.25, -0.25]])
    for method, expected in (
        (Gigpo(step_weight=0.5), 1.5 * normalised),
        (Gigpo(step_weight=0.5, step_normalised=False), normalised + 0.5 * centred),
        (Gigpo(step_weight=2.0, advantages="centred"), centred + 2 * normalised),
    ):
        np.testing.assert_allclose(credit_of(method, group).advantage, expected, rtol=1e-5)


def test_scope_routes_weighs_and_sums_to_one_per_branch():
    found = credit_of(Scope(), _group([[1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]))
    np.testing.assert_array_equal(
        found.branch == CORRECT, np.array([[1, 0, 0, 0], [1] * 4, [0] * 4])
    )
    # The aggregation divides by 12 sequences; Eq. 6 by 3 prompts.
    by_branch = [
        np.sum(np.where(found.branch == branch, found.weight, 0.0), axis=1) / 4
        for branch in (CORRECT, WRONG)
    ]
    np.testing.assert_allclose(by_branch[0], [1, 1, 0], rtol=1e-6)
    np.testing.assert_allclose(by_branch[1], [1, 0, 1], rtol=1e-6)
    single = credit_of(Scope(), _group([[1.0]]))
    assert single.weight[0, 0] == 1.0
    assert found.metrics["correct_share"] == pytest.approx(5 / 12)


def test_a_completion_that_was_cut_off_is_wrong_or_dropped():
    cut = _group([[1.0, 1.0, 0.0]], stopped=[[False, True, True]])
    found = credit_of(Scope(), cut)
    np.testing.assert_array_equal(found.branch, [[WRONG, CORRECT, WRONG]])
    dropped = credit_of(Scope(truncated="drop"), cut)
    np.testing.assert_array_equal(dropped.keep, [[False, True, True]])
    assert dropped.weight[0, 0] == 0.0
    # Empty rows count as no sequence.
    assert not credit_of(Scope(), _group([[1.0, 0.0]], length=[[0, 3]])).keep[0, 0]


def test_equation_6_on_arrays():
    """Two prompts of two completions of unlike lengths, from the definition."""
    rng = np.random.default_rng(3)
    student, teacher = (_log_softmax(rng.normal(size=(4, 3, 5))) for _ in range(2))
    tokens = rng.integers(5, size=(4, 3))
    mask = np.arange(3) < np.array([3, 1, 2, 3])[:, None]
    old, their = (np.take_along_axis(x, tokens[..., None], -1)[..., 0] for x in (student, teacher))
    reward = np.array([[1.0, 0.0], [0.0, 0.0]])

    def mean(x):
        return ((x * mask).sum(1) / mask.sum(1)).reshape(2, 2)

    group = Group(mask.sum(1).reshape(2, 2), np.ones((2, 2), bool), reward, mean(old), mean(their))
    credit = credit_of(Scope(), group)
    loss, _ = _program(Scope())(
        student, teacher, tokens, mask,
        branch=credit.branch.reshape(-1), weight=credit.weight.reshape(-1),
    )  # fmt: skip
    mle = -3.0
    gaps = ((old - their) * mask).sum(1)
    perplexity = np.exp(-mean(their)[1])
    w = (1 / perplexity) / (1 / perplexity).sum()
    expected = ((mle + gaps[1]) + (w[0] * gaps[2] + w[1] * gaps[3])) / 2
    assert loss == pytest.approx(expected, rel=1e-5)


def test_the_released_code_averages_each_branch_over_its_tokens():
    group = _group([[1.0, 0.0, 0.0, 0.0]], length=[[2, 6, 6, 6]])
    credit = credit_of(ScopeReleased(), group)
    weights = credit.weight[0]
    # token_mean divides by 20 tokens: the correct branch by its own 2, the wrong one by all.
    assert weights[0] * 2 / 20 == pytest.approx(1.0)
    assert weights[1:].sum() == pytest.approx(3.0)
    assert len(ScopeReleased().contradictions()) == 1
    assert Scope().contradictions() == []
    assert "Eq. 5" in Scope(teacher_sign=1).contradictions()[0]


def test_wrong_completions_may_match_the_teachers_top_words():
    """The released code's top-k variant, by hand: both sides renormalised on words 2 and 0."""
    chosen = method("scope", wrong_branch="match", match={"top_k": 2})
    t, s = np.array([0.75, 0.125]) / 0.875, np.array([0.25, 0.5]) / 0.75
    loss, metrics = loss_of(chosen, STUDENT, branch=np.array([WRONG], np.int32))
    assert loss == pytest.approx(2 * float(np.sum(s * np.log(s / t))), rel=1e-5)
    assert metrics["teacher_mass"] == pytest.approx(0.875, rel=1e-6)
    loss, _ = loss_of(chosen, STUDENT)
    assert loss == pytest.approx(-2.0)
    assert method("scope", wrong_branch="match", match={"support": "full"}).needs.teacher == "full"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("scope", {}),
        ("vopd", {}),
        ("eopd", {}),
        ("aopd", {"pg": {"ratio_level": "sequence"}}),
    ],
)
def test_methods_of_single_tokens_refuse_the_ratio_of_completions(name, options):
    with pytest.raises(config.ConfigError, match="ratio_level must be 'token': "):
        method(name, **(options or {"ratio_level": "sequence"}))
    for other in ("opd", "exopd", "power_opd", "grpo", "kdrl"):
        assert method(other, ratio_level="sequence").needs.sequence


def test_the_correct_branch_fades_where_answers_may_be_guesses():
    group = _group([[1.0] + [0.0] * 7, [1.0] * 8])
    plain, careful = (credit_of(Scope(chance=0.125, shrink=shrink), group) for shrink in (0.0, 1.0))
    assert careful.weight[0, 0] == 0.0
    np.testing.assert_allclose(careful.weight[0, 1:], plain.weight[0, 1:])
    np.testing.assert_allclose(careful.weight[1], 7 / 8 * plain.weight[1], rtol=1e-6)


def test_needs_say_what_a_trainer_must_fetch():
    teachers = {name: cls().needs.teacher for name, cls in METHODS.items()}
    token = ("opd", "scope", "scope_released", "discounted_opd", "exopd", "power_opd", "kdrl")
    assert [name for name in METHODS if teachers[name] == "token"] == list(token)
    assert teachers["aopd"] == teachers["eopd"] == "topk"
    assert teachers["grpo"] is teachers["cross_entropy"] is None
    assert METHODS["aopd"]().needs.top_k == 32
    assert not method("aopd", negative_branch="mask").needs.top_k
    assert Grpo().needs.group == 2
    assert method("exopd").needs.reference


def test_the_table_names_every_method_with_source_and_options(door):
    text = "\n".join(table())
    for name, cls in METHODS.items():
        assert f"\n{name}: " in f"\n{text}"
        assert cls.source in text
    assert "tau=1.0" in text
    assert door("train", "--list_methods").stdout.rstrip("\n") == text


def test_the_recipe_of_contributing_makes_a_method():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    recipe = text[text.index("## How to add a distillation method") :]
    block = recipe[recipe.index("```python") :].split("```")[1]
    program = textwrap.dedent(block.removeprefix("python"))
    module = types.ModuleType("jeffreys")
    sys.modules["jeffreys"] = module
    exec(program, vars(module))
    loss, metrics = loss_of(module.Jeffreys(), STUDENT)
    expected = re.search(r"`\"jeffreys\": \(\{\}, (.*?)\)`", recipe)[1]
    assert loss == pytest.approx(eval(expected), rel=1e-5)
    assert metrics["forward"] == pytest.approx(0.75 * LN3 - 0.375 * LN2, rel=1e-5)
    assert len(table()) == 3 * len(METHODS)
