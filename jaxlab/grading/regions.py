"""Parts of the real line: intervals, points and the solutions of inequalities."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import sympy

from jaxlab.grading import syntax
from jaxlab.grading.expressions import UnreadableError
from jaxlab.grading.values import (
    DIGITS,
    INFINITY,
    MINUS_INFINITY,
    Group,
    Piece,
    Quantity,
    Region,
    Relation,
    Value,
)


def interval(relation: Relation, sides: Sequence[str]) -> Region | None:
    """The numbers for which an inequality of one variable holds; None where it is no such thing."""
    signs = relation.signs
    names = [syntax.squeezed(side) for side in sides]
    values = [side for side in relation.sides if isinstance(side, Quantity)]
    if "=" in signs or len(values) != len(sides) or len(sides) > 3:
        return None
    at = next((i for i, v in enumerate(values) if isinstance(v.value, sympy.Symbol)), None)
    if at is None or sum(isinstance(v.value, sympy.Symbol) for v in values) > 1:
        return None
    if any(values[at].value in v.value.free_symbols for i, v in enumerate(values) if i != at):
        return None
    if len(sides) == 3 and (at != 1 or "\\ne" in signs):
        return None
    low, low_closed, high, high_closed = MINUS_INFINITY, False, INFINITY, False
    for i, sign in enumerate(signs):
        other = values[i + 1] if i == at else values[i]
        if sign == "\\ne":
            below = Piece(MINUS_INFINITY, False, other, False)
            return Region((below, Piece(other, False, INFINITY, False)), names[at])
        # The variable is above the other where it stands at the larger side.
        if (sign in (">", "\\ge")) == (i == at):
            low, low_closed = other, sign in ("\\le", "\\ge")
        else:
            high, high_closed = other, sign in ("\\le", "\\ge")
    return Region((Piece(low, low_closed, high, high_closed),), names[at])


def point_as_region(value: Value) -> Value:
    """An equation x = 3 as the region of one point."""
    if isinstance(value, Relation) and value.signs == ("=",):
        left, right = value.sides
        variable = isinstance(left, Quantity) and isinstance(left.value, sympy.Symbol)
        if variable and isinstance(right, Quantity):
            return Region((Piece(right, True, right, True),), syntax.squeezed(value.name))
    return value


def as_region(value: Value) -> Region:
    """A value as a part of the real line; UnreadableError where it is none."""
    if isinstance(value, Region):
        return value
    if isinstance(value, Group) and value.kind == "tuple" and len(value.members) == 2:
        low, high = value.members
        if isinstance(low, Quantity) and isinstance(high, Quantity):
            return Region((Piece(low, value.ends[0] == "[", high, value.ends[-1] == "]"),))
    if isinstance(value, Group) and value.kind == "list":
        regions = [member for member in value.members if isinstance(member, Region)]
        if len(regions) == len(value.members):  # x > 1, x < 3
            both = intersection(regions)
            if both.pieces:
                return replace(both, variable=regions[0].variable)
        elif not all(isinstance(member, Quantity) for member in value.members):
            raise UnreadableError("a list of unlike parts")
    if isinstance(value, Group) and value.kind in ("list", "or"):
        return Region(sum((as_region(member).pieces for member in value.members), ()))
    if isinstance(value, Quantity):
        return Region((Piece(value, True, value, True),))
    if isinstance(value, Relation):
        solved = _solved(value)
        if solved is not None:
            return solved
    raise UnreadableError("not a part of the real line")


def _solved(relation: Relation) -> Region | None:
    """The solutions of an inequality such as |x - 1| < 3 or 2x > 6."""
    sides = [side.value for side in relation.sides if isinstance(side, Quantity)]
    operators: dict[str, Callable[..., Any]] = {
        "<": sympy.Lt,
        ">": sympy.Gt,
        "\\le": sympy.Le,
        "\\ge": sympy.Ge,
        "\\ne": sympy.Ne,
    }
    names = set().union(*(side.free_symbols for side in sides))
    if len(sides) != len(relation.sides) or len(names) != 1 or "=" in relation.signs:
        return None
    (name,) = names
    x = sympy.Symbol("x", real=True)
    sides = [side.subs(name, x) for side in sides]
    regions = []
    for left, sign, right in zip(sides, relation.signs, sides[1:], strict=False):
        try:
            found = sympy.solve_univariate_inequality(operators[sign](left, right), x, False)
        except (NotImplementedError, TypeError, ValueError):
            # sympy cannot solve it: then it is compared as a relation and not as a region.
            return None
        pieces = [_piece(part) for part in (found.args if found.is_Union else [found])]
        if not all(pieces):
            return None
        regions.append(Region(sum(pieces, ()), str(name)))
    return replace(intersection(regions), variable=str(name))


def _piece(found: Any) -> tuple[Piece, ...]:
    if found.is_Interval:
        low, high = Quantity(found.start, False), Quantity(found.end, False)
        return (Piece(low, not found.left_open, high, not found.right_open),)
    if found.is_FiniteSet:
        points = [Quantity(point, False) for point in found.args]
        return tuple(Piece(point, True, point, True) for point in points)
    return ()


def _key(quantity: Quantity) -> Any:
    """A size to sort by; UnreadableError where an end has none."""
    if quantity.value in (sympy.oo, -sympy.oo):
        return quantity.value
    size = quantity.value.evalf(DIGITS)
    if not size.is_Float and not size.is_Integer and not size.is_Rational:
        raise UnreadableError("an end of an interval has no size")
    return size


def intersection(regions: Sequence[Region]) -> Region:
    """The part that all regions share."""
    found = regions[0].pieces
    for region in regions[1:]:
        found = tuple(
            piece for a in found for b in region.pieces if (piece := _overlap(a, b)) is not None
        )
    return Region(found)


def _overlap(a: Piece, b: Piece) -> Piece | None:
    low_a, low_b, high_a, high_b = map(_key, (a.low, b.low, a.high, b.high))
    low, high = (a.low if low_a >= low_b else b.low), (a.high if high_a <= high_b else b.high)
    low_closed = all(p.low_closed for p, k in ((a, low_a), (b, low_b)) if k == max(low_a, low_b))
    ends = ((a, high_a), (b, high_b))
    high_closed = all(p.high_closed for p, k in ends if k == min(high_a, high_b))
    begin, end = _key(low), _key(high)
    if begin > end or (begin == end and not (low_closed and high_closed)):
        return None
    return Piece(low, low_closed, high, high_closed)


def difference(region: Region, points: Value) -> Region:
    """A region without some points, or another one."""
    for piece in as_region(points).pieces:
        below = Piece(MINUS_INFINITY, False, piece.low, not piece.low_closed)
        above = Piece(piece.high, not piece.high_closed, INFINITY, False)
        region = intersection([region, Region((below, above))])
    return region


def merged(region: Region) -> tuple[Piece, ...]:
    """Its pieces in order, those that touch joined; as they are where an end has no size."""
    try:
        pieces = sorted(region.pieces, key=lambda piece: (_key(piece.low), not piece.low_closed))
    except UnreadableError:
        return region.pieces
    found: list[Piece] = []
    for piece in pieces:
        last = found[-1] if found else None
        if last is not None and _touch(last, piece):
            longer = max((last, piece), key=lambda p: (_key(p.high), p.high_closed))
            high, closed = longer.high, longer.high_closed
            found[-1] = Piece(last.low, last.low_closed, high, closed)
        else:
            found.append(piece)
    return tuple(found)


def _touch(first: Piece, second: Piece) -> bool:
    """Whether nothing lies between two intervals, of which the first begins first."""
    end, begin = _key(first.high), _key(second.low)
    return bool(begin < end or (begin == end and (first.high_closed or second.low_closed)))
