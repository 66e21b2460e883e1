"""KDRL: a verifier's reward, and a KL to the teacher that fades."""

from dataclasses import dataclass
from typing import Literal

import jax

from jaxlab import ranges
from jaxlab.losses.methods.grpo import Grpo
from jaxlab.losses.policy_gradient import estimate_kl
from jaxlab.losses.types import Needs, Stats, Tokens


@dataclass(frozen=True)
class Kdrl(Grpo):
    """GRPO minus beta KL(S||T) by the k2 estimator, (log S - log T)^2 / 2 of the sampled token.

    Attributes:
        beta_start: weight of the KL at the first step.
        beta_end: at the last; linear between them.
    """

    source = "KDRL, from a secondary note [reconstructed]"

    beta_start: float = 5e-3
    beta_end: float = 1e-3
    name: Literal["kdrl"] = "kdrl"  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        ranges.check(self, "beta_start", "beta_end", least=0)

    @property
    def needs(self) -> Needs:
        """Rewards, and the teacher's log-probability of the token."""
        return Needs(
            teacher="token",
            reward=True,
            own_samples=True,
            group=2,
            reference=self.kl_weight > 0.0,
            sequence=self.ratio_level == "sequence",
        )

    def loss(self, batch: Tokens) -> tuple[jax.Array, Stats]:
        """GRPO's loss and the weighted estimate."""
        assert batch.logp is not None
        assert batch.progress is not None
        assert batch.teacher is not None
        assert batch.teacher.token is not None
        loss, stats = super().loss(batch)
        kl = estimate_kl(batch.logp - batch.teacher.token, "k2")
        beta = self.beta_start + (self.beta_end - self.beta_start) * batch.progress
        return loss + beta * kl, stats | {"kl_teacher": jax.lax.stop_gradient(kl)}
