"""Distillation losses of a student S on tokens it sampled itself, from a teacher T.

A method is a frozen dataclass of options that is called with a batch of N tokens:

    loss, stats = method(student_logp, teacher_logp, tokens, old_logp)

with log-probabilities [N, V] and [N, V], tokens [N], old_logp [N] or None; loss [N], stats
{name: [N]}.

`distill` weighs, sums and summarises any of them; `opd`, `gkd`, `aopd` and `full_reverse_kl` are
`distill` with the method spelled out. `chunked_vocab.distill` gives the same numbers from hidden
states, without the [B, T, V] arrays.

Log-probabilities are natural logs over the full vocabulary. No gradient flows through the teacher,
the advantage A = log T(y) - log S_old(y), or the gate.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from jaxlab import ranges
from jaxlab.losses import divergences
from jaxlab.losses.aggregate import choose, summarise, token_weights, weighted_sum
from jaxlab.losses.policy_gradient import RATIOS, check_clips, surrogate

Stats = dict[str, jax.Array]
Method = Callable[..., tuple[jax.Array, Stats]]

DIVERGENCES = ("fkl", "rkl", "jeffreys_mix", "jsd")
SUPPORTS = ("full", "teacher_topk")
RENORMALISE = ("none", "topk", "tail_bucket")
GATE_SPACES = ("prob", "logprob")
TIES = ("guided", "pg")
NEGATIVE_BRANCHES = ("fkl", "mask", "pg")

# Wide enough to fill a vector register, small enough that the chosen blocks are few words.
_BLOCK = 128


@dataclasses.dataclass(frozen=True)
class Opd:
    """On-policy distillation: policy gradient with A_t = log T(y_t) - log S(y_t) (AOPD Eq. 1, 2).

    Attributes:
        opd_weight: multiplies the loss; 1.25 is the ExOPD baseline of the AOPD code.
        adv_clip: A is clipped to +- this; None: not at all.
        ratio: `none` is -A log S (the paper); `ppo_clip` and `dual_clip` (the AOPD code) are in
            `policy_gradient.surrogate`.
        clip_low: how far below 1 the ratio may count.
        clip_high: how far above 1.
        dual_clip: bound on the ratio where A < 0.
    """

    opd_weight: float = 1.0
    adv_clip: float | None = None
    ratio: str = "none"
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float = 3.0

    def __post_init__(self) -> None:
        _check_policy_gradient(self)
        ranges.check(self, "opd_weight", above=0)

    def __call__(
        self,
        student_logp: jax.Array,
        teacher_logp: jax.Array,
        tokens: jax.Array,
        old_logp: jax.Array | None = None,
    ) -> tuple[jax.Array, Stats]:
        """Loss [N] and statistics. `old_logp` [N] is the policy of A and ratio; None: this one."""
        student_logp, teacher_logp = _prepare(student_logp, teacher_logp)
        logp, old_logp, teacher_token = _token_logps(student_logp, teacher_logp, tokens, old_logp)
        loss, stats = _policy_gradient_branch(self, logp, old_logp, teacher_token)
        return loss, stats | _divergence_stats(student_logp, teacher_logp)


@dataclasses.dataclass(frozen=True)
class Gkd:
    """Generalised knowledge distillation (Agarwal et al. 2024): match T at every token.

    Attributes:
        beta: 0 is KL(T||S), 1 is KL(S||T); between them as `divergence` says.
        divergence: `jsd` (the paper), `jeffreys_mix` (the GKD baseline of the AOPD code, with its
            jsd_beta = 1 - beta), or `fkl`, `rkl`, which ignore beta.
        support: `full` vocabulary, or the teacher's `teacher_topk` words.
        top_k: size of that set; more than V means V.
        renormalise: what to make of the set: probabilities as they are (`none`), both sides
            renormalised on it (`topk`), or the rest as one more word (`tail_bucket`).
        divide_by_k: divide by the size of the set.
    """

    beta: float = 0.5
    divergence: str = "jsd"
    support: str = "full"
    top_k: int = 32
    renormalise: str = "none"
    divide_by_k: bool = False

    def __post_init__(self) -> None:
        _check_matching(self)

    def __call__(
        self,
        student_logp: jax.Array,
        teacher_logp: jax.Array,
        tokens: jax.Array | None = None,
        old_logp: jax.Array | None = None,
    ) -> tuple[jax.Array, Stats]:
        """Loss [N] and statistics; `tokens` and `old_logp` are not used."""
        del tokens, old_logp
        student_logp, teacher_logp = _prepare(student_logp, teacher_logp)
        loss, stats = _match(self, student_logp, teacher_logp)
        return loss, stats | _divergence_stats(student_logp, teacher_logp)


@dataclasses.dataclass(frozen=True)
class FullReverseKl:
    """KL(S||T) over the whole vocabulary at every token: OPD without its sampling noise."""

    def __call__(
        self,
        student_logp: jax.Array,
        teacher_logp: jax.Array,
        tokens: jax.Array | None = None,
        old_logp: jax.Array | None = None,
    ) -> tuple[jax.Array, Stats]:
        """Loss [N] and statistics; `tokens` and `old_logp` are not used."""
        del tokens, old_logp
        student_logp, teacher_logp = _prepare(student_logp, teacher_logp)
        loss = divergences.reverse_kl(student_logp, teacher_logp)
        return loss, _divergence_stats(student_logp, teacher_logp)


@dataclasses.dataclass(frozen=True)
class Aopd:
    """AOPD (arXiv 2605.06387): OPD where the student did well, matching T where it did not.

    G_t = 1[T(y_t) - S(y_t) <= tau]                                          (Eq. 9)
    loss_t = G_t guide_weight D_t + (1 - G_t) opd_weight L_t^OPD              (Eq. 10)
    D_t = 1/K sum_{v in top-K of T} T(v) [log T(v) - log S(v)]               (Eq. 7)

    Defaults are the paper's. The released code differs: `tie="pg"`, `divide_by_k=False`,
    `ratio="dual_clip"`, and `agg="token_mean"` when aggregated; its threshold h is -tau.
    D on an unnormalised top-k set is not a divergence and may be negative: it is not clamped.

    Attributes:
        tau: threshold of the gate, the paper's sign (the code's aopd_threshold is h = -tau).
            In probability space -1 is OPD and +1 guides every token.
        gate_space: compare probabilities (`prob`, the paper) or A itself (`logprob`) with tau.
        tie: the branch of a token that is exactly at tau.
        negative_branch: what the guided tokens get: `fkl` the guidance D, `mask` nothing (an
            ablation), `pg` the OPD term (then AOPD is OPD).
        divergence: D: `fkl` (the paper), `rkl`, `jeffreys_mix` or `jsd`.
        beta: for the last two; 0 is KL(T||S), 1 is KL(S||T) (the code's jsd_beta is 1 - beta).
        support: see `Gkd`; also `top_k`, `renormalise`, `divide_by_k`.
        top_k: see `Gkd`.
        renormalise: see `Gkd`.
        divide_by_k: see `Gkd`; True is Eq. 7.
        guide_weight: multiplies D.
        opd_weight: see `Opd`; also `adv_clip`, `ratio`, `clip_low`, `clip_high`, `dual_clip`.
        adv_clip: see `Opd`.
        ratio: see `Opd`.
        clip_low: see `Opd`.
        clip_high: see `Opd`.
        dual_clip: see `Opd`.
    """

    tau: float = 0.0
    gate_space: str = "prob"
    tie: str = "guided"
    negative_branch: str = "fkl"
    divergence: str = "fkl"
    beta: float = 0.5
    support: str = "teacher_topk"
    top_k: int = 32
    renormalise: str = "none"
    divide_by_k: bool = True
    guide_weight: float = 1.0
    opd_weight: float = 1.0
    adv_clip: float | None = None
    ratio: str = "none"
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float = 3.0

    def __post_init__(self) -> None:
        choose("gate_space", self.gate_space, GATE_SPACES)
        choose("tie", self.tie, TIES)
        choose("negative_branch", self.negative_branch, NEGATIVE_BRANCHES)
        ranges.check(self, "tau")
        ranges.check(self, "guide_weight", "opd_weight", least=0)
        _check_policy_gradient(self)
        _check_matching(self)

    def __call__(
        self,
        student_logp: jax.Array,
        teacher_logp: jax.Array,
        tokens: jax.Array,
        old_logp: jax.Array | None = None,
    ) -> tuple[jax.Array, Stats]:
        """Loss [N] and statistics. `old_logp` [N] is the policy of A, gate, ratio; None: this."""
        student_logp, teacher_logp = _prepare(student_logp, teacher_logp)
        logp, old_logp, teacher_token = _token_logps(student_logp, teacher_logp, tokens, old_logp)
        guided = self._gate(teacher_token, old_logp)
        pg_loss, pg_stats = _policy_gradient_branch(self, logp, old_logp, teacher_token)
        if self.negative_branch == "fkl":
            guide_loss, guide_stats = _match(self, student_logp, teacher_logp)
            guide_loss = self.guide_weight * guide_loss
        else:
            guide_loss = pg_loss if self.negative_branch == "pg" else jnp.zeros_like(pg_loss)
            guide_stats = {}
        loss = jnp.where(guided, guide_loss, pg_loss)
        if self.negative_branch != "pg":
            pg_stats["clipped"] = jnp.where(guided, 0.0, pg_stats["clipped"])
        stats = {"guided": guided.astype(loss.dtype)} | pg_stats | guide_stats
        return loss, stats | _divergence_stats(student_logp, teacher_logp)

    def _gate(self, teacher_token: jax.Array, old_logp: jax.Array) -> jax.Array:
        """True where the token is guided, from the two log-probabilities [N] of the token."""
        log_gap = teacher_token - old_logp
        if self.tau == 0.0 or self.gate_space == "logprob":
            # At tau = 0 both spaces agree, but two probabilities near 1 round to the same float.
            gap = log_gap
        elif abs(self.tau) >= 1.0:
            # |T(y) - S(y)| < 1 always, though not once rounded.
            return jnp.full_like(log_gap, self.tau > 0.0, dtype=bool)
        else:
            larger = jnp.exp(jnp.maximum(teacher_token, old_logp))
            gap = -jnp.sign(log_gap) * larger * jnp.expm1(-jnp.abs(log_gap))
        return gap <= self.tau if self.tie == "guided" else gap < self.tau


def distill(
    method: Method,
    student_logp: jax.Array,
    teacher_logp: jax.Array,
    tokens: jax.Array | None,
    mask: jax.Array,
    *,
    old_logp: jax.Array | None = None,
    agg: str = "seq_mean_token_mean",
    denominator: jax.Array | float | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss and metrics of a method over a batch.

    Args:
        method: `Opd`, `Gkd`, `FullReverseKl`, `Aopd`, or any function of that form.
        student_logp: float [B, T, V].
        teacher_logp: float [B, T, V].
        tokens: int [B, T], the student's samples; None for a method that needs none.
        mask: bool [B, T], True = counts. What stands elsewhere does not matter, not even NaN.
        old_logp: [B, T], log-probabilities of `tokens` by the trainer's own forward pass of the
            policy that A, gate and ratio refer to; None: the current student.
        agg: see `aggregate.token_weights`.
        denominator: see `aggregate.token_weights`.

    Returns:
        The scalar loss, and scalar metrics (see `aggregate.summarise`): `loss`, `kl_forward`
        KL(T||S), `kl_reverse` KL(S||T), `student_entropy`, `teacher_entropy`; with an advantage
        `advantage_*`, `ratio_*`, `clip_share`; with a gate `guided_share`; with a top-k set
        `student_mass`, `teacher_mass` on it.

    Raises:
        AssertionError: the shapes do not fit.
        ValueError: `agg` is unknown.
    """
    chex.assert_rank([student_logp, mask], [3, 2])
    chex.assert_equal_shape([student_logp, teacher_logp])
    chex.assert_equal(student_logp.shape[:2], mask.shape)
    rows = mask.reshape(-1)

    def flat(x: jax.Array) -> jax.Array:
        """[B, T, ...] -> [N, ...], with 0 where the mask is False: 0 * NaN is NaN in a gradient."""
        chex.assert_equal(x.shape[:2], mask.shape)
        x = x.reshape(rows.shape + x.shape[2:])
        return jnp.where(rows.reshape(rows.shape + (1,) * (x.ndim - 1)), x, 0)

    loss, stats = method(
        divergences.floored(flat(student_logp)),
        divergences.floored(flat(teacher_logp)),
        None if tokens is None else flat(tokens),
        None if old_logp is None else flat(old_logp),
    )
    total = weighted_sum(loss, token_weights(mask, agg, denominator).reshape(-1))
    return total, summarise(total, stats, rows)


def opd(
    student_logp: jax.Array,
    teacher_logp: jax.Array,
    tokens: jax.Array,
    mask: jax.Array,
    *,
    old_logp: jax.Array | None = None,
    agg: str = "seq_mean_token_mean",
    denominator: jax.Array | float | None = None,
    **options: Any,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """On-policy distillation; `options` are those of `Opd`, the rest is in `distill`."""
    return distill(
        Opd(**options),
        student_logp,
        teacher_logp,
        tokens,
        mask,
        old_logp=old_logp,
        agg=agg,
        denominator=denominator,
    )


def gkd(
    student_logp: jax.Array,
    teacher_logp: jax.Array,
    mask: jax.Array,
    beta: float = 0.5,
    *,
    agg: str = "seq_mean_token_mean",
    denominator: jax.Array | float | None = None,
    **options: Any,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Generalised knowledge distillation; `options` are those of `Gkd`, the rest in `distill`."""
    return distill(
        Gkd(beta=beta, **options),
        student_logp,
        teacher_logp,
        None,
        mask,
        agg=agg,
        denominator=denominator,
    )


def full_reverse_kl(
    student_logp: jax.Array,
    teacher_logp: jax.Array,
    mask: jax.Array,
    *,
    agg: str = "seq_mean_token_mean",
    denominator: jax.Array | float | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """KL(S||T) over the whole vocabulary; see `FullReverseKl` and `distill`."""
    return distill(
        FullReverseKl(), student_logp, teacher_logp, None, mask, agg=agg, denominator=denominator
    )


def aopd(
    student_logp: jax.Array,
    teacher_logp: jax.Array,
    tokens: jax.Array,
    mask: jax.Array,
    tau: float = 0.0,
    top_k: int = 32,
    divide_by_k: bool = True,
    *,
    old_logp: jax.Array | None = None,
    agg: str = "seq_mean_token_mean",
    denominator: jax.Array | float | None = None,
    **options: Any,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """AOPD; `options` are the other ones of `Aopd`, the rest is in `distill`."""
    return distill(
        Aopd(tau=tau, top_k=top_k, divide_by_k=divide_by_k, **options),
        student_logp,
        teacher_logp,
        tokens,
        mask,
        old_logp=old_logp,
        agg=agg,
        denominator=denominator,
    )


def top_k(x: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """`jax.lax.top_k` over the last axis, ties included, faster where the axis is long.

    The k largest lie in the k blocks with the largest maxima; only those are sorted. The blocks
    are kept in their order, so that the lower index wins a tie as in `jax.lax.top_k`.

    x: [N, V]; returns values [N, k] and int32 indices [N, k].
    """
    rows, length = x.shape
    blocks = -(-length // _BLOCK)
    if blocks < 2 * k:
        values, indices = jax.lax.top_k(x, k)
        return values, indices
    padded = jnp.pad(x, ((0, 0), (0, blocks * _BLOCK - length)), constant_values=-jnp.inf)
    padded = padded.reshape(rows, blocks, _BLOCK)
    _, chosen = jax.lax.top_k(jnp.max(padded, axis=-1), k)
    chosen = jnp.sort(chosen, axis=-1)
    candidates = jnp.take_along_axis(padded, chosen[..., None], axis=1).reshape(rows, k * _BLOCK)
    values, positions = jax.lax.top_k(candidates, k)
    block = jnp.take_along_axis(chosen, positions // _BLOCK, axis=-1)
    return values, block * _BLOCK + positions % _BLOCK


def _prepare(student_logp: jax.Array, teacher_logp: jax.Array) -> tuple[jax.Array, jax.Array]:
    chex.assert_rank(student_logp, 2)
    chex.assert_equal_shape([student_logp, teacher_logp])
    teacher_logp = jax.lax.stop_gradient(teacher_logp)
    return divergences.at_least_float32(student_logp), divergences.at_least_float32(teacher_logp)


def _token_logps(
    student_logp: jax.Array,
    teacher_logp: jax.Array,
    tokens: jax.Array,
    old_logp: jax.Array | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Log-probabilities [N] of the tokens: student, old student (a constant), teacher."""
    chex.assert_shape(tokens, student_logp.shape[:1])
    logp = jnp.take_along_axis(student_logp, tokens[:, None], axis=-1)[:, 0]
    teacher_token = jnp.take_along_axis(teacher_logp, tokens[:, None], axis=-1)[:, 0]
    old = logp if old_logp is None else divergences.at_least_float32(old_logp)
    return logp, jax.lax.stop_gradient(old), teacher_token


def _policy_gradient_branch(
    options: Opd | Aopd, logp: jax.Array, old_logp: jax.Array, teacher_token: jax.Array
) -> tuple[jax.Array, Stats]:
    advantage = teacher_token - old_logp
    used = advantage
    if options.adv_clip is not None:
        used = jnp.clip(advantage, -options.adv_clip, options.adv_clip)
    loss, stats = surrogate(
        logp,
        old_logp,
        options.opd_weight * used,
        ratio=options.ratio,
        clip_low=options.clip_low,
        clip_high=options.clip_high,
        dual_clip=options.dual_clip,
    )
    # The tails that a clip hides are what the statistic is for.
    return loss, {"advantage": advantage} | stats


def _check_policy_gradient(options: Opd | Aopd) -> None:
    choose("ratio", options.ratio, RATIOS)
    ranges.check(options, "adv_clip", above=0)
    check_clips(options)


def _check_matching(options: Gkd | Aopd) -> None:
    choose("divergence", options.divergence, DIVERGENCES)
    choose("support", options.support, SUPPORTS)
    choose("renormalise", options.renormalise, RENORMALISE)
    ranges.check_counts(options, "top_k")
    if not 0.0 <= options.beta <= 1.0:
        raise ValueError(f"beta={options.beta} is outside [0, 1]: 0 is KL(T||S), 1 is KL(S||T)")


def _match(
    options: Gkd | Aopd, student_logp: jax.Array, teacher_logp: jax.Array
) -> tuple[jax.Array, Stats]:
    """The divergence of the options on their support: loss [N] and the masses on a top-k set."""
    stats: Stats = {}
    scale = 1.0
    if options.support == "teacher_topk":
        k = min(options.top_k, student_logp.shape[-1])
        scale = 1.0 / k if options.divide_by_k else 1.0
        teacher_top, words = top_k(teacher_logp, k)
        student_top = jnp.take_along_axis(student_logp, words, axis=-1)
        stats["student_mass"] = jax.lax.stop_gradient(jnp.sum(jnp.exp(student_top), axis=-1))
        stats["teacher_mass"] = jnp.sum(jnp.exp(teacher_top), axis=-1)
        if options.renormalise == "topk":
            student_top, teacher_top = map(jax.nn.log_softmax, (student_top, teacher_top))
        elif options.renormalise == "tail_bucket" and k < student_logp.shape[-1]:
            student_top = _with_tail(student_logp, student_top, words)
            teacher_top = _with_tail(teacher_logp, teacher_top, words)
        student_logp, teacher_logp = student_top, teacher_top
    if options.divergence == "fkl":
        loss = divergences.forward_kl(student_logp, teacher_logp)
    elif options.divergence == "rkl":
        loss = divergences.reverse_kl(student_logp, teacher_logp)
    elif options.divergence == "jeffreys_mix":
        loss = divergences.jeffreys_mix(student_logp, teacher_logp, options.beta)
    else:
        loss = divergences.jsd(student_logp, teacher_logp, options.beta)
    return scale * loss, stats


def _with_tail(logp: jax.Array, top: jax.Array, words: jax.Array) -> jax.Array:
    """[N, k + 1]: the top words, and the log-mass of all others.

    Summed over the others: log(1 - mass of the top) has no digits left when the mass is near 1.
    """
    others = jnp.put_along_axis(logp, words, divergences.LOGP_FLOOR, axis=-1, inplace=False)
    tail = jax.nn.logsumexp(others, axis=-1, keepdims=True)
    return jnp.concatenate([top, tail], axis=-1)


def _divergence_stats(student_logp: jax.Array, teacher_logp: jax.Array) -> Stats:
    student_logp = jax.lax.stop_gradient(student_logp)
    return {
        "kl_forward": divergences.forward_kl(student_logp, teacher_logp),
        "kl_reverse": divergences.reverse_kl(student_logp, teacher_logp),
        "student_entropy": divergences.entropy(student_logp),
        "teacher_entropy": divergences.entropy(teacher_logp),
    }
