"""Implicit information: who tells the truth, and what silence gives away."""

import itertools
import random
from collections import Counter
from typing import NamedTuple

from jaxlab.evals.general365.families.types import Family, Skin, listed, replaced

CATEGORY = "implicit information"


class Claim(NamedTuple):
    """What a speaker says: "honest" (a = b is), "liar", "same" (a < b are of one kind)."""

    kind: str
    a: int
    b: int


Claims = tuple[Claim, ...]


def _claim(rng: random.Random, speaker: int, people: int) -> Claim:
    others = [person for person in range(people) if person != speaker]
    kind, (a, b) = rng.choice(("honest", "liar", "same")), rng.sample(others, 2)
    return Claim(kind, min(a, b), max(a, b)) if kind == "same" else Claim(kind, a, a)


def _draw_claims(rng: random.Random, difficulty: int) -> Claims:
    people = min(2 + difficulty, 7) if difficulty > 1 else 3
    return tuple(_claim(rng, speaker, people) for speaker in range(people))


def _change_claims(rng: random.Random, claims: Claims) -> Claims:
    speaker = rng.randrange(len(claims))
    return replaced(claims, speaker, _claim(rng, speaker, len(claims)))


def _tell_claims(claims: Claims, skin: Skin) -> tuple[str, str]:
    names = [f"{skin.people[i]} ({'ABCDEFG'[i]})" for i in range(len(claims))]
    says = {
        "honest": "{a} always tells the truth",
        "liar": "{a} always lies",
        "same": "{a} and {b} are of the same kind",
    }
    lines = [
        f"{skin.people[i]} says: {says[c.kind].format(a=skin.people[c.a], b=skin.people[c.b])}."
        for i, c in enumerate(claims)
    ]
    story = (
        f"Everybody in {skin.place} either always tells the truth or always lies. There are "
        f"{listed(names)}. " + " ".join(lines)
    )
    return story, "Who tells the truth? Give all letters."


def _true(claim: Claim, honest: tuple[bool, ...]) -> bool:
    if claim.kind == "same":
        return honest[claim.a] == honest[claim.b]
    return honest[claim.a] == (claim.kind == "honest")


def _solve_claims(claims: Claims, skin: Skin) -> str | None:
    del skin
    worlds = [
        world
        for world in itertools.product((False, True), repeat=len(claims))
        if all(_true(claim, world) == world[i] for i, claim in enumerate(claims))
    ]
    return _named(worlds)


def _search_claims(claims: Claims, skin: Skin) -> str | None:
    """Each claim is a linear equation over two elements; tries every set of liars as bits."""
    del skin
    worlds = []
    for bits in range(1 << len(claims)):
        liar = [bits >> i & 1 for i in range(len(claims))]
        # The speaker lies exactly if the claim is false.
        false = [
            liar[c.a] ^ liar[c.b] if c.kind == "same" else liar[c.a] ^ (c.kind == "liar")
            for c in claims
        ]
        if false == liar:
            worlds.append(tuple(not bit for bit in liar))
    return _named(worlds)


def _named(worlds: list[tuple[bool, ...]]) -> str | None:
    if len(worlds) != 1 or not any(worlds[0]):
        return None
    return ", ".join("ABCDEFG"[i] for i, honest in enumerate(worlds[0]) if honest)


_MONTHS = ("March", "May", "June", "August", "October")
Dates = tuple[tuple[int, int], ...]


def _draw_dates(rng: random.Random, difficulty: int) -> Dates:
    months = min(3 + difficulty // 3, len(_MONTHS))
    days = rng.sample(range(11, 29), 4 + difficulty // 2)
    possible = list(itertools.product(range(months), sorted(days)))
    return tuple(sorted(rng.sample(possible, min(7 + difficulty, len(possible)))))


def _change_dates(rng: random.Random, dates: Dates) -> Dates:
    i = rng.randrange(len(dates))
    month, _ = dates[i]
    new = (month, rng.choice([day for day in range(11, 29) if (month, day) not in dates]))
    if rng.random() < 0.7:  # a day that another month has
        shared = [day for _, day in dates if (month, day) not in dates]
        new = (month, rng.choice(shared)) if shared else new
    return tuple(sorted(replaced(dates, i, new)))


def _tell_dates(dates: Dates, skin: Skin) -> tuple[str, str]:
    a, b = skin.people[0], skin.people[1]
    possible = listed([f"{_MONTHS[month]} {day}" for month, day in dates])
    story = (
        f"The feast in {skin.place} is on one of these dates: {possible}. {a} is told the month "
        f"alone, {b} the day of the month alone, and both know that. {a} says: I do not know the "
        f"date, and I am sure that {b} does not know it either. {b} says: I did not know it, but "
        f"now I do. {a} says: Now I know it too."
    )
    return story, "On which day of the month is the feast? Give the number."


def _solve_dates(dates: Dates, skin: Skin) -> str | None:
    """Strikes out dates, one statement after the other."""
    del skin
    month_count, day_count = Counter(m for m, _ in dates), Counter(d for _, d in dates)
    telling = {m for m, d in dates if day_count[d] == 1}
    left = [(m, d) for m, d in dates if m not in telling and month_count[m] > 1]
    days = Counter(d for _, d in left)
    left = [(m, d) for m, d in left if days[d] == 1]
    months = Counter(m for m, _ in left)
    left = [(m, d) for m, d in left if months[m] == 1]
    return str(left[0][1]) if len(left) == 1 else None


def _search_dates(dates: Dates, skin: Skin) -> str | None:
    """For every date, what each of the two thinks possible after every statement."""
    del skin

    def know(world: tuple[int, int], part: int, worlds: list[tuple[int, int]]) -> bool:
        return len([other for other in worlds if other[part] == world[part]]) == 1

    def first(world: tuple[int, int]) -> bool:
        alike = [other for other in dates if other[0] == world[0]]
        return len(alike) > 1 and not any(know(other, 1, list(dates)) for other in alike)

    after_first = [world for world in dates if first(world)]
    after_second = [
        world
        for world in after_first
        if know(world, 1, after_first) and not know(world, 1, list(dates))
    ]
    after_third = [world for world in after_second if know(world, 0, after_second)]
    return str(after_third[0][1]) if len(after_third) == 1 else None


FAMILIES = (
    Family(
        "truth",
        (CATEGORY, "complex constraints"),
        "multiple_choice",
        _draw_claims,
        _change_claims,
        _tell_claims,
        _solve_claims,
        _search_claims,
    ),
    Family(
        "feast",
        (CATEGORY,),
        "number",
        _draw_dates,
        _change_dates,
        _tell_dates,
        _solve_dates,
        _search_dates,
    ),
)
