"""The benchmarks as inspect_ai tasks, for any model provider.

    inspect eval jaxlab/gsm8k -T path=test.jsonl --model jaxlab/runs/aopd
    inspect eval jaxlab/math -T path=math500.jsonl -T samples=16 --model openai/gpt-4.1
    inspect eval jaxlab/general365 -T path=rows.jsonl -T grader=rule --model jaxlab/MODEL

Installing jaxlab registers them and the provider by an entry point. Rows, prompts, grading and
metrics are plain functions of the folders beside this file; here they meet the harness. AJ-Bench,
whose judges have tools, is in `ajbench.task`.
"""

import inspect
import threading
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from typing import Any

import anyio.to_thread
from inspect_ai import Task, task, task_with
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import (
    ChatMessage,
    ChatMessageSystem,
    ChatMessageUser,
    GenerateConfig,
    get_model,
    model_roles,
    modelapi,
)
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, solver

from jaxlab import config as config_lib
from jaxlab.evals import options as options_lib
from jaxlab.evals.ajbench import task as ajbench_task
from jaxlab.evals.ajbench.task import ajbench_verdict as ajbench_verdict
from jaxlab.evals.general365 import grade as general365_grade
from jaxlab.evals.general365 import options as general365_options
from jaxlab.evals.general365 import prompts as general365_prompts
from jaxlab.evals.general365 import rows as general365_rows
from jaxlab.evals.grader_errors import accounted, refusing
from jaxlab.evals.math import options as math_options
from jaxlab.evals.options import Asked
from jaxlab.grading import answers
from jaxlab.grading.graders import MathVerifier, Verdict
from jaxlab.grading.math import grade as math_grade
from jaxlab.grading.math import prompts as math_prompts
from jaxlab.grading.math import rows as math_rows
from jaxlab.grading.rows import Panel, Row, sample_seed

# Fields of a row that travel in a sample's metadata, beside the row's own.
_OF_ROW = ("question", "cluster")
# What solvers write there, see `harness.graded_samples`.
_OF_USAGE = ("input_tokens", "output_tokens")


@modelapi(name="jaxlab")
def _jaxlab() -> Any:
    # The provider brings jax; the tasks do without.
    from jaxlab.evals.provider import JaxlabAPI

    return JaxlabAPI


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
        return _score(grade(row, state.output.completion), name)

    return score


@scorer(metrics=[mean(), stderr(cluster="cluster")])
def math_answer(**options: Any) -> Scorer:
    """Math-verify in a process of its own; the options are `math.options.Grading`."""
    with refusing():
        grading = config_lib.build(math_options.Grading, options, "math_answer")
    verify = _Verifying()

    async def score(state: TaskState, target: Target) -> Score:
        cut = grading.truncated == "wrong" and was_cut(state)
        text = state.output.completion
        (verdict,) = await verify(
            lambda verifier: math_grade.grade(verifier, [target.text], [text], [cut])
        )
        return _score(verdict, "rule")

    return score


@scorer(metrics=[mean(), stderr(cluster="cluster")])
def general365_answer(**options: Any) -> Scorer:
    """The cascade of `general365.grade`; the options are `general365.options.Grading`.

    Raises:
        Refused: the grader needs a judge, and there is none or it cannot be asked.
    """
    with refusing():
        grading = config_lib.build(general365_options.Grading, options, "general365_answer")
        if grading.grader != "rule":
            _check_judge(grading)
    verify = _Verifying()
    places: Any = grading.float_round

    async def score(state: TaskState, target: Target) -> Score:
        text = answers.without_thinking(state.output.completion)
        row = Row(str(state.sample_id), state.metadata["question"], target.text, "", state.metadata)
        (verdict,) = await verify(
            lambda verifier: general365_grade.rule(verifier, [row], [text], places, grading.anchor)
        )
        if grading.truncated == "wrong" and was_cut(state):
            return _score(Verdict(False, verdict.parsed, "truncated"), "rule")
        if not general365_grade.needs_judge(row, verdict, grading.grader):
            return _score(verdict, "rule")
        model = get_model(grading.judge) if grading.judge else None
        model = get_model(role="grader", default=model, required=model is None)
        question: list[ChatMessage] = [
            ChatMessageSystem(content=general365_prompts.JUDGE_SYSTEM),
            ChatMessageUser(content=general365_prompts.judge(row.question, target.text, text)),
        ]
        config = GenerateConfig(temperature=0.0 if grading.judge_votes == 1 else None)
        replies = [
            (await model.generate(question, config=config)).completion
            for _ in range(grading.judge_votes)
        ]
        verdict = general365_grade.elected(replies, verdict.parsed)
        return _score(verdict, f"judge:{model}", "\n\n".join(replies))

    return score


def _check_judge(grading: general365_options.Grading) -> None:
    """Check that there is a judge, before the first answer is asked for."""
    if grading.judge:
        get_model(grading.judge)
    elif "grader" not in model_roles():
        raise config_lib.ConfigError(
            f"judge: the grader {grading.grader!r} needs a model that judges, such as "
            "-T judge=openai/gpt-4.1 (or --model-role grader=...); without one, grade by "
            "-T grader=rule"
        )


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


def problems(asked: Asked, options: math_options.Options) -> Task:
    """The task over problems with a mathematical answer, without its scorer."""
    panel = math_rows.read(asked.path, options.bad_rows).only(options.ids).subset(asked.limit)
    return ask_rows(panel, lambda row: math_prompts.prompt(row.question, options.prompt), asked)


def general365_problems(asked: Asked, options: general365_options.Options) -> Task:
    """The task over General365, real or generated rows, without its scorer."""
    fields = options_lib.named(options.fields)
    found = general365_rows.read(asked.path, fields, options.id_pattern, options.bad_rows)
    panel = general365_rows.subset(found.only(options.ids), options.subset).subset(asked.limit)
    return ask_rows(
        panel, lambda row: general365_prompts.prompt(row.question, options.prompt), asked
    )


@dataclass(frozen=True)
class Benchmark:
    """How a benchmark is run; its options are `options.OPTIONS`.

    Attributes:
        about: what it is.
        task: makes the task of what is asked and the options, without a scorer.
        scorer: makes the scorer of the options in `options.GRADING`.
        samples: completions per row where nothing else is said.
    """

    about: str
    task: Callable[[Asked, Any], Task]
    scorer: Callable[..., Scorer]
    samples: int = 1


BENCHMARKS = {
    "gsm8k": Benchmark("Grade-school word problems (Cobbe et al. 2021).", problems, math_answer),
    "math": Benchmark("Problems with a mathematical answer.", problems, math_answer),
    "general365": Benchmark(
        "General365 (arXiv 2604.11778), real or generated rows.",
        general365_problems,
        general365_answer,
    ),
    "ajbench": Benchmark(
        "Judges of trajectories (AJ-Bench, arXiv 2604.18240), averaged over runs of each unit.",
        ajbench_task.trajectories,
        ajbench_verdict,
        samples=3,
    ),
}


def _registered(name: str) -> Callable[..., Task]:
    """The benchmark as a task of inspect_ai, whose parameters are the fields of its options."""
    benchmark, cls = BENCHMARKS[name], options_lib.OPTIONS[name]
    parameters = {**_parameters(Asked), **_parameters(cls)}
    samples = parameters["samples"].replace(default=benchmark.samples)
    parameters |= {"path": parameters["path"].replace(default=None), "samples": samples}

    def make(path: str | None = None, **given: Any) -> Task:
        with refusing():
            for key in given:
                if key not in parameters:
                    raise config_lib.unknown_key(name, key, parameters)
            if path is None:
                raise config_lib.ConfigError(f"{name}.path: name the rows by -T path=ROWS")
            of_rows = options_lib.names(Asked)
            asked = {"path": path, "samples": benchmark.samples}
            asked |= {key: value for key, value in given.items() if key in of_rows}
            chosen = {key: value for key, value in given.items() if key not in of_rows}
            options = config_lib.build(cls, chosen, name)
            made = benchmark.task(config_lib.build(Asked, asked, name), options)
            scoring = benchmark.scorer(**options_lib.grading(name, options))
            return task_with(made, scorer=accounted(scoring))

    make.__name__ = make.__qualname__ = name
    make.__doc__ = (
        f"{benchmark.about}\n\nThe parameters are those of `Asked` and `{cls.__module__}`."
    )
    # inspect_ai drops a parameter that it does not find here, unless there is one for all others.
    unknown = inspect.Parameter("unknown", inspect.Parameter.VAR_KEYWORD)
    make.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [*parameters.values(), unknown], return_annotation=Task
    )
    return task(make)


def _parameters(cls: type[Any]) -> dict[str, inspect.Parameter]:
    """The fields of a dataclass as parameters, by name; tuples as lists, which a log can hold."""
    found = {}
    for field in fields(cls):
        default: Any = inspect.Parameter.empty
        if field.default is not MISSING:
            default = list(field.default) if isinstance(field.default, tuple) else field.default
        elif field.default_factory is not MISSING:
            default = field.default_factory()
        positional, keyword = (
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            inspect.Parameter.KEYWORD_ONLY,
        )
        kind = positional if field.name == "path" else keyword
        found[field.name] = inspect.Parameter(field.name, kind, default=default)
    return found


gsm8k, math, general365, ajbench = map(_registered, BENCHMARKS)
