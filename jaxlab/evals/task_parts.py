"""What the benchmarks' tasks for inspect_ai share: rows as samples, verdicts as scores."""

import threading
from collections.abc import Callable

import anyio.to_thread
from inspect_ai import Task, task_with
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, solver

from jaxlab.evals.grader_errors import accounted
from jaxlab.evals.options import Asked
from jaxlab.grading.graders import MathVerifier, Verdict
from jaxlab.grading.rows import Panel, Row, sample_seed

# Fields of a row that travel in a sample's metadata, beside the row's own.
_OF_ROW = ("question", "cluster")
# What solvers write there, see `harness.graded_samples`.
_OF_USAGE = ("input_tokens", "output_tokens")


def benchmark(
    panel: Panel, prompt: Callable[[Row], str], scoring: Scorer, samples: int = 1, seed: int = 0
) -> Task:
    """The task over a panel; its metadata name the panel and what was left out of it.

    For files of the user's own.

    Args:
        panel: rows.
        prompt: the text that the model reads for a row.
        scoring: grades a completion; `by_rule` makes one of a function.
        samples: completions per row.
        seed: see `options.Asked`.

    Raises:
        ValueError: a row's meta has a name that is ours.
    """
    return task_with(
        ask_rows(panel, prompt, Asked("", samples, seed=seed)), scorer=accounted(scoring)
    )


def ask_rows(panel: Panel, prompt: Callable[[Row], str], asked: Asked) -> Task:
    """The task without a scorer; arguments and errors as in `benchmark`."""
    taken = {name for row in panel.rows for name in row.meta} & {*_OF_ROW, *_OF_USAGE}
    if taken:
        raise ValueError(f"meta of a row cannot have the name {min(taken)!r}: call it otherwise")
    dataset = MemoryDataset(
        [
            Sample(
                input=prompt(row),
                target=row.answer,
                id=row.id,
                metadata={**row.meta, "cluster": row.cluster, "question": row.question},
            )
            for row in panel.rows
        ]
    )
    rejected = [f"{bad.where}: {bad.cause}" for bad in panel.rejected]
    return Task(
        dataset=dataset,
        solver=ask(asked.seed),
        epochs=asked.samples,
        metadata={"panel": panel.digest, "rejected": rejected},
    )


@solver
def ask(seed: int) -> Solver:
    """One answer to the prompt, with a seed that depends on row and sample alone."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        return await generate(state, seed=sample_seed(seed, str(state.sample_id), state.epoch))

    return solve


@scorer(metrics=[mean(), stderr(cluster="cluster")])
def by_rule(grade: Callable[[Row, str], Verdict], name: str = "rule") -> Scorer:
    """A function of row and completion as a scorer; `name` is the grader's in the report."""

    async def score(state: TaskState, target: Target) -> Score:
        meta = {key: value for key, value in state.metadata.items() if key not in _OF_ROW}
        question, cluster = (state.metadata[key] for key in _OF_ROW)
        row = Row(str(state.sample_id), question, target.text, cluster, meta)
        return score_of(grade(row, state.output.completion), name)

    return score


class Verifying:
    """One verifier for all samples of a task, which is to be called from one thread at a time."""

    def __init__(self) -> None:
        self._verifier = MathVerifier()
        self._lock = threading.Lock()

    async def __call__(self, grade: Callable[[MathVerifier], list[Verdict]]) -> list[Verdict]:
        """The verdicts that `grade` gives with the verifier, from a thread of their own."""

        def locked() -> list[Verdict]:
            with self._lock:
                return grade(self._verifier)

        return await anyio.to_thread.run_sync(locked)


def was_cut(state: TaskState) -> bool:
    """Whether the completion ended by its length."""
    return state.output.stop_reason in ("max_tokens", "model_length")


def score_of(verdict: Verdict, grader: str, explanation: str | None = None) -> Score:
    """The verdict as inspect_ai's score; `grader` names who gave it."""
    return Score(
        value=float(verdict.correct),
        answer=verdict.parsed,
        explanation=explanation,
        metadata={"reason": verdict.reason, "grader": grader},
    )
