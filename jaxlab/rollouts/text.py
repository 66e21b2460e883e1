"""A task as tokens: prompts and targets in, completions graded."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from jaxlab.data.tasks.types import Example, Grade, Split, Task
from jaxlab.interop.tokenizer import Tokenizer

# Tasks that generate examples without end are looked at as far as this.
MAX_CHECKED = 20_000


class TextTask:
    """A task seen through a tokenizer."""

    def __init__(
        self,
        task: Task,
        tokenizer: Tokenizer,
        *,
        chat: bool = False,
        max_prompt: int,
        long_prompts: Literal["error", "drop"] = "error",
    ):
        """Look at every prompt, so that one that does not fit ends the run before it begins.

        Args:
            task: makes and grades examples.
            tokenizer: encodes prompts, decodes completions.
            chat: prompts are one user message in the tokenizer's chat template.
            max_prompt: longest prompt in tokens.
            long_prompts: what is done with longer ones.

        Raises:
            ValueError: a prompt has more than `max_prompt` tokens (names the first), or a split
                is empty.
        """
        self.task, self.tokenizer = task, tokenizer
        self._chat, self._max_prompt = chat, max_prompt
        self._kept: Mapping[Split, Sequence[int]] = {
            split: self._fitting(split, long_prompts) for split in ("train", "test")
        }

    def num_examples(self, split: Split) -> int:
        """Examples of `split` that are used."""
        return len(self._kept[split])

    def prompt(self, i: int, split: Split) -> tuple[Example, list[int]]:
        """The i-th used example of `split` and its prompt's token ids.

        Raises:
            ValueError: the prompt has more than `max_prompt` tokens.
        """
        example = self.task.example(self._kept[split][i], split)
        ids = self.tokenizer.encode(self._render(example))
        if len(ids) > self._max_prompt:
            raise ValueError(self._too_long(split, self._kept[split][i], len(ids)))
        return example, ids

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

    def _render(self, example: Example) -> str:
        if not self._chat:
            return example.prompt
        return self.tokenizer.apply_chat_template([{"role": "user", "content": example.prompt}])

    def _fitting(self, split: Split, long_prompts: str) -> Sequence[int]:
        """Numbers of the examples whose prompts fit."""
        count = self.task.num_examples(split)
        if not count:
            raise ValueError(f"the {split} split has no examples")
        checked = min(count, MAX_CHECKED)
        texts = [self._render(self.task.example(i, split)) for i in range(checked)]
        lengths = np.array([len(ids) for ids in self.tokenizer.encode_batch(texts)])
        long = np.flatnonzero(lengths > self._max_prompt)
        if not long.size:
            return range(count)
        if long_prompts == "error":
            first = int(long[0])
            raise ValueError(
                f"{self._too_long(split, first, int(lengths[first]))} (and {long.size - 1} more; "
                f"the longest has {lengths.max()})"
            )
        kept = np.delete(np.arange(count), long)
        if not kept.size:
            raise ValueError(f"every prompt of {split} is longer than {self._max_prompt} tokens")
        return kept.tolist()

    def _too_long(self, split: Split, i: int, length: int) -> str:
        return (
            f"the prompt of {split} example {i} has {length} tokens, more than data.max_prompt = "
            f"{self._max_prompt}: raise it, or set data.long_prompts='drop'"
        )
