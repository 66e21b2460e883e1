import dataclasses
from typing import Annotated, Any, Literal

import ml_collections
import pytest
from ml_collections import config_dict

from jaxlab import config

Side = Literal["left", "right"]


@dataclasses.dataclass(frozen=True)
class Optim:
    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float | None = None


@dataclasses.dataclass(frozen=True)
class Run:
    steps: int
    optim: Optim
    name: Literal["adamw", "muon"] = "adamw"
    donate: bool = True
    layers: tuple[str, ...] = ()
    mesh: dict[str, int] = dataclasses.field(default_factory=dict)
    teacher: Optim | None = None
    extras: dict[str, Optim] = dataclasses.field(default_factory=dict)
    seed: int | str = 0
    places: Literal["field", "off"] | int = "field"
    only: tuple[Side, ...] | Side = ()
    sides: dict[Side, int] = dataclasses.field(default_factory=dict)
    anything: Any = None

    def __post_init__(self):
        if self.steps < 0:
            raise ValueError(f"steps must be at least 0; got {self.steps}")


def _valid(**changes):
    return {"steps": 3, "optim": {"learning_rate": 1}, **changes}


@pytest.mark.parametrize("wrap", [dict, ml_collections.ConfigDict])
def test_builds_nested_dataclasses(wrap):
    built = config.build(
        Run,
        wrap(
            _valid(
                layers=["a", "b"],
                mesh={"data": -1},
                teacher={"learning_rate": 0.5, "betas": [0, 1]},
                extras={"x": {"learning_rate": 2.0}},
                seed="s",
                anything=[1],
            )
        ),
    )
    assert built == Run(
        steps=3,
        optim=Optim(1.0),
        layers=("a", "b"),
        mesh={"data": -1},
        teacher=Optim(0.5, (0.0, 1.0)),
        extras={"x": Optim(2.0)},
        seed="s",
        anything=[1],
    )
    assert type(built.optim.learning_rate) is float
    assert type(built.layers) is tuple


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"setps": 1}, "config.setps is not a known key; did you mean 'steps'?"),
        (
            {"optim": {"learning_rat": 1.0, "learning_rate": 1.0}},
            "config.optim.learning_rat is not a known key; did you mean 'learning_rate'?",
        ),
        (
            {"optim": {"learning_rate": 1.0, "zzz": 1}},
            "config.optim.zzz is not a known key; valid keys: betas, clip, learning_rate",
        ),
        ({"optim": {}}, "config.optim.learning_rate is missing: expected float (Optim)"),
        ({"steps": True}, "config.steps: expected int, got True (bool)"),
        ({"steps": 1.0}, "config.steps: expected int, got 1.0 (float)"),
        ({"donate": 1}, "config.donate: expected bool, got 1 (int)"),
        ({"optim": {"learning_rate": "1"}}, "config.optim.learning_rate: expected float, got '1'"),
        ({"optim": 3}, "config.optim: expected Optim, got 3 (int)"),
        (
            {"optim": {"learning_rate": 1, "betas": [0.9]}},
            "config.optim.betas: expected tuple[float, float] of 2 items, got 1: [0.9]",
        ),
        ({"layers": ["a", 2]}, "config.layers[1]: expected str, got 2 (int)"),
        ({"layers": "ab"}, "config.layers: expected tuple[str, ...], got 'ab' (str)"),
        ({"name": "sgd"}, "config.name: expected one of 'adamw', 'muon', got 'sgd' (str)"),
        (
            {"name": "Adamv"},
            "config.name: expected one of 'adamw', 'muon', got 'Adamv' (str); did you mean 'adamw'",
        ),
        ({"places": "of"}, "config.places: expected one of 'field', 'off' | int, got 'of' (str); "),
        ({"places": True}, "config.places: expected one of 'field', 'off' | int, got True (bool)"),
        ({"only": ["lft"]}, "config.only[0]: expected one of 'left', 'right', got 'lft' (str)"),
        ({"only": "rihgt"}, "config.only: expected tuple[one of 'left', 'right', ...] | one of "),
        (
            {"sides": {"rihgt": 1}},
            "the key 'rihgt' of config.sides: expected one of 'left', 'right', got 'rihgt' (str); "
            "did you mean 'right'?",
        ),
        ({"mesh": {"data": 1.5}}, "config.mesh.data: expected int, got 1.5 (float)"),
        ({"teacher": {"clip": 1.0}}, "config.teacher.learning_rate is missing"),
        ({"extras": {"x": {"lr": 1}}}, "config.extras.x.lr is not a known key"),
        ({"seed": None}, "config.seed: expected int | str, got None"),
        ({"steps": -1}, "config: steps must be at least 0; got -1"),
        ({"steps": config_dict.required_placeholder(int)}, "config.steps is missing"),
    ],
)
def test_errors_name_the_key_and_what_was_expected(changes, message):
    with pytest.raises(config.ConfigError) as caught:
        config.build(Run, ml_collections.ConfigDict(_valid(**changes)))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_union_keeps_the_exact_type():
    @dataclasses.dataclass(frozen=True)
    class Number:
        value: float | int

    assert type(config.build(Number, {"value": 2}).value) is int


@pytest.mark.parametrize(
    ("value", "places"), [("off", "off"), (False, "off"), (2, 2), ("2", 2), ("-1", -1)]
)
def test_command_lines_spell_choices_and_numbers_their_way(value, places):
    """YAML reads "off" as False, and a flag for a string keeps the digits a string."""
    built = config.build(Run, _valid(places=value)).places
    assert (built, type(built)) == (places, type(places))


@dataclasses.dataclass(frozen=True)
class Circle:
    radius: float = 1.0
    kind: Literal["circle"] = "circle"


@dataclasses.dataclass(frozen=True)
class Square:
    side: float = 2.0
    kind: Literal["square"] = "square"


@dataclasses.dataclass(frozen=True)
class Drawing:
    shapes: tuple[Annotated[Circle | Square, config.by("kind")], ...] = ()
    frame: Annotated[Square | None, config.by("kind")] = None


class TestTaggedUnions:
    def test_the_tag_chooses_the_dataclass(self, tmp_path):
        given = {"shapes": [{"kind": "square"}, {"kind": "circle", "radius": 3}], "frame": None}
        drawing = config.build(Drawing, ml_collections.ConfigDict(given))
        assert drawing == Drawing((Square(2.0), Circle(3.0)), None)
        config.save_json(drawing, tmp_path / "drawing.json")
        assert config.build(Drawing, config.load_json(tmp_path / "drawing.json")) == drawing
        assert config.build(Drawing, {"frame": Square(5.0)}).frame == Square(5.0)

    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            ({"radius": 1.0}, "config.shapes[0].kind is missing: expected one of 'circle', 'squ"),
            ({"kind": "sqare"}, "config.shapes[0].kind: expected one of 'circle', 'square', got "
             "'sqare' (str); did you mean 'square'?"),
            ({"kind": "circle", "side": 1.0}, "config.shapes[0].side is not a known key"),
            ({"kind": "circle", "radius": "x"}, "config.shapes[0].radius: expected float, got 'x'"),
            (3, "config.shapes[0]: expected Circle | Square, got 3 (int)"),
            (None, "config.shapes[0]: expected Circle | Square, got None"),
        ],
    )  # fmt: skip
    def test_errors_name_the_choice(self, shape, message):
        with pytest.raises(config.ConfigError) as caught:
            config.build(Drawing, {"shapes": [shape]})
        assert str(caught.value).startswith(message)


def test_json_round_trip(tmp_path):
    run = config.build(Run, _valid(layers=["a"], teacher={"learning_rate": 0.5}))
    config.save_json(run, tmp_path / "config.json")
    assert config.build(Run, config.load_json(tmp_path / "config.json")) == run
    assert config.to_json(ml_collections.ConfigDict({"a": (1, 2)})) == {"a": [1, 2]}


def test_json_errors_name_the_key_or_the_file(tmp_path):
    with pytest.raises(config.ConfigError, match=r"config\.anything: .* has no JSON form"):
        config.to_json(Run(1, Optim(1.0), anything=object()))
    (tmp_path / "config.json").write_text('{"a": ')
    with pytest.raises(config.ConfigError, match=r"config\.json"):
        config.load_json(tmp_path / "config.json")
    with pytest.raises(config.ConfigError, match="absent"):
        config.load_json(tmp_path / "absent")
