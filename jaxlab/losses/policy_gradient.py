"""Policy-gradient surrogates on the log-probabilities of sampled tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp

from jaxlab import ranges
from jaxlab.losses.aggregate import choose
from jaxlab.losses.types import Options, Stats, Tokens

Ratio = Literal["none", "importance", "ppo_clip", "dual_clip"]
RATIOS = ("none", "importance", "ppo_clip", "dual_clip")
KL_ESTIMATORS = ("k1", "k2", "k3")

# exp(20) is finite in float32 with room for a product; no useful ratio is larger.
MAX_LOG_RATIO = 20.0

SUMMARIES: Mapping[str, tuple[str, ...]] = {
    "ratio": ("mean", "max"),
    "clip": ("share",),
    "advantage": ("mean", "min", "kurtosis", "negative_share"),
}


@dataclass(frozen=True)
class Surrogate(Options):
    """How a policy gradient uses the ratio rho = pi(y) / pi_old(y); see `surrogate`.

    Attributes:
        ratio: "none" is -A log pi, "importance" -A rho, "ppo_clip" and "dual_clip" bound the ratio.
        ratio_level: "token"; or "sequence", the geometric mean of a completion's ratios (GSPO,
            Zheng et al. 2025, Eq. 7).
        clip_low: the ratio counts down to 1 - clip_low; at most 1.
        clip_high: and up to 1 + clip_high (above clip_low: DAPO's clip-higher).
        dual_clip: bound on the ratio where A < 0.
    """

    ratio: Ratio = "ppo_clip"
    ratio_level: Literal["token", "sequence"] = "token"
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float = 3.0

    def __post_init__(self) -> None:
        """Check the choices and the ends of the clipped range."""
        super().__post_init__()
        check_clips(self)

    def check_token_level(self, why: str) -> None:
        """Raises a ValueError that says why, unless the ratio is each token's."""
        if self.ratio_level != "token":
            raise ValueError(f"ratio_level must be 'token': {why}")

    def of(
        self, batch: Tokens, advantage: jax.Array, ratio: str | None = None
    ) -> tuple[jax.Array, Stats]:
        """The surrogate of the batch's tokens, with `ratio` instead of its own where given."""
        assert batch.logp is not None
        assert batch.old_logp is not None
        logp, old = batch.logp, batch.old_logp
        if self.ratio_level == "sequence":
            logp, old = sequence_logps(logp, old, batch.mask)
        return surrogate(
            logp,
            old,
            advantage,
            ratio=ratio or self.ratio,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            dual_clip=self.dual_clip,
        )


def check_clips(options: Any) -> None:
    """Check the fields `clip_low`, `clip_high` and, where there is one, `dual_clip`.

    Raises:
        ValueError: names the field, its range and its value.
    """
    ranges.check(options, "clip_low", above=0, most=1)
    ranges.check(options, "clip_high", above=0)
    if hasattr(options, "dual_clip"):
        ranges.check(options, "dual_clip", above=1)


def sequence_logps(
    logp: jax.Array, old_logp: jax.Array, mask: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Means over each completion's tokens, at each of its tokens: their ratio is GSPO's.

    logp, old_logp: [B, T]; mask: bool [B, T]. Returns two arrays [B, T].
    """
    assert mask is not None, "the ratio of a sequence needs the mask of its tokens"
    length = jnp.maximum(jnp.sum(mask, axis=1, keepdims=True), 1)

    def mean(x: jax.Array) -> jax.Array:
        total = jnp.sum(jnp.where(mask, x, 0.0), axis=1, keepdims=True)
        return jnp.broadcast_to(total / length, x.shape)

    return mean(logp), mean(old_logp)


def surrogate(
    logp: jax.Array,
    old_logp: jax.Array,
    advantage: jax.Array,
    *,
    ratio: str = "ppo_clip",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float = 3.0,
) -> tuple[jax.Array, Stats]:
    """Per-token loss whose gradient is a policy gradient.

    With rho = exp(logp - old_logp), the log-ratio clamped at +-20, and A = advantage:

    - `none`: -A logp (REINFORCE);
    - `importance`: -A rho (SCOPE Eq. 2 and 3);
    - `ppo_clip`: -min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A) (PPO, Eq. 7);
    - `dual_clip`: the same, and for A < 0 at most -dual_clip A (Ye et al. 2020, Eq. 5).

    Gradients flow through `logp` alone.

    Args:
        logp: log-probability of each token under the current policy, any shape.
        old_logp: the same under the policy that defines the ratio.
        advantage: A, of the same shape.
        ratio: one of the four names above.
        clip_low: how far below 1 the ratio may count.
        clip_high: how far above 1.
        dual_clip: the bound c > 1 on the ratio where A < 0.

    Returns:
        The loss and the statistics `ratio` and `clip` (1 where a clip stops the gradient).

    Raises:
        ValueError: `ratio` is unknown.
    """
    choose("ratio", ratio, RATIOS)
    chex.assert_equal_shape([logp, old_logp, advantage])
    advantage, old_logp = jax.lax.stop_gradient((advantage, old_logp))
    rho = jnp.exp(jnp.clip(logp - old_logp, -MAX_LOG_RATIO, MAX_LOG_RATIO))
    clipped = jnp.zeros(rho.shape, bool)
    if ratio == "none":
        loss = -advantage * logp
    elif ratio == "importance":
        loss = -advantage * rho
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
    stats = {"ratio": rho, "clip": clipped.astype(rho.dtype)}
    return loss, jax.lax.stop_gradient(stats)


def estimate_kl(log_ratio: jax.Array, estimator: str = "k3") -> jax.Array:
    """Per-token estimate of KL(policy||reference) from r = logp - reference_logp.

    k1 = r, k2 = r^2 / 2, k3 = exp(-r) + r - 1 (Schulman 2020); r is clamped at +-20. On tokens of
    the policy the gradient of k2 is that of the KL; k3 is GRPO's (Shao et al. 2024, Eq. 4); k1
    differentiated directly is noise of mean 0, so it belongs into the advantage.

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
