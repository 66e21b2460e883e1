"""Every config builds; every tiny variant trains two steps."""

import json
import pathlib
import sqlite3

import jax
import jax.numpy as jnp
import pytest

from jaxlab import evaluate, train
from jaxlab.agents import heavy_prompts
from jaxlab.config import ConfigError
from jaxlab.evals import options, report
from jaxlab.evals.ajbench import rows as ajbench
from jaxlab.evals.general365 import rows as general365
from jaxlab.evals.heavy import report as heavy_report
from jaxlab.evals.heavy import runs
from jaxlab.interop import hf, sentence_encoder
from jaxlab.models.decoder import Decoder
from jaxlab.models.sizes import Sizes
from jaxlab.runtime.checkpoint import Checkpointer
from jaxlab.runtime.drawing import by_operations
from jaxlab.text import tokenizer
from tests.interop import sentence_encoder_test as sentences

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"

VARIANTS = {
    "aopd_modsum": ("", "demo", "tiny"),
    "moe_modsum": ("", "tiny"),
    "scope_modsum": ("", "weak", "demo", "tiny"),
    "aopd_gsm8k": ("", "small", "tiny"),
    "scope_gsm8k": ("", "small", "tiny"),
    "sft_gsm8k": ("", "small", "tiny"),
    "eval_gsm8k": ("", "small", "tiny"),
    "eval_math": ("", "small", "tiny"),
    "eval_general365": ("", "demo", "tiny"),
    "eval_ajbench": ("", "text", "react", "tiny"),
    "eval_household": ("", "made_up", "tiny"),
    "eval_webshop": ("", "tiny"),
    "eval_file": ("", "tiny"),
    "mqar_fg2": ("", "matched", "long", "demo", "zoology", "tiny"),
    "state_tracking": ("", "s3", "s5", "demo", "demo_s3", "tiny"),
    "two_level_needle": ("", "demo", "tiny"),
    "synthetic_tasks": ("", "palindrome", "stacks", "needle", "tiny"),
    "pretrain_text": ("", "340m", "small", "tiny"),
    "latent_action": ("", "features", "world", "tiny"),
    "lary_synthetic": ("", "demo", "tiny"),
    "heavy_chains": ("", "width", "demo", "tiny"),
    "heavy_gsm8k": ("", "tiny"),
    "eval_lary": ("", "small", "tiny"),
    "skill1_household": ("", "demo", "tiny"),
    "skill1_alfworld": ("", "tiny"),
    "skill1_webshop": ("", "tiny"),
    "sparse_balance_text": ("", "needle", "demo", "tiny"),
    "sparse_balance_longalign": ("", "tiny"),
}

COMMON_KEYS = ("seed", "data", "train", "optim", "mesh")


def test_every_config_is_listed():
    assert {path.stem for path in CONFIGS.glob("*.py")} - {"common"} == VARIANTS.keys()


def _runs(config):
    return config["stages"].values() if "stages" in config else [config]


@pytest.mark.parametrize(("name", "variant"), [(n, v) for n, vs in VARIANTS.items() for v in vs])
def test_every_variant_builds(config, name, variant):
    built = config(name, variant)
    if name.startswith("eval_"):
        evaluate.build(built)
        return
    train.check(built, name)
    for run in _runs(built):
        # A job that writes texts learns nothing.
        job = {"optim"} if run["trainer"] == "think" else set()
        assert not set(COMMON_KEYS) - run.keys() - job
        assert {"model"} <= run.keys() or {"student", "teacher"} <= run.keys()


@pytest.mark.parametrize("name", VARIANTS)
def test_an_unknown_variant_is_refused(config, name):
    with pytest.raises(ValueError, match=rf"{name}.py has the variants .*tiny, not 'huge'"):
        config(name, "huge")


def _check_trained(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    (last,) = [row for row in rows if "loss" in row]
    assert last["step"] == 2
    assert "nonfinite" not in last
    assert {0, 2} <= {row["step"] for row in rows if "eval/entropy" in row}
    assert Checkpointer(workdir / "checkpoints").latest() == 2


@pytest.mark.parametrize("name", ["sft_gsm8k", pytest.param("aopd_gsm8k", marks=pytest.mark.slow)])
def test_gsm8k_trains_two_steps(config, gsm8k, name, tmp_path):
    """tests/trainers/scope_gsm8k_test.py distils on GSM8K; Muon is no config's."""
    tiny = config(name, "tiny")
    tiny["data"] |= gsm8k
    tiny["optim"]["name"] = "muon"
    train.train(tiny, tmp_path)
    _check_trained(tmp_path)


def test_modsum_trains_two_steps_of_every_stage(config, modsum_run):
    for stage in config("aopd_modsum", "tiny")["stages"]:
        _check_trained(modsum_run / stage)
    rows = json.loads((modsum_run / "report.json").read_text())["rows"]
    assert {row["method"] for row in rows} == set(config("aopd_modsum", "tiny")["stages"])
    text = (modsum_run / "report.md").read_text()
    for picture in modsum_run.glob("*.png"):
        assert f"({picture.name})" in text
    assert (modsum_run / "aopd_student" / "model.safetensors").exists()


@pytest.mark.parametrize("stage", ["student", pytest.param("opd", marks=pytest.mark.slow)])
def test_experts_train_two_steps(config, stage, tmp_path):
    """The balance loss is on; distillation is into and of such a model."""
    stages = config("moe_modsum", "tiny")["stages"]
    train.train(stages["student"], tmp_path / "student")
    if stage == "opd":
        for model in ("student", "teacher"):
            stages["opd"][model]["path"] = str(tmp_path / "student")
        train.train(stages["opd"], tmp_path / "opd")
    _check_trained(tmp_path / stage)
    rows = [json.loads(x) for x in (tmp_path / stage / "metrics.jsonl").read_text().splitlines()]
    (last,) = [row for row in rows if "loss" in row]
    assert 0.9 < last["router_balance"] < 4
    assert 1 <= last["router_load_max"] <= 8
    assert 0 <= last["router_unused"] < 1


@pytest.mark.parametrize(
    "name", ["mqar_fg2", "state_tracking", pytest.param("synthetic_tasks", marks=pytest.mark.slow)]
)
def test_token_tasks_train_two_steps_of_every_stage(config, name, tmp_path):
    """tests/trainers/lm_test.py trains attention on letters, and on palindromes."""
    stages = config(name, "tiny")["stages"]
    if name == "state_tracking":
        del stages["attention"]
    for stage, settings in stages.items():
        train.train(settings, tmp_path / stage)
        _check_trained(tmp_path / stage)
    report.write(tmp_path, {stage: tmp_path / stage for stage in stages}, name)
    text = (tmp_path / "report.md").read_text()
    assert "| method | seeds | steps | accuracy | sequence_accuracy | loss | entropy |" in text
    assert "| accuracy at " in text
    assert {path.name for path in tmp_path.glob("*.png")} == {"curves.png", "sweeps.png"}


@pytest.mark.slow
def test_needles_are_read_through_attentions(config, tmp_path):
    (stage,) = config("two_level_needle", "tiny")["stages"].values()
    train.train(stage, tmp_path)
    _check_trained(tmp_path)
    report.write(tmp_path, {"run": tmp_path}, "Needles")
    text = (tmp_path / "report.md").read_text()
    assert "| mass at budget | 8 |" in text
    assert "| two_level_stale | 0." in text


def test_probes_train_two_steps(config, tmp_path):
    tiny = config("lary_synthetic", "tiny")
    train.run(tiny, tmp_path)
    for stage in tiny["stages"]:
        steps = tiny["stages"][stage]["train"]["steps"]
        assert Checkpointer(tmp_path / stage / "checkpoints").latest() == steps
    # The others' world, and their features, are the first one's.
    assert len(list(tmp_path.glob("*/world-*"))) == len(list(tmp_path.glob("*/features"))) == 1
    table = (tmp_path / "lary.md").read_text()
    assert "| V-JEPA2 | semantic | 75.39 | 76.62 |" in table
    assert "| action_semantic | here |" in table
    assert "| semantic | synthetic | relative | source |" in table
    assert (
        "| method | seeds | steps | micro | macro | mse |" in (tmp_path / "report.md").read_text()
    )


def test_thinkers_and_deliberators_train_two_steps_of_every_stage(config, tmp_path):
    stages = config("heavy_chains", "tiny")["stages"]
    train.run(config("heavy_chains", "tiny"), tmp_path)
    for stage in stages:
        written = (tmp_path / stage / "metrics.jsonl").read_text().splitlines()
        rows = list(map(json.loads, written))
        (last,) = [row for row in rows if row["step"] == 2 and "loss" in row]
        assert {0, 2} <= {row["step"] for row in rows if "eval/truncated_share" in row}
        if "thinkers" in stages[stage] and stages[stage]["trainer"] == "distill":
            names = {"student_entropy", "truncated_share", "cache_cut_share", "thinkers_pass_rate"}
            assert names <= last.keys()
    lines = (tmp_path / "thinkers" / "thinkers.jsonl").read_text().splitlines()
    assert len(lines) == 2 * (2 * 4 + 4)
    text = (tmp_path / "report.md").read_text()
    assert "| avg@2 | pass@2 | maj@2 |" in text
    _check_measured(tmp_path)


def _check_measured(workdir):
    """The workflow itself over the deliberators that were trained, with controls."""
    subject = runs.subject(workdir / "chains")
    assert subject.thinker == (
        workdir / "thinker",
        {"max_new_tokens": 4, "temperature": 1.0},
    )
    questions = runs.measure(subject, {"rounds": 2, "samples": 2}, limit=2)
    assert [question.id for question in questions] == ["test/0", "test/1"]
    for question in questions:
        assert [len(texts) for texts in (question.thinkers, *question.rounds)] == [2, 2, 2]
        assert set(question.controls) == {"answers_only", "no_thinkers", "long_thought"}
        assert question.missing == 0
        assert question.tokens > 2 * 4 + 4 * 2
    assert "HM@K1 after round 1" in "\n".join(heavy_report.tables(questions)[0].markdown())
    again = runs.measure(subject, {"rounds": 2, "samples": 2}, limit=2, controls=False)
    assert [one.rounds for one in again] == [one.rounds for one in questions]
    with pytest.raises(ConfigError, match="thinker reads no thinkers"):
        runs.subject(workdir / "thinker")


def test_gsm8k_is_deliberated_two_steps(config, gsm8k, tmp_path):
    """From a HuggingFace directory, as a user's model is."""
    tiny = config("heavy_gsm8k", "tiny")
    # Of the rules of a prompt, which are then 600 tokens, not 2,500.
    rules = pathlib.Path(heavy_prompts.__file__).read_text()
    words = tokenizer.train_bpe([rules, pathlib.Path(gsm8k["train"]).read_text()], 1500)
    words.save(tmp_path / "words")
    gsm8k = gsm8k | {"tokenizer": str(tmp_path / "words")}
    tiny["stages"]["gspo"]["data"]["max_prompt"] = 1024
    sizes = Sizes(vocab_size=words.vocab_size, **tiny["stages"]["gspo"]["student"]["sizes"])
    sizes = sizes.decoder()
    drawn = by_operations(Decoder(sizes).init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    hf.save(tmp_path / "hf", sizes, drawn["params"])
    for stage in tiny["stages"].values():
        stage["data"] |= gsm8k
        stage["model" if stage["trainer"] == "think" else "student"] = {
            "path": str(tmp_path / "hf")
        }
    train.run(tiny, tmp_path)
    _check_trained(tmp_path / "gspo")
    row = json.loads((tmp_path / "gspo" / "samples.jsonl").read_text().splitlines()[0])
    assert "=== Thinker #2 [" in row["prompt"]
    # A file of thinkers that has changed is not gone on with.
    with (tmp_path / "thinkers" / "thinkers.jsonl").open("a") as file:
        file.write("\n")
    tiny["stages"]["gspo"]["train"]["steps"] = 3
    tiny["stages"]["gspo"]["thinkers"]["path"] = str(tmp_path / "thinkers")
    with pytest.raises(SystemExit):
        train.train(tiny["stages"]["gspo"], tmp_path / "gspo")


@pytest.mark.parametrize("name", ["skill1_alfworld", "skill1_webshop"])
def test_skill1_trains_two_steps_of_a_chat_model(config, gsm8k, name, tmp_path):
    """tests/trainers/agent_test.py trains the cells of skill1_household."""
    tiny = config(name, "tiny")
    tiny["tokenizer"] = gsm8k["tokenizer"]
    tiny["eval"]["meter_every"] = 0
    encoder = "hashed projection of 128, seed 0"
    if name == "skill1_webshop":
        tiny["skills"]["encoder"]["path"] = str(sentences.write(tmp_path / "encoder"))
        encoder = sentence_encoder.load(tmp_path / "encoder").name
    train.train(tiny, tmp_path)
    with sqlite3.connect(tmp_path / "skills.sqlite") as library:
        assert ("encoder", encoder) in library.execute("select * from about").fetchall()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    (last,) = [row for row in map(json.loads, lines) if "loss" in row and row["step"] == 2]
    # Nobody can read what a random model writes: it is counted, as prompts that were cut are.
    assert last["unread_act"] == last["actions"] == 2
    assert last["unread_distil"] == 1
    assert last["cut_prompts"] > 0
    assert Checkpointer(tmp_path / "checkpoints").latest() == 2


def test_balanced_policies_train_two_steps(config, tmp_path):
    tiny = config("sparse_balance_text", "tiny")
    train.run(tiny, tmp_path)
    for stage in tiny["stages"]:
        _check_trained(tmp_path / stage)
    rows = (tmp_path / "control" / "metrics.jsonl").read_text().splitlines()
    row = json.loads(rows[-2])
    assert row["balance/programs"] == 1
    # Four documents of 8 or 16 tokens a step, whatever the number of targets, which is 4.
    assert 32 - 1e-6 <= row["tokens_per_second"] * row["step_seconds"] <= 64 + 1e-6
    assert "| accuracy | sequence_accuracy | loss |" in (tmp_path / "report.md").read_text()


def test_balanced_documents_train_two_steps(config, tmp_path):
    path = tmp_path / "rows.jsonl"
    texts = ["She sells sea shells. " * n for n in (1, 2, 3, 4, 1, 2)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    tiny = config("sparse_balance_longalign", "tiny")
    tiny["data"]["options"] |= {"train": str(path), "valid": str(path)}
    train.train(tiny, tmp_path / "run")
    _check_trained(tmp_path / "run")


def test_text_trains_two_steps(config, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("She sells sea shells by the sea shore.\n" * 50)
    tiny = config("pretrain_text", "tiny")
    tiny["data"]["options"]["train"] = str(path)
    train.train(tiny, tmp_path / "run")
    _check_trained(tmp_path / "run")
    report.write(tmp_path / "run", {"run": tmp_path / "run"}, "Text")
    text = (tmp_path / "run" / "report.md").read_text()
    assert "| perplexity | bits_per_byte | accuracy | loss | entropy |" in text
    assert "| perplexity at length | 16 | 32 | 64 |" in text
    assert "| loss at position | 2 | 4 | 8 | 16 | 32 | 64 |" in text


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["scope", "cross_entropy", "grpo"])
def test_losses_that_tiny_variants_leave_out(config, loss, tmp_path):
    """With several updates per batch, and Muon.

    By default scope_gsm8k_test.py trains by SCOPE, sources_test.py on the teacher's completions,
    microbatch_test.py by GRPO and with several updates, and Muon is above.
    """
    stage = config("aopd_modsum", "tiny")["stages"]["opd"]
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_layers": 1,
        "num_heads": 2,
        "num_kv_heads": 1,
        "max_position": 32,
    }
    stage["student"] = stage["teacher"] = {"sizes": sizes}
    stage["rollout"] |= {"prompts": 4, "samples": 2, "updates": 2}
    stage["rollout"]["source"] = "teacher" if loss == "cross_entropy" else "student"
    stage["optim"]["name"] = "muon"
    stage["loss"] = {"name": loss}
    train.train(stage, tmp_path)
    _check_trained(tmp_path)


@pytest.mark.parametrize("name", ["gsm8k", "math", "general365", "ajbench", "household", "webshop"])
def test_every_argument_of_a_benchmarks_task_can_be_set_at_the_door(config, name):
    for variant in VARIANTS[f"eval_{name}"]:
        written = config(f"eval_{name}", variant)["benchmark"]["options"]
        assert written.keys() == set(options.names(options.OPTIONS[name]))
        options.filled(name, written)


@pytest.mark.parametrize(
    ("name", "aliases"), [("general365", general365.ALIASES), ("ajbench", ajbench.ALIASES)]
)
def test_every_field_of_a_row_can_be_named_at_the_door(config, name, aliases):
    built = config(f"eval_{name}", "")["benchmark"]["options"]["fields"]
    assert built == dict.fromkeys(aliases)
