"""Divergences between next-token distributions, from log-probabilities.

S is the student, T the teacher. Every function reduces the last axis, works in float32 (float64
if it is given float64), and is differentiable in both arguments. Log-probabilities are finite:
`log_probs` makes them so, and `floored` those that came from elsewhere. Nothing here assumes that
the last axis sums to one, so that the same functions serve a top-k subset of the vocabulary; on
such a subset the values are not divergences and may be negative.
"""

import math
import warnings

import chex
import jax
import jax.numpy as jnp

# A word that was forbidden with a logit of -inf keeps a finite log-probability: 0 * -inf is NaN.
LOGP_FLOOR = -1e6


def floored(logp: jax.Array) -> jax.Array:
    """Log-probabilities in at least float32, with -inf replaced by `LOGP_FLOOR`."""
    return jnp.maximum(at_least_float32(logp), LOGP_FLOOR)


def at_least_float32(x: jax.Array) -> jax.Array:
    """`x` in float32, or in float64 if it is float64."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def log_probs(logits: jax.Array, temperature: float = 1.0) -> jax.Array:
    """log softmax(logits / temperature) over the last axis, in float32.

    The cast comes before the division: in bfloat16 the division already loses the difference
    between two near distributions, and a divergence of them can come out negative.
    """
    logits = jnp.maximum(at_least_float32(logits), LOGP_FLOOR)
    return jax.nn.log_softmax(logits / temperature if temperature != 1.0 else logits, axis=-1)


def entropy(logp: jax.Array) -> jax.Array:
    """H(p) = -sum_v p log p, in nats. logp: [..., V]; returns [...]."""
    logp = at_least_float32(logp)
    return -jnp.sum(jnp.exp(logp) * logp, axis=-1)


def forward_kl(student_logp: jax.Array, teacher_logp: jax.Array) -> jax.Array:
    """KL(T||S) = sum_v T (log T - log S), in nats. [..., V] and [..., V]; returns [...]."""
    student_logp, teacher_logp = _pair(student_logp, teacher_logp)
    return jnp.sum(jnp.exp(teacher_logp) * (teacher_logp - student_logp), axis=-1)


def reverse_kl(student_logp: jax.Array, teacher_logp: jax.Array) -> jax.Array:
    """KL(S||T) = sum_v S (log S - log T), in nats. [..., V] and [..., V]; returns [...]."""
    return forward_kl(teacher_logp, student_logp)


def jeffreys_mix(student_logp: jax.Array, teacher_logp: jax.Array, beta: float = 0.5) -> jax.Array:
    """(1 - beta) KL(T||S) + beta KL(S||T). [..., V] and [..., V]; returns [...].

    The guided branch of the AOPD code, whose `jsd_beta` is 1 - beta: here, as in `jsd`, 0 is the
    forward end and 1 the reverse end.

    Raises:
        ValueError: beta is outside [0, 1].
    """
    _check_beta(beta)
    if beta == 0.0:
        return forward_kl(student_logp, teacher_logp)
    if beta == 1.0:
        return reverse_kl(student_logp, teacher_logp)
    forward = forward_kl(student_logp, teacher_logp)
    return (1.0 - beta) * forward + beta * reverse_kl(student_logp, teacher_logp)


def jsd(student_logp: jax.Array, teacher_logp: jax.Array, beta: float = 0.5) -> jax.Array:
    """Generalised Jensen-Shannon divergence of GKD (Agarwal et al. 2024, Eq. 1).

    With M = beta T + (1 - beta) S: beta KL(T||M) + (1 - beta) KL(S||M). The interior formula
    tends to 0 at both ends, so the ends are defined apart: beta=0 is KL(T||S), beta=1 KL(S||T).
    [..., V] and [..., V]; returns [...].

    Raises:
        ValueError: beta is outside [0, 1].
    """
    _check_beta(beta)
    if beta == 0.0:
        return forward_kl(student_logp, teacher_logp)
    if beta == 1.0:
        return reverse_kl(student_logp, teacher_logp)
    if min(beta, 1.0 - beta) < 1e-2:
        warnings.warn(
            f"jsd: beta={beta} is close to an end, where the divergence vanishes; "
            "use exactly 0 for KL(T||S) or 1 for KL(S||T)",
            stacklevel=2,
        )
    student_logp, teacher_logp = _pair(student_logp, teacher_logp)
    log_mixture = jnp.logaddexp(teacher_logp + math.log(beta), student_logp + math.log1p(-beta))
    teacher_part = beta * jnp.exp(teacher_logp) * (teacher_logp - log_mixture)
    student_part = (1.0 - beta) * jnp.exp(student_logp) * (student_logp - log_mixture)
    return jnp.sum(teacher_part + student_part, axis=-1)


def _pair(student_logp: jax.Array, teacher_logp: jax.Array) -> tuple[jax.Array, jax.Array]:
    chex.assert_equal_shape([student_logp, teacher_logp])
    return at_least_float32(student_logp), at_least_float32(teacher_logp)


def _check_beta(beta: float) -> None:
    if not 0.0 <= beta <= 1.0:
        raise ValueError(f"beta={beta} is outside [0, 1]: 0 is KL(T||S), 1 is KL(S||T)")
