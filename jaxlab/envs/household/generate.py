"""Games of all six families, generated offline from room inventories.

    python -m jaxlab.envs.household.generate DIRECTORY --split=train --games=1000

writes them as ALFWorld stores its own, so that ALFWorld and whatever stands on it plays them too.
"""

import argparse
import functools
import hashlib
import pathlib
import random
import sys
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

from jaxlab.envs.household import planner, real, rooms
from jaxlab.envs.household.files import FAMILIES, Game, write
from jaxlab.envs.household.pddl import GameError
from jaxlab.envs.household.play import State
from jaxlab.envs.household.rooms import Room
from jaxlab.envs.household.setting import Sizes, setting

Split = Literal["train", "seen", "unseen"]
# Tasks of the panel, and its digest in AI2-THOR's rooms and in made-up ones.
PANEL = 240
PANEL_DIGESTS = {
    "alfworld": "06236b4322e838b578629b448b3c1caa255b036288705b3a338d10a40cf7fa06",
    "made_up": "bbda62ec4e015153c7114a7a736214d4adbd26bda5865bb2449fedea2b9a4323",
}
Inventory = Literal["alfworld", "made_up"]


@functools.cache
def inventory(name: Inventory) -> tuple[Room, ...]:
    """Rooms by name: AI2-THOR's, which `rooms.find` finds, or made-up ones."""
    return rooms.read(rooms.find()) if name == "alfworld" else rooms.made_up()


def game(split: Split, index: int, among: Sequence[Room], sizes: Sizes | None = None) -> Game:
    """Game `index` of a split: a pure function of its arguments, the same on every machine.

    Families take turns. "train" and "seen" are different games in the same rooms; "unseen" has
    rooms of its own. Every game has been won by the planner.

    Raises:
        GameError: if no room can hold the game.
        ValueError: for an unknown split or a negative index.
    """
    if split not in get_args(Split) or index < 0:
        raise ValueError(f"split {split!r}, game {index}: splits are {', '.join(get_args(Split))}")
    rng = random.Random(f"household {split} {index}")
    family = FAMILIES[index % len(FAMILIES)]
    order = [room for room in among if room.unseen == (split == "unseen")]
    rng.shuffle(order)
    for room in order:
        found = setting(family, room, sizes or Sizes(), rng)
        if found is None:
            continue
        made = Game(f"{found.name}/trial_{split}_{index}", family, found.task, found.problem)
        return _solved(made)
    raise GameError(f"none of {len(order)} rooms of the split {split!r} can hold a {family}")


def _solved(made: Game) -> Game:
    world = made.world()
    state = State(world)
    if state.won():
        raise GameError(f"{made.id}: is won before it begins")
    walkthrough = planner.plan(state)
    for command in walkthrough:
        if command not in state.admissible():
            raise GameError(f"{made.id}: the plan's {command!r} is not admissible")
        state.act(command)
    if not state.won():
        raise GameError(f"{made.id}: the plan does not win")
    return Game(
        made.id, made.family, made.task, made.problem, walkthrough=walkthrough, solvable=True
    )


def digest(games: Iterable[Game]) -> str:
    """sha256 of the games in their order."""
    lines = (f"{one.id} {one.digest}\n" for one in games)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@functools.cache
def panel(name: Inventory = "alfworld") -> tuple[Game, ...]:
    """The 240 tasks on which results are compared: 20 of each family, seen and unseen.

    Raises:
        GameError: if they are not the tasks that this version of jaxlab means.
    """
    found = tuple(
        game(split, index, inventory(name))
        for split in ("seen", "unseen")
        for index in range(PANEL // 2)
    )
    if digest(found) != PANEL_DIGESTS[name]:
        raise GameError(
            f"the panel of {name} rooms has the digest {digest(found)}, not "
            f"{PANEL_DIGESTS[name]}: other inventories, or another generator"
        )
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Write games; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m jaxlab.envs.household.generate")
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--split", choices=get_args(Split), default="train")
    parser.add_argument("--games", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="index of the first game")
    parser.add_argument("--rooms", choices=get_args(Inventory), default="alfworld")
    options = parser.parse_args(arguments)
    if options.games < 1 or options.first < 0:
        parser.error(
            f"--games at least 1 and --first at least 0, not {options.games}, {options.first}"
        )
    try:
        rules = real.rules()
        for index in range(options.first, options.first + options.games):
            write(game(options.split, index, inventory(options.rooms)), options.directory, rules)
    except (GameError, FileNotFoundError, ModuleNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{options.games} games of {options.split} are in {options.directory}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
