"""What a task gives and takes. Tasks share these types and the methods of `Task`, no base class."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Example:
    """One problem.

    Attributes:
        prompt: the text a model continues.
        target: a reference continuation without its end of sequence, where there is one.
        answer: the final answer, as the grader compares it.
    """

    prompt: str
    target: str | None
    answer: str


@dataclass(frozen=True)
class Grade:
    """The verdict on one text.

    Attributes:
        reward: 1.0 if the answer is right, else 0.0.
        solution: a key of the way in which a right text solves the problem, where the task can
            tell ways apart; it serves to count distinct solutions.
    """

    reward: float
    solution: str | None = None


class Task(Protocol):
    """The methods every task has."""

    def num_examples(self, split: Split) -> int:
        """Examples in `split`."""

    def example(self, i: int, split: Split) -> Example:
        """Example `i` of `split`, a pure function of its arguments.

        A task that reads no file has one of any number, also beyond `num_examples`.
        """

    def grade_batch(self, examples: Sequence[Example], texts: Sequence[str]) -> list[Grade]:
        """Grades the text (without special tokens) written for each example."""
