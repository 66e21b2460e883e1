"""Recursion and backtracking: counting out, and boxes in boxes."""

import random
from typing import NamedTuple

from jaxlab.evals.general365.families.types import Family, Skin

CATEGORY = "recursion and backtracking"


class Circle(NamedTuple):
    """n in a circle; every k-th one leaves, counted from number `first`."""

    people: int
    step: int
    first: int


def _draw_circle(rng: random.Random, difficulty: int) -> Circle:
    people = rng.randint(4 + difficulty, 6 + 4 * difficulty)
    return Circle(people, rng.randint(2, 2 + difficulty), rng.randint(1, people))


def _change_circle(rng: random.Random, circle: Circle) -> Circle:
    return circle._replace(step=rng.choice([k for k in range(2, 9) if k != circle.step]))


def _tell_circle(circle: Circle, skin: Skin) -> tuple[str, str]:
    story = (
        f"In {skin.place}, {circle.people} people with the numbers 1 to {circle.people} stand in a "
        f"circle in this order. Starting with number {circle.first} as one, they count from 1 to "
        f"{circle.step} around the circle; whoever gets {circle.step} leaves with a {skin.thing}, "
        "and the next person begins again with one. This goes on until one person is left."
    )
    return story, "Which number has the last one?"


def _solve_circle(circle: Circle, skin: Skin) -> str:
    """The recurrence of Josephus: f(1) = 0, f(n) = (f(n - 1) + k) mod n, numbered from 0."""
    del skin
    last = 0
    for n in range(2, circle.people + 1):
        last = (last + circle.step) % n
    return str((last + circle.first - 1) % circle.people + 1)


def _search_circle(circle: Circle, skin: Skin) -> str:
    del skin
    numbers = list(range(1, circle.people + 1))
    standing = numbers[circle.first - 1 :] + numbers[: circle.first - 1]
    while len(standing) > 1:
        for _ in range(circle.step - 1):
            standing.append(standing.pop(0))
        standing.pop(0)
    return str(standing[0])


class Boxes(NamedTuple):
    """A box of size n holds `one` boxes of size n - 1, `two` of n - 2, and `loose` marbles."""

    size: int
    one: int
    two: int
    loose: int


def _draw_boxes(rng: random.Random, difficulty: int) -> Boxes:
    return Boxes(min(2 + difficulty, 7), rng.randint(1, 3), rng.randint(1, 2), rng.randint(1, 20))


def _change_boxes(rng: random.Random, boxes: Boxes) -> Boxes:
    return boxes._replace(loose=rng.choice([n for n in range(1, 21) if n != boxes.loose]))


def _tell_boxes(boxes: Boxes, skin: Skin) -> tuple[str, str]:
    story = (
        f"{skin.people[3]} packs {skin.thing}s into boxes. A box of size 0 is empty. A box of "
        f"size 1 holds nothing but {skin.thing}s, {boxes.loose} in number. A box of any larger "
        f"size n holds smaller boxes, {boxes.one} of size n - 1 and {boxes.two} of size n - 2, "
        f"and beside them loose {skin.thing}s, {boxes.loose} in number."
    )
    return story, f"How many {skin.thing}s are in a box of size {boxes.size}, in all?"


def _solve_boxes(boxes: Boxes, skin: Skin) -> str:
    del skin
    before, now = 0, boxes.loose
    for _ in range(boxes.size - 1):
        before, now = now, boxes.one * now + boxes.two * before + boxes.loose
    return str(now)


def _search_boxes(boxes: Boxes, skin: Skin) -> str:
    """Unpacks every box."""
    del skin
    packed, count = [boxes.size], 0
    while packed:
        size = packed.pop()
        count += boxes.loose if size else 0
        if size > 1:
            packed += [size - 1] * boxes.one + [size - 2] * boxes.two
    return str(count)


FAMILIES = (
    Family(
        "circle",
        (CATEGORY,),
        "number",
        _draw_circle,
        _change_circle,
        _tell_circle,
        _solve_circle,
        _search_circle,
    ),
    Family(
        "boxes",
        (CATEGORY,),
        "number",
        _draw_boxes,
        _change_boxes,
        _tell_boxes,
        _solve_boxes,
        _search_boxes,
    ),
)
