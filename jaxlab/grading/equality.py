"""Whether two mathematical answers are the same, whatever form they are written in.

An answer is read into what it is: an expression, a list, a tuple, an interval or another region of
the real line, a relation, a matrix, or words. Numbers are compared exactly where both are written
exactly, and to a relative tolerance where one of them is a decimal. What cannot be read is equal to
the same text alone. This runs in `graders`' workers, since sympy may hang on what a model writes.
"""

import re
from collections.abc import Sequence
from typing import Any

import sympy

from jaxlab.grading import spelling, syntax
from jaxlab.grading.expressions import UnreadableError
from jaxlab.grading.reading import Reader
from jaxlab.grading.regions import as_region, merged, point_as_region
from jaxlab.grading.values import (
    DIGITS,
    Conditions,
    Group,
    Piece,
    Quantity,
    Region,
    Relation,
    Value,
    Words,
)

# Of two numbers one of which is a decimal, and of what is no rational number at all.
RELATIVE_TOLERANCE = sympy.Rational(1, 10**6)
_ROUNDING_NOISE = sympy.Rational(1, 10**10)
_EXACT = sympy.Rational(1, 10**20)
_LONGEST = 4000


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
    if syntax.squeezed(gold) == syntax.squeezed(answer):
        return True
    choice = _choices(gold, answer)
    if choice is not None:
        return choice
    label = syntax.option(answer)
    if label is not None and syntax.option(gold) is None:
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
    return bool(syntax.squeezed(spelling.canonical(text)))


def _choices(gold: str, answer: str) -> bool | None:
    """The verdict on options, "B" or "(B) 12" or "A, C"; None where the reference is none."""
    labelled = syntax.option(gold)
    if labelled is not None and labelled[1]:
        found = syntax.option(answer)
        if found is None:
            letters = syntax.choices(answer)
            return letters == {labelled[0]} if letters else equal(labelled[1], answer)
        return found[0] == labelled[0] and (not found[1] or equal(labelled[1], found[1]))
    wanted = syntax.choices(gold)
    if not wanted:
        return None
    label = syntax.option(answer)
    if label is not None:
        return wanted == frozenset(label[0])
    found_letters = syntax.choices(answer)
    return wanted == found_letters if found_letters else None


def _members(group: Group) -> tuple[Value, ...]:
    """Its members, and in place of a list among them that list's."""
    found: list[Value] = []
    for member in group.members:
        nested = isinstance(member, Group) and member.kind in ("list", "or")
        found += _members(member) if nested and isinstance(member, Group) else [member]
    return tuple(found)


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
            b = as_region(point_as_region(other))
        except UnreadableError:
            return False
        if a.variable and b.variable and a.variable != b.variable:
            return False
        ours, theirs = merged(a), merged(b)
        return len(ours) == len(theirs) and all(map(self._pieces, ours, theirs))

    def _pieces(self, a: Piece, b: Piece) -> bool:
        closed = (a.low_closed, a.high_closed) == (b.low_closed, b.high_closed)
        return closed and self._quantities(a.low, b.low) and self._quantities(a.high, b.high)

    def _conditions(self, a: Conditions, b: Conditions) -> bool:
        return self.same(a.element, b.element) and self.same(a.condition, b.condition)

    def _relations(self, a: Relation, b: Relation) -> bool:
        if set(a.signs) == set(b.signs) == {"="}:
            names = {syntax.squeezed(relation.name) for relation in (a, b)}
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
            return self._as_regions(as_region(a), b)
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
    found = expression.subs(point).evalf(DIGITS)
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
    if syntax.is_name(relation.name):
        return True
    left = relation.sides[0]
    plain = isinstance(value, Quantity) and not value.value.free_symbols
    named = not re.search(r"\d", re.sub(r"_\{?\w+\}?", "", relation.name))
    return plain and named and isinstance(left, Quantity | Group) and "\\" not in relation.name
