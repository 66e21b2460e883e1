"""What goes wrong at the doors: one line, the right exit code, and nothing broken behind it."""

import json
import pathlib
import re
import shutil
import sys

import jax
import numpy as np
import pytest
from absl.testing import flagsaver

from jaxlab import doors, evaluate, exporting, train
from jaxlab.interop import hf, models
from jaxlab.runtime.checkpoint import Checkpointer

SIZES = {
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_layers": 1,
    "num_heads": 2,
    "num_kv_heads": 1,
    "max_position": 32,
}


def _sft(**changes):
    base = {
        "trainer": "sft",
        "model": {"sizes": SIZES},
        "data": {"task": "modsum", "max_prompt": 16},
        "train": {"steps": 2},
        "optim": {"learning_rate": 1e-3},
        "eval": {"prompts": 2, "samples": 1, "max_new_tokens": 4},
        "batch_size": 2,
        "max_length": 16,
    }
    return base | changes


def _distill(**changes):
    base = _sft(trainer="distill")
    for name in ("model", "batch_size", "max_length"):
        del base[name]
    more = {
        "student": {"sizes": SIZES},
        "teacher": {"sizes": SIZES},
        "loss": {"name": "opd"},
        "rollout": {"prompts": 2, "samples": 2, "max_new_tokens": 4},
    }
    return base | more | changes


def _refused(capsys, run):
    """Runs what is to be refused; returns the one line."""
    with pytest.raises(SystemExit) as leaving:
        run()
    assert leaving.value.code == 2
    return _line(capsys.readouterr().err)


def _line(stderr):
    (line,) = [line for line in stderr.splitlines() if not line.startswith(("== ", "step "))]
    assert line.startswith("error: ")
    return line


BAD = {
    "no trainer": (_sft(trainer="sgd"), "config.trainer: 'sgd' is not one of sft, distill"),
    "unknown key": (
        _sft(optim={"learning_rat": 1.0}),
        "config.optim.learning_rat is not a known key; did you mean 'learning_rate'?",
    ),
    "ill-typed": (
        _sft(train={"steps": "many"}),
        "config.train.steps: expected int, got 'many' (str)",
    ),
    "log_every": (
        _sft(train={"steps": 2, "log_every": 0}),
        "config.train: log_every must be at least 1, not 0",
    ),
    "mesh": (_sft(mesh={"shape": {"data": 3}}), "needs 3 devices, but there are 1 (cpu)"),
    "mesh without data": (_sft(mesh={"shape": {"model": 1}}), 'needs an axis "data"'),
    "task": (
        _sft(data={"task": "modsun"}),
        "data.task: expected one of 'modsum', 'chains', 'gsm8k', got 'modsun' (str); did you mean",
    ),
    "task option": (
        _sft(data={"task": "modsum", "options": {"modulo": 3}}),
        "data.options.modulo is not a known key; did you mean 'modulus'?",
    ),
    "sizes": (
        _sft(model={"sizes": SIZES | {"num_heads": 3}}),
        "hidden_size 8 is no multiple of num_heads 3",
    ),
    "preset": (_sft(model={"preset": "tinny"}), "no decoder preset 'tinny'"),
    "both": (
        _sft(model={"path": "nowhere", "preset": "tiny"}),
        "model: give path or preset, not both",
    ),
    "neither": (_sft(model={}), "model: give path, or preset, or sizes"),
    "long rows": (_sft(max_length=64), "max_length: 64 exceeds the model's context of 32"),
    "short rows": (_sft(max_length=8), "max_length: 8 tokens leave no room"),
    "long evaluation": (
        _sft(eval={"max_new_tokens": 30}),
        "eval.max_new_tokens: a test prompt of 4 tokens and a completion of 30 exceed the context",
    ),
    "no evaluation": (_sft(eval={"prompts": 0}), "prompts must be at least 1, not 0"),
    "vocabulary": (
        _sft(model={"sizes": SIZES | {"vocab_size": 7}}),
        "model: the model has a vocabulary of 7, the tokenizer one of 18",
    ),
    "loss": (
        _distill(loss={"name": "oppd"}),
        "'cross_entropy', 'scope', 'scope_released', 'discounted_opd', 'exopd', 'power_opd', "
        "'vopd', 'eopd', 'grpo', 'dr_grpo', 'rloo', 'dapo', 'gspo', 'gigpo', 'kdrl', got 'oppd' "
        "(str); did you mean 'opd'?",
    ),
    "loss option": (
        _distill(loss={"name": "aopd", "guide": {"topk": 3}}),
        "loss.guide.topk is not a known key; did you mean 'top_k'?",
    ),
    "aggregation": (
        _distill(loss={"name": "opd", "agg": "mean"}),
        "loss.agg: expected one of 'seq_m",
    ),
    "teacher": (_distill(teacher=None), "teacher: the loss opd needs a teacher"),
    "statistics": (
        _distill(teacher=None, loss={"name": "grpo"}, statistics=True),
        "statistics: there is no teacher whose distribution could be compared",
    ),
    "reference": (
        _distill(reference={"sizes": SIZES}),
        "reference: the loss opd with these options reads none",
    ),
    "context": (
        _distill(rollout={"max_new_tokens": 20}),
        "prompts of 16 and completions of 20 tokens exceed the student's context of 32",
    ),
    "temperature": (_distill(rollout={"temperature": 0.0}), "temperature must be above 0"),
    "updates": (
        _distill(rollout={"prompts": 2, "samples": 2, "updates": 3}),
        "updates: 3 does not divide the batch of 2 x 2",
    ),
    "student.path": (
        _distill(student={"path": "nowhere"}),
        "student.path: nowhere does not exist: give a work directory of training, or a Hugging",
    ),
    "student.sizes": (
        _distill(student={"path": "nowhere", "sizes": {"num_layers": 3}}),
        "student.sizes.num_layers: the model at nowhere has its sizes",
    ),
    "prompt template": (
        _sft(data={"task": "gsm8k", "options": {"prompt": "{problem}"}}),
        "data.options: prompt: '{problem}' has no {question}",
    ),
    "prompt": (
        _sft(data={"task": "modsum", "max_prompt": 3}),
        "the prompt of train example 0 has 4 tokens, more than data.max_prompt = 3",
    ),
}


@pytest.mark.parametrize(("config", "message"), BAD.values(), ids=BAD)
def test_a_bad_config_is_one_line_and_code_2(capsys, tmp_path, config, message):
    workdir = tmp_path / "run"
    assert message in _refused(capsys, lambda: train.train(config, workdir))
    # Nothing is left that the next attempt would mistake for a run.
    assert not (workdir / "config.json").exists()
    assert not (workdir / "checkpoints").exists()


GOOD = {"question": "How many?", "answer": "One.\n#### 1"}
ROWS = {
    "missing": (None, "rows.jsonl: no such file; give the path of a .jsonl file"),
    "empty": ([], "rows.jsonl: the file is empty"),
    "malformed": ([json.dumps(GOOD), "{not json"], "rows.jsonl:2: malformed JSON"),
    "no field": ([json.dumps(GOOD), '{"question": "?"}'], "rows.jsonl:2: missing field 'answer'"),
    "no answer": (
        [json.dumps(GOOD | {"answer": "One."})],
        "rows.jsonl:1: the answer has no final line '#### <number>'",
    ),
    "long": (
        [json.dumps(GOOD), json.dumps(GOOD | {"question": "How many? " * 50})],
        "the prompt of train example 1 has",
    ),
}


@pytest.mark.parametrize(("rows", "message"), ROWS.values(), ids=ROWS)
def test_bad_data_names_file_and_line(capsys, tmp_path, gsm8k, rows, message):
    path = tmp_path / "rows.jsonl"
    if rows is not None:
        path.write_text("".join(row + "\n" for row in rows))
    data = gsm8k | {"task": "gsm8k", "train": str(path), "max_prompt": 30}
    data["test"] = str(tmp_path / "test.jsonl")
    (tmp_path / "test.jsonl").write_text(json.dumps(GOOD) + "\n")
    config = _sft(data=data, max_length=32)
    assert message in _refused(capsys, lambda: train.train(config, tmp_path / "run"))


def test_gsm8k_needs_its_files(capsys, tmp_path, gsm8k):
    data = {"task": "gsm8k", "tokenizer": gsm8k["tokenizer"], "max_prompt": 8}
    line = _refused(capsys, lambda: train.train(_sft(data=data), tmp_path))
    assert "data.train: gsm8k needs a jsonl file" in line


WRONG_MODELS = {
    "absent": (None, "does not exist: give a work directory of training, or a HuggingFace"),
    "a file": ("", "is not a directory: give a work directory"),
    "empty": ({}, "holds neither a HuggingFace model (config.json) nor a run of ours"),
    "cut": ({"config.json": '{"model_type": '}, "config.json: unreadable JSON"),
    "of another kind": ({"config.json": '{"model_type": "mamba"}'}, "model_type 'mamba' is not"),
    "a cut run": ({"model/decoder.json": "{", "checkpoints/1/manifest.json": "{}"}, "decoder.json"),
    "a study": (
        {"config.json": "{}", "aopd/model/decoder.json": "{}"},
        "holds the runs aopd: give one of them",
    ),
}


@pytest.mark.parametrize(("files", "message"), WRONG_MODELS.values(), ids=WRONG_MODELS)
@pytest.mark.parametrize("task", ["gsm8k", "modsum"])
def test_a_wrong_model_path_is_called_wrong(capsys, tmp_path, task, files, message):
    """Whatever the task: one that brings no tokenizer does not hide it."""
    path = tmp_path / "elsewhere"
    if isinstance(files, str):
        path.write_text(files)
    for name, text in files.items() if isinstance(files, dict) else ():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    if files == {}:
        path.mkdir()
    data = {"task": task, "max_prompt": 16}
    configs = [
        _sft(model={"path": str(path)}, data=data),
        _distill(student={"path": str(path)}, data=data),
        _distill(teacher={"path": str(path)}, data=data),
    ]
    for config in configs:
        line = _refused(capsys, lambda config=config: train.train(config, tmp_path / "run"))
        assert message in line
        assert str(path) in line
        assert "tokenizer" not in line
    evaluation = {"model": {"path": str(path)}, "data": data, "eval": {"prompts": 2}}
    with pytest.raises(ValueError, match=re.escape(message)):
        models.tokenizer_at(evaluate.build(evaluation).model, "model")


def test_a_run_without_checkpoint_is_no_student(capsys, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "decoder.json").write_text(json.dumps(SIZES | {"vocab_size": 18}))
    config = _distill(student={"path": str(tmp_path)})
    line = _refused(capsys, lambda: train.train(config, tmp_path / "run"))
    assert f"student.path: the run {tmp_path} has no checkpoint yet" in line


def test_another_model_in_the_same_directory(capsys, tmp_path):
    train.train(_sft(), tmp_path)
    before = (
        (tmp_path / "model" / "decoder.json").read_text(),
        (tmp_path / "config.json").read_text(),
    )
    capsys.readouterr()
    wider = _sft(model={"sizes": SIZES | {"hidden_size": 16}})
    line = _refused(capsys, lambda: train.train(wider, tmp_path))
    assert "holds checkpoints of another model (hidden_size was 8, now is 16)" in line
    after = (
        (tmp_path / "model" / "decoder.json").read_text(),
        (tmp_path / "config.json").read_text(),
    )
    assert after == before
    # What was described before a field was there has its default.
    described = tmp_path / "model" / "decoder.json"
    older = json.loads(before[0])
    assert older.pop("embedding_std") == 0.02
    described.write_text(json.dumps(older))
    train.train(_sft(), tmp_path)
    assert described.read_text() == before[0]


def test_stages_are_checked_before_the_first_runs():
    stages = {"a": _sft(), "b": _distill(student={"path": "@a"}, loss={"name": "oppd"})}
    with pytest.raises(ValueError, match=r"loss\.name: expected .*'oppd'"):
        train.check({"stages": stages}, "x")
    stages["b"]["loss"] = {"name": "opd", "betta": 1}
    with pytest.raises(ValueError, match=r"loss\.betta is not a known key"):
        train.check({"stages": stages}, "x")
    stages["b"]["loss"] = {"name": "opd"}
    assert list(train.check({"stages": stages}, "x")) == ["a", "b"]
    with pytest.raises(ValueError, match="export: there is no stage 'c'; there are a, b"):
        train.check({"stages": stages, "export": {"c": "out"}}, "x")
    stages["b"]["student"] = {"path": "@c"}
    with pytest.raises(ValueError, match="b: there is no stage 'c'; there are a, b"):
        train.check({"stages": stages}, "x")
    stages["b"]["student"] = {"path": "@b"}
    with pytest.raises(ValueError, match="stages wait for each other"):
        train.check({"stages": stages}, "x")


def test_messages_on_one_line():
    inner = KeyError("'rat'\nDid you mean 'rate'?")
    assert doors.one_line(AttributeError(inner)) == "'rat' Did you mean 'rate'?"
    trace = "flag --config: Traceback (most recent call last):\n  File x\nValueError: no such"
    assert doors.one_line(ValueError(trace)) == "flag --config: ValueError: no such"


@pytest.mark.parametrize("name", ["train", "evaluate", "export"])
def test_help_explains_the_flags(door_process, name):
    done = door_process(name, "--help")
    assert done.returncode in (0, 1)
    assert f"python -m jaxlab.{name} --" in done.stdout
    for flag in ("out", "step", "dtype") if name == "export" else ("config", "workdir"):
        assert f"--{flag}: " in done.stdout
    configs = {
        "train": ["configs/sft_gsm8k.py  "],
        "evaluate": [
            "configs/eval_math.py  MATH-500",
            "benchmark.options of general365:\n",
            "    grader: one of 'cascade', 'rule', 'judge' = 'cascade'\n",
            "    subdomains: tuple[one of 'Search-Wide', ",
        ],
        "export": [],
    }[name]
    assert all(config in done.stdout for config in configs)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (
            "--config.stages.aopd.optim.learning_rat=1",
            "learning_rat: there is no 'learning_rat'; did you mean 'learning_rate'?",
        ),
        ("--config.stages.aopd.zzz.optim=1", "there is no 'zzz'; there are data, eval, "),
        ("--workdirr=x", "Unknown command line flag 'workdirr'. Did you mean: workdir"),
        (
            "--config.stages.aopd.train.steps=many",
            "aopd.train.steps: expected int, got 'many' (str)",
        ),
        ("--config=configs/aopd_modsum.py:huge", "has the variants strong, demo"),
    ],
)
def test_bad_flags(door, tmp_path, flag, message):
    done = door(
        "train", "--config=configs/aopd_modsum.py:tiny", f"--workdir={tmp_path / 'run'}", flag
    )
    assert done.returncode == 2
    assert message in _line(done.stderr)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config=configs/nope.py"], "--config=configs/nope.py: there is no file configs/nope.p"),
        (["--config=configs/eval_maht.py"], "did you mean configs/eval_math.py?"),
        (["-config", "configs/eval_maht.py:tiny"], "did you mean configs/eval_math.py?"),
        (["--config=configs"], "--config=configs: there is no file configs; there are configs/"),
        (["--config=configs/eval_math.py:nope"], "has the variants small and tiny, not 'nope'"),
        (["--config={own}"], "own.py: NameError: name 'x' is not defined"),
        (["--config=configs/eval_math.py"], "--workdir is missing: Where the run keeps"),
        (
            ["--config=configs/eval_math.py", "--config.benchmark.options.anser=x", "--workdir=w"],
            "--config.benchmark.options.anser: there is no 'anser'; ",
        ),
        (["--workdir=w", "--workdirr=x"], "Unknown command line flag 'workdirr'. Did you mean"),
    ],
)
def test_bad_words_of_a_command_line(capsys, tmp_path, monkeypatch, words, message):
    """As `test_bad_flags`, in this process: each is one line, before anything is loaded."""
    (tmp_path / "own.py").write_text("def get_config():\n    return x\n")
    words = ["evaluate", *(word.format(own=tmp_path / "own.py") for word in words)]
    monkeypatch.setattr(sys, "argv", words)
    with flagsaver.flagsaver():
        doors.flags.mark_flags_as_required(["workdir"])
        assert message in _refused(
            capsys, lambda: doors._parse(words, ["workdir"], True, evaluate.schema)
        )


def test_a_failure_on_the_way_leaves_the_last_checkpoint(tmp_path):
    train.train(_sft(train={"steps": 4, "stop_after": 2}), tmp_path)
    before = Checkpointer(tmp_path / "checkpoints").restore_params()
    metrics = tmp_path / "metrics.jsonl"
    metrics.unlink()
    metrics.mkdir()  # where rows were to be written
    with pytest.raises(IsADirectoryError):
        train.train(_sft(train={"steps": 4}), tmp_path)
    saver = Checkpointer(tmp_path / "checkpoints")
    assert saver.steps() == [2]
    jax.tree.map(np.testing.assert_array_equal, saver.restore_params(), before)
    metrics.rmdir()
    train.train(_sft(train={"steps": 4}), tmp_path)
    assert saver.latest() == 4


def test_failing_on_the_way_is_code_1(door_process, tmp_path):
    metrics = tmp_path / "student" / "metrics.jsonl"
    metrics.mkdir(parents=True)
    flags = ("--config=configs/aopd_modsum.py:tiny", f"--workdir={tmp_path}", "--stages=student")
    done = door_process("train", *flags)
    assert done.returncode == 1
    assert "IsADirectoryError" in done.stderr


def test_divergence_is_one_line_and_code_1(capsys, tmp_path):
    diverging = _sft(optim={"learning_rate": 1e30, "clip_norm": None}, train={"steps": 4})
    with pytest.raises(SystemExit) as leaving:
        train.train(diverging, tmp_path)
    assert leaving.value.code == 1
    assert "not finite; there is no checkpoint yet" in _line(capsys.readouterr().err)


def test_export_door(door, modsum_run, tmp_path):
    out = tmp_path / "out"
    done = door("export", f"--workdir={modsum_run / 'student'}", f"--out={out}", "--nocheck")
    assert done.returncode == 0, done.stderr
    _, exported = hf.load(out)
    trained = Checkpointer(modsum_run / "student" / "checkpoints").restore_params()
    jax.tree.map(np.testing.assert_array_equal, exported, trained)
    assert (out / "tokenizer.json").exists()
    # Again over itself, then over something else.
    exporting.export(modsum_run / "student", out, dtype="bfloat16")
    (tmp_path / "notes.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="holds other files"):
        exporting.export(modsum_run / "student", tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "precious"


def test_export_refuses(door_process, tmp_path):
    done = door_process("export", f"--workdir={tmp_path / 'absent'}", f"--out={tmp_path / 'out'}")
    assert done.returncode == 2
    assert "absent is no run of training: it does not exist" in _line(
        done.stderr.replace("not compared", "step ")
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.interop
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_export_compares_with_pytorch(modsum_run, tmp_path, dtype):
    exporting.export(modsum_run / "student", tmp_path / "out", dtype=dtype, check=True)
    report = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert report["passed"]
    assert 0 < report["max_abs_difference"] < exporting.MAX_DIFFERENCE


def test_evaluate_door(door, modsum_run, gsm8k, tmp_path):
    student = modsum_run / "student"
    config = tmp_path / "evaluation.py"
    config.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    return ConfigDict({'model': {'path': ''}, 'data': {'task': 'modsum'}, 'seed': 0,\n"
        "        'eval': {'prompts': 4, 'samples': 2, 'max_new_tokens': 10}})\n"
    )
    workdir = tmp_path / "evaluation"
    arguments = (f"--config={config}", f"--config.model.path={student}")
    done = door("evaluate", *arguments, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    (row,) = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert {"eval/avg@2", "eval/pass@2", "eval/entropy"} <= row.keys()
    assert len((workdir / "samples.jsonl").read_text().splitlines()) == 4
    assert json.loads((workdir / "report.json").read_text())["rows"][0]["step"] == 0
    # A training run's own rows are not overwritten.
    before = (student / "metrics.jsonl").read_text()
    done = door("evaluate", *arguments, f"--workdir={student}")
    assert done.returncode == 2
    assert "is a training run" in _line(done.stderr)
    assert pathlib.Path(student / "metrics.jsonl").read_text() == before


def test_evaluate_door_names_the_extra_that_a_benchmark_needs(door, tmp_path, monkeypatch):
    """As where the package is not installed; the first that is imported stands for all of them."""
    monkeypatch.setitem(sys.modules, "inspect_ai", None)
    monkeypatch.delitem(sys.modules, "jaxlab.evals.harness", raising=False)
    monkeypatch.delattr("jaxlab.evals.harness", raising=False)
    done = door("evaluate", "--config=configs/eval_gsm8k.py:tiny", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 2
    assert "needs inspect_ai; install it with: pip install jaxlab[evals]" in _line(done.stderr)


def test_evaluate_door_runs_a_benchmark(door, modsum_run, tmp_path):
    pytest.importorskip("inspect_ai")
    rows = tmp_path / "rows.jsonl"
    lines = [json.dumps({"question": f"{i} {i} 0 =", "answer": f"#### {i}"}) for i in range(4)]
    rows.write_text("\n".join(lines))
    workdir = tmp_path / "run"
    arguments = (
        "--config=configs/eval_gsm8k.py:tiny",
        f"--config.model.path={modsum_run / 'student'}",
        "--config.eval.prompt_multiple=16",
        "--config.benchmark.options.prompt=bare",
    )
    done = door("evaluate", *arguments, f"--workdir={workdir}")
    assert done.returncode == 2
    assert "benchmark.path: name a" in _line(done.stderr)
    arguments = (*arguments, f"--config.benchmark.path={rows}")
    done = door("evaluate", *arguments, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr[-4000:]
    (row,) = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert {"eval/avg@2", "eval/pass@2", "eval/maj@2", "eval/parse_failure_rate"} <= row.keys()
    assert len((workdir / "samples.jsonl").read_text().splitlines()) == 4
    assert json.loads((workdir / "report.json").read_text())["rows"][0]["step"] == 0
    assert f"inspect view --log-dir {workdir / 'logs'}" in done.stdout + done.stderr
    done = door("evaluate", *arguments, f"--workdir={workdir}", "--config.seed=1")
    assert done.returncode == 2
    assert "holds another run" in _line(done.stderr)
    table, copy = tmp_path / "table", shutil.copytree(workdir, tmp_path / "copy")
    done = door("evaluate", f"--workdir={table}", "--compare", workdir, workdir)
    assert done.returncode == 2
    assert "a run does not differ from itself" in _line(done.stderr)
    done = door("evaluate", f"--workdir={table}", "--compare", workdir, copy)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "2 rows that all runs have" in (table / "compare.md").read_text()
