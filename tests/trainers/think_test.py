"""The job that writes thinkers' texts: what it writes, what it measures, how it goes on."""

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxlab import config as config_lib
from jaxlab.data.tasks import chains
from jaxlab.evals.heavy import measures
from jaxlab.rollouts import trajectories
from jaxlab.rollouts.policy import Policy
from jaxlab.trainers import loop, think
from jaxlab.trainers.think import Think

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_layers": 1,
    "num_heads": 4,
    "num_kv_heads": 4,
    "qk_norm": True,
    "rope": {"theta": 1000.0},
    "max_position": 256,
}
JOB = {
    "trainer": "think",
    "model": {"sizes": SIZES},
    "data": {
        "task": "chains",
        "options": {"shortest": 4, "longest": 4, "test_size": 6},
        "num_train": 10,
        "max_prompt": 8,
    },
    "train": {"steps": 3, "log_every": 1, "checkpoint_every": 2},
    "width": 2,
    "prompts": 4,
    "test_questions": 6,
    "max_new_tokens": 4,
    "prompt_multiple": 32,
    "top_k": None,
    "top_p": None,
    "seed": 3,
}


def run(workdir, **changes):
    job = config_lib.build(Think, JOB | changes)
    loop.run(think.program(job, workdir), job.train, workdir)
    return trajectories.read(workdir)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A job that has run to its end: 10 training questions in steps of 4, and 6 of the test."""
    workdir = tmp_path_factory.mktemp("job")
    run(workdir)
    return workdir


@pytest.fixture
def asked(monkeypatch):
    """The prompts of every batch that is sampled."""
    batches, call = [], Policy.__call__

    def noting(self, params, prompts, key):
        batches.append([tuple(prompt) for prompt in prompts])
        return call(self, params, prompts, key)

    monkeypatch.setattr(Policy, "__call__", noting)
    return batches


def test_every_question_has_its_texts_and_their_grades(whole):
    found = trajectories.read(whole)
    assert set(found) == {("train", i) for i in range(10)} | {("test", i) for i in range(6)}
    task = chains.Chains(4, 4, test_size=6, train_size=10)
    for (split, row), question in found.items():
        example = task.example(row, split)
        assert question.prompt == example.prompt
        assert list(question.texts) == [0, 1]
        for text in question.texts.values():
            grade = task.grade_batch([example], [text.text])[0].reward
            assert text.reward == (grade if text.finished else 0.0)
            assert 1 <= text.tokens <= 4
            assert text.logprob < 0
    assert len({text.text for q in found.values() for text in q.texts.values()}) > 16
    steps = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in steps if "loss" in row] == [1, 2, 3]
    assert not list(whole.glob("checkpoints/*/state/**/embedding*"))


def test_evaluations_are_m_p_and_v_of_the_test_texts(tmp_path, whole):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("checkpoints", "metrics.jsonl"))
    path = folder / trajectories.NAME
    answers = ["1 # 1", "1 # 1", "2 # 2"]
    rows = []
    for line in path.read_text().splitlines():
        row = json.loads(line)
        if row["split"] == "test":
            right = row["row"] % 3  # of the first question none, of the second one, and so on
            text = answers[row["sample"]] if right < 2 else answers[0]
            row |= {"text": text, "stop": "stop", "reward": float(row["sample"] < right)}
        rows.append(json.dumps(row) + "\n")
    path.write_text("".join(rows))
    run(folder)
    first = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    assert first["eval/avg@2"] == pytest.approx((0 + 1 / 2 + 1) / 3)
    assert first["eval/pass@2"] == pytest.approx(2 / 3)
    texts = trajectories.read(folder)
    graded = [
        [measures.Text(t.reward == 1, chains.answer(t.text)) for t in question.texts.values()]
        for (split, _), question in texts.items()
        if split == "test"
    ]
    assert first["eval/maj@2"] == pytest.approx(np.mean(list(map(measures.vote, graded))))


@pytest.mark.parametrize("share", [0.0, 0.4, 0.97])
def test_a_job_goes_on_where_its_file_ends_and_ends_with_the_same_file(
    whole, asked, tmp_path, share
):
    content = (whole / trajectories.NAME).read_bytes()
    cut = content[: int(share * len(content))]
    (tmp_path / trajectories.NAME).write_bytes(cut)
    run(tmp_path)
    assert (tmp_path / trajectories.NAME).read_bytes() == content
    # Batches of which every question stood there are not asked again: 2 of the test, 3 steps.
    lines = cut.count(b"\n")
    assert len(asked) == 5 - sum(lines >= end for end in (8, 12, 20, 28, 32))


def test_a_job_that_has_ended_asks_nothing_and_loads_no_model(whole, asked, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    run(folder)
    assert asked == []
    # Its checkpoint is of step 3; without one the file alone says the same.
    shutil.rmtree(folder / "checkpoints")
    run(folder)
    assert asked == []


def test_another_seeds_texts_differ_and_other_data_are_refused(whole, tmp_path):
    assert run(tmp_path, seed=4) != trajectories.read(whole)
    data = JOB["data"] | {"options": {"shortest": 3, "longest": 3, "test_size": 6}}
    with pytest.raises(ValueError, match=r"0 is .*: the data have changed; give another"):
        think.program(config_lib.build(Think, JOB | {"data": data}), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"steps": 4}}, "4 steps of 4 questions are more than the 10 .* set it to 3"),
        ({"max_new_tokens": 250}, "exceed the model's context of 256"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"width": 0}, "width must be at least 1"),
        ({"top_p": 1.5}, "top_p is 1.5"),
    ],
)
def test_jobs_that_cannot_be(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        think.program(config_lib.build(Think, JOB | changes), tmp_path)


@pytest.mark.slow
def test_a_job_that_was_killed_goes_on(whole, tmp_path):
    config = tmp_path / "job.py"
    config.write_text(f"def get_config():\n    return {JOB!r}\n")
    command = [sys.executable, "-m", "jaxlab.train", f"--config={config}"]
    command.append(f"--workdir={tmp_path / 'run'}")
    path = tmp_path / "run" / trajectories.NAME
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (path.exists() and path.stat().st_size):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    content = (whole / trajectories.NAME).read_bytes()
    assert content.startswith(path.read_bytes())
    subprocess.run(command, check=True, capture_output=True)
    assert path.read_bytes() == content
