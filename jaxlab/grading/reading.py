"""Reading the text of a mathematical answer into a value."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sympy

from jaxlab.grading import expressions, syntax
from jaxlab.grading.expressions import UnreadableError
from jaxlab.grading.regions import as_region, difference, intersection, interval, point_as_region
from jaxlab.grading.values import (
    EMPTY,
    REALS,
    Conditions,
    Group,
    Quantity,
    Region,
    Relation,
    Value,
    Words,
)


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
        return Words(syntax.words(text))

    def _any(self, text: str) -> Value:
        text = _stripped(text)
        if not text:
            raise UnreadableError("nothing is there")
        special = {"\\emptyset": EMPTY, "\\{\\}": EMPTY, "\\mathbb{R}": REALS}
        if syntax.squeezed(text) in special:
            return special[syntax.squeezed(text)]
        for mark, kind in (("\\or", "or"), ("\\and", "and"), ("\\\\", "list"), (";", "list")):
            parts = syntax.split(text, mark)
            if len(parts) > 1 and not (mark == ";" and _bracketed(text)):
                return self._several(parts, kind)
        matrix = syntax.matrix(text)
        if matrix is not None:
            rows = [Group("tuple", tuple(map(self.read, row))) for row in matrix]
            return Group("rows", tuple(rows))
        return self._without_connectives(text)

    def _without_connectives(self, text: str) -> Value:
        pair = syntax.pair(text[1:-1]) if _bracketed(text) else None
        if pair is not None:
            return self._pair(text, pair)
        parts = syntax.split(text, ",")
        union = len(syntax.split(text, "\\cup")) > 1
        if len(parts) > 1 and all(part.strip() for part in parts) and not union:
            return self._several(parts, "list")
        relation = self._relation(text)
        if relation is not None:
            return relation
        unions = syntax.split(text, "\\cup")
        if len(unions) > 1:
            if any(len(syntax.split(p, ",")) > 1 and not _bracketed(p.strip()) for p in unions):
                raise UnreadableError("a list of unions")
            return self._union([self._any(part) for part in unions])
        without = syntax.split(text, "\\setminus")
        if len(without) == 2:
            whole, points = map(self._any, without)
            return difference(as_region(whole), points)
        braces = syntax.inside(text, "\\{", "\\}")
        if braces is None and ("," in text or _BUILDER.match(text)):
            braces = syntax.inside(text, "{", "}")
        if braces is not None:
            return self._set(braces)
        inside = syntax.inside(text, "(", ")") or syntax.inside(text, "[", "]")
        if inside is not None:
            parts = syntax.split(inside, ",")
            if len(parts) > 1:
                return Group("tuple", tuple(map(self.read, parts)), text[0] + text[-1])
            return self._any(inside)
        inside = syntax.inside(text, "\\langle", "\\rangle")
        if inside is not None:
            return Group("tuple", tuple(map(self.read, syntax.split(inside, ","))), "()")
        ratio = syntax.split(text, ":")
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
            regions = [as_region(point_as_region(value)) for value in values]
            names = {region.variable for region in regions} - {None}
            if len(names) < 2:
                name = next(iter(names), None)
                if kind == "or":
                    return Region(sum((region.pieces for region in regions), ()), name)
                return replace(intersection(regions), variable=name)
        return Group("or" if kind == "or" else "list", tuple(values))

    def _union(self, values: Sequence[Value]) -> Value:
        if all(isinstance(value, Group) and value.kind == "list" for value in values):
            return Group("or", sum((v.members for v in values if isinstance(v, Group)), ()))
        names = [v.variable for v in values if isinstance(v, Region) and v.variable]
        pieces = sum((as_region(value).pieces for value in values), ())
        return Region(pieces, names[0] if names else None)

    def _pair(self, text: str, parts: Sequence[str]) -> Value:
        """(a, b], ]a, b[ and the like; it may be a point, too."""
        ends = {"]": "(", "[": "["}.get(text[0], "("), {"[": ")", "]": "]"}.get(text[-1], ")")
        low, high = map(self._any, parts)
        return Group("tuple", (low, high), "".join(ends))

    def _set(self, inside: str) -> Value:
        for mark in ("|", ":"):
            element, *conditions = syntax.split(inside, mark)
            if conditions and element.strip():
                return self._by_condition(element, mark.join(conditions))
        if syntax.squeezed(inside) == "\\emptyset":
            raise UnreadableError("a set of a set")
        parts = syntax.split(inside.replace(";", ","), ",")
        return (
            self._several(parts, "list") if len(parts) > 1 else Group("list", (self._any(inside),))
        )

    def _by_condition(self, element: str, condition: str) -> Value:
        variable, *domain = syntax.split(element, "\\in")
        if domain and syntax.squeezed(domain[0]) != "\\mathbb{R}":
            condition = f"{element}, {condition}"
        condition = re.sub(r",\s*[a-z]\s*\\in\s*\\mathbb\{R\}\s*$", "", condition)
        value = self.read(condition)
        if isinstance(value, Group) and value.kind == "list":
            parts = [point_as_region(part) for part in value.members]
            if all(isinstance(part, Region) for part in parts):
                value = intersection([as_region(part) for part in parts])
                value = replace(value, variable=variable.strip())
        if isinstance(value, Relation) and value.signs == ("=",):
            value = point_as_region(value)
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
        sides, signs = syntax.relations(text)
        if not signs:
            return None
        if "\\in" in signs:
            if len(sides) != 2:
                raise UnreadableError("a chain of memberships")
            name, value = syntax.squeezed(sides[0]), self._any(sides[1])
            if isinstance(value, Group) and value.kind in ("list", "or"):
                return value
            return replace(as_region(value), variable=name)
        # In an equation a side may be missing: "= 5".
        if signs[0] == "=" and not sides[0].strip():
            return self._any(text.partition("=")[2])
        named = syntax.is_name(sides[0])
        first = self.read(sides[0]) if named else self._any(sides[0])
        values = (first, *(self._any(side) for side in sides[1:]))
        if set(signs) == {"="} and not any(map(_is_symbolic, values)):
            return values[-1]  # 2 + 3 = 5
        relation = Relation(values, tuple(signs), sides[0])
        return interval(relation, sides) or relation

    def _quantity(self, text: str) -> Quantity:
        text = _stripped(text)
        text, unit = syntax.unit(text)
        expression = expressions.read(text, self._log_base)
        return Quantity(expression.value, expression.decimal, unit)


def _is_symbolic(value: Value) -> bool:
    return not isinstance(value, Quantity) or bool(value.value.free_symbols)


# The braces of {x | x > 3}, which are a set's without a backslash too.
_BUILDER = re.compile(r"\{\s*[A-Za-z]\s*(?:\\in\b[^|:]*)?[|:]")


def _stripped(text: str) -> str:
    """Without the marks of a sentence at its ends, and braces around the whole."""
    while True:
        text = text.strip().rstrip(".,;:").strip()
        inside = syntax.inside(text, "{", "}")
        if inside is None or syntax.split(inside, ",")[1:] or _BUILDER.match(text):
            return text
        text = inside


def _bracketed(text: str) -> bool:
    """Whether it is two parts between brackets of any kind, (a, b] or ]a, b[."""
    return text[0] in "([]" and text[-1] in ")[]" and syntax.pair(text[1:-1]) is not None
