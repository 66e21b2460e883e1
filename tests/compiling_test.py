"""--compile_only: the doors in processes that have eight fake devices, and none for TPUs."""

import json

import pytest

HIDDEN, WORDS, WIDTH, LENGTH, BATCH = 16, 64, 32, 16, 8
MODEL = {
    "vocab_size": WORDS, "hidden_size": HIDDEN, "intermediate_size": WIDTH, "num_layers": 1,
    "num_heads": 2, "num_kv_heads": 2, "head_dim": 8, "tie_embeddings": True, "remat": True,
}  # fmt: skip
LM = f"""
from ml_collections import ConfigDict

def get_config(batch="{BATCH}"):
    return ConfigDict({{
        "trainer": "lm", "seed": 0, "batch_size": int(batch),
        "model": {{"sizes": {MODEL}}},
        "data": {{"task": "text", "options": {{"length": {LENGTH}}}}},
        "train": {{"steps": 2}}, "optim": {{"learning_rate": 0.1}},
        "mesh": {{
            "shape": {{"data": -1, "model": 2}},
            "rules": (("(gate|up)/kernel", ("data", "model")), (".*", ())),
        }},
    }})
"""
AHEAD = ("--compile_only", "--topology=cpu:8")


@pytest.fixture
def lm(tmp_path):
    """A run of one layer on 1/4 x 1/2 of whose feed-forward kernels each of eight devices has."""
    path = tmp_path / "lm.py"
    path.write_text(LM)
    return path


def test_training_is_compiled_without_data(door_process, lm, tmp_path):
    done = door_process("train", f"--config={lm}", f"--workdir={tmp_path / 'w'}", *AHEAD)
    assert done.returncode == 0, done.stderr
    [update] = json.loads((tmp_path / "w" / "ahead.json").read_text())["programs"][""]
    assert update["mesh"] == {"data": 4, "model": 2}  # -1 is filled
    split, whole = 2 * HIDDEN * WIDTH, WORDS * HIDDEN + 4 * HIDDEN**2 + WIDTH * HIDDEN + 3 * HIDDEN
    params = 4 * (split // 8 + whole)
    # AdamW's two moments, with a count, and that of the schedule.
    assert update["memory"]["params"] == params
    assert 0 < update["memory"]["optimiser"] - 2 * params <= 8
    # Tokens, targets and mask of two rows.
    assert update["memory"]["batch"] == BATCH // 4 * LENGTH * (4 + 4 + 1)
    # Forward, once more for remat, and twice backward; of the feed-forward layer's three products
    # remat leaves out one, whose result is not needed.
    tokens = BATCH * LENGTH
    layer = 2 * tokens * (4 * HIDDEN**2 + 3 * HIDDEN * WIDTH)
    scores = 2 * 2 * BATCH * LENGTH**2 * HIDDEN
    words = 2 * tokens * WORDS * HIDDEN
    most = 4 * (layer + scores) + 3 * words
    assert 0.8 * most < 8 * update["flops"] <= most
    axes = {one["axes"] for one in update["collectives"]}
    assert axes >= {"data", "model"}
    assert "update on cpu:8 (data 4 x model 2)" in done.stdout
    flags = (f"--workdir={tmp_path / 'w'}", *AHEAD, "--trace_only")
    assert door_process("train", f"--config={lm}", *flags).returncode == 0
    [traced] = json.loads((tmp_path / "w" / "ahead.json").read_text())["programs"][""]
    assert traced["memory"].items() <= update["memory"].items()
    assert traced["flops"] == update["flops"]


def test_distillation_and_decoding_are_compiled(door_process, tmp_path):
    flags = ("--config=configs/aopd_modsum.py:tiny", "--stages=aopd", "--compile_only")
    done = door_process("train", *flags, "--topology=h100:2", f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    programs = json.loads((tmp_path / "ahead.json").read_text())["programs"]["aopd"]
    assert [one["name"] for one in programs] == ["sample", "score", "update"]
    sample, score, update = (one["memory"] for one in programs)
    # The student comes from a stage that has not run; the teacher stays meanwhile.
    assert sample["teacher"] == score["teacher"] == update["teacher"] > 0
    assert sample["params"] == score["params"] == update["params"] > 0
    assert sample["cache"] > 0
    # They are decoded as they lie.
    assert "params for decoding" not in sample
    assert all(one["fits"] and one["step_seconds"] > 0 for one in programs)

    flags = (
        *flags[::2],
        "--stages=gkd",
        "--topology=h100:2",
        "--trace_only",
        f"--workdir={tmp_path}",
    )
    # Split by the training's rules and whole for decoding, they lie there twice.
    split = "--config.stages.gkd.mesh.rules=((r'.*', ('data',)),)"
    asked = "--config.stages.gkd.rollout.source=teacher"
    done = door_process("train", *flags, split, asked)
    assert done.returncode == 0, done.stderr
    programs = json.loads((tmp_path / "ahead.json").read_text())["programs"]["gkd"]
    assert [one["name"] for one in programs] == ["sample of the teacher", "score", "update"]
    memory = programs[0]["memory"]
    assert memory["params for decoding"] > memory["teacher"] > 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--config={}:6", *AHEAD), "batch_size: 6 rows do not divide by the mesh axis data of "
         "size 4: set it to 8"),
        (("--config={}", "--compile_only", "--topology=cpu:3"), "needs a multiple of 2 devices"),
        (("--config={}", "--compile_only"), "--topology is missing"),
        (("--config={}", "--topology=cpu:8", "--workdir=/nowhere"), "--compile_only alone"),
        (("--config={}", "--compile_only", "--topology=moon:8"), "there is no 'moon'"),
        (("--config=configs/lary_synthetic.py:tiny", *AHEAD), "is not compiled ahead, only lm"),
        (("--config=configs/pretrain_text.py:tiny", *AHEAD), "model.sizes.vocab_size: without a"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(door_process, lm, flags, message):
    done = door_process("train", *(flag.format(lm) for flag in flags))
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_api_is_not_compiled(door_process):
    flags = ("--config=configs/eval_math.py:tiny", "--config.model.name=openai/x", *AHEAD)
    done = door_process("evaluate", *flags)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "model.path: a model behind an API" in done.stderr
