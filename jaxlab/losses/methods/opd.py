"""On-policy distillation by policy gradient: a sampled token's log-ratio is its advantage."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from jaxlab import ranges
from jaxlab.losses.aggregate import Aggregation
from jaxlab.losses.policy_gradient import SUMMARIES, Ratio, Surrogate
from jaxlab.losses.types import Base, Needs, Stats, Tokens


@dataclass(frozen=True)
class TokenGradient(Surrogate):
    """The policy gradient of a token with A_t = log T(y_t) - log S(y_t) (AOPD Eq. 1, 2).

    Attributes:
        opd_weight: multiplies the loss; 1.25 is the ExOPD baseline of the AOPD code.
        adv_clip: A is clipped to +- this; None: not at all.
        ratio: "none" is -A log S (the paper), "dual_clip" the AOPD code; see `Surrogate`.
    """

    opd_weight: float = 1.0
    adv_clip: float | None = None
    ratio: Ratio = "none"

    def __post_init__(self) -> None:
        """Check clips and weight."""
        super().__post_init__()
        ranges.check(self, "opd_weight", least=0)
        ranges.check(self, "adv_clip", above=0)

    def loss(self, batch: Tokens) -> tuple[jax.Array, Stats]:
        """-A log S, or the surrogate of A, and the statistics `advantage`, `ratio`, `clip`."""
        advantage = log_ratio(batch)
        loss, stats = self.of(batch, self.opd_weight * self.clip_advantage(advantage))
        # The tails that a clip hides are what the statistic is for.
        return loss, {"advantage": advantage} | stats

    def clip_advantage(self, advantage: jax.Array) -> jax.Array:
        """The advantage within +- `adv_clip`."""
        if self.adv_clip is None:
            return advantage
        return jnp.clip(advantage, -self.adv_clip, self.adv_clip)


@dataclass(frozen=True)
class Opd(TokenGradient, Base):
    """On-policy distillation: the policy gradient of `TokenGradient` at every token.

    Attributes:
        agg: see `aggregate.token_weights`.
    """

    source = "Thinking Machines 2025; AOPD (2605.06387) Eq. 1, 2"
    summaries = SUMMARIES

    agg: Aggregation = "seq_mean_token_mean"
    name: Literal["opd"] = "opd"

    def __post_init__(self) -> None:
        """Check the options; a weight of 0 would teach nothing."""
        super().__post_init__()
        ranges.check(self, "opd_weight", above=0)

    @property
    def needs(self) -> Needs:
        """The teacher's log-probability of the sampled token."""
        sequence = self.ratio_level == "sequence"
        return Needs(teacher="token", own_samples=True, sequence=sequence)


def log_ratio(batch: Tokens) -> jax.Array:
    """A = log T(y) - log S_old(y), a constant, of the shape of the batch's tokens."""
    assert batch.teacher is not None
    assert batch.teacher.token is not None
    assert batch.old_logp is not None
    return jax.lax.stop_gradient(batch.teacher.token - batch.old_logp)
