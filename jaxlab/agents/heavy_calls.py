"""Asking a model for several texts: at most so many at once, again where it fails, kept on disk."""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from jaxlab.agents import heavy_journal
from jaxlab.agents.heavy_cache import Tokens
from jaxlab.agents.heavy_journal import Completion, Journal
from jaxlab.grading.rows import sample_seed

T = TypeVar("T")


class Generate(Protocol):
    """A generator of texts; `stage` says for what, so that sampling may differ."""

    async def __call__(self, prompt: str, *, samples: int, seed: int, stage: str) -> list[str]:
        """`samples` texts for the prompt; `Completion`s where more is known of them."""


@dataclass(frozen=True)
class Progress:
    """State of a run, told after every call.

    Attributes:
        stage: "think", "deliberate" or a control's name.
        round: from 1.
        done: texts of the stage and round that there are.
        wanted: how many there are to be.
        tokens: read and generated so far, by all stages.
        seconds: since the beginning.
        error: of a call that failed, in one line.
    """

    stage: str
    round: int
    done: int
    wanted: int
    tokens: int
    seconds: float
    error: str | None = None


@dataclass(frozen=True)
class Limits:
    """Limits of the calls of a model.

    Attributes:
        per_call: texts asked for in one call; None: all of a prompt, which a sampler that shares
            prompts reads once.
        concurrency: most calls under way.
        retries: further attempts at a call that fails or takes too long.
        timeout_s: seconds for one call.
        budget_tokens: no call begins that would read beyond so many tokens, counting those read and
            generated before; None: no limit.
        backoff_s: seconds before the first retry; they double with each.
    """

    per_call: int | None = None
    concurrency: int = 16
    retries: int = 2
    timeout_s: float = 600.0
    budget_tokens: int | None = None
    backoff_s: float = 1.0


async def together(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results; an error of one ends the others too."""
    tasks = [asyncio.create_task(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


class Caller:
    """Asks generators under one set of limits, and keeps the account of what it cost."""

    def __init__(
        self,
        limits: Limits,
        tokens: Tokens,
        seed: int,
        journal: Journal | None = None,
        progress: Callable[[Progress], None] | None = None,
        fatal: tuple[type[Exception], ...] = (),
    ):
        """Begin the account.

        Args:
            limits: of all calls together.
            tokens: counts where a generator does not say.
            seed: of everything.
            journal: keeps texts.
            progress: is told of every call.
            fatal: errors that end everything instead of one call.
        """
        self._limits, self._tokens, self._seed = limits, tokens, seed
        self._journal, self._progress, self._fatal = journal, progress, fatal
        self._slots = asyncio.Semaphore(limits.concurrency)
        self._begun = time.monotonic()
        self._under_way = 0
        self.account: dict[str, dict[str, Any]] = defaultdict(
            lambda: {
                "calls": 0,
                "from_journal": 0,
                "prompt_tokens": 0,
                "tokens": 0,
                "seconds": 0.0,
                "missing": 0,
                "errors": [],
            }
        )

    @property
    def spent(self) -> int:
        """Tokens read and generated so far."""
        return sum(one["prompt_tokens"] + one["tokens"] for one in self.account.values())

    async def ask(
        self,
        generate: Generate,
        prompt: str,
        samples: int,
        stage: str,
        round_: int = 1,
        first: int = 0,
    ) -> list[Completion | None]:
        """`samples` texts for the prompt, None for each that could not be had.

        Args:
            generate: is asked.
            prompt: for all.
            samples: how many.
            stage: passed on.
            round_: for progress.
            first: number of the first text, of which its seed is made.
        """
        account = self.account[stage]
        seeds = [sample_seed(self._seed, stage, first + i) for i in range(samples)]
        keys = [heavy_journal.key(stage, prompt, seed) for seed in seeds]
        found: list[Completion | None] = [
            self._journal.get(key) if self._journal else None for key in keys
        ]
        for text in found:
            if text is not None:
                account["from_journal"] += 1
                account["tokens"] += text.tokens or 0
                account["prompt_tokens"] += text.prompt_tokens or 0
        missing = [i for i, text in enumerate(found) if text is None]
        size = self._limits.per_call or max(1, len(missing))
        chunks = [missing[begin : begin + size] for begin in range(0, len(missing), size)]

        async def one(chunk: list[int]) -> None:
            async with self._slots:
                await self._fill(generate, prompt, stage, round_, chunk, seeds, keys, found)

        await together(one(chunk) for chunk in chunks)
        account["missing"] += sum(text is None for text in found)
        return found

    async def _fill(
        self,
        generate: Generate,
        prompt: str,
        stage: str,
        round_: int,
        chunk: list[int],
        seeds: Sequence[int],
        keys: Sequence[str],
        found: list[Completion | None],
    ) -> None:
        """Fill the places of `chunk`, or leave None where it cannot be done."""
        account, limits = self.account[stage], self._limits
        length = self._tokens.count(prompt)
        for attempt in range(limits.retries + 1):
            wanted = [i for i in chunk if found[i] is None]
            if not wanted:
                return
            budget = limits.budget_tokens
            if budget is not None and self.spent + self._under_way + length > budget:
                self._tell(stage, round_, found, f"the budget of {budget} tokens is spent")
                return
            begun, error = time.monotonic(), None
            self._under_way += length
            try:
                texts = await asyncio.wait_for(
                    generate(prompt, samples=len(wanted), seed=seeds[wanted[0]], stage=stage),
                    limits.timeout_s,
                )
            except self._fatal:
                raise
            except TimeoutError:
                texts, error = [], f"no reply within {limits.timeout_s:g} s"
            except Exception as raised:  # endpoints raise what they like
                texts, error = [], " ".join(f"{type(raised).__name__}: {raised}".split())[:300]
            finally:
                self._under_way -= length
            account["calls"] += 1
            account["seconds"] += time.monotonic() - begun
            for j, (i, text) in enumerate(zip(wanted, texts, strict=False)):
                known = self._counted(text, length if j == 0 else 0)
                account["tokens"] += known.tokens or 0
                account["prompt_tokens"] += known.prompt_tokens or 0
                found[i] = known
                if self._journal:
                    self._journal.put(keys[i], known)
            if error is None and len(texts) != len(wanted):
                error = f"{len(texts)} texts came for {len(wanted)}"
            self._tell(stage, round_, found, error)
            if error is not None and attempt < limits.retries and None in found:
                await asyncio.sleep(limits.backoff_s * 2**attempt)

    def _counted(self, text: str, prompt_tokens: int) -> Completion:
        known = heavy_journal.completion(text)
        tokens = self._tokens.count(text) if known.tokens is None else known.tokens
        read = prompt_tokens if known.prompt_tokens is None else known.prompt_tokens
        return Completion(str(known), known.finished, tokens, read, known.logprob)

    def _tell(
        self, stage: str, round_: int, found: Sequence[Completion | None], error: str | None
    ) -> None:
        if error is not None:
            self.account[stage]["errors"].append(error)
        if self._progress is not None:
            done, seconds = sum(t is not None for t in found), time.monotonic() - self._begun
            told = Progress(stage, round_, done, len(found), self.spent, seconds, error)
            with contextlib.suppress(BrokenPipeError):
                self._progress(told)
