"""The benchmarks as inspect_ai tasks, for any model provider.

    inspect eval jaxlab/gsm8k -T path=test.jsonl --model jaxlab/runs/aopd
    inspect eval jaxlab/math -T path=math500.jsonl -T samples=16 --model openai/gpt-4.1
    inspect eval jaxlab/general365 -T path=rows.jsonl -T grader=rule --model jaxlab/MODEL

Installing jaxlab registers them and the provider by an entry point. Each benchmark's task is
`task.py` in its folder; `benchmark` and `by_rule` are for files of the user's own.
"""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from typing import Any

from inspect_ai import Task, task, task_with
from inspect_ai.model import modelapi
from inspect_ai.scorer import Scorer

from jaxlab import config as config_lib
from jaxlab.evals import options as options_lib
from jaxlab.evals.ajbench.task import ajbench_verdict, trajectories
from jaxlab.evals.episodes import episode_won
from jaxlab.evals.general365 import task as general365_task
from jaxlab.evals.general365.task import general365_answer
from jaxlab.evals.grader_errors import accounted, refusing
from jaxlab.evals.heavy.solver import heavy as heavy
from jaxlab.evals.household.task import games
from jaxlab.evals.math import task as math_task
from jaxlab.evals.math.task import math_answer
from jaxlab.evals.options import Asked
from jaxlab.evals.task_parts import benchmark as benchmark
from jaxlab.evals.task_parts import by_rule as by_rule
from jaxlab.evals.webshop.task import shopping


@modelapi(name="jaxlab")
def _jaxlab() -> Any:
    # The provider brings jax; the tasks do without.
    from jaxlab.evals.provider import JaxlabAPI

    return JaxlabAPI


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
    "gsm8k": Benchmark(
        "Grade-school word problems (Cobbe et al. 2021).", math_task.problems, math_answer
    ),
    "math": Benchmark("Problems with a mathematical answer.", math_task.problems, math_answer),
    "general365": Benchmark(
        "General365 (arXiv 2604.11778), real or generated rows.",
        general365_task.problems,
        general365_answer,
    ),
    "ajbench": Benchmark(
        "Judges of trajectories (AJ-Bench, arXiv 2604.18240), averaged over runs of each unit.",
        trajectories,
        ajbench_verdict,
        samples=3,
    ),
    "household": Benchmark(
        "Household games (ALFWorld, Shridhar et al. 2021), with a library of skills or without.",
        games,
        episode_won,
    ),
    "webshop": Benchmark(
        "Shopping for what an instruction asks (WebShop, Yao et al. 2022), with skills or without.",
        shopping,
        episode_won,
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


gsm8k, math, general365, ajbench, household, webshop = map(_registered, BENCHMARKS)
