"""Whether two mathematical answers are the same, whatever form they are written in.

An answer is read into what it is: an expression, a list, a tuple, an interval or another region of
the real line, a relation, a matrix, or words. Numbers are compared exactly where both are written
exactly, and to a relative tolerance where one of them is a decimal. What cannot be read is equal to
the same text alone. This runs in `graders`' workers, since sympy may hang on what a model writes.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import sympy

from jaxlab.grading import expressions, spelling
from jaxlab.grading.expressions import UnreadableError

# Of two numbers one of which is a decimal, and of what is no rational number at all.
RELATIVE_TOLERANCE = sympy.Rational(1, 10**6)
_ROUNDING_NOISE = sympy.Rational(1, 10**10)
_EXACT = sympy.Rational(1, 10**20)
_DIGITS = 40
_LONGEST = 4000

Opening = Literal["(", "[", "{", ""]


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

_INFINITY = Quantity(sympy.oo, False)
_MINUS_INFINITY = Quantity(-sympy.oo, False)
REALS = Region((Piece(_MINUS_INFINITY, False, _INFINITY, False),))
EMPTY = Region(())
"""The empty set."""


def equal(gold: str, answer: str, places: int | None = None) -> bool:
    """Whether an answer is the reference.

    Args:
        gold: the reference.
        answer: what was given as the answer, without the prose around it.
        places: decimal places to which numbers are rounded before they are compared; None: to a
            relative tolerance.
    """
    if max(len(gold), len(answer)) > _LONGEST:
        return gold.strip() == answer.strip()
    gold, answer = spelling.canonical(gold), spelling.canonical(answer)
    if spelling.squeezed(gold) == spelling.squeezed(answer):
        return True
    choice = _choices(gold, answer)
    if choice is not None:
        return choice
    label = spelling.option(answer)
    if label is not None and spelling.option(gold) is None:
        answer = label[1] or answer
    bases = [sympy.E, sympy.Integer(10)] if "\\log" in gold + answer else [sympy.E]
    for base in bases:
        wanted, found = Reader(base).read(gold), Reader(base).read(answer)
        if _Comparison(places).same(wanted, found):
            return True
    return False


def readable(text: str) -> bool:
    """Whether there is anything to compare in a text."""
    if len(text) > _LONGEST:
        return True
    return bool(spelling.squeezed(spelling.canonical(text)))


def _choices(gold: str, answer: str) -> bool | None:
    """The verdict on options, "B" or "(B) 12" or "A, C"; None where the reference is none."""
    labelled = spelling.option(gold)
    if labelled is not None and labelled[1]:
        found = spelling.option(answer)
        if found is None:
            letters = spelling.choices(answer)
            return letters == {labelled[0]} if letters else equal(labelled[1], answer)
        return found[0] == labelled[0] and (not found[1] or equal(labelled[1], found[1]))
    wanted = spelling.choices(gold)
    if not wanted:
        return None
    label = spelling.option(answer)
    if label is not None:
        return wanted == frozenset(label[0])
    found_letters = spelling.choices(answer)
    return wanted == found_letters if found_letters else None


class Reader:
    """Reads a canonical text into a value; never fails: what is unreadable is `Words`."""

    def __init__(self, log_base: Any = sympy.E):
        self._log_base = log_base

    def read(self, text: str) -> Value:
        """The value of a text."""
        try:
            return self._any(text)
        except (UnreadableError, RecursionError):
            return self._words(text)

    def _words(self, text: str) -> Words:
        return Words(spelling.words(text))

    def _any(self, text: str) -> Value:
        text = _stripped(text)
        if not text:
            raise UnreadableError("nothing is there")
        special = {"\\emptyset": EMPTY, "\\{\\}": EMPTY, "\\mathbb{R}": REALS}
        if spelling.squeezed(text) in special:
            return special[spelling.squeezed(text)]
        for mark, kind in (("\\or", "or"), ("\\and", "and"), ("\\\\", "list"), (";", "list")):
            parts = spelling.split(text, mark)
            if len(parts) > 1 and not (mark == ";" and _bracketed(text)):
                return self._several(parts, kind)
        matrix = spelling.matrix(text)
        if matrix is not None:
            rows = [Group("tuple", tuple(map(self.read, row))) for row in matrix]
            return Group("rows", tuple(rows))
        return self._without_connectives(text)

    def _without_connectives(self, text: str) -> Value:
        pair = spelling.pair(text[1:-1]) if _bracketed(text) else None
        if pair is not None:
            return self._pair(text, pair)
        parts = spelling.split(text, ",")
        union = len(spelling.split(text, "\\cup")) > 1
        if len(parts) > 1 and all(part.strip() for part in parts) and not union:
            return self._several(parts, "list")
        relation = self._relation(text)
        if relation is not None:
            return relation
        unions = spelling.split(text, "\\cup")
        if len(unions) > 1:
            if any(len(spelling.split(p, ",")) > 1 and not _bracketed(p.strip()) for p in unions):
                raise UnreadableError("a list of unions")
            return self._union([self._any(part) for part in unions])
        without = spelling.split(text, "\\setminus")
        if len(without) == 2:
            whole, points = map(self._any, without)
            return _without(_region(whole), points)
        braces = spelling.inside(text, "\\{", "\\}")
        if braces is None and ("," in text or _BUILDER.match(text)):
            braces = spelling.inside(text, "{", "}")
        if braces is not None:
            return self._set(braces)
        inside = spelling.inside(text, "(", ")") or spelling.inside(text, "[", "]")
        if inside is not None:
            parts = spelling.split(inside, ",")
            if len(parts) > 1:
                return Group("tuple", tuple(map(self.read, parts)), text[0] + text[-1])
            return self._any(inside)
        inside = spelling.inside(text, "\\langle", "\\rangle")
        if inside is not None:
            return Group("tuple", tuple(map(self.read, spelling.split(inside, ","))), "()")
        ratio = spelling.split(text, ":")
        if len(ratio) > 1:
            return self._ratio(ratio)
        if "\\pm" in text or "\\mp" in text:
            signs = [("+", "-"), ("-", "+")]
            both = [text.replace("\\pm", plus).replace("\\mp", minus) for plus, minus in signs]
            return Group("list", tuple(self._any(part) for part in both))
        return self._quantity(text)

    def _several(self, parts: Sequence[str], kind: str) -> Value:
        parts = [part for part in parts if part.strip()]
        if len(parts) == 1:
            return self._any(parts[0])
        values = [self._any(part) for part in parts]
        # "x < -2 or x > 2" is one region, and so is "x > 1 and x < 3".
        if kind != "list" and any(isinstance(value, Region) for value in values):
            regions = [_region(_point(value)) for value in values]
            names = {region.variable for region in regions} - {None}
            if len(names) < 2:
                name = next(iter(names), None)
                if kind == "or":
                    return Region(sum((region.pieces for region in regions), ()), name)
                return replace(_intersection(regions), variable=name)
        return Group("or" if kind == "or" else "list", tuple(values))

    def _union(self, values: Sequence[Value]) -> Value:
        if all(isinstance(value, Group) and value.kind == "list" for value in values):
            return Group("or", sum((v.members for v in values if isinstance(v, Group)), ()))
        names = [v.variable for v in values if isinstance(v, Region) and v.variable]
        pieces = sum((_region(value).pieces for value in values), ())
        return Region(pieces, names[0] if names else None)

    def _pair(self, text: str, parts: Sequence[str]) -> Value:
        """(a, b], ]a, b[ and the like; it may be a point, too."""
        ends = {"]": "(", "[": "["}.get(text[0], "("), {"[": ")", "]": "]"}.get(text[-1], ")")
        low, high = map(self._any, parts)
        return Group("tuple", (low, high), "".join(ends))

    def _set(self, inside: str) -> Value:
        for mark in ("|", ":"):
            element, *conditions = spelling.split(inside, mark)
            if conditions and element.strip():
                return self._by_condition(element, mark.join(conditions))
        if spelling.squeezed(inside) == "\\emptyset":
            raise UnreadableError("a set of a set")
        parts = spelling.split(inside.replace(";", ","), ",")
        return (
            self._several(parts, "list") if len(parts) > 1 else Group("list", (self._any(inside),))
        )

    def _by_condition(self, element: str, condition: str) -> Value:
        variable, *domain = spelling.split(element, "\\in")
        if domain and spelling.squeezed(domain[0]) != "\\mathbb{R}":
            condition = f"{element}, {condition}"
        condition = re.sub(r",\s*[a-z]\s*\\in\s*\\mathbb\{R\}\s*$", "", condition)
        value = self.read(condition)
        if isinstance(value, Group) and value.kind == "list":
            parts = [_point(part) for part in value.members]
            if all(isinstance(part, Region) for part in parts):
                value = _intersection([_region(part) for part in parts])
                value = replace(value, variable=variable.strip())
        if isinstance(value, Relation) and value.signs == ("=",):
            value = _point(value)
        if isinstance(value, Region) and value.variable == variable.strip():
            return replace(value, variable=None)
        return Conditions(self.read(variable), value)

    def _ratio(self, parts: Sequence[str]) -> Value:
        members = [self._quantity(part) for part in parts]
        if len(members) == 2:
            first, second = members
            decimal = first.decimal or second.decimal
            if second.value == 0:
                raise UnreadableError("a ratio to zero")
            return Quantity(first.value / second.value, decimal, second.unit)
        return Group("ratio", tuple(members))

    def _relation(self, text: str) -> Value | None:
        sides, signs = spelling.relations(text)
        if not signs:
            return None
        if "\\in" in signs:
            if len(sides) != 2:
                raise UnreadableError("a chain of memberships")
            name, value = spelling.squeezed(sides[0]), self._any(sides[1])
            if isinstance(value, Group) and value.kind in ("list", "or"):
                return value
            return replace(_region(value), variable=name)
        # In an equation a side may be missing: "= 5".
        if signs[0] == "=" and not sides[0].strip():
            return self._any(text.partition("=")[2])
        named = spelling.is_name(sides[0])
        first = self.read(sides[0]) if named else self._any(sides[0])
        values = (first, *(self._any(side) for side in sides[1:]))
        if set(signs) == {"="} and not any(map(_is_symbolic, values)):
            return values[-1]  # 2 + 3 = 5
        relation = Relation(values, tuple(signs), sides[0])
        return _interval(relation, sides) or relation

    def _quantity(self, text: str) -> Quantity:
        text = _stripped(text)
        text, unit = spelling.unit(text)
        expression = expressions.read(text, self._log_base)
        return Quantity(expression.value, expression.decimal, unit)


def _is_symbolic(value: Value) -> bool:
    return not isinstance(value, Quantity) or bool(value.value.free_symbols)


def _members(group: Group) -> tuple[Value, ...]:
    """Its members, and in place of a list among them that list's."""
    found: list[Value] = []
    for member in group.members:
        nested = isinstance(member, Group) and member.kind in ("list", "or")
        found += _members(member) if nested and isinstance(member, Group) else [member]
    return tuple(found)


# The braces of {x | x > 3}, which are a set's without a backslash too.
_BUILDER = re.compile(r"\{\s*[A-Za-z]\s*(?:\\in\b[^|:]*)?[|:]")


def _stripped(text: str) -> str:
    """Without the marks of a sentence at its ends, and braces around the whole."""
    while True:
        text = text.strip().rstrip(".,;:").strip()
        inside = spelling.inside(text, "{", "}")
        if inside is None or spelling.split(inside, ",")[1:] or _BUILDER.match(text):
            return text
        text = inside


def _bracketed(text: str) -> bool:
    """Whether it is two parts between brackets of any kind, (a, b] or ]a, b[."""
    return text[0] in "([]" and text[-1] in ")[]" and spelling.pair(text[1:-1]) is not None


def _interval(relation: Relation, sides: Sequence[str]) -> Region | None:
    """The numbers for which an inequality of one variable holds; None where it is no such thing."""
    signs = relation.signs
    names = [spelling.squeezed(side) for side in sides]
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
    low, low_closed, high, high_closed = _MINUS_INFINITY, False, _INFINITY, False
    for i, sign in enumerate(signs):
        other = values[i + 1] if i == at else values[i]
        if sign == "\\ne":
            below = Piece(_MINUS_INFINITY, False, other, False)
            return Region((below, Piece(other, False, _INFINITY, False)), names[at])
        # The variable is above the other where it stands at the larger side.
        if (sign in (">", "\\ge")) == (i == at):
            low, low_closed = other, sign in ("\\le", "\\ge")
        else:
            high, high_closed = other, sign in ("\\le", "\\ge")
    return Region((Piece(low, low_closed, high, high_closed),), names[at])


def _point(value: Value) -> Value:
    """An equation x = 3 as the region of one point."""
    if isinstance(value, Relation) and value.signs == ("=",):
        left, right = value.sides
        variable = isinstance(left, Quantity) and isinstance(left.value, sympy.Symbol)
        if variable and isinstance(right, Quantity):
            return Region((Piece(right, True, right, True),), spelling.squeezed(value.name))
    return value


def _region(value: Value) -> Region:
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
            both = _intersection(regions)
            if both.pieces:
                return replace(both, variable=regions[0].variable)
        elif not all(isinstance(member, Quantity) for member in value.members):
            raise UnreadableError("a list of unlike parts")
    if isinstance(value, Group) and value.kind in ("list", "or"):
        return Region(sum((_region(member).pieces for member in value.members), ()))
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
            return None
        pieces = [_piece(part) for part in (found.args if found.is_Union else [found])]
        if not all(pieces):
            return None
        regions.append(Region(sum(pieces, ()), str(name)))
    return replace(_intersection(regions), variable=str(name))


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
    size = quantity.value.evalf(_DIGITS)
    if not size.is_Float and not size.is_Integer and not size.is_Rational:
        raise UnreadableError("an end of an interval has no size")
    return size


def _intersection(regions: Sequence[Region]) -> Region:
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


def _without(region: Region, points: Value) -> Region:
    """A region without some points, or another one."""
    for piece in _region(points).pieces:
        below = Piece(_MINUS_INFINITY, False, piece.low, not piece.low_closed)
        above = Piece(piece.high, not piece.high_closed, _INFINITY, False)
        region = _intersection([region, Region((below, above))])
    return region


def _merged(region: Region) -> tuple[Piece, ...]:
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


class _Comparison:
    """Compares values."""

    def __init__(self, places: int | None):
        self._places = places

    def same(self, a: Value, b: Value) -> bool:
        """Whether two values are one answer."""
        for one, other in ((a, b), (b, a)):
            if isinstance(one, Group) and one.kind == "or":
                first = one.members[0]
                if all(self.same(first, member) for member in one.members[1:]):
                    return self.same(first, other)
            alone = isinstance(one, Group) and len(one.members) == 1
            if alone and isinstance(one, Group) and not isinstance(other, Group | Region):
                return self.same(one.members[0], other)
        if isinstance(a, Relation) and isinstance(b, Relation):
            return self._relations(a, b)
        for one, other in ((a, b), (b, a)):
            if isinstance(one, Region):
                return self._as_regions(one, other)
            if isinstance(one, Relation):
                return _assigns(one, other) and self.same(one.sides[-1], other)
        if isinstance(a, Quantity) and isinstance(b, Quantity):
            return self._quantities(a, b)
        if isinstance(a, Group) and isinstance(b, Group):
            return self._groups(a, b)
        if isinstance(a, Words) and isinstance(b, Words):
            return a.text == b.text != ""
        if isinstance(a, Conditions) and isinstance(b, Conditions):
            return self._conditions(a, b)
        return False

    def _groups(self, a: Group, b: Group) -> bool:
        kinds = {"list" if group.kind == "or" else group.kind for group in (a, b)}
        if kinds == {"list"}:
            return self._in_any_order(_members(a), _members(b))
        if kinds == {"tuple", "rows"}:  # a vector
            flat = [g.members if g.kind == "tuple" else _column(g) for g in (a, b)]
            return all(flat) and self._in_order(*flat)
        if kinds == {"list", "tuple"}:
            return self._coordinates(a, b)
        if len(kinds) > 1 or len(a.members) != len(b.members):
            return False
        if a.kind == "ratio":
            members = [[m for m in g.members if isinstance(m, Quantity)] for g in (a, b)]
            return self._proportional(*([m.value for m in part] for part in members))
        if a.kind in ("tuple", "rows"):
            # The brackets of a pair tell an interval from another; of more, they are taste.
            alike = a.ends == b.ends or len(a.members) != 2
            return alike and self._in_order(a.members, b.members)
        return False

    def _in_any_order(self, a: Sequence[Value], b: Sequence[Value]) -> bool:
        rest = list(b)
        for member in a:
            match = next((i for i, other in enumerate(rest) if self.same(member, other)), None)
            if match is None:
                return False
            del rest[match]
        return not rest

    def _coordinates(self, a: Group, b: Group) -> bool:
        """Whether x = 1, y = 2 are the point (1, 2)."""
        named, point = (a, b) if a.kind != "tuple" else (b, a)
        if not all(isinstance(member, Relation) for member in named.members):
            return False
        relations = [member for member in named.members if isinstance(member, Relation)]
        names = [relation.name.strip() for relation in relations]
        if len(set(names)) != len(names) or point.ends not in ("()", ""):
            return False
        ordered = [relation.sides[-1] for _, relation in sorted(zip(names, relations, strict=True))]
        return all(_assigns(r, r.sides[-1]) for r in relations) and self._in_order(
            tuple(ordered), point.members
        )

    def _in_order(self, a: Sequence[Value], b: Sequence[Value]) -> bool:
        return len(a) == len(b) and all(map(self.same, a, b))

    def _as_regions(self, a: Region, other: Value) -> bool:
        try:
            b = _region(_point(other))
        except UnreadableError:
            return False
        if a.variable and b.variable and a.variable != b.variable:
            return False
        ours, theirs = _merged(a), _merged(b)
        return len(ours) == len(theirs) and all(map(self._pieces, ours, theirs))

    def _pieces(self, a: Piece, b: Piece) -> bool:
        closed = (a.low_closed, a.high_closed) == (b.low_closed, b.high_closed)
        return closed and self._quantities(a.low, b.low) and self._quantities(a.high, b.high)

    def _conditions(self, a: Conditions, b: Conditions) -> bool:
        return self.same(a.element, b.element) and self.same(a.condition, b.condition)

    def _relations(self, a: Relation, b: Relation) -> bool:
        if set(a.signs) == set(b.signs) == {"="}:
            names = {spelling.squeezed(relation.name) for relation in (a, b)}
            if (len(names) == 1 or names <= {"y", "f(x)"}) and self.same(a.sides[-1], b.sides[-1]):
                return True
            sides = [side for side in (*a.sides, *b.sides) if isinstance(side, Quantity)]
            if len(a.sides) == len(b.sides) == 2 and len(sides) == 4:
                first, second, third, fourth = (side.value for side in sides)
                return self._multiples(first - second, third - fourth)
            return self._in_order(a.sides, b.sides) or self._in_order(a.sides, b.sides[::-1])
        flipped = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}
        signs = tuple(flipped.get(sign, sign) for sign in reversed(b.signs))
        if a.signs == b.signs and self._in_order(a.sides, b.sides):
            return True
        if a.signs == signs and self._in_order(a.sides, b.sides[::-1]):
            return True
        if len(a.signs) == len(b.signs) == 1:
            sides = [side for side in (*a.sides, *b.sides) if isinstance(side, Quantity)]
            if len(sides) == 4:
                first, second, third, fourth = (side.value for side in sides)
                turn = 1 if a.signs == b.signs else -1 if a.signs == signs else 0
                if turn and self._multiples(first - second, turn * (third - fourth), True):
                    return True
        try:
            return self._as_regions(_region(a), b)
        except UnreadableError:
            return False

    def _multiples(self, a: Any, b: Any, positive: bool = False) -> bool:
        """Whether one expression is a constant times the other."""
        symbols = a.free_symbols | b.free_symbols
        if not symbols or a.free_symbols != b.free_symbols:
            return False
        pairs = [(_value(a, point), _value(b, point)) for point in _points(symbols)]
        ratios = [one / other for one, other in pairs if one is not None and other]
        if len(ratios) < 2 or not ratios[0]:
            return False
        if positive and not (ratios[0].is_real and ratios[0] > 0):
            return False
        return all(_close(ratio, ratios[0], _EXACT) for ratio in ratios[1:])

    def _proportional(self, a: Sequence[Any], b: Sequence[Any]) -> bool:
        if not a or len(a) != len(b) or not a[0] or not b[0]:
            return False
        return all(
            self._quantities(Quantity(x / a[0], False), Quantity(y / b[0], False))
            for x, y in zip(a, b, strict=True)
        )

    def _quantities(self, a: Quantity, b: Quantity) -> bool:
        if (a.unit == "%") != (b.unit == "%"):  # 25 % is 25, and 1/4
            share = a if a.unit == "%" else b
            whole = b if share is a else a
            forms = [share.value, share.value / 100]
            return any(
                self._numbers(form, whole.value, share.decimal or whole.decimal) for form in forms
            )
        if a.unit and b.unit and a.unit != b.unit:
            return False
        return self._numbers(a.value, b.value, a.decimal or b.decimal)

    def _numbers(self, a: Any, b: Any, decimal: bool) -> bool:
        if a == b:
            return True
        symbols = a.free_symbols | b.free_symbols
        if not symbols:
            return self._constants(a, b, decimal)
        tolerance = RELATIVE_TOLERANCE if decimal else _EXACT
        integers = {str(symbol) for symbol in symbols} <= {"n", "k", "m"}
        sets = [_points(symbols)]
        if integers:
            sets.append(
                [{s: sympy.Integer(n + 2 * i) for i, s in enumerate(symbols)} for n in range(1, 8)]
            )
        for points in sets:
            pairs = [(_value(a, point), _value(b, point)) for point in points]
            pairs = [(x, y) for x, y in pairs if x is not None and y is not None]
            if len(pairs) > 1 and all(_close(x, y, tolerance) for x, y in pairs):
                return True
        return False

    def _constants(self, a: Any, b: Any, decimal: bool) -> bool:
        if a.is_Rational and b.is_Rational and not decimal and self._places is None:
            return False
        if {a, b} & {sympy.oo, -sympy.oo, sympy.zoo, sympy.nan}:
            return False
        x, y = (value if value.is_Rational else _value(value, {}) for value in (a, b))
        if x is None or y is None:
            return False
        if not (a.is_Rational and b.is_Rational) and _close(x, y, _EXACT):
            return True
        if self._places is not None and _rounded(x, y, self._places):
            return True
        if not decimal:
            return False
        finite = _is_decimal(a) and _is_decimal(b)
        if not finite and _close(x, y, _ROUNDING_NOISE):
            return True
        return _close(x, y, RELATIVE_TOLERANCE) and _rounded(x, y, 6)


def _is_decimal(value: Any) -> bool:
    """Whether a number has finitely many decimal places."""
    if not value.is_Rational:
        return False
    rest = int(value.q)
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1


def _rounded(x: Any, y: Any, places: int) -> bool:
    """Whether two real numbers are the same to so many decimal places, either way of halves."""
    if not (x.is_real and y.is_real):
        return False
    scale = sympy.Integer(10) ** places
    half = sympy.Rational(1, 2)
    up = [sympy.floor(value * scale + half) for value in (x, y)]
    down = [sympy.ceiling(value * scale - half) for value in (x, y)]
    if up[0] == up[1] == 0 and _close(x, 0 * y, _EXACT) != _close(y, 0 * x, _EXACT):
        return False  # one is nought, the other merely small
    return up[0] == up[1] or down[0] == down[1]


def _close(x: Any, y: Any, tolerance: Any) -> bool:
    return bool(abs(x - y) <= tolerance * max(abs(x), abs(y)))


def _points(symbols: set[Any]) -> list[dict[Any, Any]]:
    """Values for symbols at which different expressions differ, the same at every call."""
    names = sorted(symbols, key=str)
    rows = ([137, 71, 253, 319], [-83, 211, 161, -47], [59, -127, 97, 223], [211, 43, -139, 77])
    return [
        {
            name: sympy.Rational(row[i % 4] + 2 * (i // 4), 101 + 2 * i)
            for i, name in enumerate(names)
        }
        for row in rows
    ]


def _value(expression: Any, point: dict[Any, Any]) -> Any:
    """The number an expression is at a point; None where it is none."""
    found = expression.subs(point).evalf(_DIGITS)
    return found if found.is_number and found.is_finite and not found.has(sympy.nan) else None


def _column(matrix: Group) -> tuple[Value, ...]:
    """The entries of a matrix of one column or row."""
    rows = [row.members for row in matrix.members if isinstance(row, Group)]
    if len(rows) == 1:
        return rows[0]
    return tuple(row[0] for row in rows) if all(len(row) == 1 for row in rows) else ()


def _assigns(relation: Relation, value: Value) -> bool:
    """Whether an equation says what something is: y = x, f(x) = x^2, AB = 5, x + y = 5.

    A sum may stand for a plain number alone, and nothing with a number of its own: 2x = 10 is not
    the answer 10.
    """
    if set(relation.signs) != {"="}:
        return False
    if spelling.is_name(relation.name):
        return True
    left = relation.sides[0]
    plain = isinstance(value, Quantity) and not value.value.free_symbols
    named = not re.search(r"\d", re.sub(r"_\{?\w+\}?", "", relation.name))
    return plain and named and isinstance(left, Quantity | Group) and "\\" not in relation.name
