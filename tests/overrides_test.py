"""What --config.KEY=VALUE does to a config, by the dataclass that the config fills."""

import dataclasses
from typing import Annotated, Any, Literal

import pytest
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder, required_placeholder

from jaxlab import config, overrides


@dataclasses.dataclass(frozen=True)
class Opd:
    name: Literal["opd"] = "opd"
    weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class Grpo:
    name: Literal["grpo"] = "grpo"
    clip: float = 0.2
    samples: int = 4


@dataclasses.dataclass(frozen=True)
class Sums:
    addends: int = 3


@dataclasses.dataclass(frozen=True)
class Words:
    prompt: str = "{q}"
    only: tuple[Literal["a", "b"], ...] = ()


@dataclasses.dataclass(frozen=True)
class Part:
    weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class Run:
    steps: int
    loss: Annotated[Opd | Grpo, config.by("name")] = dataclasses.field(default_factory=Opd)
    other: Annotated[Opd | Grpo, config.by("name")] | None = None
    task: str = "sums"
    options: Annotated[dict[str, Any], config.fields_of({"sums": Sums, "words": Words}, "task")] = (
        dataclasses.field(default_factory=dict)
    )
    rate: float = 0.1
    clip: float | None = 1.0
    donate: bool = False
    chat: bool | None = None
    path: str | None = None
    replay: Literal["true", "off"] = "true"
    shape: dict[str, int] = dataclasses.field(default_factory=lambda: {"data": -1})
    betas: tuple[float, float] = (0.9, 0.95)
    stop: tuple[str, ...] = ()
    mixture: tuple[Part, ...] = ()
    anything: Any = None


def _set(*words, hint=Run, **written):
    held = ConfigDict({"steps": 3} | written)
    rest, changes = overrides.split(["door", *words])
    assert rest == ["door"]
    overrides.apply(held, changes, hint)
    return held.to_dict()


SET = {
    "a default that no file writes": (["--config.rate=1e-3"], {"rate": 1e-3}),
    "an int for a float": (["--config.rate=1"], {"rate": 1}),
    "none": (["--config.clip=None"], {"clip": None}),
    "null": (["--config.clip=null"], {"clip": None}),
    "no path": (["--config.path=None"], {"path": None}),
    "digits as a path": (["--config.path=123"], {"path": "123"}),
    "an @ in a path": (["--config.path=@a=b"], {"path": "@a=b"}),
    "a word apart": (["--config.path", "x", "-config.rate", "-1"], {"path": "x", "rate": -1}),
    "a bool alone": (["--config.donate", "--config.rate=2"], {"donate": True, "rate": 2}),
    "a bool denied": (["--noconfig.donate"], {"donate": False}),
    "true": (["--config.donate=true"], {"donate": True}),
    "no": (["--config.chat=no"], {"chat": False}),
    "a word of a Literal": (["--config.replay=true"], {"replay": "true"}),
    "off": (["--config.replay=off"], {"replay": "off"}),
    "a dict's key": (["--config.shape.model=2"], {"shape": {"data": -1, "model": 2}}),
    "a dict": (["--config.shape={'data': 4}"], {"shape": {"data": 4}}),
    "a dict and its key": (
        ["--config.shape.model=2", "--config.shape={'data': 4}"],
        {"shape": {"data": 4, "model": 2}},
    ),
    "a tuple": (["--config.betas=(0.5, 0.6)"], {"betas": (0.5, 0.6)}),
    "a tuple bare": (["--config.betas=0.5,0.6"], {"betas": (0.5, 0.6)}),
    "one word for a tuple": (["--config.stop=Q: a, b"], {"stop": ("Q: a, b",)}),
    "an option": (["--config.options.addends=4"], {"options": {"addends": 4}}),
    "words of a Literal": (
        ["--config.options.only=a,b", "--config.task=words"],
        {"task": "words", "options": {"only": ("a", "b")}},
    ),
    "the last counts": (["--config.rate=1", "--config.rate=2"], {"rate": 2}),
    "anything": (["--config.anything=[1, 'x']"], {"anything": [1, "x"]}),
    "a default's choice": (
        ["--config.loss.weight=2"],
        {"loss": {"name": "opd", "weight": 2}},
    ),
    "a choice": (["--config.loss.name=grpo"], {"loss": {"name": "grpo"}}),
    "a choice and its keys": (
        ["--config.loss.clip=0.3", "--config.loss.name=grpo"],
        {"loss": {"name": "grpo", "clip": 0.3}},
    ),
    "a choice where there was none": (
        ["--config.other.samples=8", "--config.other.name=grpo"],
        {"other": {"name": "grpo", "samples": 8}},
    ),
}


@pytest.mark.parametrize(("words", "changed"), SET.values(), ids=SET)
def test_every_field_can_be_set(words, changed):
    found = _set(*words)
    assert found == {"steps": 3} | changed
    config.build(Run, found)


def test_a_choice_drops_the_former_ones_keys():
    written = {"loss": {"name": "opd", "weight": 3.0}, "options": {"addends": 2}}
    kept = _set("--config.loss.name=opd", "--config.task=sums", **written)
    assert kept == {"steps": 3, "task": "sums"} | written
    assert _set("--config.loss.name=grpo", **written)["loss"] == {"name": "grpo"}
    assert "options" not in _set("--config.task=words", **written)


def test_sequences_are_set_by_index():
    found = _set("--config.mixture[1].weight=3", mixture=[{"weight": 1.0}, {}])
    assert found["mixture"] == [{"weight": 1.0}, {"weight": 3}]


def test_what_the_file_leaves_open_is_set():
    written = {
        "path": placeholder(str),
        "clip": placeholder(float),
        "rate": required_placeholder(float),
    }
    found = _set("--config.path=7", "--config.clip=2", "--config.rate=0.5", **written)
    assert found == {"steps": 3, "path": "7", "clip": 2, "rate": 0.5}


def test_references_follow():
    held = ConfigDict({"steps": 3, "rate": 0.5})
    held.clip = held.get_oneway_ref("rate")
    overrides.apply(held, overrides.split(["--config.rate=0.25"])[1], Run)
    assert held.to_dict() == {"steps": 3, "rate": 0.25, "clip": 0.25}


def test_keys_are_listed_with_type_and_value():
    held = ConfigDict({"steps": 3, "task": "words", "options": {"only": ("a",)}})
    lines = list(overrides.keys(Run, held))
    assert lines[:5] == [
        "steps: int = 3",
        "loss.name: one of 'opd', 'grpo' = 'opd'",
        "loss.weight: float = 1.0",
        "task: str = 'words'",
        "options.prompt: str = '{q}'",
    ]
    assert "options.only: tuple[one of 'a', 'b', ...] = ('a',)" in lines
    assert "shape: dict[str, int] = {'data': -1}" in lines


REFUSED = {
    "--config.rat=1": "--config.rat: there is no 'rat'; did you mean 'rate'?",
    "--config.zzz.b=1": "--config.zzz.b: there is no 'zzz'; there are anything, betas, ",
    "--config.loss.wieght=1": "there is no 'wieght'; did you mean 'weight'?",
    "--config.loss.name=grop": "config.loss.name: expected one of 'opd', 'grpo', got 'grop' (str); "
    "did you mean 'grpo'?",
    "--config.loss.clip=1": "there is no 'clip'; ",
    "--config.task=wrods": "config.task: expected one of 'sums', 'words', got 'wrods' (str); did",
    "--config.options.adends=1": "there is no 'adends'; did you mean 'addends'?",
    "--config.options.addends=x": "config.options.addends: expected int, got 'x' (str)",
    "--config.steps=1e3": "config.steps: expected int, got 1000.0 (float)",
    "--config.steps": "config.steps needs a value",
    "--config.steps.a=1": "config.steps is 3, which has no keys",
    "--config.replay=ture": "got 'ture' (str); did you mean 'true'?",
    "--config.betas=1,2,3": "config.betas: expected tuple[float, float] of 2 items, got 3",
    "--config.mixture[0].weight=1": "config.mixture has 0 items",
    "--config.loss=opd": "config.loss: expected Opd | Grpo, got 'opd' (str)",
    "--config.shape.data=x": "config.shape.data: expected int, got 'x' (str)",
}


@pytest.mark.parametrize(("word", "message"), REFUSED.items())
def test_what_does_not_fit_is_refused(word, message):
    with pytest.raises(config.ConfigError) as error:
        _set(word)
    assert message in str(error.value)
