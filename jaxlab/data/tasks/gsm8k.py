"""Grade-school word problems (Cobbe et al., Training verifiers to solve math word problems, 2021).

Rows are {question, answer}; an answer is a worked solution with calculator marks such as
<<48/2=24>> and a last line "#### 72".
"""

from collections.abc import Sequence
from pathlib import Path

from jaxlab.data.sources import Jsonl
from jaxlab.data.tasks.types import Example, Grade, Split
from jaxlab.evals.graders import MathVerifier
from jaxlab.evals.math import grade, prompts, rows


class Gsm8k:
    """GSM8K from its two files. A context manager, since its grader may hold worker processes."""

    def __init__(
        self,
        train_path: str | Path,
        test_path: str | Path,
        *,
        prompt: str = prompts.TEMPLATES["gsm8k"],
        calculator: bool = False,
        verifier: MathVerifier | None = None,
    ):
        """Reads and checks both files.

        Args:
            train_path: train.jsonl.
            test_path: test.jsonl.
            prompt: a template with the field {question}; "{question}" for callers that apply a
                chat template.
            calculator: keep the <<...>> marks in the targets.
            verifier: the grader; one with a single worker by default.

        Raises:
            FileNotFoundError, ValueError: naming the file, the line and the cause.
        """
        self._sources = {"train": Jsonl(train_path), "test": Jsonl(test_path)}
        for source in self._sources.values():
            for i in range(len(source)):
                try:
                    rows.split_solution(source[i]["answer"])
                except ValueError as error:
                    raise ValueError(f"{source.where(i)}: {error}") from None
        self._prompt = prompt
        self._calculator = calculator
        self._verifier = verifier or MathVerifier()

    def num_examples(self, split: Split) -> int:
        """Rows of `split`."""
        return len(self._sources[split])

    def example(self, i: int, split: Split) -> Example:
        """Row `i` of `split`; the target is the reference solution down to '#### <answer>'."""
        row = self._sources[split][i]
        solution, answer = rows.split_solution(row["answer"])
        if not self._calculator:
            solution = rows.without_calculator(solution)
        return Example(
            prompt=self._prompt.format(question=row["question"].strip()),
            target=f"{solution}\n#### {answer}",
            answer=answer,
        )

    def grade(self, example: Example, text: str) -> Grade:
        """Reward 1 if the final answer of `text` is the example's; see `evals.math.grade`."""
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
