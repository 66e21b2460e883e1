"""Control runs: without the attempts' reasoning, without attempts, alone for as many tokens.

HeavySkill's gain may be reading, re-solving, or more tokens. Each control takes one of these away.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxlab.agents import heavy
from jaxlab.agents.heavy import Generate, Heavy, Journal, Progress, Result
from jaxlab.agents.heavy_cache import Tokenizer, Tokens
from jaxlab.agents.heavy_calls import Caller
from jaxlab.agents.heavy_journal import Completion
from jaxlab.agents.heavy_prompts import Plain, Prompts

NAMES = ("answers_only", "no_thinkers", "long_thought")


async def run(
    question: str,
    result: Result,
    generate: Generate,
    options: Heavy,
    tokenizer: Tokenizer | None = None,
    *,
    deliberator: Generate | None = None,
    prompts: Prompts | None = None,
    journal: Journal | None = None,
    progress: Callable[[Progress], None] | None = None,
    fatal: tuple[type[Exception], ...] = (),
) -> tuple[dict[str, list[Completion]], dict[str, Any]]:
    """The controls' texts by name, and the accounts of their calls.

    "answers_only": K1 deliberations over the same thinkers' answers. "no_thinkers": K1 answers of
    the deliberator that reads the question alone. "long_thought": one thinker who is asked to think
    on until as many tokens are generated as thinkers and deliberations have; it may need fewer
    where it returns nothing, and its `tokens` say how many they were. `budget_tokens` holds anew.

    Args:
        question: as in `heavy.think`, as are the others.
        result: of `heavy.think`.
        generate: thinks long.
        options: of the result.
        tokenizer: counts.
        deliberator: answers the other two; None: `generate`.
        prompts: as in `heavy.think`.
        journal: keeps texts.
        progress: is told of every call.
        fatal: errors that end everything.
    """
    prompts = prompts or Plain(options.domain)
    judge = deliberator or generate
    tokens = Tokens(tokenizer)
    caller = Caller(options.limits, tokens, options.seed, journal, progress, fatal)
    texts: dict[str, list[Completion]] = {name: [] for name in NAMES}
    accounts: dict[str, Any] = {}
    if result.thinkers:
        only = await heavy.think(
            question,
            generate,
            dataclasses.replace(options, prune="answer_only", rounds=1),
            tokenizer,
            deliberator=judge,
            thinkers=result.thinkers,
            prompts=prompts,
            journal=journal,
            progress=progress,
            fatal=fatal,
        )
        texts["answers_only"] = [_known(text) for round_ in only.deliberations for text in round_]
        accounts["answers_only"] = only.manifest["calls"].get("deliberate", {})
    alone = await caller.ask(judge, prompts.thinking(question), options.samples, "no_thinkers")
    texts["no_thinkers"] = [text for text in alone if text is not None]
    written = [*result.thinkers, *(text for round_ in result.deliberations for text in round_)]
    goal = sum(_size(text, tokens) for text in written)
    long = await _long(question, generate, prompts, tokens, caller, options, goal)
    texts["long_thought"] = [long] if long is not None else []
    return texts, accounts | caller.account


async def _long(
    question: str,
    generate: Generate,
    prompts: Prompts,
    tokens: Tokens,
    caller: Caller,
    options: Heavy,
    goal: int,
) -> Completion | None:
    """The last text with an answer of a thinker who thinks on, with the tokens of all its texts."""
    room = options.cache_tokens
    if options.context_tokens is not None:
        frame = tokens.count(prompts.continuation(question, ""))
        room = min(room, options.context_tokens - frame)
    thought, used = "", 0
    found: list[Completion] = []
    # A model that is done in a few tokens is not asked more often than the workflow was.
    for step in range(options.samples * options.rounds + (options.pool or options.width)):
        asked = prompts.continuation(question, thought) if thought else prompts.thinking(question)
        (text,) = await caller.ask(generate, asked, 1, "long_thought", first=step)
        if text is None or not text.strip():
            break
        found.append(text)
        used += _size(text, tokens)
        if used >= goal or room <= 0:
            break
        thought = tokens.tail(f"{thought}\n{text}".strip(), room)
    if not found:
        return None
    last = next((t for t in reversed(found) if prompts.answer(t) is not None), found[-1])
    return Completion(str(last), last.finished, used, None, last.logprob)


def _known(text: str) -> Completion:
    return text if isinstance(text, Completion) else Completion(text)


def _size(text: str, tokens: Tokens) -> int:
    known = getattr(text, "tokens", None)
    return tokens.count(text) if known is None else known
