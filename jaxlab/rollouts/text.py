"""A task as tokens: prompts and targets in, completions graded."""

import logging
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from jaxlab.config import ConfigError
from jaxlab.data import settings
from jaxlab.data.tasks.types import Example, Grade, Split, Task
from jaxlab.rollouts import cached
from jaxlab.text.tokenizer import Tokenizer

# Of a task that generates its examples so many are looked at before a run begins.
MAX_CHECKED = 2_000
MAX_CHECKED_DELIBERATIONS = 32

# So many examples in a row that do not fit mean that hardly any will.
MAX_LONG = 1000

# Prompts that are encoded together.
_ENCODED = 8192

logger = logging.getLogger(__name__)


class LongPromptError(ValueError):
    """A generated prompt is too long, and none among those looked at before the run was."""


class TextTask:
    """A task seen through a tokenizer."""

    def __init__(
        self,
        task: Task,
        tokenizer: Tokenizer,
        *,
        chat: bool = False,
        max_prompt: int,
        max_length: int | None = None,
        long_prompts: Literal["error", "drop"] = "error",
        generated: bool = False,
        checked: int | None = None,
    ):
        """Look at the prompts, so that one that does not fit ends the run before it begins.

        All rows of files are looked at; of a task that generates its examples the first
        `checked`, and every later one when it is used.

        Args:
            task: makes and grades examples.
            tokenizer: encodes prompts, decodes completions.
            chat: prompts are one user message in the tokenizer's chat template.
            max_prompt: longest prompt in tokens.
            max_length: most tokens of a training prompt and its target, of which the target has at
                least one; None: no such limit.
            long_prompts: what is done with longer prompts. "drop" leaves rows of a file out;
                generated examples are replaced, each by one that is a function of its number.
            generated: whether the task makes its examples, of any number, instead of reading them.
            checked: how many of those it makes are looked at; None: `MAX_CHECKED`.

        Raises:
            ValueError: with "error" a prompt is too long (names the first); a prompt has no token;
                or nothing is left of a split.
        """
        self.task, self.tokenizer = task, tokenizer
        self._checked = MAX_CHECKED if checked is None else checked
        self._chat, self._drop, self._generated = chat, long_prompts == "drop", generated
        self._limits: dict[Split, tuple[int, str]] = dict.fromkeys(
            ("train", "test"), (max_prompt, f"data.max_prompt = {max_prompt}")
        )
        if max_length is not None and max_length <= max_prompt:
            # The last token that fits is the target's.
            self._limits["train"] = (max_length - 1, f"max_length = {max_length} leaves room for")
        self._kept: Mapping[Split, Sequence[int]] = {
            split: self._fitting(split) for split in ("train", "test")
        }

    def num_examples(self, split: Split) -> int:
        """Examples of `split` that are used."""
        return len(self._kept[split])

    def prompt(self, i: int, split: Split) -> tuple[Example, list[int]]:
        """The i-th used example of `split` and its prompt's token ids, a function of both.

        Raises:
            LongPromptError: a generated prompt is too long, or with "drop" hardly any fits.
        """
        _, example, ids = self.numbered(i, split)
        return example, ids

    def numbered(self, i: int, split: Split) -> tuple[int, Example, list[int]]:
        """The example's number in the task, and what `prompt` gives; it raises the same."""
        number, count = self._kept[split][i], self.task.num_examples(split)
        tries = MAX_LONG if self._drop and self._generated else 1
        for again in range(tries):
            # A task that generates has an example of any number.
            example = self.task.example(number + again * count, split)
            ids = self.tokenizer.encode_prompt(self.render(example.prompt))
            if len(ids) <= self._limits[split][0]:
                return number + again * count, example, ids
        raise LongPromptError(self._too_long(split, number, len(ids)))

    def target(self, example: Example) -> list[int]:
        """Token ids of the reference completion with its end of sequence.

        Raises:
            ValueError: the example has none.
        """
        if example.target is None:
            raise ValueError("the task has no reference completions to train on")
        return [*self.tokenizer.encode(example.target), self.tokenizer.eos_id]

    def texts(self, response: np.ndarray, mask: np.ndarray) -> list[str]:
        """Completions int [B, N] where mask bool [B, N] counts, as text without special tokens."""
        rows = [row[counts].tolist() for row, counts in zip(response, mask, strict=True)]
        return self.tokenizer.decode_batch(rows)

    def grade(
        self, examples: Sequence[Example], texts: Sequence[str], stopped: np.ndarray
    ) -> list[Grade]:
        """Grades of completions; one that was cut off before its end of sequence gets 0."""
        grades = self.task.grade_batch(examples, texts)
        return [
            grade if done else Grade(reward=0.0)
            for grade, done in zip(grades, stopped, strict=True)
        ]

    def measures(self, examples: Sequence[Example]) -> dict[str, float]:
        """What the task itself measures of a step's examples, for metrics; often nothing."""
        measured = getattr(self.task, "measures", None)
        return {} if measured is None else dict(measured(examples))

    def render(self, prompt: str) -> str:
        """The prompt as the model reads it, in the chat template where there is one."""
        return _rendered(self.tokenizer, prompt, self._chat)

    def _fitting(self, split: Split) -> Sequence[int]:
        """Numbers of the examples that are used: of a file's rows those whose prompts fit."""
        count = self.task.num_examples(split)
        if not count:
            raise ValueError(f"the {split} split has no examples")
        lengths = self._lengths(min(count, self._checked) if self._generated else count, split)
        if not lengths.all():
            first = int(np.argmin(lengths))
            raise ValueError(f"the prompt of {split} example {first} has no token to begin with")
        long = np.flatnonzero(lengths > self._limits[split][0])
        if not long.size:
            return range(count)
        if not self._drop:
            first = int(long[0])
            raise ValueError(
                f"{self._too_long(split, first, int(lengths[first]))} (and {long.size - 1} more; "
                f"the longest has {lengths.max()})"
            )
        if long.size == lengths.size:
            raise ValueError(
                f"every prompt of {split} has more tokens than {self._limits[split][1]}: raise it"
            )
        logger.warning(
            "%d of %d prompts of %s have more tokens than %s and are %s",
            *(long.size, lengths.size, split, self._limits[split][1]),
            "replaced by others" if self._generated else "left out",
        )
        return range(count) if self._generated else np.delete(np.arange(count), long).tolist()

    def _lengths(self, count: int, split: Split) -> np.ndarray:
        """Tokens of the first `count` prompts, int64 [count]."""
        lengths: list[int] = []
        for begin in range(0, count, _ENCODED):
            numbers = range(begin, min(begin + _ENCODED, count))
            texts = [self.render(self.task.example(i, split).prompt) for i in numbers]
            lengths += [len(ids) for ids in self.tokenizer.encode_prompts(texts)]
        return np.array(lengths)

    def _too_long(self, split: Split, i: int, length: int) -> str:
        return (
            f"the prompt of {split} example {i} has {length} tokens, more than "
            f"{self._limits[split][1]}: raise it, or set data.long_prompts='drop'"
        )


def text_task(
    data: settings.Data,
    tok: Tokenizer,
    max_length: int | None = None,
    thinkers: cached.Thinkers | None = None,
) -> TextTask:
    """The task seen through the tokenizer.

    Args:
        data: names the task.
        tok: of the model.
        max_length: that of `TextTask`.
        thinkers: cached texts that the prompts are to hold; None: the task's own prompts.

    Raises:
        ConfigError: the tokenizer names no end of sequence, or the thinkers do not fit the task.
        FileNotFoundError, ValueError: a file is absent or malformed, or a prompt is too long.
    """
    if not tok.eos_ids:
        raise ConfigError(
            f"data.tokenizer: {tok.name} names no end-of-sequence token, so no completion would end"
        )
    task, generated = settings.task(data), data.train is None
    if thinkers is not None:
        room = data.max_prompt if max_length is None else min(data.max_prompt, max_length - 1)
        room -= len(tok.encode_prompt(_rendered(tok, "", data.chat)))
        prompts = cached.prompts_of(data.task)
        task, generated = cached.CachedTask(task, prompts, thinkers, tok, room), True
    return TextTask(
        task,
        tok,
        chat=data.chat,
        max_prompt=data.max_prompt,
        max_length=max_length,
        generated=generated,
        # Deliberations are long, and cut to their room.
        checked=MAX_CHECKED if thinkers is None else MAX_CHECKED_DELIBERATIONS,
        long_prompts=data.long_prompts,
    )


def _rendered(tok: Tokenizer, prompt: str, chat: bool) -> str:
    if not chat:
        return prompt
    return tok.apply_chat_template([{"role": "user", "content": prompt}])
