"""Optimal strategy: a game with stones, and a load that pays."""

import functools
import itertools
import random
from typing import NamedTuple

from jaxlab.evals.general365.families.types import Family, Skin, listed

CATEGORY = "optimal strategy"


class Game(NamedTuple):
    """A heap, and how many may be taken at a time; who takes the last one wins."""

    heap: int
    takes: tuple[int, ...]


def _draw_game(rng: random.Random, difficulty: int) -> Game:
    others = rng.sample(range(2, 8), min(1 + difficulty // 2, 4))
    return Game(rng.randint(8 + 2 * difficulty, 16 + 4 * difficulty), (1, *sorted(others)))


def _change_game(rng: random.Random, game: Game) -> Game:
    return game._replace(heap=game.heap + rng.choice((-3, -2, -1, 1, 2, 3)))


def _tell_game(game: Game, skin: Skin) -> tuple[str, str]:
    a, b = skin.people[0], skin.people[1]
    story = (
        f"{a} and {b} play with a heap of {game.heap} {skin.thing}s. They take turns, {a} first; "
        f"a turn takes {listed([str(take) for take in game.takes], 'or')} of them. Whoever takes "
        f"the last {skin.thing} wins. Both play perfectly."
    )
    question = (
        f"What is the smallest number that {a} can take first and be sure to win? Answer 0 if "
        "there is none."
    )
    return story, question


def _solve_game(game: Game, skin: Skin) -> str:
    """Positions won by whoever is to move, from the empty heap up."""
    del skin
    won = [False]
    for heap in range(1, game.heap + 1):
        won.append(any(take <= heap and not won[heap - take] for take in game.takes))
    winning = [take for take in game.takes if take <= game.heap and not won[game.heap - take]]
    return str(min(winning, default=0))


def _search_game(game: Game, skin: Skin) -> str:
    """Minimax over whole games."""
    del skin

    @functools.cache
    def value(heap: int, mine: bool) -> int:
        """1 if the first player wins from here, else -1."""
        if heap == 0:
            return -1 if mine else 1
        values = [value(heap - take, not mine) for take in game.takes if take <= heap]
        return max(values) if mine else min(values)

    winning = [t for t in game.takes if t <= game.heap and value(game.heap - t, False) == 1]
    return str(min(winning, default=0))


class Load(NamedTuple):
    """What can be carried, and (weight, price) of each piece."""

    limit: int
    pieces: tuple[tuple[int, int], ...]


def _draw_load(rng: random.Random, difficulty: int) -> Load:
    # No two alike: one of each kind is there, and a kind named twice would be one or two pieces.
    kinds = list(itertools.product(range(2, 13), range(3, 31)))
    pieces = tuple(rng.sample(kinds, 3 + difficulty))
    return Load(sum(weight for weight, _ in pieces) // 2, pieces)


def _change_load(rng: random.Random, load: Load) -> Load:
    return load._replace(limit=max(2, load.limit + rng.choice((-5, -4, -3, 3, 4, 5))))


def _tell_load(load: Load, skin: Skin) -> tuple[str, str]:
    pieces = listed([f"{weight} kg sold for {price} crowns" for weight, price in load.pieces])
    story = (
        f"{skin.people[7]} can carry at most {load.limit} kg to {skin.place}. There is one "
        f"{skin.thing} of each of these kinds: {pieces}."
    )
    return story, "How many crowns can be earned at most in one trip?"


def _solve_load(load: Load, skin: Skin) -> str:
    del skin
    best = [0] * (load.limit + 1)
    for weight, price in load.pieces:
        for room in range(load.limit, weight - 1, -1):
            best[room] = max(best[room], best[room - weight] + price)
    return str(best[load.limit])


def _search_load(load: Load, skin: Skin) -> str:
    del skin
    loads = (
        [piece for piece, taken in zip(load.pieces, choice, strict=True) if taken]
        for choice in itertools.product((False, True), repeat=len(load.pieces))
    )
    return str(
        max(
            sum(price for _, price in taken)
            for taken in loads
            if sum(weight for weight, _ in taken) <= load.limit
        )
    )


FAMILIES = (
    Family(
        "stones",
        (CATEGORY, "recursion and backtracking"),
        "number",
        _draw_game,
        _change_game,
        _tell_game,
        _solve_game,
        _search_game,
    ),
    Family(
        "load",
        (CATEGORY, "branching and enumeration"),
        "number",
        _draw_load,
        _change_load,
        _tell_load,
        _solve_load,
        _search_load,
    ),
)
