"""WebShop as an inspect_ai task: a model searches a shop, and buys what was asked for or not.

inspect eval jaxlab/webshop -T path=made_up --model openai/gpt-5-mini
inspect eval jaxlab/webshop -T path=FOLDER -T library=frozen -T skills=S --model jaxlab/MODEL
"""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

from inspect_ai import Task

from jaxlab.agents import skill1_shopping
from jaxlab.envs import webshop
from jaxlab.evals import episodes
from jaxlab.evals.episodes import World
from jaxlab.evals.options import Asked
from jaxlab.evals.webshop.options import Options

MADE_UP = "made_up"


def shopping(asked: Asked, options: Options) -> Task:
    """A model shops for each goal of a panel; `asked.samples` times.

    Args:
        asked: its path is "made_up", the panel of 200 goals in a shop of made-up products, or a
            folder with WebShop's own files (`envs/webshop/files.py`), whose first 500 goals, its
            test set, are asked for.
        options: how it plays.

    Raises:
        ValueError: a file cannot be read, has no goals, or the library cannot be opened.
        FileNotFoundError: there is no such folder.
        ModuleNotFoundError: the extra `webshop` is not installed.
    """
    shop, goals, rejected = _panel(asked.path, options.products)
    chosen = sorted(goals, key=lambda goal: hashlib.sha256(goal.id.encode()).hexdigest())
    kept = {goal.id for goal in chosen[: asked.limit]}
    worlds = [
        World(
            id=goal.id,
            task=goal.instruction,
            begin=functools.partial(webshop.WebShop, shop, goal, options.max_steps),
            about={"category": shop.by_asin[goal.asin].category},
        )
        for goal in goals
        if goal.id in kept
    ]
    return episodes.task(
        worlds,
        asked,
        options,
        panel=webshop.generate.digest_of(shop, tuple(goals))[:16],
        rejected=rejected,
        words=skill1_shopping,
    )


def _panel(
    path: str, products: int | None
) -> tuple[webshop.Shop, Sequence[webshop.Goal], list[str]]:
    """Shop and goals, and what was left out of the files."""
    if path == MADE_UP:
        shop = webshop.generate.shop(products or webshop.generate.PRODUCTS)
        return shop, webshop.generate.panel(shop), []
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"{path}: is no folder of WebShop's files, nor {MADE_UP}")
    read = webshop.files.read(folder, products)
    if not read.goals:
        raise ValueError(f"{path}: has no goals among {len(read.products)} products")
    rejected = [f"{why}: {count}" for why, count in sorted(read.left_out.items())]
    return webshop.Shop(read.products), read.goals[: webshop.files.TEST], rejected
