"""Relatives of on-policy distillation: other advantages of a token, from the same log-ratios."""

from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp

from jaxlab import ranges
from jaxlab.losses import divergences
from jaxlab.losses.methods.matching import TopKForward
from jaxlab.losses.methods.opd import Opd, log_ratio
from jaxlab.losses.policy_gradient import MAX_LOG_RATIO
from jaxlab.losses.types import Needs, Stats, Tokens


@dataclass(frozen=True)
class DiscountedOpd(Opd):
    """MiniLLM's return (Gu et al. 2024, Eq. 6): a token is credited with what follows, too.

    R_t = sum over t' >= t of discount^(t' - t) A_t'; with discount 0 this is OPD.

    Attributes:
        discount: 0 to 1.
    """

    source = "Gu et al. 2024, MiniLLM (2306.08543) Eq. 6, discounted as in TRL"

    discount: float = 0.5
    name: Literal["discounted_opd"] = "discounted_opd"  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        ranges.check(self, "discount", least=0, most=1)

    @property
    def needs(self) -> Needs:
        """The token's log-probability, in whole completions."""
        return Needs(teacher="token", own_samples=True, sequence=True)

    def loss(self, batch: Tokens) -> tuple[jax.Array, Stats]:
        """The surrogate of the discounted returns."""
        assert batch.mask is not None
        advantage = jnp.where(batch.mask, log_ratio(batch), 0.0)

        def step(later: jax.Array, now: jax.Array) -> tuple[jax.Array, jax.Array]:
            total = now + self.discount * later
            return total, total

        _, returns = jax.lax.scan(step, jnp.zeros_like(advantage[:, 0]), advantage.T, reverse=True)
        loss, stats = self.of(batch, self.opd_weight * self.clip_advantage(returns.T))
        return loss, {"advantage": advantage} | stats


@dataclass(frozen=True)
class ExOpd(Opd):
    """ExOPD: beyond the teacher, away from a reference: A = l log(T / R) - log(S / R).

    Attributes:
        extrapolation: l; 1 is OPD, 1.25 the AOPD paper's baseline.
    """

    source = "ExOPD, as the AOPD paper and a secondary note describe it [reconstructed]"

    extrapolation: float = 1.25
    name: Literal["exopd"] = "exopd"  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        ranges.check(self, "extrapolation", above=0)

    @property
    def needs(self) -> Needs:
        """The token's log-probability by teacher and reference."""
        sequence = self.ratio_level == "sequence"
        return Needs(teacher="token", own_samples=True, reference=True, sequence=sequence)

    def loss(self, batch: Tokens) -> tuple[jax.Array, Stats]:
        """The surrogate of the extrapolated advantage."""
        assert batch.teacher is not None
        assert batch.teacher.token is not None
        assert batch.reference_logp is not None
        beyond = (self.extrapolation - 1.0) * (batch.teacher.token - batch.reference_logp)
        advantage = log_ratio(batch) + jax.lax.stop_gradient(beyond)
        loss, stats = self.of(batch, self.opd_weight * self.clip_advantage(advantage))
        return loss, {"advantage": advantage} | stats


@dataclass(frozen=True)
class PowerOpd(Opd):
    """PowerOPD: A = ((T(y) / S(y))^a - 1) / a, never below -1 / a; OPD as a goes to 0.

    Attributes:
        power: a.
    """

    source = "PowerOPD (2606.17199), form from a secondary note [reconstructed]"

    power: float = 0.5
    name: Literal["power_opd"] = "power_opd"  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        ranges.check(self, "power", above=0)

    def loss(self, batch: Tokens) -> tuple[jax.Array, Stats]:
        """The surrogate of the power of the ratio."""
        bounded = jnp.minimum(log_ratio(batch), MAX_LOG_RATIO)
        advantage = jnp.expm1(self.power * bounded) / self.power
        loss, stats = self.of(batch, self.opd_weight * self.clip_advantage(advantage))
        return loss, {"advantage": advantage} | stats


@dataclass(frozen=True)
class VOpd(Opd):
    """vOPD: the advantage's mean under the student, -KL(S||T) in closed form, is its baseline."""

    source = "vOPD (2605.07865)"

    name: Literal["vopd"] = "vopd"  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        self.check_token_level("the baseline is of single tokens")

    @property
    def needs(self) -> Needs:
        """The whole distribution, for the baseline."""
        return Needs(teacher="full", own_samples=True)

    def loss(self, batch: Tokens) -> tuple[jax.Array, Stats]:
        """The surrogate of A + KL(S||T)."""
        assert batch.teacher is not None
        assert batch.teacher.logp is not None
        assert batch.student_logp is not None
        student = jax.lax.stop_gradient(batch.student_logp)
        kl = divergences.reverse_kl(student, batch.teacher.logp)
        advantage = log_ratio(batch) + kl
        loss, stats = self.of(batch, self.opd_weight * self.clip_advantage(advantage))
        return loss, {"advantage": advantage, "baseline": -kl} | stats


@dataclass(frozen=True)
class Eopd(Opd):
    """EOPD: OPD, and where the teacher is unsure also its top-k words.

    loss = L_OPD + guide_weight 1[H_T > threshold] KL(T||S) on the teacher's top k, renormalised.

    Attributes:
        threshold: of the teacher's entropy, nats.
        guide_weight: of the divergence.
        guide: the divergence.
    """

    source = "EOPD, from a secondary note [reconstructed]"

    threshold: float = 0.5
    guide_weight: float = 1.0
    guide: TopKForward = field(default_factory=TopKForward)
    name: Literal["eopd"] = "eopd"  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        ranges.check(self, "threshold", "guide_weight", least=0)
        self.check_token_level("tokens are guided one by one")

    @property
    def needs(self) -> Needs:
        """What the divergence compares, and the teacher's entropy."""
        view = self.guide.view
        return Needs(view.teacher, view.top_k, view.tail, entropy=True, own_samples=True)

    def loss(self, batch: Tokens) -> tuple[jax.Array, Stats]:
        """The sum of both."""
        assert batch.teacher is not None
        assert batch.teacher.entropy is not None
        loss, stats = super().loss(batch)
        divergence, masses = self.guide.between(batch.student_logp, batch.teacher)
        unsure = batch.teacher.entropy > self.threshold
        guided = jnp.where(unsure, self.guide_weight * divergence, 0.0)
        return loss + guided, stats | masses | {"guided": unsure.astype(jnp.float32)}
