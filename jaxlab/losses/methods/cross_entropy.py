"""Cross entropy of the sampled tokens."""

from dataclasses import dataclass
from typing import Literal

import jax

from jaxlab.losses.aggregate import Aggregation
from jaxlab.losses.types import Base, Needs, Stats, Tokens


@dataclass(frozen=True)
class CrossEntropy(Base):
    """-log S(y) of the sampled tokens; with `rollout.source="teacher"` this is SeqKD.

    Attributes:
        agg: see `aggregate.token_weights`.
    """

    source = "Kim and Rush 2016 (1606.07947), SeqKD with rollout.source=teacher"

    agg: Aggregation = "seq_mean_token_mean"
    name: Literal["cross_entropy"] = "cross_entropy"

    @property
    def needs(self) -> Needs:
        """Nothing; the student at temperature 1."""
        return Needs(tempered=False)

    def loss(self, batch: Tokens) -> tuple[jax.Array, Stats]:
        """-log S(y), also as the statistic `nll`."""
        assert batch.logp is not None
        return -batch.logp, {"nll": jax.lax.stop_gradient(-batch.logp)}
