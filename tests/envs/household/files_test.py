import dataclasses
import json

import pytest

from jaxlab.envs import household
from jaxlab.envs.household import files, generate, rooms, wording
from jaxlab.envs.household.setting import Sizes

SMALL = Sizes(receptacles=8, things=6, copies=2)


@pytest.fixture(scope="module")
def rules(real_data):
    return files.Rules(
        real_data("alfworld/alfred.pddl").read_text(), real_data("alfworld/alfred.twl2").read_text()
    )


@pytest.fixture
def path(rules, tmp_path):
    game = generate.game("train", 3, rooms.made_up(), SMALL)
    return household.write(game, tmp_path, rules)


def test_a_written_game_is_read_and_played_like_the_one_in_memory(path, rules):
    game = generate.game("train", 3, rooms.made_up(), SMALL)
    read = household.read(path)
    assert read == dataclasses.replace(game, rules=read.rules)
    assert read.words == wording.PACKAGE
    assert wording.task_of(read.rules.grammar) == game.task
    assert json.loads((path.parent / "traj_data.json").read_text()) == {"task_type": game.family}
    one, two = household.load(path), household.load(game)
    assert one.reset() == two.reset()
    for command in game.walkthrough:
        step = one.step(command)
        assert step == two.step(command)
    assert step.reward == 1.0


def changed(path, **fields):
    data = json.loads(path.read_text())
    for name, value in fields.items():
        if value is ...:
            del data[name]
        else:
            data[name] = value(data[name]) if callable(value) else value
    path.write_text(json.dumps(data))
    return path


def test_games_of_which_nobody_knows_whether_they_can_be_solved_are_loaded(path):
    for fields in ({"solvable": None, "walkthrough": None}, {"solvable": ..., "walkthrough": ...}):
        game = household.read(changed(path, **fields))
        assert (game.solvable, game.walkthrough) == (None, None)
        assert household.load(path).reset().text.startswith("-= Welcome to TextWorld, ALFRED! =-")


def test_games_of_the_archives_before_0_4_are_read(path):
    grammar = {
        "move {o} to {r}": "put {o} in/on {r}",
        "You move the {o.name} to the {r.name}.": "You put the {o.name} in/on the {r.name}.",
        "You arrive at {r.name}. #": "You arrive at {lend.name}. #",
    }

    def old(text):
        for new, before in grammar.items():
            text = text.replace(new, before)
        return text[: text.index("action help")]

    def old_domain(text):
        return text.replace(";(receptacleType ?r SinkType)", "(receptacleType ?r SinkType)")

    words = household.read(changed(path, grammar=old, pddl_domain=old_domain)).words
    assert words == wording.Wording(
        "put {o} in/on {r}",
        "You put the {o} in/on the {r}.",
        "location",
        None,
        ("sinkbasintype", "sinktype"),
    )


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"grammar": ...}, "field 'grammar' is missing; it has .*pddl_domain"),
        ({"pddl_problem": None}, "field 'pddl_problem': it is a NoneType, not a str"),
        ({"walkthrough": "go"}, "field 'walkthrough': it is no list of commands"),
        ({"solvable": 1}, "field 'solvable': 1 is neither true, false nor null"),
        ({"pddl_problem": lambda t: t[:-40]}, "field 'pddl_problem': .*text is cut off"),
        ({"pddl_domain": lambda t: t.replace("isHot ?o", "isCool ?o")}, 'engine="textworld"'),
        ({"grammar": lambda t: t.replace("You close", "You shut")}, 'engine="textworld"'),
        ({"grammar": lambda t: t.replace("{o} to {r}", "{o} at {r}")}, "puts things down by"),
        ({"grammar": lambda t: t.replace("Your task", "My task")}, "no 'Your task is to:'"),
    ],
)
def test_a_bad_field_is_named_with_its_file(path, fields, cause):
    with pytest.raises(household.GameError, match=cause) as caught:
        household.read(changed(path, **fields))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "cause"),
    [(b"", "no JSON"), (b'{"grammar": "', "cut off"), (b"\xff\xfe", "no JSON"), (b"[]", "list")],
)
def test_a_file_that_is_no_game(tmp_path, content, cause):
    path = tmp_path / "game.tw-pddl"
    path.write_bytes(content)
    with pytest.raises(household.GameError, match=cause):
        household.read(path)
    with pytest.raises(household.GameError, match="cannot be read: No such file"):
        household.read(tmp_path / "none.tw-pddl")


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ("(atLocation agent1 loc_bar_0_bar_0_bar_0_bar_0)", "", "0 agents have a location"),
        ("(pickupable ", "(holds agent1 ", "begins with something in its hands"),
        ("(openable ", "(openable agent1) (openable ", r"\(openable agent1\) of \('agent',\)"),
    ],
)
def test_a_problem_that_is_no_room_is_refused(old, new, cause):
    game = generate.game("train", 3, rooms.made_up(), SMALL)
    bad = dataclasses.replace(game, problem=game.problem.replace(old, new, 1))
    with pytest.raises(household.GameError, match=f"field 'pddl_problem': .*{cause}"):
        household.load(bad)


def test_another_engine():
    with pytest.raises(ValueError, match="'fastest': there are"):
        household.load("game.tw-pddl", engine="fastest")
