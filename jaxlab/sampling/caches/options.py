"""Which attention decodes: a section of sampling's options, told apart by its name."""

import dataclasses
from typing import Annotated, Literal

from jaxlab_kernels.two_level import IndexConfig

from jaxlab.config import by
from jaxlab.nn.context import CacheKind
from jaxlab.sampling.caches.dense import Dense
from jaxlab.sampling.caches.two_level import TwoLevel


@dataclasses.dataclass(frozen=True)
class DenseAttention:
    """Exact attention to all tokens.

    Attributes:
        name: the tag of this attention in a config.
    """

    name: Literal["dense"] = "dense"

    def kind(self, slots: int, dtype: str | None) -> CacheKind:
        """Returns how layers cache so many tokens in a dtype, None for the model's."""
        return Dense(slots, dtype)


@dataclasses.dataclass(frozen=True)
class TwoLevelAttention(IndexConfig):
    """Exact attention to the tokens that two levels of selection keep (AsyncTLS).

    Its other fields are those of `jaxlab_kernels.two_level.IndexConfig`. The channels of the token
    index are those of each row's own prompt, see `caches.two_level.calibrate`.

    Attributes:
        name: the tag of this attention in a config.
    """

    name: Literal["two_level"] = "two_level"

    def kind(self, slots: int, dtype: str | None) -> CacheKind:
        """Returns how layers cache so many tokens in a dtype, None for the model's."""
        return TwoLevel(slots, self, dtype)


Attention = Annotated[DenseAttention | TwoLevelAttention, by("name")]
