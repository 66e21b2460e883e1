"""Reinforcement by a verifier's reward, compared within the completions of a prompt."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from jaxlab import ranges
from jaxlab.credit import advantages
from jaxlab.losses.aggregate import Aggregation
from jaxlab.losses.policy_gradient import SUMMARIES, Surrogate, estimate_kl
from jaxlab.losses.types import Base, Credit, Group, Needs, Stats, Tokens

ADVANTAGES = {
    "group": advantages.group_normalised,
    "centred": advantages.group_centred,
    "leave_one_out": advantages.leave_one_out,
}


@dataclass(frozen=True)
class Grpo(Surrogate, Base):
    """Group relative policy optimisation (Shao et al. 2024, Eq. 3): the reward, no teacher.

    Attributes:
        advantages: "group" (GRPO), "centred" (Dr. GRPO) or "leave_one_out" (RLOO).
        zero_variance: groups of equal rewards: "keep", where they count as completions that teach
            nothing, or "drop", where they do not count (DAPO, without its resampling).
        kl_weight: weight of the KL to a frozen reference model; with 0 there is none.
        kl_estimator: see `policy_gradient.estimate_kl`; "k1" is subtracted from the advantage.
        agg: see `aggregate.token_weights`.
    """

    source = "Shao et al. 2024 (2402.03300) Eq. 3, 4"
    summaries = SUMMARIES

    advantages: Literal["group", "centred", "leave_one_out"] = "group"
    zero_variance: Literal["keep", "drop"] = "keep"
    kl_weight: float = 0.0
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    agg: Aggregation = "seq_mean_token_mean"
    name: Literal["grpo"] = "grpo"

    def __post_init__(self) -> None:
        """Check clips and weight."""
        super().__post_init__()
        ranges.check(self, "kl_weight", least=0)

    @property
    def needs(self) -> Needs:
        """Rewards of at least two completions; a reference where the KL counts."""
        return Needs(
            reward=True,
            own_samples=True,
            group=2,
            reference=self.kl_weight > 0.0,
            sequence=self.ratio_level == "sequence",
        )

    def credit(self, group: Group) -> Credit:
        """The advantages, and which groups count."""
        assert group.reward is not None
        equal = jnp.ptp(group.reward, axis=1, keepdims=True) == 0.0
        keep = None
        if self.zero_variance == "drop":
            keep = jnp.broadcast_to(~equal, group.reward.shape)
        return Credit(
            advantage=ADVANTAGES[self.advantages](group.reward),
            keep=keep,
            metrics={"zero_variance_share": jnp.mean(equal.astype(jnp.float32))},
        )

    def loss(self, batch: Tokens) -> tuple[jax.Array, Stats]:
        """The surrogate of the completion's advantage, and the KL."""
        assert batch.advantage is not None
        assert batch.logp is not None
        advantage, stats = batch.advantage, {"advantage": batch.advantage}
        penalty = jnp.zeros_like(batch.logp)
        if batch.reference_logp is not None:
            kl = estimate_kl(batch.logp - batch.reference_logp, self.kl_estimator)
            stats["kl_reference"] = jax.lax.stop_gradient(kl)
            if self.kl_estimator == "k1":
                # Differentiated directly it would be noise of mean 0.
                advantage = advantage - self.kl_weight * kl
            else:
                penalty = self.kl_weight * kl
        loss, more = self.of(batch, advantage)
        return loss + penalty, stats | more


@dataclass(frozen=True)
class DrGrpo(Grpo):
    """Dr. GRPO (Liu et al. 2025): centred rewards, and token sums instead of token means."""

    source = "Liu et al. 2025 (2503.20783)"

    advantages: Literal["group", "centred", "leave_one_out"] = "centred"
    agg: Aggregation = "seq_mean_token_sum"
    name: Literal["dr_grpo"] = "dr_grpo"  # type: ignore[assignment]


@dataclass(frozen=True)
class Rloo(Grpo):
    """REINFORCE leave-one-out (Ahmadian et al. 2024): the baseline is the other completions."""

    source = "Ahmadian et al. 2024 (2402.14740)"

    ratio: Literal["none", "importance", "ppo_clip", "dual_clip"] = "none"
    advantages: Literal["group", "centred", "leave_one_out"] = "leave_one_out"
    agg: Aggregation = "seq_mean_token_sum"
    name: Literal["rloo"] = "rloo"  # type: ignore[assignment]


@dataclass(frozen=True)
class Dapo(Grpo):
    """DAPO (Yu et al. 2025) without resampling: clip-higher, token mean, zero variance dropped."""

    source = "Yu et al. 2025 (2503.14476)"

    clip_high: float = 0.28
    zero_variance: Literal["keep", "drop"] = "drop"
    agg: Aggregation = "token_mean"
    name: Literal["dapo"] = "dapo"  # type: ignore[assignment]


@dataclass(frozen=True)
class Gspo(Grpo):
    """Group sequence policy optimisation (Zheng et al. 2025, Eq. 5 to 7): a completion's ratio."""

    source = "Zheng et al. 2025 (2507.18071) Eq. 5 to 7"

    ratio_level: Literal["token", "sequence"] = "sequence"
    clip_low: float = 3e-4
    clip_high: float = 4e-4
    name: Literal["gspo"] = "gspo"  # type: ignore[assignment]
