"""Which attention decodes: a section of sampling's options, told apart by its name."""

import dataclasses
from typing import Annotated, ClassVar, Literal

from jaxlab_kernels.two_level import IndexConfig

from jaxlab.config import by
from jaxlab.nn.context import CacheKind
from jaxlab.sampling.caches.dense import Dense
from jaxlab.sampling.caches.offload import Offload
from jaxlab.sampling.caches.two_level import TwoLevel


@dataclasses.dataclass(frozen=True)
class DenseAttention:
    """Exact attention to all tokens.

    Attributes:
        name: the tag of this attention in a config.
    """

    name: Literal["dense"] = "dense"

    # What the loop asks of every attention: whose channels, and whether a step waits for blocks.
    calibration: ClassVar[str] = "prompt"
    channels: ClassVar[int] = 0
    waits: ClassVar[bool] = False

    def kind(
        self,
        slots: int,
        dtype: str | None,
        *,
        new: int = 1,
        samples: int = 1,
        calibrated: bool = False,
    ) -> CacheKind:
        """Returns how layers cache.

        Args:
            slots: tokens that fit.
            dtype: of stored keys and values; None is the model's.
            new: of the tokens, those that are decoded.
            samples: rows that share a prompt.
            calibrated: whether channels are put into the caches before the prompts.
        """
        return Dense(slots, dtype)


@dataclasses.dataclass(frozen=True)
class TwoLevelAttention(IndexConfig):
    """Exact attention to the tokens that two levels of selection keep (AsyncTLS).

    Its other fields are those of `jaxlab_kernels.two_level.IndexConfig`.

    Attributes:
        stale: a step takes its tokens from blocks that the step before selected, as off-loading
            does, besides the newest and the forced ones.
        resync_every: with stale, every so many steps, from the first, one uses its own blocks; 0:
            none does.
        calibration: "prompt" takes for the channels of the token index those with the largest
            products on each row's own prompt; "checkpoint" those of `jaxlab.calibrate`.
        name: the tag of this attention in a config.
    """

    stale: bool = False
    resync_every: int = 0
    calibration: Literal["prompt", "checkpoint"] = "prompt"
    name: Literal["two_level"] = "two_level"

    def __post_init__(self) -> None:
        """Check every field; raises a ValueError that names the one out of range."""
        super().__post_init__()
        if type(self.resync_every) is not int or self.resync_every < 0:
            raise ValueError(f"resync_every is {self.resync_every!r}: expected a number from 0")
        if self.resync_every and not self.stale:
            raise ValueError(
                f"resync_every is {self.resync_every}, and without stale every step uses its own "
                "blocks: set stale=True, or leave it 0"
            )
        if self.calibration not in ("prompt", "checkpoint"):
            raise ValueError(
                f"calibration is {self.calibration!r}: expected 'prompt' or 'checkpoint'"
            )

    @property
    def refresh(self) -> int:
        """Steps from one with blocks of its own to the next: 1 is each, 0 none."""
        return self.resync_every if self.stale else 1

    @property
    def waits(self) -> bool:
        """Whether steps may wait for blocks of their own selection."""
        return self.refresh != 0

    def kind(
        self,
        slots: int,
        dtype: str | None,
        *,
        new: int = 1,
        samples: int = 1,
        calibrated: bool = False,
    ) -> CacheKind:
        """See `DenseAttention.kind`."""
        return TwoLevel(slots, self, dtype, self.refresh, calibrated)


@dataclasses.dataclass(frozen=True)
class OffloadAttention(TwoLevelAttention):
    """Two-level attention whose keys and values lie on the host; see `jaxlab.sampling.offload`.

    Attributes:
        stale: see `TwoLevelAttention`. False waits in every layer for the blocks of its own query.
        min_len: 0: there is no dense step where most keys are elsewhere.
        slots: blocks per row and list that the device holds; None is twice those of a step.
        max_miss: blocks per row and list that a step may copy for the next one.
        miss_fallback: what the next step does about blocks beyond `max_miss`: "defer" leaves them
            out, "sync" waits for them.
        engine: "injit" copies inside the decoding program, without a word of the host; "hostloop"
            returns to the host after each step, which starts the copies.
        name: the tag of this attention in a config.
    """

    stale: bool = True
    min_len: int = 0
    slots: int | None = None
    max_miss: int = 32
    miss_fallback: Literal["defer", "sync"] = "defer"
    engine: Literal["injit", "hostloop"] = "injit"
    name: Literal["offload"] = "offload"  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Check every field; raises a ValueError that names the one out of range."""
        super().__post_init__()
        if self.min_len:
            raise ValueError(
                f"min_len is {self.min_len}: an off-loaded cache has no dense step; expected 0"
            )
        for name in ("slots", "max_miss"):
            number = getattr(self, name)
            if number is not None and (type(number) is not int or number < 1):
                raise ValueError(f"{name} is {number!r}: expected a whole number from 1")
        if self.miss_fallback not in ("defer", "sync"):
            raise ValueError(f"miss_fallback is {self.miss_fallback!r}: expected 'defer' or 'sync'")
        if self.engine not in ("injit", "hostloop"):
            raise ValueError(f"engine is {self.engine!r}: expected 'injit' or 'hostloop'")
        if self.engine == "hostloop" and self.refresh:
            raise ValueError(
                "engine is 'hostloop', which moves blocks between steps, and stale=False or "
                "resync_every wait for them inside of one: use engine='injit'"
            )

    def kind(
        self,
        slots: int,
        dtype: str | None,
        *,
        new: int = 1,
        samples: int = 1,
        calibrated: bool = False,
    ) -> CacheKind:
        """See `DenseAttention.kind`."""
        return Offload(
            slots, new, self, self.slots, self.refresh, self.max_miss,
            self.miss_fallback == "sync", samples, dtype, calibrated,
        )  # fmt: skip


Attention = Annotated[DenseAttention | TwoLevelAttention | OffloadAttention, by("name")]
