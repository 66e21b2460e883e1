"""Methods on full log-probabilities, for notebooks and as the reference of `chunked_vocab`.

S is the student, T the teacher; log-probabilities are natural logs over the full vocabulary. No
gradient flows through the teacher, the advantage A = log T(y) - log S_old(y), or a gate.
`chunked_vocab.loss` gives the same numbers from hidden states, without the [B, T, V] arrays.
"""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp

from jaxlab.losses import divergences
from jaxlab.losses.aggregate import summarise, token_weights, weighted_sum
from jaxlab.losses.methods.aopd import Aopd, Guide
from jaxlab.losses.methods.gkd import Gkd
from jaxlab.losses.methods.opd import Opd, TokenGradient
from jaxlab.losses.teacher_view import view
from jaxlab.losses.types import Method, Stats, Tokens, spread


def distill(
    method: Method,
    student_logp: jax.Array,
    teacher_logp: jax.Array | None,
    tokens: jax.Array | None,
    mask: jax.Array,
    *,
    old_logp: jax.Array | None = None,
    reference_logp: jax.Array | None = None,
    advantage: jax.Array | None = None,
    branch: jax.Array | None = None,
    weight: jax.Array | None = None,
    progress: float = 0.0,
    agg: str | None = None,
    denominator: jax.Array | float | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss and metrics of a method over a batch.

    Args:
        method: any of `losses.methods`.
        student_logp: float [B, T, V].
        teacher_logp: float [B, T, V]; None for a method without a teacher.
        tokens: int [B, T], the student's samples; None for a method that needs none.
        mask: bool [B, T], True = counts. What stands elsewhere does not matter, not even NaN.
        old_logp: [B, T], log-probabilities of `tokens` by the trainer's own forward pass of the
            policy that A, gate and ratio refer to; None: the current student.
        reference_logp: [B, T], by the reference model.
        advantage: [B], of each completion.
        branch: int [B], of each completion.
        weight: [B], of each completion.
        progress: share of the run's steps that is done.
        agg: see `aggregate.token_weights`; None: the method's.
        denominator: see `aggregate.token_weights`.

    Returns:
        The scalar loss, and scalar metrics: `loss`, the method's statistics (see its `summaries`),
        `student_entropy`, and with a teacher `kl_sampled`, `kl_forward` KL(T||S), `kl_reverse`
        KL(S||T), `teacher_entropy`.

    Raises:
        AssertionError: the shapes do not fit.
        ValueError: `agg` is unknown.
    """
    chex.assert_rank([student_logp, mask], [3, 2])
    chex.assert_equal(student_logp.shape[:2], mask.shape)
    tokens = jnp.zeros(mask.shape, jnp.int32) if tokens is None else tokens
    rows = mask.reshape(-1)

    def flat(x: Any) -> Any:
        """[B, T, ...] -> [N, ...], with 0 where the mask is False: 0 * NaN is NaN in a gradient."""
        if x is None:
            return None
        chex.assert_equal(x.shape[:2], mask.shape)
        x = x.reshape(rows.shape + x.shape[2:])
        return jnp.where(rows.reshape(rows.shape + (1,) * (x.ndim - 1)), x, 0)

    student_logp, words = divergences.floored(flat(student_logp)), flat(tokens)
    teacher, more = None, entropy_stats(student_logp)
    if teacher_logp is not None:
        chex.assert_equal(student_logp.shape[-1], teacher_logp.shape[-1])
        full = divergences.floored(flat(teacher_logp))
        needs = dataclasses.replace(method.needs, teacher=method.needs.teacher or "token")
        teacher = view(full, words, needs)
        more = divergence_stats(student_logp, jax.lax.stop_gradient(full))
    logp = jnp.take_along_axis(student_logp, words[:, None], axis=-1)[:, 0]
    old = logp if old_logp is None else divergences.at_least_float32(flat(old_logp))
    batch = Tokens(
        tokens=words,
        logp=logp,
        old_logp=jax.lax.stop_gradient(old),
        student_logp=student_logp,
        teacher=teacher,
        reference_logp=flat(reference_logp),
        advantage=flat(spread(advantage, mask)),
        branch=flat(spread(branch, mask)),
        progress=jnp.full(rows.shape, progress, jnp.float32),
    )
    if method.needs.sequence:
        batch = jax.tree.map(lambda x: x.reshape(mask.shape + x.shape[1:]), batch)
        batch = batch._replace(mask=mask)
    loss, stats = method.loss(batch)
    weights = token_weights(mask, agg or method.agg, denominator)
    if weight is not None:
        weights = weights * weight[:, None]
    total = weighted_sum(loss.reshape(-1), weights.reshape(-1))
    stats = sampled_stats(batch) | stats
    stats = {name: x.reshape(-1) for name, x in stats.items()} | more
    return total, summarise(total, stats, rows, method.summaries)


def opd(
    student_logp: jax.Array,
    teacher_logp: jax.Array,
    tokens: jax.Array,
    mask: jax.Array,
    **options: Any,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """On-policy distillation; `options` are those of `Opd` and the keywords of `distill`."""
    more, own = _split(options)
    return distill(Opd(**own), student_logp, teacher_logp, tokens, mask, **more)


def gkd(
    student_logp: jax.Array,
    teacher_logp: jax.Array,
    mask: jax.Array,
    beta: float = 0.5,
    **options: Any,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Generalised knowledge distillation; `options` are those of `Gkd` and of `distill`."""
    more, own = _split(options)
    return distill(Gkd(beta=beta, **own), student_logp, teacher_logp, None, mask, **more)


def aopd(
    student_logp: jax.Array,
    teacher_logp: jax.Array,
    tokens: jax.Array,
    mask: jax.Array,
    tau: float = 0.0,
    top_k: int = 32,
    divide_by_k: bool = True,
    guide_weight: float = 1.0,
    **options: Any,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """AOPD; `options` are those of `Aopd`, of its `Guide` and `TokenGradient`, and of `distill`."""
    more, own = _split(options)

    def fields(cls: Any) -> dict[str, Any]:
        names = {field.name for field in dataclasses.fields(cls)}
        return {name: own.pop(name) for name in names & set(own)}

    guide = Guide(top_k=top_k, divide_by_k=divide_by_k, weight=guide_weight, **fields(Guide))
    method = Aopd(tau=tau, pg=TokenGradient(**fields(TokenGradient)), guide=guide, **own)
    return distill(method, student_logp, teacher_logp, tokens, mask, **more)


def divergence_stats(student_logp: jax.Array, teacher_logp: jax.Array) -> Stats:
    """Both divergences and both entropies of [N, V] log-probabilities, without a gradient."""
    student_logp = jax.lax.stop_gradient(student_logp)
    return {
        "kl_forward": divergences.forward_kl(student_logp, teacher_logp),
        "kl_reverse": divergences.reverse_kl(student_logp, teacher_logp),
        "teacher_entropy": divergences.entropy(teacher_logp),
    } | entropy_stats(student_logp)


def entropy_stats(student_logp: jax.Array) -> Stats:
    """The student's entropy, without a gradient."""
    return {"student_entropy": divergences.entropy(jax.lax.stop_gradient(student_logp))}


def sampled_stats(batch: Tokens) -> Stats:
    """`kl_sampled`, log S - log T of the sampled tokens; empty without a teacher.

    On the student's own samples its mean is an unbiased estimate of KL(S||T).
    """
    if batch.teacher is None or batch.teacher.token is None:
        return {}
    assert batch.old_logp is not None
    return {"kl_sampled": jax.lax.stop_gradient(batch.old_logp - batch.teacher.token)}


def _split(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keywords of `distill` among `options`, and the others."""
    common = {"old_logp", "agg", "denominator"}
    return (
        {name: options[name] for name in common & set(options)},
        {name: value for name, value in options.items() if name not in common},
    )
