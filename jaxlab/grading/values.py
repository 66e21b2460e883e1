"""What a mathematical answer can be: an expression, words, a group, a region or a relation."""

from dataclasses import dataclass
from typing import Any, Literal

import sympy

# To which numbers that are not rational are computed.
DIGITS = 40


@dataclass(frozen=True)
class Quantity:
    """An expression, perhaps with a unit or in percent."""

    value: Any
    decimal: bool
    unit: str = ""


@dataclass(frozen=True)
class Words:
    """Text, in lower case, without articles and marks."""

    text: str


@dataclass(frozen=True)
class Group:
    """Several answers.

    Attributes:
        kind: "list": in any order, with multiplicity; "or": the same, but equal ones are one;
            "tuple": in this order; "ratio": in this order, up to a factor; "rows": a matrix.
        members: its parts.
        ends: brackets of a tuple, "(]".
    """

    kind: Literal["list", "or", "tuple", "ratio", "rows"]
    members: tuple["Value", ...]
    ends: str = ""


@dataclass(frozen=True)
class Piece:
    """An interval; a point is closed at both of its equal ends."""

    low: Quantity
    low_closed: bool
    high: Quantity
    high_closed: bool


@dataclass(frozen=True)
class Region:
    """A part of the real line; `variable` is that of an inequality, None of an interval."""

    pieces: tuple[Piece, ...]
    variable: str | None = None


@dataclass(frozen=True)
class Relation:
    """x = y < z: sides and the signs between them; `name` is the left side's text."""

    sides: tuple["Value", ...]
    signs: tuple[str, ...]
    name: str = ""


@dataclass(frozen=True)
class Conditions:
    """A set by what its elements fulfil, where that is no part of the real line."""

    element: "Value"
    condition: "Value"


Value = Quantity | Words | Group | Region | Relation | Conditions
INFINITY = Quantity(sympy.oo, False)
MINUS_INFINITY = Quantity(-sympy.oo, False)
REALS = Region((Piece(MINUS_INFINITY, False, INFINITY, False),))
EMPTY = Region(())
"""The empty set."""
