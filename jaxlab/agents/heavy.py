"""HeavySkill: several thinkers in parallel, then deliberation over what they wrote.

HeavySkill (arXiv 2605.02396), section 2: thinkers y_1..y_K are independent, their texts pruned to
a budget are the cache, and K1 deliberations z_1..z_K1 read it; at depth N the deliberations of a
round join the context of the next. No weights and no jax: what generates text is handed in, and may
be one model or two.

    result = await heavy.think(question, generate, heavy.Heavy(width=8, samples=4))
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxlab.agents import heavy_cache
from jaxlab.agents.heavy_cache import Attempt, Tokenizer, Tokens
from jaxlab.agents.heavy_calls import Caller, Generate, Progress, together
from jaxlab.agents.heavy_context import Context
from jaxlab.agents.heavy_journal import Completion, Journal, completion
from jaxlab.agents.heavy_options import Heavy
from jaxlab.agents.heavy_prompts import Plain, Prompts

__all__ = ["Completion", "Generate", "Heavy", "Journal", "Progress", "Result", "think"]


@dataclass(frozen=True)
class Result:
    """What came of a question.

    Attributes:
        answer: the most frequent one of the last round that gave any, of tied ones the first; None
            where deliberations ended without one that can be told; the thinkers' where none did.
        text: the first text that gives the answer; a deliberation where there is no answer.
        thinkers: the texts that came, in order; of a pool all.
        deliberations: [round][sample].
        manifest: what happened: see docs/heavy.md.
    """

    answer: str | None
    text: str
    thinkers: list[str]
    deliberations: list[list[str]]
    manifest: dict[str, Any]


async def think(
    question: str,
    generate: Generate,
    options: Heavy = Heavy(),  # noqa: B008
    tokenizer: Tokenizer | None = None,
    *,
    deliberator: Generate | None = None,
    thinkers: Sequence[str] | None = None,
    prompts: Prompts | None = None,
    journal: Journal | None = None,
    progress: Callable[[Progress], None] | None = None,
    fatal: tuple[type[Exception], ...] = (),
) -> Result:
    """Think in parallel, deliberate, and say what happened.

    Calls that fail cost their own texts alone: the result is made of those that came.

    Args:
        question: as the thinkers read it.
        generate: writes thinkers' texts, stage "think".
        options: see `Heavy`.
        tokenizer: of the deliberator, counts tokens; None: UTF-8 bytes / 4.
        deliberator: writes deliberations, stage "deliberate"; None: `generate`.
        thinkers: texts that there are already, instead of asking for any.
        prompts: None: `heavy_prompts.Plain` of the domain.
        journal: keeps texts, so that a run that was killed goes on.
        progress: is told of every call.
        fatal: errors of a generator that end everything.

    Raises:
        ValueError: the question is empty or alone too long, or the attempts' marks do not fit.
    """
    if not question.strip():
        raise ValueError("the question is empty: there is nothing to think about")
    if thinkers is not None and not thinkers:
        raise ValueError("thinkers: there is no text to deliberate over")
    tokens = Tokens(tokenizer)
    context = Context(question, options, prompts or Plain(options.domain), tokens)
    context.check_length()
    caller = Caller(options.limits, tokens, options.seed, journal, progress, fatal)
    begun = time.monotonic()
    if thinkers is None:
        asked = context.prompts.thinking(question)
        came = await caller.ask(generate, asked, options.pool or options.width, "think")
    else:
        came = [completion(text) for text in thinkers]
    numbered = {number: text for number, text in enumerate(came, start=1) if text is not None}
    attempts, manifest = context.choose(numbered)
    manifest |= {"seed": options.seed, "wanted": len(came), "missing": len(came) - len(numbered)}
    rounds: list[list[str]] = []
    for number in range(1, options.rounds + 1):
        if not attempts:
            break
        texts, account = await _deliberate(
            context, attempts, deliberator or generate, caller, number
        )
        manifest["rounds"].append(account)
        if not texts:
            break
        rounds.append(list(texts))
        attempts = attempts + [
            Attempt(f"Expert of round {number}", i, text)
            for i, text in enumerate(texts, start=1)
            if text.strip()
        ]
    answer, text, decided = _decide(rounds, list(numbered.values()), context.prompts)
    manifest |= decided | {
        "calls": {stage: dict(account) for stage, account in caller.account.items()},
        "tokens": caller.spent,
        "seconds": time.monotonic() - begun,
    }
    return Result(answer, text, list(numbered.values()), rounds, manifest)


async def _deliberate(
    context: Context, attempts: list[Attempt], generate: Generate, caller: Caller, number: int
) -> tuple[list[Completion], dict[str, Any]]:
    """The deliberations of a round that came, and an account of what they read."""
    options = context.options
    first = (number - 1) * options.samples
    prompts = []
    for sample in range(options.samples if options.order == "per_sample" else 1):
        mine = list(attempts)
        if options.order == "per_sample":
            random.Random(f"{options.seed} {first + sample}").shuffle(mine)
        prompts.append(context.prompt(mine))
    samples = options.samples // len(prompts)
    asked = [
        caller.ask(generate, prompt, samples, "deliberate", number, first + i)
        for i, (prompt, _) in enumerate(prompts)
    ]
    came = [text for texts in await together(asked) for text in texts]
    texts = [text for text in came if text is not None]
    caches = [cache for _, cache in prompts]
    written = [
        {
            "answer": context.prompts.answer(text),
            "tokens": text.tokens,
            "finished": text.finished,
            "empty": not text.strip(),
        }
        for text in texts
    ]
    return texts, {"caches": caches, "samples": written, "missing": len(came) - len(texts)}


def _decide(
    rounds: Sequence[Sequence[str]], thinkers: Sequence[str], prompts: Prompts
) -> tuple[str | None, str, dict[str, Any]]:
    """Answer, the text that gives it, and where it comes from."""
    for number, texts in sorted(enumerate(rounds, start=1), reverse=True):
        found = [prompts.answer(text) for text in texts]
        answer, tied = heavy_cache.vote(found)
        if answer is not None:
            text = texts[found.index(answer)]
            return answer, text, {"answer_from": "deliberation", "round": number, "tied": tied}
    for number, texts in sorted(enumerate(rounds, start=1), reverse=True):
        for text in texts:
            if text.strip() and getattr(text, "finished", True):
                return None, text, {"answer_from": "deliberation", "round": number, "tied": False}
    found = [prompts.answer(text) for text in thinkers]
    answer, tied = heavy_cache.vote(found)
    if answer is None:
        return None, "", {"answer_from": "none", "round": 0, "tied": False}
    return answer, thinkers[found.index(answer)], {"answer_from": "vote", "round": 0, "tied": tied}
