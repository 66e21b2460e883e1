"""General365 as an inspect_ai task, graded by rule, by a judge, or by the cascade of both."""

from typing import Any

from inspect_ai import Task
from inspect_ai import model as models
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import TaskState

from jaxlab import config as config_lib
from jaxlab.evals.general365 import grade, prompts, rows
from jaxlab.evals.general365.options import Grading, Options
from jaxlab.evals.grader_errors import refusing
from jaxlab.evals.options import Asked, named
from jaxlab.evals.task_parts import Verifying, ask_rows, score_of, was_cut
from jaxlab.grading import answers
from jaxlab.grading.graders import Verdict
from jaxlab.grading.rows import Row


def problems(asked: Asked, options: Options) -> Task:
    """The task over General365, real or generated rows, without its scorer."""
    fields = named(options.fields)
    found = rows.read(asked.path, fields, options.id_pattern, options.bad_rows)
    panel = rows.subset(found.only(options.ids), options.subset).subset(asked.limit)
    return ask_rows(panel, lambda row: prompts.prompt(row.question, options.prompt), asked)


@scorer(metrics=[mean(), stderr(cluster="cluster")])
def general365_answer(**options: Any) -> Scorer:
    """The cascade of `general365.grade`; the options are `general365.options.Grading`.

    Raises:
        Refused: the grader needs a judge, and there is none or it cannot be asked.
    """
    with refusing():
        grading = config_lib.build(Grading, options, "general365_answer")
        if grading.grader != "rule":
            _check_judge(grading)
    verify = Verifying()
    places: Any = grading.float_round

    async def score(state: TaskState, target: Target) -> Score:
        text = answers.without_thinking(state.output.completion)
        row = Row(str(state.sample_id), state.metadata["question"], target.text, "", state.metadata)
        (verdict,) = await verify(
            lambda verifier: grade.rule(verifier, [row], [text], places, grading.anchor)
        )
        if grading.truncated == "wrong" and was_cut(state):
            return score_of(Verdict(False, verdict.parsed, "truncated"), "rule")
        if not grade.needs_judge(row, verdict, grading.grader):
            return score_of(verdict, "rule")
        model = models.get_model(grading.judge) if grading.judge else None
        model = models.get_model(role="grader", default=model, required=model is None)
        question: list[models.ChatMessage] = [
            models.ChatMessageSystem(content=prompts.JUDGE_SYSTEM),
            models.ChatMessageUser(content=prompts.judge(row.question, target.text, text)),
        ]
        config = models.GenerateConfig(temperature=0.0 if grading.judge_votes == 1 else None)
        replies = [
            (await model.generate(question, config=config)).completion
            for _ in range(grading.judge_votes)
        ]
        verdict = grade.elected(replies, verdict.parsed)
        return score_of(verdict, f"judge:{model}", "\n\n".join(replies))

    return score


def _check_judge(grading: Grading) -> None:
    """Check that there is a judge, before the first answer is asked for."""
    if grading.judge:
        models.get_model(grading.judge)
    elif "grader" not in models.model_roles():
        raise config_lib.ConfigError(
            f"judge: the grader {grading.grader!r} needs a model that judges, such as "
            "-T judge=openai/gpt-4.1 (or --model-role grader=...); without one, grade by "
            "-T grader=rule"
        )
