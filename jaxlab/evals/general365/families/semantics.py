"""Semantic interference: signs that mean others, and words that mean others."""

import itertools
import random
from typing import NamedTuple

from jaxlab.evals.general365.families.types import Family, Skin, listed, replaced

CATEGORY = "semantic interference"

_MEANINGS = {"add": "+", "subtract": "-", "multiply": "*"}
_SIGNS = ("+", "-", "×")


class Note(NamedTuple):
    """What +, - and × mean, and an expression of numbers and signs (as indices)."""

    meanings: tuple[str, ...]
    numbers: tuple[int, ...]
    signs: tuple[int, ...]


def _draw_note(rng: random.Random, difficulty: int) -> Note:
    count = min(2 + difficulty, 7)
    meanings = tuple(rng.sample(list(_MEANINGS), 3))
    numbers = tuple(rng.randint(2, 9) for _ in range(count))
    return Note(meanings, numbers, tuple(rng.randrange(3) for _ in range(count - 1)))


def _change_note(rng: random.Random, note: Note) -> Note:
    i = rng.randrange(3)
    new = rng.choice([meaning for meaning in _MEANINGS if meaning != note.meanings[i]])
    return note._replace(meanings=replaced(note.meanings, i, new))


def _tell_note(note: Note, skin: Skin) -> tuple[str, str]:
    meanings = listed(
        [f"{sign} means {word}" for sign, word in zip(_SIGNS, note.meanings, strict=True)]
    )
    parts = [str(note.numbers[0])]
    for sign, number in zip(note.signs, note.numbers[1:], strict=True):
        parts += [_SIGNS[sign], str(number)]
    story = (
        f"In the notes of {skin.people[4]}, signs do not mean what they usually do: {meanings}. "
        "Notes are worked out strictly from left to right, no sign before another. One note about "
        f"the {skin.thing}s of {skin.place} reads {' '.join(parts)}."
    )
    return story, "Which number is meant?"


def _solve_note(note: Note, skin: Skin) -> str:
    del skin
    value = note.numbers[0]
    for sign, number in zip(note.signs, note.numbers[1:], strict=True):
        meaning = note.meanings[sign]
        value = (
            value + number
            if meaning == "add"
            else value - number
            if meaning == "subtract"
            else value * number
        )
    return str(value)


def _search_note(note: Note, skin: Skin) -> str:
    """Unrolls the note from its end: value = sum over terms of term times the factors behind it."""
    del skin
    total, factor = 0, 1
    for sign, number in reversed(list(zip(note.signs, note.numbers[1:], strict=True))):
        meaning = _MEANINGS[note.meanings[sign]]
        if meaning == "*":
            factor *= number
        else:
            total += factor * (number if meaning == "+" else -number)
    return str(total + factor * note.numbers[0])


_COLOURS = ("red", "blue", "green", "yellow", "white", "black", "brown")


class Valleys(NamedTuple):
    """Word of the first valley for each colour, of the second, and the word that is heard."""

    first: tuple[int, ...]
    second: tuple[int, ...]
    heard: int


def _draw_valleys(rng: random.Random, difficulty: int) -> Valleys:
    n = min(2 + difficulty, len(_COLOURS))
    first, second = (tuple(rng.sample(range(n), n)) for _ in range(2))
    return Valleys(first, second, rng.randrange(n))


def _change_valleys(rng: random.Random, valleys: Valleys) -> Valleys:
    i, j = rng.sample(range(len(valleys.first)), 2)
    swapped = replaced(valleys.first, i, valleys.first[j])
    return valleys._replace(first=replaced(swapped, j, valleys.first[i]))


def _tell_valleys(valleys: Valleys, skin: Skin) -> tuple[str, str]:
    def words(valley: tuple[int, ...]) -> str:
        pairs = zip(_COLOURS, valley, strict=False)
        return listed([f"what is {colour} is called {_COLOURS[word]}" for colour, word in pairs])

    story = (
        f"In the upper valley {words(valleys.first)}. In the lower valley "
        f"{words(valleys.second)}. {skin.people[5]} of the upper valley calls the {skin.thing} by "
        f"its colour there. {skin.people[6]} of the lower valley takes this word for the name of "
        f"the true colour, and says the lower valley's word for that: "
        f"{_COLOURS[valleys.heard]}."
    )
    return story, f"What colour is the {skin.thing} really?"


def _solve_valleys(valleys: Valleys, skin: Skin) -> str:
    del skin
    return _COLOURS[valleys.first.index(valleys.second.index(valleys.heard))]


def _search_valleys(valleys: Valleys, skin: Skin) -> str | None:
    del skin
    n = len(valleys.first)
    fitting = [
        colour
        for colour, word in itertools.product(range(n), repeat=2)
        if valleys.first[colour] == word and valleys.second[word] == valleys.heard
    ]
    return _COLOURS[fitting[0]] if len(fitting) == 1 else None


FAMILIES = (
    Family(
        "signs",
        (CATEGORY,),
        "number",
        _draw_note,
        _change_note,
        _tell_note,
        _solve_note,
        _search_note,
    ),
    Family(
        "colours",
        (CATEGORY, "recursion and backtracking"),
        "text",
        _draw_valleys,
        _change_valleys,
        _tell_valleys,
        _solve_valleys,
        _search_valleys,
    ),
)
