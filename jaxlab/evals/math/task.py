"""Problems with a mathematical answer as an inspect_ai task, GSM8K and MATH among them."""

from typing import Any

from inspect_ai import Task
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import TaskState

from jaxlab import config as config_lib
from jaxlab.evals.grader_errors import refusing
from jaxlab.evals.math.options import Grading, Options
from jaxlab.evals.options import Asked
from jaxlab.evals.task_parts import Verifying, ask_rows, score_of, was_cut
from jaxlab.grading.math import grade, prompts, rows


def problems(asked: Asked, options: Options) -> Task:
    """The task over problems with a mathematical answer, without its scorer."""
    panel = rows.read(asked.path, options.bad_rows).only(options.ids).subset(asked.limit)
    return ask_rows(panel, lambda row: prompts.prompt(row.question, options.prompt), asked)


@scorer(metrics=[mean(), stderr(cluster="cluster")])
def math_answer(**options: Any) -> Scorer:
    """Compare answers in a process of its own; the options are `math.options.Grading`."""
    with refusing():
        grading = config_lib.build(Grading, options, "math_answer")
    verify = Verifying()

    async def score(state: TaskState, target: Target) -> Score:
        cut = grading.truncated == "wrong" and was_cut(state)
        text = state.output.completion
        (verdict,) = await verify(
            lambda verifier: grade.grade(verifier, [target.text], [text], [cut])
        )
        return score_of(verdict, "rule")

    return score
