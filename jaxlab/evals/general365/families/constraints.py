"""Complex constraints: a row of seats, and a number lock."""

import itertools
import random
from typing import NamedTuple

from jaxlab.evals.general365.families.types import Family, Skin, replaced

CATEGORY = "complex constraints"


class Clue(NamedTuple):
    """A condition: "left" (a before b), "next", "apart" (not next), "at" (a in seat b, from 0)."""

    kind: str
    a: int
    b: int


class Seating(NamedTuple):
    """n people, clues with one solution, and the seat that is asked for."""

    people: int
    clues: tuple[Clue, ...]
    seat: int


def _holds(clue: Clue, seat_of: tuple[int, ...]) -> bool:
    a = seat_of[clue.a]
    if clue.kind == "at":
        return a == clue.b
    distance = seat_of[clue.b] - a
    return {"left": distance > 0, "next": abs(distance) == 1, "apart": abs(distance) > 1}[clue.kind]


def _draw_seating(rng: random.Random, difficulty: int) -> Seating:
    n = min(2 + difficulty, 7)
    truth = tuple(rng.sample(range(n), n))
    pairs = list(itertools.permutations(range(n), 2))
    clues = [Clue(kind, a, b) for a, b in pairs for kind in ("left", "next", "apart")]
    clues += [Clue("at", a, truth[a]) for a in range(n)][: max(1, n - 3)]
    clues = [clue for clue in clues if _holds(clue, truth)]
    rng.shuffle(clues)
    left = list(itertools.permutations(range(n)))
    used = []
    for clue in clues:
        fewer = [seats for seats in left if _holds(clue, seats)]
        if len(fewer) < len(left):
            used.append(clue)
            left = fewer
        if len(left) == 1:
            break
    return Seating(n, tuple(used), rng.randrange(n))


def _change_seating(rng: random.Random, problem: Seating) -> Seating:
    i = rng.randrange(len(problem.clues))
    kind, a, b = problem.clues[i]
    if kind == "at":
        new = Clue(kind, a, rng.randrange(problem.people))
    elif kind == "left":
        new = Clue(kind, b, a)
    else:
        new = Clue("apart" if kind == "next" else "next", a, b)
    return problem._replace(clues=replaced(problem.clues, i, new))


def _tell_seating(problem: Seating, skin: Skin) -> tuple[str, str]:
    names = skin.people[: problem.people]
    texts = {
        "left": "{a} sits somewhere to the left of {b}.",
        "next": "{a} and {b} sit side by side.",
        "apart": "{a} and {b} do not sit side by side.",
    }
    lines = [
        f"{names[clue.a]} sits in seat {clue.b + 1}."
        if clue.kind == "at"
        else texts[clue.kind].format(a=names[clue.a], b=names[clue.b])
        for clue in problem.clues
    ]
    story = (
        f"In {skin.place}, {problem.people} people sit in a row of seats numbered 1 to "
        f"{problem.people} from left to right: {', '.join(names)}. " + " ".join(lines)
    )
    return story, f"Who sits in seat {problem.seat + 1}?"


def _solve_seating(problem: Seating, skin: Skin) -> str | None:
    """Places one person after the other and gives up a branch at the first clue that fails."""
    found: list[tuple[int, ...]] = []

    def place(seats: tuple[int, ...]) -> None:
        known = [c for c in problem.clues if max(c.a, c.a if c.kind == "at" else c.b) < len(seats)]
        if not all(_holds(clue, seats) for clue in known):
            return
        if len(seats) == problem.people:
            found.append(seats)
            return
        for seat in range(problem.people):
            if seat not in seats:
                place((*seats, seat))

    place(())
    return skin.people[found[0].index(problem.seat)] if len(found) == 1 else None


def _search_seating(problem: Seating, skin: Skin) -> str | None:
    orders = [
        order
        for order in itertools.permutations(range(problem.people))
        if all(
            _holds(c, tuple(order.index(p) for p in range(problem.people))) for c in problem.clues
        )
    ]
    return skin.people[orders[0][problem.seat]] if len(orders) == 1 else None


class Lock(NamedTuple):
    """A number of so many digits: digit sum, first minus last digit, (divisor, remainder) pairs."""

    digits: int
    total: int
    difference: int
    remainders: tuple[tuple[int, int], ...]


def _draw_lock(rng: random.Random, difficulty: int) -> Lock:
    digits = 3 if difficulty < 4 else 4
    code = rng.randrange(10 ** (digits - 1), 10**digits)
    figures = [int(figure) for figure in str(code)]
    divisors = rng.sample((4, 6, 7, 8, 11, 13), 2 if difficulty < 4 else 3)
    pairs = tuple((divisor, code % divisor) for divisor in sorted(divisors))
    return Lock(digits, sum(figures), figures[0] - figures[-1], pairs)


def _change_lock(rng: random.Random, problem: Lock) -> Lock:
    i = rng.randrange(len(problem.remainders))
    divisor, _ = problem.remainders[i]
    pairs = replaced(problem.remainders, i, (divisor, rng.randrange(divisor)))
    return problem._replace(remainders=pairs)


def _tell_lock(problem: Lock, skin: Skin) -> tuple[str, str]:
    if problem.difference == 0:
        ends = "Its first and last digit are equal."
    else:
        more = "larger" if problem.difference > 0 else "smaller"
        ends = f"Its first digit is {abs(problem.difference)} {more} than its last."
    rests = " ".join(
        f"Divided by {divisor} it leaves the remainder {rest}."
        for divisor, rest in problem.remainders
    )
    story = (
        f"{skin.people[0]} has locked the {skin.thing} of {skin.place} with a number of "
        f"{problem.digits} digits that does not begin with 0. The sum of its digits is "
        f"{problem.total}. {ends} {rests}"
    )
    return story, "What is the number?"


def _solve_lock(problem: Lock, skin: Skin) -> str | None:
    del skin
    low = 10 ** (problem.digits - 1)
    divisor, rest = max(problem.remainders)
    codes = range(low + (rest - low) % divisor, 10 * low, divisor)
    found = [code for code in codes if _fits(problem, tuple(map(int, str(code))))]
    return str(found[0]) if len(found) == 1 else None


def _fits(problem: Lock, figures: tuple[int, ...]) -> bool:
    code = int("".join(map(str, figures)))
    return (
        sum(figures) == problem.total
        and figures[0] - figures[-1] == problem.difference
        and all(code % divisor == rest for divisor, rest in problem.remainders)
    )


def _search_lock(problem: Lock, skin: Skin) -> str | None:
    """Over first digits and middles; the last digit follows from the difference."""
    del skin
    found = []
    for first in range(1, 10):
        last = first - problem.difference
        for middle in itertools.product(range(10), repeat=problem.digits - 2):
            code = 0
            for figure in (first, *middle, last):
                code = 10 * code + figure
            if not 0 <= last <= 9 or first + sum(middle) + last != problem.total:
                continue
            if not any((code - rest) % divisor for divisor, rest in problem.remainders):
                found.append(code)
    return str(found[0]) if len(found) == 1 else None


FAMILIES = (
    Family(
        "seating",
        (CATEGORY, "spatio-temporal"),
        "text",
        _draw_seating,
        _change_seating,
        _tell_seating,
        _solve_seating,
        _search_seating,
    ),
    Family(
        "lock",
        (CATEGORY,),
        "number",
        _draw_lock,
        _change_lock,
        _tell_lock,
        _solve_lock,
        _search_lock,
    ),
)
