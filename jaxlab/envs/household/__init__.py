"""Household tasks: ALFWorld's games (Shridhar et al. 2021), by its own engine or by ours.

from jaxlab.envs import household
env = household.load("game.tw-pddl", engine="fast")
seen = env.reset()                  # seen.text, seen.admissible
step = env.step("go to shelf 1")    # step.text, step.reward, step.done, step.admissible
"""

import pathlib
from typing import Literal

from jaxlab.envs.household.engine import Household
from jaxlab.envs.household.files import FAMILIES, Game, read, write
from jaxlab.envs.household.pddl import GameError
from jaxlab.envs.protocol import Environment

__all__ = ["FAMILIES", "Game", "GameError", "Household", "load", "read", "write"]

Engine = Literal["fast", "textworld"]


def load(
    game: str | pathlib.Path | Game, engine: Engine = "fast", max_steps: int | None = 50
) -> Environment:
    """An environment that plays a game.

    Args:
        game: a `game.tw-pddl`, released or generated, or a Game.
        engine: "fast": our rules; "textworld": ALFWorld itself, which the extra `agents` brings.
        max_steps: commands after which an episode ends without reward; None: it goes on.

    Raises:
        GameError: if the file is no game, or has other rules than our engine.
        ValueError: for another engine.
        ModuleNotFoundError: if ALFWorld is asked for and not installed.
    """
    if engine not in ("fast", "textworld"):
        raise ValueError(f'engine {engine!r}: there are "fast" and "textworld"')
    if not isinstance(game, Game):
        game = read(game, any_rules=engine == "textworld")
    if engine == "fast":
        return Household(game, max_steps)
    from jaxlab.envs.household.real import RealHousehold

    return RealHousehold(game, max_steps)
