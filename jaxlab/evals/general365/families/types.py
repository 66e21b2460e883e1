"""What a family of problems is made of."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Skin:
    """Names and things that a problem is dressed in; no answer depends on them but by name.

    Attributes:
        people: eight names.
        thing: what is counted, in the singular; its plural has an s.
        place: where it happens.
        aside: a true sentence with numbers in it that has nothing to do with the question.
    """

    people: tuple[str, ...]
    thing: str
    place: str
    aside: str


@dataclass(frozen=True)
class Family:
    """Problems of one kind.

    Attributes:
        name: unique.
        categories: of General365, the leading one first.
        answer_type: of General365.
        draw: (random, difficulty from 1) -> parameters.
        change: (random, parameters) -> parameters with one constraint changed.
        tell: (parameters, skin) -> the story and the question.
        solve: (parameters, skin) -> the answer, by an exact method; None where it is not unique.
        search: the same by exhaustive search and another route, as the proof of `solve`.
    """

    name: str
    categories: tuple[str, ...]
    answer_type: str
    draw: Callable[[random.Random, int], Any]
    change: Callable[[random.Random, Any], Any]
    tell: Callable[[Any, Skin], tuple[str, str]]
    solve: Callable[[Any, Skin], str | None]
    search: Callable[[Any, Skin], str | None]


def replaced(items: tuple, i: int, value: Any) -> tuple:
    """`items` with another value in place i."""
    return (*items[:i], value, *items[i + 1 :])


def counted(number: int, thing: str) -> str:
    """'1 step', '2 steps'."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def listed(parts: list[str], word: str = "and") -> str:
    """'a, b and c'."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {word} {parts[-1]}"
