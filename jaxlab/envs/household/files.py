"""Games as ALFWorld stores them, `game.tw-pddl`: read, checked and written."""

import dataclasses
import functools
import hashlib
import json
import pathlib
from typing import Any

from jaxlab.envs.household import pddl
from jaxlab.envs.household.pddl import GameError
from jaxlab.envs.household.wording import (
    PACKAGE,
    Wording,
    task_of,
    with_task,
    without_task,
    wording,
)
from jaxlab.envs.household.world import World

FAMILIES = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)
LARGEST = 16 << 20


@dataclasses.dataclass(frozen=True)
class Rules:
    """ALFWorld's domain and grammar: what a game needs beside its problem to be written."""

    domain: str
    grammar: str


@dataclasses.dataclass(frozen=True)
class Game:
    """A game, before it is played.

    Attributes:
        id: `FAMILY-OBJECT-None-RECEPTACLE-PLAN/trial_N` as in ALFWorld's archives.
        family: one of FAMILIES, or "" where the id does not say.
        task: what has to be done, as `put a hot mug in shelf.`
        problem: PDDL text.
        rules: None for a game that was generated and has the rules of the package.
        words: the wording of those rules.
        walkthrough: commands that win, where they are known.
        solvable: None where nobody has looked.
    """

    id: str
    family: str
    task: str
    problem: str
    rules: Rules | None = None
    words: Wording = PACKAGE
    walkthrough: tuple[str, ...] | None = None
    solvable: bool | None = None

    def world(self) -> World:
        """The settled part of the game, from which any number of episodes begin.

        It is never changed, and the last few hundred are kept: a group's rollouts share one.

        Raises:
            GameError: if the problem is not one of ALFWorld's.
        """
        try:
            return _world(self.problem, self.words, self.task)
        except GameError as error:
            raise GameError(f"{self.id}: field 'pddl_problem': {error}") from None

    @property
    def digest(self) -> str:
        """sha256 of what is played: the problem and the task."""
        return hashlib.sha256(f"{self.task}\n{self.problem}".encode()).hexdigest()


@functools.lru_cache(maxsize=256)
def _world(problem: str, words: Wording, task: str) -> World:
    return World(pddl.problem(problem), words, task)


def read(path: str | pathlib.Path, *, any_rules: bool = False) -> Game:
    """The game in a file of ALFWorld's archives, or one that was written by `write`.

    Args:
        path: a `game.tw-pddl`.
        any_rules: whether the rules may be others than ours, for the real engine.

    Raises:
        GameError: naming file and field.
    """
    path = pathlib.Path(path)
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise GameError(f"{path}: {size} bytes; a game has at most {LARGEST}")
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GameError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise GameError(f"{path}: is no JSON ({error}); is it cut off?") from None
    if not isinstance(data, dict):
        raise GameError(f"{path}: holds a {type(data).__name__} where an object was expected")
    text = {name: _field(path, data, name, str) for name in ("pddl_domain", "grammar")}
    problem = _field(path, data, "pddl_problem", str)
    walkthrough = data.get("walkthrough")
    if walkthrough is not None and (
        not isinstance(walkthrough, list) or not all(isinstance(c, str) for c in walkthrough)
    ):
        raise GameError(f"{path}: field 'walkthrough': it is no list of commands")
    solvable = data.get("solvable")
    if solvable is not None and not isinstance(solvable, bool):
        raise GameError(f"{path}: field 'solvable': {solvable!r} is neither true, false nor null")
    domain, grammar = text["pddl_domain"], text["grammar"]
    try:
        task = task_of(grammar)
        words = PACKAGE if any_rules else wording(domain, without_task(grammar))
        name = "/".join(path.parts[-3:-1]) or path.stem
        game = Game(
            name,
            _family(name),
            task,
            problem,
            Rules(domain, grammar),
            words,
            None if walkthrough is None else tuple(walkthrough),
            solvable,
        )
        if not any_rules:
            pddl.problem(problem)
    except GameError as error:
        field = "" if str(error).startswith("field") else "field 'pddl_problem': "
        raise GameError(f"{path}: {field}{error}") from None
    return game


def write(game: Game, directory: str | pathlib.Path, rules: Rules) -> pathlib.Path:
    """Write a game where ALFWorld's own loader finds it, `directory/ID/game.tw-pddl`.

    Beside it goes `traj_data.json` with the task's type, which that loader asks for.
    """
    folder = pathlib.Path(directory) / game.id
    folder.mkdir(parents=True, exist_ok=True)
    data = {
        "pddl_domain": rules.domain,
        "grammar": with_task(rules.grammar, game.task),
        "pddl_problem": game.problem,
        "solvable": game.solvable,
        "walkthrough": None if game.walkthrough is None else list(game.walkthrough),
    }
    path = folder / "game.tw-pddl"
    path.write_text(json.dumps(data), encoding="utf-8")
    (folder / "traj_data.json").write_text(json.dumps({"task_type": game.family}))
    return path


def _family(name: str) -> str:
    return next((family for family in FAMILIES if name.startswith(family + "-")), "")


def _field(path: pathlib.Path, data: dict[str, Any], name: str, kind: type) -> Any:
    if name not in data:
        raise GameError(f"{path}: field {name!r} is missing; it has {sorted(data)}")
    if not isinstance(data[name], kind):
        raise GameError(
            f"{path}: field {name!r}: it is a {type(data[name]).__name__}, not a {kind.__name__}"
        )
    return data[name]
