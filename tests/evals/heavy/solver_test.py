import json

import pytest

pytest.importorskip("inspect_ai")

from jaxlab.agents.heavy_options import Sampling
from tests.evals import scripted

ROWS = [{"id": str(n), "problem": f"What is {n} plus {n}?", "answer": str(2 * n)} for n in (3, 4)]


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def evaluate(model, rows, tmp_path, task=None, **options):
    """The log of a run of the registered solver, by its registered name."""
    import inspect_ai
    from inspect_ai.solver import SolverSpec

    from jaxlab.evals import tasks

    arguments = {"width": 3, "samples": 2, "backoff_s": 0.0, "retries": 0, **options}
    (log,) = inspect_ai.eval(
        task or tasks.math(path=str(rows)),
        model=model,
        solver=SolverSpec("jaxlab/heavy", args_passed=arguments),
        log_dir=str(tmp_path / "logs"),
        display="none",
        log_level="error",
    )
    return log


def wise(prompt, seed):
    """Thinkers that say 6, whatever is asked; deliberators that read them and say 8."""
    return "I say \\boxed{8}." if "ATTEMPTS" in prompt else "I say \\boxed{6}."


def test_a_benchmark_is_answered_and_every_text_graded_by_its_own_scorer(rows, tmp_path):
    from jaxlab.evals.heavy import logs, report

    log = evaluate(scripted.model(wise), rows, tmp_path, rounds=2)
    assert log.status == "success"
    samples = {sample.id: sample for sample in log.samples}
    # The answer that counts is the deliberation's: right for 4 + 4, wrong for 3 + 3.
    scores = {name: sample.scores["math_answer"].value for name, sample in samples.items()}
    assert scores == {"3": 0.0, "4": 1.0}
    record = samples["3"].metadata["heavy"]
    right = {name: [row["correct"] for row in rows] for name, rows in record["texts"].items()}
    assert right == {
        "thinkers": [True] * 3,
        "not_read": [],
        "round_1": [False] * 2,
        "round_2": [False] * 2,
        "control_answers_only": [False] * 2,
        "control_no_thinkers": [True] * 2,
        "control_long_thought": [True],
    }
    # The benchmark's own prompt is the question, with its own word on the form of the answer.
    assert "put the final answer" in samples["3"].input
    found = logs.questions(log)
    table = report.tables(found)[0]
    raw = {row["measure"].partition(",")[0]: row["raw"] for row in table.rows}
    assert (raw["M@K"].mean, raw["HM@K1"].mean, raw["V@K"].mean) == (0.5, 0.5, 0.5)
    assert found[0].tokens > 0
    # What is left out is counted, and so are graders that fail.
    assert logs.left_out(log) == []
    record["texts"]["round_1"][0]["grader_error"] = "no judge"
    record["manifest"]["control_calls"]["no_thinkers"]["missing"] = 2
    note = report.tables(logs.questions(log))[0].note
    assert "0 texts of the workflow and 2 of the controls did not come; 1 texts count as" in note
    log.samples[0].metadata.pop("heavy")
    assert logs.left_out(log) == ["1 samples not solved by heavy"]
    log.status = "cancelled"
    assert len(logs.questions(log)) == 1
    assert "'cancelled'" in logs.left_out(log)[1]


@pytest.mark.parametrize(
    ("value", "metadata", "verdict"),
    [
        (1.0, None, {"correct": True}),
        ("P", None, {"correct": False}),
        (0.0, {"reason": "grader_error", "cause": "E"}, {"correct": False, "grader_error": "E"}),
        (
            float("nan"),
            None,
            {"correct": False, "grader_error": "the scorer gave no verdict"},
        ),
        ({"a": 1}, None, None),
    ],
)
def test_a_grader_that_fails_is_no_silent_zero(value, metadata, verdict, monkeypatch):
    import asyncio

    from inspect_ai.model import ModelName
    from inspect_ai.scorer import Score
    from inspect_ai.solver import TaskState

    from jaxlab.evals.heavy import solver

    async def score(state):
        return [Score(value=value, metadata=metadata)]

    monkeypatch.setattr(solver, "score", score)
    state = TaskState(ModelName("m/m"), "1", 1, "q", [])
    if verdict is None:
        with pytest.raises(ValueError, match="gives a dict and no single verdict"):
            asyncio.run(solver._verdict(state, "a"))
    else:
        assert asyncio.run(solver._verdict(state, "a")) == verdict


def test_other_benchmarks_take_it_with_their_own_questions_and_scorers(tmp_path):
    from jaxlab.evals import tasks
    from tests.evals.ajbench import layout

    layout.write(tmp_path / "data", ("filesystem",))
    rows = str(tmp_path / "data" / "src")
    task = tasks.ajbench(path=rows, arm="text", samples=1)
    asked = []

    def judge(prompt, seed):
        asked.append(prompt)
        return "All steps are there.\nResponse: [1]"

    log = evaluate(scripted.model(judge), None, tmp_path, task, controls=False)
    assert log.status == "success", log.error
    for sample in log.samples:
        (score,) = sample.scores.values()
        assert score.answer == "1"
        graded = sample.metadata["heavy"]["texts"]
        assert {text["correct"] for text in graded["thinkers"]} == {score.value == 1}
        assert "control_no_thinkers" not in graded
    assert any(layout.CLAIM in prompt and "ATTEMPTS" in prompt for prompt in asked)


def test_a_dead_endpoint_is_an_error_of_the_sample_and_no_wrong_answer(rows, tmp_path):
    from jaxlab.evals.heavy import logs

    def dead(prompt, seed):
        raise ConnectionError("no route")

    log = evaluate(scripted.model(dead), rows, tmp_path)
    assert "no thinker came: ConnectionError: no route" in log.samples[0].error.message
    with pytest.raises(ValueError, match="no sample of the log was measured by heavy"):
        logs.questions(log)


def test_limits_of_the_harness_end_the_sample(rows, tmp_path):
    import inspect_ai

    from jaxlab.evals import tasks
    from jaxlab.evals.heavy.solver import heavy

    (log,) = inspect_ai.eval(
        tasks.math(path=str(rows)),
        model=scripted.model(wise),
        solver=heavy(width=3, samples=2, retries=3),
        token_limit=40,
        log_dir=str(tmp_path / "logs"),
        display="none",
        log_level="error",
    )
    assert [sample.limit.type for sample in log.samples] == ["token", "token"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widht": 3}, "widht.*did you mean.*width"),
        ({"width": 0}, "width must be at least 1"),
        ({"prune": "tail"}, "prune"),
        ({"top_p": 2.0}, "top_p"),
    ],
)
def test_options_are_checked_before_anything_is_asked(options, message):
    from jaxlab.evals.heavy.solver import heavy

    with pytest.raises(ValueError, match=message):
        heavy(**options)


def test_choices_of_a_text_model_are_asked_for_one_by_one_with_seeds_of_their_own():
    import asyncio

    from inspect_ai.model import ContentReasoning, ContentText, ModelOutput, ModelUsage, get_model

    from jaxlab.evals.heavy import generators

    seeds = []

    def reply(prompt, seed):
        seeds.append(seed)
        return f"text {seed}"

    generate = generators.generator(scripted.model(reply), Sampling())
    texts = asyncio.run(generate("a", samples=3, seed=2**31 - 1, stage="think"))
    assert seeds == [2**31 - 1, 0, 1]
    assert [(text.finished, text.prompt_tokens) for text in texts] == [(True, 3)] * 3
    assert texts[0].tokens == len(texts[0])
    # Reasoning is what a thinker has to say.
    output = ModelOutput.from_content("m", "so 4", "max_tokens")
    output.choices[0].message.content = [
        ContentReasoning(reasoning="2 + 2"),
        ContentText(text="so 4"),
    ]
    output.usage = ModelUsage(input_tokens=1, output_tokens=2)
    model = get_model("mockllm/model", custom_outputs=[output], memoize=False)
    generate = generators.generator(model, Sampling())
    (text,) = asyncio.run(generate("a", samples=1, seed=0, stage="think"))
    assert (text, text.finished) == ("<think>\n2 + 2\n</think>\nso 4", False)


def test_stages_are_sampled_as_reported():
    sampling = Sampling(deliberation_max_tokens=9)
    assert sampling.config("think") == {
        "temperature": 1.0,
        "top_p": 0.95,
        "top_k": 10,
        "max_tokens": 32768,
    }
    assert sampling.config("deliberate")["temperature"] == 0.7
    assert sampling.config("no_thinkers")["max_tokens"] == 9
    from jaxlab.evals.heavy import generators

    with pytest.raises(ValueError, match=r"nosuchprovider .* not recognized"):
        generators.load("nosuchprovider/model")
