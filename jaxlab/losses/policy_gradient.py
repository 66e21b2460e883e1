"""Policy-gradient surrogates on the log-probabilities of sampled tokens."""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from jaxlab import ranges
from jaxlab.losses.aggregate import Summary, choose, summarise, token_weights, weighted_sum

RATIOS = ("none", "ppo_clip", "dual_clip")
KL_ESTIMATORS = ("k1", "k2", "k3")

# exp(20) is finite in float32 with room for a product; no useful ratio is larger.
MAX_LOG_RATIO = 20.0


def check_clips(options: Any) -> None:
    """Check the fields `clip_low`, `clip_high` and, where there is one, `dual_clip`.

    Raises:
        ValueError: names the field, its range and its value.
    """
    ranges.check(options, "clip_low", above=0, most=1)
    ranges.check(options, "clip_high", above=0)
    if hasattr(options, "dual_clip"):
        ranges.check(options, "dual_clip", above=1)


def surrogate(
    logp: jax.Array,
    old_logp: jax.Array,
    advantage: jax.Array,
    *,
    ratio: str = "ppo_clip",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float = 3.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Per-token loss whose gradient is a policy gradient.

    With rho = exp(logp - old_logp), the log-ratio clamped at +-20, and A = advantage:

    - `none`: -A logp (REINFORCE);
    - `ppo_clip`: -min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A) (PPO, Eq. 7);
    - `dual_clip`: the same, and for A < 0 at most -dual_clip A (Ye et al. 2020, Eq. 5).

    Gradients flow through `logp` alone.

    Args:
        logp: log-probability of each token under the current policy, any shape.
        old_logp: the same under the policy that defines the ratio.
        advantage: A, of the same shape.
        ratio: one of the three names above.
        clip_low: how far below 1 the ratio may count.
        clip_high: how far above 1.
        dual_clip: the bound c > 1 on the ratio where A < 0.

    Returns:
        The loss and the statistics `ratio` and `clipped` (1 where a clip stops the gradient).

    Raises:
        ValueError: `ratio` is unknown.
    """
    choose("ratio", ratio, RATIOS)
    chex.assert_equal_shape([logp, old_logp, advantage])
    advantage, old_logp = jax.lax.stop_gradient((advantage, old_logp))
    rho = jnp.exp(jnp.clip(logp - old_logp, -MAX_LOG_RATIO, MAX_LOG_RATIO))
    if ratio == "none":
        loss = -advantage * logp
        clipped = jnp.zeros_like(rho)
    else:
        plain = -advantage * rho
        bounded = -advantage * jnp.clip(rho, 1.0 - clip_low, 1.0 + clip_high)
        loss = jnp.maximum(plain, bounded)
        clipped = bounded > plain
        if ratio == "dual_clip":
            ceiling = -advantage * dual_clip
            stopped = (advantage < 0.0) & (loss > ceiling)
            loss = jnp.where(stopped, ceiling, loss)
            clipped = clipped | stopped
    stats = {"ratio": rho, "clipped": clipped.astype(rho.dtype)}
    return loss, jax.lax.stop_gradient(stats)


def policy_gradient(
    logp: jax.Array,
    advantages: jax.Array,
    mask: jax.Array,
    *,
    old_logp: jax.Array | None = None,
    reference_logp: jax.Array | None = None,
    ratio: str = "ppo_clip",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float = 3.0,
    kl_weight: float = 0.0,
    kl_estimator: str = "k3",
    agg: str = "seq_mean_token_mean",
    denominator: jax.Array | float | None = None,
    summary: Summary = summarise,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """GRPO (Shao et al. 2024, Eq. 3) and its relatives.

    The KL to the reference, with r = logp - reference_logp on the sampled tokens (Schulman 2020):

    - `k1`: r. Differentiated directly it would be noise of mean 0, so it is subtracted from the
      advantage instead, whose policy gradient is that of KL(policy||reference);
    - `k2`: r^2 / 2, added to the loss; on-policy its gradient is that of KL(policy||reference);
    - `k3`: exp(-r) + r - 1, added to the loss (GRPO, Eq. 4).

    Args:
        logp: float [B, T], log-probability of each token under the current policy.
        advantages: [B], or [B, T].
        mask: bool [B, T], True = a token of the response.
        old_logp: [B, T], the policy that defines the ratio; None: the current one.
        reference_logp: [B, T]; needed when kl_weight > 0.
        ratio: see `surrogate`; also `clip_low`, `clip_high`, `dual_clip`.
        clip_low: see `surrogate`.
        clip_high: see `surrogate`.
        dual_clip: see `surrogate`.
        kl_weight: weight of the KL.
        kl_estimator: one of the three names above.
        agg: see `aggregate.token_weights`.
        denominator: see `aggregate.token_weights`. Dr. GRPO's constant is
            agg="token_mean", denominator=B * max_length.
        summary: makes the metrics; `aggregate.per_token` leaves the statistics [B, T] as they are.

    Returns:
        The scalar loss and metrics: `loss`, `advantage_*`, `ratio_mean`, `ratio_max`,
        `clip_share`, and `kl_reference` when there is a reference.

    Raises:
        ValueError: an unknown option, or a KL without a reference.
    """
    choose("kl_estimator", kl_estimator, KL_ESTIMATORS)
    if kl_weight and reference_logp is None:
        raise ValueError(f"kl_weight={kl_weight} needs reference_logp")
    chex.assert_rank(logp, 2)
    chex.assert_equal_shape([logp, mask])
    if advantages.ndim == 1:
        advantages = jnp.broadcast_to(advantages[:, None], logp.shape)
    chex.assert_equal_shape([logp, advantages])
    logp = jnp.where(mask, logp, 0.0).astype(jnp.float32)
    advantages = jnp.where(mask, advantages, 0.0).astype(jnp.float32)
    old_logp = logp if old_logp is None else jnp.where(mask, old_logp, 0.0).astype(jnp.float32)
    penalty = jnp.zeros_like(logp)
    stats = {"advantage": advantages}
    if reference_logp is not None:
        reference_logp = jnp.where(mask, reference_logp, 0.0).astype(jnp.float32)
        log_ratio = logp - jax.lax.stop_gradient(reference_logp)
        stats["kl_reference"] = kl = estimate_kl(log_ratio, kl_estimator)
        if kl_weight and kl_estimator == "k1":
            advantages = advantages - kl_weight * kl
        elif kl_weight:
            penalty = kl_weight * kl
    loss, surrogate_stats = surrogate(
        logp,
        old_logp,
        advantages,
        ratio=ratio,
        clip_low=clip_low,
        clip_high=clip_high,
        dual_clip=dual_clip,
    )
    total = weighted_sum(loss + penalty, token_weights(mask, agg, denominator))
    return total, summary(total, stats | surrogate_stats, mask)


def estimate_kl(log_ratio: jax.Array, estimator: str = "k3") -> jax.Array:
    """Per-token estimate of KL(policy||reference) from r = logp - reference_logp.

    k1 = r, k2 = r^2 / 2, k3 = exp(-r) + r - 1 (Schulman 2020); r is clamped at +-20.

    Raises:
        ValueError: `estimator` is unknown.
    """
    choose("kl_estimator", estimator, KL_ESTIMATORS)
    r = jnp.clip(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO)
    if estimator == "k1":
        return r
    if estimator == "k2":
        return 0.5 * r**2
    # expm1 keeps the second-order remainder when r is small.
    return jnp.expm1(-r) + r
