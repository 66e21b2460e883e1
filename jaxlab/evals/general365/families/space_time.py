"""Spatio-temporal: a walk with turns, and watches that are wrong."""

import random
from typing import NamedTuple

from jaxlab.evals.general365.families.types import Family, Skin, counted, replaced

CATEGORY = "spatio-temporal"

# Turns to the right in quarters.
_TURNS = {"left": 3, "right": 1, "around": 2}
_HEADINGS = ("north", "east", "south", "west")


class Walk(NamedTuple):
    """Heading at the start, (steps, turn) pairs, and the order of the four options."""

    heading: int
    legs: tuple[tuple[int, str], ...]
    options: tuple[int, ...]


def _draw_walk(rng: random.Random, difficulty: int) -> Walk:
    legs = tuple((rng.randint(1, 9), rng.choice(list(_TURNS))) for _ in range(2 + difficulty))
    return Walk(rng.randrange(4), legs, tuple(rng.sample(range(4), 4)))


def _change_walk(rng: random.Random, walk: Walk) -> Walk:
    i = rng.randrange(len(walk.legs))
    steps, turn = walk.legs[i]
    new = rng.choice([other for other in _TURNS if other != turn])
    return walk._replace(legs=replaced(walk.legs, i, (steps, new)))


def _tell_walk(walk: Walk, skin: Skin) -> tuple[str, str]:
    legs = " ".join(
        f"After {counted(steps, 'step')} straight ahead, {skin.people[2]} turns {turn}."
        for steps, turn in walk.legs
    )
    options = " ".join(
        f"{letter}: {_HEADINGS[heading]}."
        for letter, heading in zip("ABCD", walk.options, strict=True)
    )
    story = f"{skin.people[2]} leaves {skin.place} facing {_HEADINGS[walk.heading]}. {legs}"
    return story, f"Which way is {skin.people[2]} facing in the end? {options}"


def _solve_walk(walk: Walk, skin: Skin) -> str:
    del skin
    heading = (walk.heading + sum(_TURNS[turn] for _, turn in walk.legs)) % 4
    return "ABCD"[walk.options.index(heading)]


def _search_walk(walk: Walk, skin: Skin) -> str | None:
    """Turns a direction in the plane, and compares it with every option."""
    del skin
    directions = {0: 1j, 1: 1 + 0j, 2: -1j, 3: -1 + 0j}
    direction = directions[walk.heading]
    for _, turn in walk.legs:
        direction *= {"left": 1j, "right": -1j, "around": -1}[turn]
    fitting = [
        letter
        for letter, heading in zip("ABCD", walk.options, strict=True)
        if abs(directions[heading] - direction) < 1e-9
    ]
    return fitting[0] if len(fitting) == 1 else None


class Visit(NamedTuple):
    """Minutes after nine by somebody's own watch, and how many minutes the watch is fast."""

    arrives: int
    leaves: int
    fast: int


Visits = tuple[Visit, ...]
_LAST = 240


def _draw_visits(rng: random.Random, difficulty: int) -> Visits:
    visits = []
    for _ in range(min(1 + difficulty, 6)):
        arrives = rng.randrange(20, 100)
        visits.append(
            Visit(arrives, arrives + rng.randrange(40, 100), rng.choice((-12, -5, 4, 10)))
        )
    return tuple(visits)


def _change_visits(rng: random.Random, visits: Visits) -> Visits:
    i = rng.randrange(len(visits))
    fast = rng.choice([other for other in (-15, -8, -3, 0, 7, 15) if other != visits[i].fast])
    return replaced(visits, i, visits[i]._replace(fast=fast))


def _tell_visits(visits: Visits, skin: Skin) -> tuple[str, str]:
    lines = []
    for name, visit in zip(skin.people, visits, strict=False):
        watch = "is right"
        if visit.fast:
            watch = f"is {abs(visit.fast)} minutes {'fast' if visit.fast > 0 else 'slow'}"
        lines.append(
            f"{name} comes to {skin.place} {visit.arrives} minutes after nine and leaves "
            f"{visit.leaves} minutes after nine, by a watch that {watch}."
        )
    question = (
        "During which time are all of them there? Give the closed interval [a,b], in minutes after "
        "nine by a watch that is right."
    )
    return " ".join(lines), question


def _solve_visits(visits: Visits, skin: Skin) -> str | None:
    del skin
    begin = max(visit.arrives - visit.fast for visit in visits)
    end = min(visit.leaves - visit.fast for visit in visits)
    return f"[{begin},{end}]" if begin < end else None


def _search_visits(visits: Visits, skin: Skin) -> str | None:
    """Looks at every minute."""
    del skin
    times = [
        time
        for time in range(-20, _LAST)
        if all(visit.arrives <= time + visit.fast <= visit.leaves for visit in visits)
    ]
    return f"[{times[0]},{times[-1]}]" if len(times) > 1 else None


FAMILIES = (
    Family(
        "walk",
        (CATEGORY,),
        "single_choice",
        _draw_walk,
        _change_walk,
        _tell_walk,
        _solve_walk,
        _search_walk,
    ),
    Family(
        "watches",
        (CATEGORY, "implicit information"),
        "interval",
        _draw_visits,
        _change_visits,
        _tell_visits,
        _solve_visits,
        _search_visits,
    ),
)
