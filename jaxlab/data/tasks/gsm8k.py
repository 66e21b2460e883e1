"""Grade-school word problems (Cobbe et al., Training verifiers to solve math word problems, 2021).

Rows are {question, answer}; an answer is a worked solution with calculator marks such as
<<48/2=24>> and a last line "#### 72".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxlab.data import sources
from jaxlab.data.tasks.types import Example, Grade, Split
from jaxlab.grading import prompts as prompt_template
from jaxlab.grading.graders import MathVerifier
from jaxlab.grading.math import grade, prompts, rows

FIELDS = ("question", "answer")


@dataclass(frozen=True)
class Options:
    """What a config may choose.

    Attributes:
        prompt: a template, see `grading.prompts`; "{question}" for callers that apply a chat
            template.
        calculator: keep the <<...>> marks in the targets.
    """

    prompt: str = prompts.TEMPLATES["gsm8k"]
    calculator: bool = False

    def __post_init__(self) -> None:
        """Check that the prompt has a place for the question."""
        prompt_template.check(self.prompt)


class Gsm8k:
    """GSM8K from its two files. A context manager, since its grader may hold worker processes."""

    def __init__(
        self,
        train_path: str | Path,
        test_path: str | Path,
        *,
        prompt: str = Options.prompt,
        calculator: bool = Options.calculator,
        verifier: MathVerifier | None = None,
    ):
        """Reads and checks both files.

        Args:
            train_path: train.jsonl, or "tfds:gsm8k/train"; see `sources.read`.
            test_path: test.jsonl.
            prompt: as in `Options`, as is the next.
            calculator: whether targets keep their marks.
            verifier: the grader; one with a single worker by default.

        Raises:
            ValueError: the prompt has no {question}.
            FileNotFoundError, ValueError: naming the file, the line and the cause.
        """
        self._options = Options(prompt, calculator)
        paths: dict[Split, str | Path] = {"train": train_path, "test": test_path}
        self._sources = {split: sources.read(path, FIELDS) for split, path in paths.items()}
        for source in self._sources.values():
            for i in range(len(source)):
                try:
                    rows.split_solution(source[i]["answer"])
                except ValueError as error:
                    raise ValueError(f"{source.where(i)}: {error}") from None
        self._verifier = verifier or MathVerifier()

    def num_examples(self, split: Split) -> int:
        """Rows of `split`."""
        return len(self._sources[split])

    def example(self, i: int, split: Split) -> Example:
        """Row `i` of `split`; the target is the reference solution down to '#### <answer>'."""
        row = self._sources[split][i]
        solution, answer = rows.split_solution(row["answer"])
        if not self._options.calculator:
            solution = rows.without_calculator(solution)
        return Example(
            prompt=prompt_template.fill(self._options.prompt, row["question"].strip()),
            target=f"{solution}\n#### {answer}",
            answer=answer,
        )

    def grade(self, example: Example, text: str) -> Grade:
        """Reward 1 if the final answer of `text` is the example's; see `grading.math.grade`."""
        return self.grade_batch([example], [text])[0]

    def grade_batch(self, examples: Sequence[Example], texts: Sequence[str]) -> list[Grade]:
        """`grade` of each pair, in one call to the grader. `solution` is always None."""
        golds = [example.answer for example in examples]
        verdicts = grade.grade(self._verifier, golds, texts)
        return [Grade(reward=float(verdict.correct)) for verdict in verdicts]

    def close(self) -> None:
        """Ends the grader's workers."""
        self._verifier.close()

    def __enter__(self) -> "Gsm8k":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read(options: Options, train: str, test: str) -> Gsm8k:
    """GSM8K from its two files with these options."""
    return Gsm8k(train, test, **vars(options))
