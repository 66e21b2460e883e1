"""What deliberators read of a question's attempts: which, in which order, within which room."""

import random
from dataclasses import dataclass
from typing import Any

from jaxlab.agents import heavy_cache
from jaxlab.agents.heavy_cache import Attempt, Tokens, repetitive
from jaxlab.agents.heavy_journal import Completion
from jaxlab.agents.heavy_options import Heavy
from jaxlab.agents.heavy_prompts import Prompts


@dataclass(frozen=True)
class Context:
    """A question with all that decides how its attempts are read."""

    question: str
    options: Heavy
    prompts: Prompts
    tokens: Tokens

    def check_length(self) -> None:
        """Refuse a question that leaves no room in the model's context."""
        limit = self.options.context_tokens
        if limit is not None and self._frame >= limit:
            raise ValueError(
                f"the prompt without an attempt has {self._frame} {self.tokens.unit}, and the "
                f"model reads {limit} at most: shorten the question, or take another model"
            )

    def choose(self, texts: dict[int, Completion]) -> tuple[list[Attempt], dict[str, Any]]:
        """The thinkers that are read, in their order, and an account of all."""
        options = self.options
        found = {number: self.prompts.answer(text) for number, text in texts.items()}
        usable = [number for number, text in texts.items() if text.strip()]
        good = [n for n in usable if texts[n].finished and not repetitive(texts[n])]
        if options.filtered and good:
            usable = good
        rng = random.Random(options.seed)
        picked = heavy_cache.select(
            [texts[n] for n in usable],
            [found[n] for n in usable],
            options.width,
            options.select,
            rng,
        )
        order = sorted(usable[i] for i in picked)
        if options.order != "given":
            rng.shuffle(order)
        rows = [
            {
                "number": number,
                "tokens": self.tokens.count(text) if text.tokens is None else text.tokens,
                "answer": found[number],
                "finished": text.finished,
                "repetitive": repetitive(text),
                "empty": not text.strip(),
                "read": number in order,
            }
            for number, text in texts.items()
        ]
        manifest: dict[str, Any] = {
            "unit": self.tokens.unit,
            "thinkers": rows,
            "order": order,
            "distinct_texts": len({str(texts[n]) for n in order}),
            "distinct_answers": len({found[n] for n in order} - {None}),
            "all_filtered": options.filtered and not good,
            "rounds": [],
        }
        return [Attempt("Thinker", n, texts[n]) for n in order], manifest

    def prompt(self, attempts: list[Attempt]) -> tuple[str, dict[str, Any]]:
        """The prompt over the attempts, within the model's context, and an account of the cache."""
        limit, room = self.options.context_tokens, self.options.cache_tokens
        if limit is not None:
            room = min(room, limit - self._frame)
        while True:
            rule = self.options.prune
            blocks, cache = heavy_cache.build(attempts, self.prompts, self.tokens, rule, room)
            prompt = self.prompts.deliberation(self.question, blocks)
            cache["prompt_tokens"] = self.tokens.count(prompt)
            excess = 0 if limit is None else cache["prompt_tokens"] - limit
            if excess <= 0 or rule == "released":
                return prompt, cache
            room -= excess  # tokens failed to merge across borders

    @property
    def _frame(self) -> int:
        """Tokens of the prompt without an attempt."""
        return self.tokens.count(self.prompts.deliberation(self.question, []))
