"""Who answers the prompts of a step: the student, the teacher, or the data."""

import numpy as np
import pytest

from jaxlab import config as config_lib
from jaxlab.models import flops
from jaxlab.trainers import distill
from jaxlab.trainers.distill import Rollouts

SIZES = {
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_layers": 1,
    "num_heads": 1,
    "num_kv_heads": 1,
    "max_position": 96,
}
CONFIG = {
    "student": {"sizes": SIZES},
    "teacher": {"sizes": SIZES | {"hidden_size": 12}},
    "data": {"task": "modsum", "options": {"modulus": 5, "addends": 2}, "max_prompt": 16},
    "loss": {"name": "gkd", "divergence": "fkl"},
    "rollout": {"prompts": 2, "samples": 2, "max_new_tokens": 8, "source": "data"},
    "train": {"steps": 8},
    "optim": {"learning_rate": 0.1},
    # As many as in a step: one program samples for both.
    "eval": {"prompts": 2, "samples": 2, "max_new_tokens": 8, "batch": 2},
}


def build(**changes):
    return config_lib.build(distill.Distill, CONFIG | changes)


def test_distillation_on_fixed_data_reads_the_tasks_own_completions(tmp_path):
    run = distill._Run(build(), tmp_path)
    rows = [run.text.prompt(i, "train") for i in range(2)]
    rollout = run._answers(None, rows, 0)
    targets = [run.text.target(example) for example, _ in rows]
    for row, target in enumerate(np.repeat(np.arange(2), 2)):
        seen = np.asarray(rollout.response[row])[np.asarray(rollout.mask[row])]
        assert seen.tolist() == targets[target]
        prompt = rows[target][1]
        width = rollout.prompt_width
        assert np.asarray(rollout.tokens[row, width - len(prompt) : width]).tolist() == prompt
    assert np.asarray(rollout.stopped).all()
    program = run.program()
    output = program.step(program.init(), 0)
    # The step learns from rows of its own, whose rewards are those of right answers.
    metrics = output.host_metrics()
    assert metrics["reward"] == 1.0
    # Nobody samples: the teacher reads, and the student is updated.
    params = {"student": run.abstract.params, "teacher": run.teacher.params}
    models = {"student": run.student, "teacher": run.teacher.decoder}
    width = rollout.tokens.shape[1]
    each = {name: flops.forward(models[name].config, params[name], width) for name in models}
    expected = rollout.tokens.size * (3 * each["student"] + each["teacher"])
    assert metrics["model_flops"] == pytest.approx(expected)
    assert float(output.metrics["loss"]) > 0


def test_a_teacher_that_answers_and_is_not_read(tmp_path):
    """Sequence-level distillation; evaluations compare the student with it all the same."""
    rollout = CONFIG["rollout"] | {"source": "teacher"}
    run = distill._Run(build(loss={"name": "cross_entropy"}, rollout=rollout), tmp_path)
    answered = run._answers(None, [run.text.prompt(i, "train") for i in range(2)], 0)
    width = answered.tokens.shape[1]
    student = flops.forward(run.student.config, run.abstract.params, width)
    teacher = flops.forward(run.teacher.decoder.config, run.teacher.params, width)
    assert run._model_flops(answered, "teacher") == 4 * width * (teacher + 3 * student)
    program = run.program()
    metrics = program.evaluate(program.init(), 0).metrics
    assert metrics["eval/kl_reverse"] > 0


def test_a_completion_beyond_the_longest_is_cut_off(tmp_path):
    run = distill._Run(build(rollout=CONFIG["rollout"] | {"max_new_tokens": 2}), tmp_path)
    rows = [run.text.prompt(i, "train") for i in range(2)]
    rollout = run._answers(None, rows, 0)
    assert rollout.response.shape == (4, 2)
    assert np.asarray(rollout.mask).all()
    assert not np.asarray(rollout.stopped).any()


def test_the_students_share_of_the_steps():
    mixed = Rollouts(source="data", student_share=0.3)
    turns = [distill.author(mixed, 7, step) for step in range(2000)]
    assert set(turns) == {"student", "data"}
    # A binomial's standard deviation is 0.0102.
    assert abs(np.mean([turn == "student" for turn in turns]) - 0.3) < 0.04
    assert turns == [distill.author(mixed, 7, step) for step in range(2000)]
    assert turns != [distill.author(mixed, 8, step) for step in range(2000)]
    assert {distill.author(Rollouts(source="data"), 0, step) for step in range(9)} == {"data"}
    always = Rollouts(source="teacher", student_share=1.0)
    assert {distill.author(always, 0, step) for step in range(9)} == {"student"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": {"name": "opd"}}, "rollout.source: the policy gradient of opd needs"),
        ({"rollout": {"student_share": 0.5}}, 'source is "student", who answers always'),
        (
            {"rollout": {"source": "data", "student_share": 1.5}},
            r"student_share must be in \[0, 1\], not 1.5",
        ),
    ],
)
def test_sources_that_do_not_fit(changes, message):
    with pytest.raises((ValueError, config_lib.ConfigError), match=message):
        build(**changes)
