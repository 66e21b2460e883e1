"""Branching and enumeration: ways through a town, and ways to pay."""

import functools
import itertools
import random
from typing import NamedTuple

from jaxlab.evals.general365.families.types import Family, Skin, counted, listed

CATEGORY = "branching and enumeration"


class Town(NamedTuple):
    """Crossings (0, 0) to (east, north), some of them closed."""

    east: int
    north: int
    closed: frozenset[tuple[int, int]]


def _crossings(town: Town) -> list[tuple[int, int]]:
    """All but the two ends."""
    return list(itertools.product(range(town.east + 1), range(town.north + 1)))[1:-1]


def _draw_town(rng: random.Random, difficulty: int) -> Town:
    east, north = (min(2 + difficulty // 2 + rng.randrange(2), 6) for _ in range(2))
    open_town = Town(east, north, frozenset())
    return open_town._replace(closed=frozenset(rng.sample(_crossings(open_town), 2)))


def _change_town(rng: random.Random, town: Town) -> Town:
    moved = rng.choice(sorted(town.closed))
    free = [crossing for crossing in _crossings(town) if crossing not in town.closed]
    return town._replace(closed=town.closed - {moved} | {rng.choice(free)})


def _tell_town(town: Town, skin: Skin) -> tuple[str, str]:
    closed = listed([f"({x}, {y})" for x, y in sorted(town.closed)])
    story = (
        f"The streets around {skin.place} form a grid. {skin.people[0]} carries a {skin.thing} "
        f"from the crossing (0, 0) to the crossing ({town.east}, {town.north}), where the first "
        "number counts blocks to the east and the second blocks to the north. Every step goes one "
        f"block east or one block north. The crossings {closed} are closed and must not be entered."
    )
    return story, "How many different ways are there?"


def _solve_town(town: Town, skin: Skin) -> str:
    del skin

    @functools.cache
    def ways(x: int, y: int) -> int:
        if (x, y) in town.closed or x < 0 or y < 0:
            return 0
        return 1 if x == y == 0 else ways(x - 1, y) + ways(x, y - 1)

    return str(ways(town.east, town.north))


def _search_town(town: Town, skin: Skin) -> str:
    """Every choice of the steps that go east."""
    del skin
    steps, count = town.east + town.north, 0
    for east in itertools.combinations(range(steps), town.east):
        x = y = 0
        path = []
        for i in range(steps):
            x, y = (x + 1, y) if i in east else (x, y + 1)
            path.append((x, y))
        count += not town.closed & set(path)
    return str(count)


class Purse(NamedTuple):
    """An amount, coins of so many values, at most so many coins."""

    amount: int
    values: tuple[int, ...]
    most: int


def _draw_purse(rng: random.Random, difficulty: int) -> Purse:
    values = tuple(sorted(rng.sample(range(2, 9), min(2 + difficulty // 2, 4))))
    amount = rng.randrange(12, 18 + 6 * difficulty)
    return Purse(amount, values, max(3, amount // values[0] - 1))


def _change_purse(rng: random.Random, purse: Purse) -> Purse:
    return purse._replace(most=max(1, purse.most + rng.choice((-3, -2, -1, 1, 2))))


def _tell_purse(purse: Purse, skin: Skin) -> tuple[str, str]:
    story = (
        f"A {skin.thing} costs {purse.amount} pence. {skin.people[1]} has coins of "
        f"{listed([str(value) for value in purse.values])} pence, plenty of each, and pays the "
        f"exact price with at most {counted(purse.most, 'coin')}."
    )
    return story, "In how many ways can that be done, if the order of the coins does not matter?"


def _solve_purse(purse: Purse, skin: Skin) -> str:
    del skin

    @functools.cache
    def ways(amount: int, kinds: int, most: int) -> int:
        if amount == 0:
            return 1
        if amount < 0 or kinds == 0 or most == 0:
            return 0
        value = purse.values[kinds - 1]
        return ways(amount, kinds - 1, most) + ways(amount - value, kinds, most - 1)

    return str(ways(purse.amount, len(purse.values), purse.most))


def _search_purse(purse: Purse, skin: Skin) -> str:
    del skin
    counts = itertools.product(*(range(purse.amount // value + 1) for value in purse.values))
    return str(
        sum(
            sum(count) <= purse.most
            and sum(c * value for c, value in zip(count, purse.values, strict=True)) == purse.amount
            for count in counts
        )
    )


FAMILIES = (
    Family(
        "paths",
        (CATEGORY, "spatio-temporal"),
        "number",
        _draw_town,
        _change_town,
        _tell_town,
        _solve_town,
        _search_town,
    ),
    Family(
        "coins",
        (CATEGORY,),
        "number",
        _draw_purse,
        _change_purse,
        _tell_purse,
        _solve_purse,
        _search_purse,
    ),
)
