"""The benchmarks as inspect_ai tasks, for any model provider.

    inspect eval jaxlab/gsm8k -T path=test.jsonl --model jaxlab/runs/aopd
    inspect eval jaxlab/math -T path=math500.jsonl -T samples=16 --model openai/gpt-4.1
    inspect eval jaxlab/general365 -T path=rows.jsonl -T judge=openai/gpt-4.1 --model jaxlab/MODEL

Installing jaxlab registers them and the provider by an entry point. Rows, prompts, grading and
metrics are plain functions of the folders beside this file; here they meet the harness. AJ-Bench,
whose judges have tools, is in `ajbench_task`.
"""

import functools
import threading
from collections.abc import Callable
from typing import Any, Literal

import anyio.to_thread
from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import (
    ChatMessage,
    ChatMessageSystem,
    ChatMessageUser,
    GenerateConfig,
    get_model,
    modelapi,
)
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, solver

from jaxlab.evals import answers
from jaxlab.evals.ajbench_task import ajbench as ajbench
from jaxlab.evals.ajbench_task import ajbench_verdict as ajbench_verdict
from jaxlab.evals.general365 import grade as general365_grade
from jaxlab.evals.general365 import prompts as general365_prompts
from jaxlab.evals.general365 import rows as general365_rows
from jaxlab.evals.graders import MathVerifier, Verdict
from jaxlab.evals.math import grade as math_grade
from jaxlab.evals.math import prompts as math_prompts
from jaxlab.evals.math import rows as math_rows
from jaxlab.evals.rows import Ids, Panel, Row, sample_seed
from jaxlab.evals.unicode import well_formed

# Fields of a row that travel in a sample's metadata, beside the row's own.
_OF_ROW = ("question", "cluster")
# What solvers write there, see `harness.graded_samples`.
_OF_USAGE = ("input_tokens", "output_tokens")
_LONGEST_CAUSE = 500

BadRows = Literal["error", "skip"]
Truncated = Literal["wrong", "graded"]


@modelapi(name="jaxlab")
def _jaxlab() -> Any:
    # The provider brings jax; the tasks do without.
    from jaxlab.evals.provider import JaxlabAPI

    return JaxlabAPI


@task
def gsm8k(
    path: str,
    prompt: math_prompts.Style = "gsm8k",
    samples: int = 1,
    limit: int | None = None,
    seed: int = 0,
    ids: Ids = (),
    truncated: Truncated = "wrong",
    bad_rows: BadRows = "error",
) -> Task:
    """Grade-school word problems (Cobbe et al. 2021); arguments as in `math`."""
    return math(path, prompt, samples, limit, seed, ids, truncated, bad_rows)


@task
def math(
    path: str,
    prompt: math_prompts.Style = "boxed",
    samples: int = 1,
    limit: int | None = None,
    seed: int = 0,
    ids: Ids = (),
    truncated: Truncated = "wrong",
    bad_rows: BadRows = "error",
) -> Task:
    """Problems with an answer that math-verify can compare.

    Args:
        path: .jsonl or .json file in one of the formats of `evals.math.rows`.
        prompt: a key of `evals.math.prompts.TEMPLATES`.
        samples: n, completions per problem.
        limit: so many problems, always the same ones; None is all.
        seed: completion j of row i has a seed made of this, i and j.
        ids: only the rows of these ids, all if there are none.
        truncated: whether a completion that was cut off counts as wrong or is graded.
        bad_rows: what a malformed row does: see `rows.read`.
    """
    panel = math_rows.read(path, bad_rows).only(ids).subset(limit)
    return benchmark(
        panel,
        lambda row: math_prompts.prompt(row.question, prompt),
        math_answer(truncated),
        samples,
        seed,
    )


@task
def general365(
    path: str,
    grader: general365_grade.Grader = "cascade",
    judge: str | None = None,
    judge_votes: int = 1,
    prompt: general365_prompts.Style = "bare",
    float_round: str | int = "field",
    anchor: answers.Anchor = "stated",
    fields: dict[str, str] | None = None,
    id_pattern: str | None = None,
    subset: str = "all",
    samples: int = 1,
    limit: int | None = None,
    seed: int = 0,
    ids: Ids = (),
    truncated: Truncated = "graded",
    bad_rows: BadRows = "error",
) -> Task:
    """General365 (arXiv 2604.11778), real or generated rows.

    Args:
        path: .jsonl or .json file in the public schema.
        grader: "cascade" (math-verify, then the judge), "judge", or "rule" without a judge.
        judge: model that judges; the model role "grader" goes before it.
        judge_votes: replies of the judge, of which most decide; one is drawn greedily, several at
            the model's own temperature.
        prompt: a key of `evals.general365.prompts.TEMPLATES`.
        float_round: decimal places for numbers: "field" (the row's), "off", or a number.
        anchor: where the rule finds an answer, see `general365.grade.rule`.
        fields: our name of a field -> its name in the file.
        id_pattern: see `general365.rows.Parser`.
        subset: part of the rows, see `general365.rows.subset`.
        samples: completions per problem.
        limit: so many problems, always the same ones; None is all.
        seed: as in `math`.
        ids: as in `math`.
        truncated: as in `math`.
        bad_rows: as in `math`.
    """
    found = general365_rows.read(path, fields, id_pattern, bad_rows).only(ids)
    panel = general365_rows.subset(found, subset).subset(limit)
    return benchmark(
        panel,
        lambda row: general365_prompts.prompt(row.question, prompt),
        general365_answer(grader, judge, judge_votes, float_round, truncated, anchor),
        samples,
        seed,
    )


def benchmark(
    panel: Panel, prompt: Callable[[Row], str], scoring: Scorer, samples: int = 1, seed: int = 0
) -> Task:
    """The task over a panel; its metadata name the panel and what was left out of it.

    Args:
        panel: rows.
        prompt: the text that the model reads for a row.
        scoring: grades a completion; `by_rule` makes one of a function.
        samples: completions per row.
        seed: as in `math`.

    Raises:
        ValueError: a row's meta has a name that is ours.
    """
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
        solver=ask(seed),
        scorer=accounted(scoring),
        epochs=samples,
        metadata={"panel": panel.digest, "rejected": rejected},
    )


def accounted(scoring: Scorer) -> Scorer:
    """The scorer, which no longer fails: what it raises is a wrong answer of its own kind.

    A failing scorer would fail its sample, and the answer would be thrown away and asked for again.
    """

    @functools.wraps(scoring)
    async def score(state: TaskState, target: Target) -> Score | None:
        try:
            return await scoring(state, target)
        except Exception as error:  # whatever it is, it is the grader's
            cause = well_formed(f"{type(error).__name__}: {error}"[:_LONGEST_CAUSE])
            return Score(
                value=0.0, explanation=cause, metadata={"reason": "grader_error", "cause": cause}
            )

    return score


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
        return _score(grade(row, state.output.completion), name)

    return score


@scorer(metrics=[mean(), stderr(cluster="cluster")])
def math_answer(truncated: Truncated = "wrong") -> Scorer:
    """Math-verify in a process of its own."""
    verify = _Verifying()

    async def score(state: TaskState, target: Target) -> Score:
        cut = truncated == "wrong" and was_cut(state)
        text = state.output.completion
        (verdict,) = await verify(
            lambda verifier: math_grade.grade(verifier, [target.text], [text], [cut])
        )
        return _score(verdict, "math-verify")

    return score


@scorer(metrics=[mean(), stderr(cluster="cluster")])
def general365_answer(
    grader: general365_grade.Grader = "cascade",
    judge: str | None = None,
    judge_votes: int = 1,
    float_round: str | int = "field",
    truncated: Truncated = "graded",
    anchor: answers.Anchor = "stated",
) -> Scorer:
    """The cascade of `general365.grade`.

    Raises:
        ValueError: fewer than one vote.
    """
    if judge_votes < 1:
        raise ValueError(f"judge_votes must be at least 1, not {judge_votes}")
    verify = _Verifying()
    places: Any = int(float_round) if str(float_round).isdecimal() else float_round

    async def score(state: TaskState, target: Target) -> Score:
        text = answers.without_thinking(state.output.completion)
        row = Row(str(state.sample_id), state.metadata["question"], target.text, "", state.metadata)
        (verdict,) = await verify(
            lambda verifier: general365_grade.rule(verifier, [row], [text], places, anchor)
        )
        if truncated == "wrong" and was_cut(state):
            return _score(Verdict(False, verdict.parsed, "truncated"), "rule")
        if not general365_grade.needs_judge(row, verdict, grader):
            return _score(verdict, "rule")
        model = get_model(judge) if judge else None
        model = get_model(role="grader", default=model, required=model is None)
        question: list[ChatMessage] = [
            ChatMessageSystem(content=general365_prompts.JUDGE_SYSTEM),
            ChatMessageUser(content=general365_prompts.judge(row.question, target.text, text)),
        ]
        config = GenerateConfig(temperature=0.0 if judge_votes == 1 else None)
        replies = [
            (await model.generate(question, config=config)).completion for _ in range(judge_votes)
        ]
        verdict = general365_grade.elected(replies, verdict.parsed)
        return _score(verdict, f"judge:{model}", "\n\n".join(replies))

    return score


class _Verifying:
    """One verifier for all samples of a task, which is to be called from one thread at a time."""

    def __init__(self) -> None:
        self._verifier = MathVerifier()
        self._lock = threading.Lock()

    async def __call__(self, grade: Callable[[MathVerifier], list[Verdict]]) -> list[Verdict]:
        def locked() -> list[Verdict]:
            with self._lock:
                return grade(self._verifier)

        return await anyio.to_thread.run_sync(locked)


def was_cut(state: TaskState) -> bool:
    """Whether the completion ended by its length."""
    return state.output.stop_reason in ("max_tokens", "model_length")


def _score(verdict: Verdict, grader: str, explanation: str | None = None) -> Score:
    return Score(
        value=float(verdict.correct),
        answer=verdict.parsed,
        explanation=explanation,
        metadata={"reason": verdict.reason, "grader": grader},
    )
