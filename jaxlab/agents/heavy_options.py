"""The options of the heavy workflow, and how its texts are drawn."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from jaxlab import ranges
from jaxlab.agents.heavy_cache import Prune, Select
from jaxlab.agents.heavy_calls import Limits
from jaxlab.agents.heavy_prompts import Domain

# Stages that are sampled as deliberations are.
_DELIBERATIONS = ("deliberate", "no_thinkers")


@dataclass(frozen=True)
class Heavy:
    """Options of the workflow: how wide, how deep, and what deliberators read.

    Attributes:
        width: K, thinkers whose texts are read.
        samples: K1, deliberations of a round.
        rounds: N; the deliberations of one are attempts in the context of the next.
        cache_tokens: most tokens of all attempts in a prompt, marks included.
        pool: thinkers that are asked, of whom `width` are read; None: `width`.
        select: which of more than `width` are read, see `heavy_cache.select`.
        prune: what is left of an attempt that is too long, see `heavy_cache.build`.
        order: thinkers are shuffled "once" for all samples, which then share one prompt that is
            read once; or "per_sample"; or stand as "given".
        filtered: leave out unfinished and repetitive thinkers, unless all are.
        domain: the form of the answer.
        seed: of the draws of samples, selection and order.
        context_tokens: longest prompt that the deliberator can read; None: no limit.
        per_call: texts asked for in one call; None: all of a prompt.
        concurrency: most calls under way.
        retries: further attempts at a call that fails or takes too long.
        timeout_s: seconds for one call.
        budget_tokens: no call begins that would read beyond so many tokens, counting all that were
            read and generated before; None: no limit.
        backoff_s: seconds before the first retry; they double with each.
    """

    width: int = 8
    samples: int = 4
    rounds: int = 1
    cache_tokens: int = 80_000
    pool: int | None = None
    select: Select = "random"
    prune: Prune = "keep_tail"
    order: Literal["once", "per_sample", "given"] = "once"
    filtered: bool = False
    domain: Domain = "boxed"
    seed: int = 0
    context_tokens: int | None = None
    per_call: int | None = None
    concurrency: int = 16
    retries: int = 2
    timeout_s: float = 600.0
    budget_tokens: int | None = None
    backoff_s: float = 1.0

    def __post_init__(self) -> None:
        """Check the choices and ranges."""
        ranges.check_choices(self)
        ranges.check_counts(self, "width", "samples", "rounds", "cache_tokens", "pool")
        ranges.check_counts(self, "context_tokens", "per_call", "concurrency", "budget_tokens")
        ranges.check(self, "retries", "backoff_s", least=0)
        ranges.check(self, "timeout_s", above=0)
        ranges.check_seed(self)
        if self.pool is not None and self.pool < self.width:
            raise ValueError(f"pool must be at least width {self.width}, not {self.pool}")

    @property
    def limits(self) -> Limits:
        """The limits of calls."""
        names = [field.name for field in dataclasses.fields(Limits)]
        return Limits(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True)
class Sampling:
    """How texts are drawn; the defaults are those that are reported for HeavySkill.

    Attributes:
        temperature: of thinkers.
        top_p: of all.
        top_k: of all; models that have no such option ignore it.
        max_tokens: longest text of a thinker; a model in process ends earlier where its context
            does; None: what the model's provider takes.
        deliberation_temperature: of deliberations.
        deliberation_max_tokens: longest deliberation; None: as of thinkers.
    """

    temperature: float = 1.0
    top_p: float | None = 0.95
    top_k: int | None = 10
    max_tokens: int | None = 32_768
    deliberation_temperature: float = 0.7
    deliberation_max_tokens: int | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        ranges.check_counts(self, "top_k", "max_tokens", "deliberation_max_tokens")
        ranges.check(self, "temperature", "deliberation_temperature", least=0)
        ranges.check(self, "top_p", above=0, most=1)

    def config(self, stage: str) -> dict[str, Any]:
        """Temperature, top_p, top_k and max_tokens for a stage."""
        temperature, longest = self.temperature, self.max_tokens
        if stage in _DELIBERATIONS:
            temperature = self.deliberation_temperature
            longest = self.deliberation_max_tokens or longest
        return {
            "temperature": temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "max_tokens": longest,
        }
