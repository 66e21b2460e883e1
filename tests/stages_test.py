"""Stages and sweeps of a config: which there are, which run, and what names a stage."""

import json

import pytest
from absl.testing import flagsaver

from jaxlab import doors, train
from jaxlab.config import ConfigError

SIZES = {
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_layers": 1,
    "num_heads": 2,
    "num_kv_heads": 1,
}
COMMON = {
    "data": {"task": "modsum", "max_prompt": 16},
    "train": {"steps": 2},
    "optim": {"learning_rate": 1e-3},
}
TEACHER = COMMON | {"trainer": "sft", "model": {"sizes": SIZES}, "max_length": 16}
STUDENT = COMMON | {
    "trainer": "distill",
    "student": {"path": "@start"},
    "teacher": {"path": "@teacher"},
    "loss": {"name": "opd"},
}
STUDY = {"stages": {"opd": STUDENT, "teacher": TEACHER, "start": TEACHER}}


def test_stages_are_listed_in_the_order_of_their_runs():
    assert train.listed(STUDY) == ["start", "teacher", "opd"]
    with pytest.raises(ConfigError, match="--list: the config is a single run"):
        train.listed(TEACHER)


def test_some_stages_run_alone(tmp_path):
    def chosen(*names):
        return list(train._chosen(STUDY, train.check(STUDY, ""), names, tmp_path))

    assert chosen("teacher", "start") == ["start", "teacher"]
    assert chosen("opd", "teacher", "start") == ["start", "teacher", "opd"]
    with pytest.raises(ConfigError, match="opd starts from start, which has no checkpoint in"):
        chosen("opd", "teacher")
    (tmp_path / "start" / "checkpoints" / "2").mkdir(parents=True)
    assert chosen("opd", "teacher") == ["teacher", "opd"]
    with pytest.raises(ConfigError, match="no stage 'techer'; did you mean 'teacher'"):
        chosen("techer")
    with pytest.raises(ConfigError, match="--stages is empty; there are start, teacher, opd"):
        chosen()
    with pytest.raises(ConfigError, match="--stages: the config is a single run"):
        train._chosen(TEACHER, {"x": TEACHER}, ["x"], tmp_path)


def test_only_a_path_names_a_stage(tmp_path):
    data = {"task": "gsm8k", "options": {"prompt": "@start {question}"}, "max_prompt": 16}
    stages = {"start": TEACHER | {"data": data, "title": "@start"}}
    assert train.listed({"stages": stages}) == ["start"]
    assert train._resolve(stages["start"], tmp_path) == stages["start"]
    assert train._resolve(STUDENT, tmp_path)["student"] == {"path": str(tmp_path / "start")}
    with pytest.raises(ConfigError, match='path: "@start" is a stage, but the config has none'):
        train.check(STUDENT, "run")


FILE = f"""
def get_config():
    return {STUDENT | {"student": {"sizes": SIZES}, "teacher": {"sizes": SIZES}}!r}


def sweep():
    for rate in (1e-3, 1e-2):
        yield {{"optim.b2": 0.95, "optim.learning_rate": rate, "eval.top_p": None}}
    yield {{"loss.name": "aopd", "loss.tau": 0.5, "optim.no_decay": ("bias",)}}
"""


def _load(tmp_path, text, *words):
    path = tmp_path / "study.py"
    path.write_text(text)
    doors._parse(["train", f"--config={path}", *words], ["config"], False, train.schema)


def test_a_sweep_is_a_line_of_json_for_each_run(tmp_path):
    with flagsaver.flagsaver():
        _load(tmp_path, FILE, "--config.seed=3")
        lines = train.sweep()
        assert doors.config()["optim"] == {"learning_rate": 1e-3}  # as the file has it
    assert [json.loads(line) for line in lines] == [
        {"optim.b2": 0.95, "optim.learning_rate": 1e-3, "eval.top_p": None},
        {"optim.b2": 0.95, "optim.learning_rate": 1e-2, "eval.top_p": None},
        {"loss.name": "aopd", "loss.tau": 0.5, "optim.no_decay": ["bias"]},
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "loss.tau",
            "loss.tua",
            r"sweep\(\)\[2\]: --config.loss.tua: there is no 'tua'; did you mean",
        ),
        ("0.95", "2.0", r"sweep\(\)\[0\]: config.optim: b2 must be"),
        ("def sweep", "def swep", "study.py has no function sweep"),
        ("(1e-3, 1e-2)", "rates", "study.py: sweep\\(\\): name 'rates' is not defined"),
        ("yield {", "yield [], {", "sweep\\(\\) yields \\(\\[\\], .* not a dict"),
    ],
)
def test_a_bad_sweep_is_refused(tmp_path, old, new, message):
    with flagsaver.flagsaver():
        _load(tmp_path, FILE.replace(old, new), "--config.seed=3")
        with pytest.raises(ValueError, match=message):
            train.sweep()
