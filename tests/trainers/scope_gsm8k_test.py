"""configs/scope_gsm8k.py between two Qwen3 directories: trained, killed, gone on with, exported."""

import json
import os
import pathlib
import signal
import time

import jax
import numpy as np
import pytest

from jaxlab import config as config_lib
from jaxlab import exporting, train
from jaxlab.interop import hf
from jaxlab.losses.methods.scope import Scope
from jaxlab.models.sizes import Sizes
from jaxlab.runtime.checkpoint import Checkpointer
from jaxlab.text import tokenizer
from jaxlab.trainers.distill import Distill
from tests.interop.directories import assert_same, random_params

ROOT = pathlib.Path(__file__).parents[2]
TIMES = ("step_seconds", "tokens_per_second", "model_flops_per_second")


def _qwen3(folder, config, words, likely=()):
    """A random Qwen3 directory; with `likely` tokens, one that says little else."""
    params = random_params(config)
    # One direction of the hidden states that all inputs share, and these outputs follow.
    inputs, outputs = params["embed"], params["unembed"]
    inputs["embedding"] = inputs["embedding"].at[:, 0].add(8.0)
    outputs["embedding"] = (0.1 * outputs["embedding"]).at[np.array(likely, int), 0].add(2.0)
    hf.save(folder, config, params)
    words.save(folder)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "qwen3"
    return {"path": str(folder)}


def test_the_plain_config_has_the_papers_settings(config):
    """Tables 3 and 4 of arXiv 2604.10688, and Eq. 4 to 6 as they stand."""
    found = config_lib.build(Distill, config("scope_gsm8k"))
    rollout, optimiser = found.rollout, found.optim
    assert (rollout.prompts, rollout.samples, rollout.updates) == (256, 8, 1)
    assert (rollout.temperature, rollout.max_new_tokens, rollout.source) == (0.6, 12_288, "student")
    assert (found.data.max_prompt, found.train.steps) == (4096, 100)
    assert (optimiser.learning_rate, optimiser.weight_decay) == (5e-5, 0.01)
    assert (optimiser.schedule, optimiser.warmup_steps) == ("constant", 0)
    assert found.loss == Scope(tau=1.0)
    assert found.loss.contradictions() == []
    evaluated = found.eval
    assert (evaluated.samples, evaluated.max_new_tokens) == (32, 32_768)
    assert (evaluated.temperature, evaluated.top_p, evaluated.top_k) == (0.6, 0.95, 20)


@pytest.fixture(scope="module")
def settings(gsm8k, tmp_path_factory):
    """The config's variant "tiny" with two directories, for a few steps more.

    All answers are 2, and the student's texts are of the digits 0 and 2: "2" and "02" are right.
    """
    from configs import scope_gsm8k

    folder = tmp_path_factory.mktemp("models")
    asked = "Ann has {} shells and wants {}. How many does she lack?"
    rows = [{"question": asked.format(n, n + 2), "answer": "Two.\n#### 2"} for n in range(8)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny = scope_gsm8k.get_config("tiny").to_dict()
    words = tokenizer.load(gsm8k["tokenizer"])
    sizes = tiny["student"]["sizes"] | {"vocab_size": words.vocab_size, "tie_embeddings": False}
    student, teacher = (Sizes(**sizes | {"hidden_size": n}).decoder() for n in (16, 24))
    digits = [words.encode(digit)[0] for digit in "02"]
    tiny["student"] = _qwen3(folder / "student", student, words, [*digits, words.eos_id])
    tiny["teacher"] = _qwen3(folder / "teacher", teacher, words)
    tiny["data"] |= dict.fromkeys(("train", "test"), str(folder / "rows.jsonl"))
    # As many as in a batch of the evaluation: one program samples for both.
    shared = {"prompts": 4, "samples": 4, "max_new_tokens": 4}
    tiny["rollout"] |= shared
    tiny["eval"] |= shared | {"batch": 4, "temperature": 0.6, "top_k": None, "top_p": None}
    tiny["train"] |= {"steps": 12, "log_every": 1, "checkpoint_every": 4, "eval_every": 6}
    return tiny


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory):
    """The work directory of the run that nobody interrupts."""
    workdir = tmp_path_factory.mktemp("whole")
    train.train(settings, workdir)
    return workdir


def _rows(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(x).items() if k not in TIMES} for x in lines]


def test_both_branches_learn_from_the_verifiers_verdicts(whole):
    rows = [row for row in _rows(whole) if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, 13))
    # Some answers are right, and whoever is right is in the correct branch.
    assert [row["correct_share"] for row in rows] == [row["reward"] for row in rows]
    assert 0 < np.mean([row["reward"] for row in rows]) < 1
    # Eq. 4 and 5: the less likely of the correct answers weigh more, and of the wrong ones those
    # that the teacher can follow.
    several = [row for row in rows if row["correct_weight_perplexity"]]
    assert min(row["correct_weight_perplexity"] for row in several) > 0
    assert max(row["wrong_weight_perplexity"] for row in rows) < 0
    evaluated = [row for row in _rows(whole) if "eval/avg@4" in row]
    assert [row["step"] for row in evaluated] == [0, 6, 12]
    assert all({"eval/kl_reverse", "eval/pass@4"} <= row.keys() for row in evaluated)


def test_a_killed_run_ends_bit_for_bit_the_same(settings, whole, tmp_path, forks):
    file, workdir = tmp_path / "run.py", tmp_path / "run"
    file.write_text(f"def get_config():\n    return {settings!r}\n")
    flags = f"--config={file}", f"--workdir={workdir}"
    process = forks.start("jaxlab.train", *flags, cwd=ROOT)
    limit = time.monotonic() + 300
    while not (workdir / "checkpoints" / "4").exists():
        assert not process.ended(), process.wait().stderr
        assert time.monotonic() < limit
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait().returncode == -signal.SIGKILL
    assert Checkpointer(workdir / "checkpoints").latest() < 12
    train.train(settings, workdir)
    ends = (Checkpointer(path / "checkpoints").restore_params(12) for path in (workdir, whole))
    jax.tree.map(np.testing.assert_array_equal, *ends)
    assert _rows(workdir) == _rows(whole)
    assert (workdir / "samples.jsonl").read_bytes() == (whole / "samples.jsonl").read_bytes()


def test_the_student_is_exported_as_it_came(settings, whole, tmp_path):
    out = exporting.export(whole, tmp_path / "student")
    config, params = hf.load(out)
    trained = Checkpointer(whole / "checkpoints").restore_params(12)
    assert_same(params, trained)
    start, _ = hf.load(settings["student"]["path"])
    assert config == start
    for name in ("tokenizer.json", "config.json"):
        assert (out / name).is_file()


@pytest.mark.interop
def test_transformers_loads_the_export(whole, tmp_path):
    import transformers

    out = exporting.export(whole, tmp_path / "student", check=True)
    assert json.loads((out / "parity.json").read_text())["passed"]
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert type(model).__name__ == "Qwen3ForCausalLM"
    words = transformers.AutoTokenizer.from_pretrained(out)
    asked = words("Ann has 2 shells.", return_tensors="pt", return_token_type_ids=False)
    answered = model.generate(**asked, max_new_tokens=4, do_sample=False)
    assert 0 < answered.shape[1] - asked["input_ids"].shape[1] <= 4
