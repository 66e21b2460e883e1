"""A task as tokens: prompts and targets in, completions graded."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxlab.data.tasks.types import Example, Grade, Split, Task
from jaxlab.interop.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class TextTask:
    """A task seen through a tokenizer.

    Attributes:
        task: makes and grades examples.
        tokenizer: encodes prompts, decodes completions.
        chat: prompts are one user message in the tokenizer's chat template.
        max_prompt: longest prompt in tokens.
    """

    task: Task
    tokenizer: Tokenizer
    chat: bool
    max_prompt: int

    def prompt(self, i: int, split: Split) -> tuple[Example, list[int]]:
        """Example `i` and its prompt's token ids.

        Raises:
            ValueError: the prompt has more than `max_prompt` tokens.
        """
        example = self.task.example(i, split)
        text = example.prompt
        if self.chat:
            text = self.tokenizer.apply_chat_template([{"role": "user", "content": text}])
        ids = self.tokenizer.encode(text)
        if len(ids) > self.max_prompt:
            raise ValueError(
                f"the prompt of {split} example {i} has {len(ids)} tokens, more than "
                f"data.max_prompt = {self.max_prompt}: raise it or drop the row"
            )
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
        return [self.tokenizer.decode(row) for row in rows]

    def grade(
        self, examples: Sequence[Example], texts: Sequence[str], stopped: np.ndarray
    ) -> list[Grade]:
        """Grades of completions; one that was cut off before its end of sequence gets 0."""
        grades = self.task.grade_batch(examples, texts)
        return [
            grade if done else Grade(reward=0.0)
            for grade, done in zip(grades, stopped, strict=True)
        ]
