"""SCOPE's weights of completions by perplexity (arXiv 2604.10688, Eq. 4 and 5).

A completion's perplexity is exp(-mean log-probability of its tokens), so that its power 1/tau,
normalised over a group, is a softmax of mean log-probabilities: nothing is exponentiated before.
All arrays are [P, G]: P prompts, G completions of each. Weights are constants, float32.
"""

from typing import Literal

import chex
import jax
import jax.numpy as jnp

Norm = Literal["sum1", "mean1", "none", "uniform"]
NORMS: tuple[Norm, ...] = ("sum1", "mean1", "none", "uniform")


def scope_weights(
    student_mean_logp: jax.Array,
    teacher_mean_logp: jax.Array,
    correct: jax.Array,
    tau: float = 1.0,
    *,
    norm: Norm = "sum1",
    student_sign: int = 1,
    teacher_sign: int = -1,
    max_perplexity: float | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Weights of correct completions by the student's perplexity, of wrong ones by the teacher's.

    w_i = PPL_S(y_i)^(1/tau) / sum over the correct completions of the prompt        (Eq. 4)
    w_i = PPL_T(y_i)^(-1/tau) / sum over the wrong completions of the prompt         (Eq. 5)

    A right answer that the student was unsure of counts more, and a wrong one from which the
    teacher can go on. A prompt without completions of a kind has zeros there.

    Args:
        student_mean_logp: float [P, G], mean over a completion's tokens, in nats.
        teacher_mean_logp: float [P, G].
        correct: bool [P, G].
        tau: > 0; large: all alike, small: the largest alone.
        norm: see `branch_weights`.
        student_sign: of the exponent of the student's perplexity; -1 is the released code, which
            contradicts Eq. 4.
        teacher_sign: of the exponent of the teacher's perplexity.
        max_perplexity: perplexities beyond count as this; None: no bound.

    Returns:
        float32 [P, G] and [P, G], each 0 outside its branch.

    Raises:
        ValueError: `tau` is not positive, or `norm` unknown.
    """
    correct = jnp.asarray(correct)
    chex.assert_rank(correct, 2)
    chex.assert_equal_shape([student_mean_logp, teacher_mean_logp, correct])
    correct = correct.astype(bool)
    options = {"tau": tau, "norm": norm, "max_perplexity": max_perplexity}
    return (
        branch_weights(student_mean_logp, correct, sign=student_sign, **options),  # type: ignore
        branch_weights(teacher_mean_logp, ~correct, sign=teacher_sign, **options),  # type: ignore
    )


def branch_weights(
    mean_logp: jax.Array,
    members: jax.Array,
    *,
    tau: float = 1.0,
    sign: int = 1,
    norm: Norm = "sum1",
    max_perplexity: float | None = None,
) -> jax.Array:
    """PPL^(sign/tau) of the members of a branch, normalised within each prompt; 0 for the others.

    Args:
        mean_logp: float [P, G]; what stands at others than members does not matter, not even NaN.
        members: bool [P, G].
        tau: > 0.
        sign: 1 or -1.
        norm: "sum1", weights of a prompt's members sum to 1 (the paper); "mean1", to their number
            (the released code); "none", the powers themselves; "uniform", 1 / their number.
        max_perplexity: perplexities beyond count as this.

    Returns:
        float32 [P, G]. With "none" a power beyond e^20 counts as that.

    Raises:
        ValueError: `tau` is not positive, or `norm` unknown.
    """
    if not tau > 0.0:
        raise ValueError(f"tau must be above 0, not {tau}")
    if norm not in NORMS:
        raise ValueError(f"norm={norm!r} is not one of {', '.join(NORMS)}")
    log_perplexity = jnp.where(members, -jnp.asarray(mean_logp, jnp.float32), 0.0)
    if max_perplexity is not None:
        log_perplexity = jnp.minimum(log_perplexity, jnp.log(max_perplexity))
    count = jnp.sum(members, axis=1, keepdims=True)
    if norm == "uniform":
        weights = jnp.where(members, 1.0 / jnp.maximum(count, 1), 0.0)
    else:
        power = sign * log_perplexity / tau
        if norm == "none":
            weights = jnp.exp(jnp.clip(power, -20.0, 20.0))
        else:
            # -inf everywhere would be NaN, so a prompt without members keeps its zeros.
            masked = jnp.where(members | (count == 0), power, -jnp.inf)
            weights = jax.nn.softmax(masked, axis=1)
            if norm == "mean1":
                weights = weights * count
        weights = jnp.where(members, weights, 0.0)
    return jax.lax.stop_gradient(weights.astype(jnp.float32))


def correlation(weights: jax.Array, mean_logp: jax.Array, members: jax.Array) -> jax.Array:
    """Pearson's correlation of weight and log-perplexity over the members of a branch.

    Prompts with at least two members count, and both are compared within them: positive where the
    less likely completions of a prompt weigh more. 0 where nothing varies. Arrays [P, G]; scalar.
    """
    count = jnp.sum(members, axis=1, keepdims=True)
    used = members & (count > 1)

    def centred(x: jax.Array) -> jax.Array:
        x = jnp.where(used, x, 0.0)
        return jnp.where(used, x - jnp.sum(x, axis=1, keepdims=True) / jnp.maximum(count, 1), 0.0)

    a, b = centred(weights), centred(-mean_logp)
    scale = jnp.sqrt(jnp.sum(a**2) * jnp.sum(b**2))
    return jnp.where(scale > 1e-12, jnp.sum(a * b) / jnp.maximum(scale, 1e-12), 0.0)


def shrunk(correct: jax.Array, *, chance: float, strength: float) -> jax.Array:
    """Trust, [P, 1] in [0, 1], that the correct completions of a prompt are no lucky guesses.

    With c of G completions correct where guessing gives `chance`: the excess over chance,
    max(0, c - chance G), against a pseudo-count: excess / (excess + strength). Beyond the paper: at
    chance level SCOPE's correct branch reinforces lucky guesses with as much total weight as all
    wrong completions together.

    Args:
        correct: bool [P, G].
        chance: probability that a guess is right, 0 to 1.
        strength: pseudo-count, >= 0; 0 trusts every correct completion.
    """
    if strength == 0.0:
        return jnp.ones((correct.shape[0], 1), jnp.float32)
    excess = jnp.sum(correct, axis=1, keepdims=True) - chance * correct.shape[1]
    excess = jnp.maximum(excess.astype(jnp.float32), 0.0)
    return excess / (excess + strength)
