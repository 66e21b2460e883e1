"""Matching the teacher's distribution at every token of the student."""

from dataclasses import dataclass
from typing import Literal

import jax

from jaxlab.losses.aggregate import Aggregation
from jaxlab.losses.methods.matching import Match
from jaxlab.losses.types import Base, Needs, Stats, Tokens


@dataclass(frozen=True)
class Gkd(Match, Base):
    """Generalised knowledge distillation (Agarwal et al. 2024): match T at every token.

    The divergence and its options are those of `Match`: "jsd" on the full vocabulary is the paper,
    "jeffreys_mix" on the teacher's top 32 words the GKD baseline of the AOPD code. The paper's
    lambda is `rollout.student_share` beside `rollout.source`; with rollout.source="data" alone it
    is distillation on fixed data (KD, Hinton et al. 2015).

    Attributes:
        agg: see `aggregate.token_weights`.
    """

    source = "Agarwal et al. 2024 (2306.13649) Eq. 1"

    agg: Aggregation = "seq_mean_token_mean"
    name: Literal["gkd"] = "gkd"

    @property
    def needs(self) -> Needs:
        """The distribution, or its top k."""
        return self.view

    def loss(self, batch: Tokens) -> tuple[jax.Array, Stats]:
        """The divergence."""
        assert batch.teacher is not None
        return self.between(batch.student_logp, batch.teacher)


@dataclass(frozen=True)
class FullReverseKl(Gkd):
    """KL(S||T) over the whole vocabulary at every token: OPD without its sampling noise.

    Attributes:
        divergence: "rkl"; the other keys of `Match` with it.
    """

    source = "the exact form of OPD"

    divergence: Literal["rkl"] = "rkl"
    name: Literal["full_reverse_kl"] = "full_reverse_kl"  # type: ignore[assignment]
