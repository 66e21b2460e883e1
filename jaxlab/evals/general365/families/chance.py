"""Probability and uncertainty: a walk between two ends, and draws from an urn."""

import itertools
import math
import random
from fractions import Fraction
from typing import NamedTuple

from jaxlab.evals.general365.families.types import Family, Skin

CATEGORY = "probability and uncertainty"


class Stairs(NamedTuple):
    """Start on a stair; up with probability up / of, else down; ends are 0 and top."""

    start: int
    top: int
    up: int
    of: int


def _draw_stairs(rng: random.Random, difficulty: int) -> Stairs:
    top = rng.randint(3, 3 + difficulty)
    of = rng.randint(3, 8)
    return Stairs(rng.randint(1, top - 1), top, rng.randint(1, of - 1), of)


def _change_stairs(rng: random.Random, stairs: Stairs) -> Stairs:
    up = [up for up in range(1, stairs.of) if up != stairs.up]
    return stairs._replace(up=rng.choice(up))


def _tell_stairs(stairs: Stairs, skin: Skin) -> tuple[str, str]:
    up, down = (f"{n} {'says' if n == 1 else 'say'}" for n in (stairs.up, stairs.of - stairs.up))
    story = (
        f"A {skin.thing} stands on stair {stairs.start} of a staircase in {skin.place} whose "
        f"stairs are numbered from 0 to {stairs.top}. Every minute {skin.people[0]} draws one of "
        f"{stairs.of} equally likely cards, of which {up} up and {down} down, moves "
        f"the {skin.thing} by one stair accordingly, and puts the card back. The game ends on "
        f"stair 0 or {stairs.top}."
    )
    return story, f"What is the probability that it ends on stair {stairs.top}? Give a fraction."


def _solve_stairs(stairs: Stairs, skin: Skin) -> str:
    """The ruin formula: (1 - r^s) / (1 - r^n) with r = down / up, and s / n for r = 1."""
    del skin
    ratio = Fraction(stairs.of - stairs.up, stairs.up)
    if ratio == 1:
        return str(Fraction(stairs.start, stairs.top))
    return str((1 - ratio**stairs.start) / (1 - ratio**stairs.top))


def _search_stairs(stairs: Stairs, skin: Skin) -> str:
    """Eliminates the stairs from the chain one by one, in exact fractions."""
    del skin
    up = Fraction(stairs.up, stairs.of)
    # From stair s, with the stairs below it eliminated: to s + 1 for good with this probability.
    climb = Fraction(0)
    climbs = [climb]
    for _ in range(1, stairs.top):
        climb = up / (1 - (1 - up) * climb)
        climbs.append(climb)
    return str(math.prod(climbs[stairs.start :], start=Fraction(1)))


class Urn(NamedTuple):
    """Red and blue ones, so many drawn without replacement, at least so many red."""

    red: int
    blue: int
    draws: int
    least: int


def _draw_urn(rng: random.Random, difficulty: int) -> Urn:
    draws = min(1 + difficulty, 4)
    red, blue = rng.randint(draws, 6 + difficulty), rng.randint(draws, 6 + difficulty)
    return Urn(red, blue, draws, rng.randint(1, draws))


def _change_urn(rng: random.Random, urn: Urn) -> Urn:
    return urn._replace(red=max(urn.draws, urn.red + rng.choice((-2, -1, 1, 2))))


def _tell_urn(urn: Urn, skin: Skin) -> tuple[str, str]:
    story = (
        f"A sack in {skin.place} holds {urn.red} red and {urn.blue} blue {skin.thing}s. "
        f"{skin.people[1]} takes out {urn.draws} of them at random, one after the other, and puts "
        "none back."
    )
    verb = "is" if urn.least == 1 else "are"
    return story, f"What is the probability that at least {urn.least} {verb} red? Give a fraction."


def _solve_urn(urn: Urn, skin: Skin) -> str:
    del skin
    ways = sum(
        math.comb(urn.red, k) * math.comb(urn.blue, urn.draws - k)
        for k in range(urn.least, urn.draws + 1)
    )
    return str(Fraction(ways, math.comb(urn.red + urn.blue, urn.draws)))


def _search_urn(urn: Urn, skin: Skin) -> str:
    del skin
    hands = list(itertools.combinations([1] * urn.red + [0] * urn.blue, urn.draws))
    return str(Fraction(sum(sum(hand) >= urn.least for hand in hands), len(hands)))


FAMILIES = (
    Family(
        "stairs",
        (CATEGORY, "recursion and backtracking"),
        "number",
        _draw_stairs,
        _change_stairs,
        _tell_stairs,
        _solve_stairs,
        _search_stairs,
    ),
    Family(
        "urn",
        (CATEGORY, "branching and enumeration"),
        "number",
        _draw_urn,
        _change_urn,
        _tell_urn,
        _solve_urn,
        _search_urn,
    ),
)
