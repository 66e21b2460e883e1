"""AOPD: policy gradient where the student did well, matching the teacher where it did not."""

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import jax
import jax.numpy as jnp

from jaxlab import ranges
from jaxlab.losses.aggregate import Aggregation
from jaxlab.losses.methods.matching import Match
from jaxlab.losses.methods.opd import TokenGradient
from jaxlab.losses.policy_gradient import SUMMARIES
from jaxlab.losses.types import Base, Needs, Stats, Tokens


@dataclass(frozen=True)
class Guide(Match):
    """The guidance of AOPD's negative tokens: a `Match` with the defaults of Eq. 7.

    Attributes:
        weight: multiplies the divergence.
    """

    divergence: Literal["fkl", "rkl", "jeffreys_mix", "jsd"] = "fkl"
    support: Literal["full", "teacher_topk"] = "teacher_topk"
    divide_by_k: bool = True
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Check the options of the match and the weight."""
        super().__post_init__()
        ranges.check(self, "weight", least=0)


@dataclass(frozen=True)
class Aopd(Base):
    """AOPD (arXiv 2605.06387): OPD where the student did well, matching T where it did not.

    G_t = 1[T(y_t) - S(y_t) <= tau]                                          (Eq. 9)
    loss_t = G_t guide.weight D_t + (1 - G_t) pg.opd_weight L_t^OPD           (Eq. 10)
    D_t = 1/K sum_{v in top-K of T} T(v) [log T(v) - log S(v)]               (Eq. 7)

    Defaults are the paper's. The released code differs: `tie="pg"`, `guide.divide_by_k=False`,
    `pg.ratio="dual_clip"`, and `agg="token_mean"`; its threshold h is -tau.

    Attributes:
        tau: threshold of the gate, the paper's sign (the code's aopd_threshold is h = -tau).
            In probability space -1 is OPD and +1 guides every token.
        gate_space: compare probabilities ("prob", the paper) or A itself ("logprob") with tau.
        tie: the branch of a token that is exactly at tau.
        negative_branch: what the guided tokens get: "fkl" the guidance D, "mask" nothing (an
            ablation), "pg" the OPD term (then AOPD is OPD).
        pg: the policy gradient of the other tokens.
        guide: D.
        agg: see `aggregate.token_weights`.
    """

    source = "AOPD (2605.06387) Eq. 7, 9, 10"
    summaries = MappingProxyType({**SUMMARIES, "guided": ("share",)})

    tau: float = 0.0
    gate_space: Literal["prob", "logprob"] = "prob"
    tie: Literal["guided", "pg"] = "guided"
    negative_branch: Literal["fkl", "mask", "pg"] = "fkl"
    pg: TokenGradient = field(default_factory=TokenGradient)
    guide: Guide = field(default_factory=Guide)
    agg: Aggregation = "seq_mean_token_mean"
    name: Literal["aopd"] = "aopd"

    def __post_init__(self) -> None:
        """Check the choices and the threshold."""
        super().__post_init__()
        self.pg.check_token_level("tokens are guided one by one")
        ranges.check(self, "tau")

    @property
    def needs(self) -> Needs:
        """The token's log-probability, and what the guidance compares."""
        if self.negative_branch != "fkl":
            return Needs(teacher="token", own_samples=True)
        view = self.guide.view
        return Needs(view.teacher, view.top_k, view.tail, own_samples=True)

    def loss(self, batch: Tokens) -> tuple[jax.Array, Stats]:
        """The loss of the branch that each token's gate chooses."""
        assert batch.teacher is not None
        assert batch.teacher.token is not None
        assert batch.old_logp is not None
        guided = self.gate(batch.teacher.token, batch.old_logp)
        pg_loss, stats = self.pg.loss(batch)
        guide_loss = pg_loss if self.negative_branch == "pg" else jnp.zeros_like(pg_loss)
        if self.negative_branch == "fkl":
            divergence, masses = self.guide.between(batch.student_logp, batch.teacher)
            guide_loss = self.guide.weight * divergence
            stats = stats | masses
        if self.negative_branch != "pg":
            stats["clip"] = jnp.where(guided, 0.0, stats["clip"])
        loss = jnp.where(guided, guide_loss, pg_loss)
        return loss, stats | {"guided": guided.astype(loss.dtype)}

    def gate(self, teacher_token: jax.Array, old_logp: jax.Array) -> jax.Array:
        """True where the token is guided (Eq. 9), from the two log-probabilities of the token."""
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
