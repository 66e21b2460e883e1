"""Household games as an inspect_ai task: a model plays, and wins or not.

inspect eval jaxlab/household -T path=alfworld --model openai/gpt-5-mini
inspect eval jaxlab/household -T path=made_up -T library=growing -T skills=S --model jaxlab/MODEL
"""

import functools
import hashlib
from pathlib import Path
from typing import get_args

from inspect_ai import Task

from jaxlab.envs import household
from jaxlab.envs.household import generate as games_
from jaxlab.evals import episodes
from jaxlab.evals.episodes import World
from jaxlab.evals.household.options import Options
from jaxlab.evals.options import Asked


def games(asked: Asked, options: Options) -> Task:
    """A model that plays each game of a panel; `asked.samples` times.

    Args:
        asked: its path is "alfworld" or "made_up", the panel of 240 tasks in AI2-THOR's rooms or in
            made-up ones, or a folder with game.tw-pddl files in it, of which those whose file
            says that they cannot be won are left out and listed, as ALFWorld leaves them out.
        options: how it plays.

    Raises:
        ValueError: a game cannot be read, two have the same id, the library cannot be opened, or
            there is no game that can be won.
        FileNotFoundError: there is no such folder, or no inventory of AI2-THOR's rooms.
    """
    found, rejected = _panel(asked.path, options)
    chosen = sorted(found, key=lambda game: hashlib.sha256(game.id.encode()).hexdigest())
    kept = {game.id for game in chosen[: asked.limit]}
    panel = [game for game in found if game.id in kept]
    worlds = [
        World(
            id=game.id,
            task=game.task,
            begin=functools.partial(household.load, game, options.engine, options.max_steps),
            about={"family": game.family, "split": _split(game.id)},
        )
        for game in panel
    ]
    digest = games_.digest(panel)[:16]
    return episodes.task(worlds, asked, options, panel=digest, rejected=rejected)


def _panel(path: str, options: Options) -> tuple[list[household.Game], list[str]]:
    """Games, and why others of the folder are left out."""
    if path in get_args(games_.Inventory):
        return list(games_.panel(path)), []
    folder = Path(path)
    if not folder.is_dir():
        names = " or ".join(get_args(games_.Inventory))
        raise FileNotFoundError(f"{path}: is no folder of games, nor {names}")
    files = sorted(folder.rglob("game.tw-pddl"))
    if not files:
        raise ValueError(f"{path}: has no game.tw-pddl in it")
    places: dict[str, Path] = {}
    found, rejected = [], []
    for file in files:
        game = household.read(file, any_rules=options.engine == "textworld")
        if game.solvable is False:
            rejected.append(f"{file}: its field 'solvable' is false")
            continue
        if game.id in places:
            raise ValueError(
                f"{file}: the game {game.id} is in {places[game.id]} too; give one folder of them"
            )
        places[game.id] = file
        found.append(game)
    if not found:
        raise ValueError(f"{path}: none of {len(rejected)} games can be won: {rejected[0]}")
    return found, rejected


def _split(name: str) -> str:
    parts = name.rsplit("trial_", 1)[-1].split("_")
    return parts[0] if parts[0] in get_args(games_.Split) else "of the folder"
