"""Cutting a canonical answer into its parts: brackets, lists, matrices, units and options."""

import re
from collections.abc import Sequence

_SQUEEZED = re.compile(r"(?<!\d)\s+|\s+(?!\d)")


def squeezed(text: str) -> str:
    """Without spaces, but between digits, and without a final full stop."""
    return _SQUEEZED.sub("", text.strip().rstrip(".").strip())


_PIECE = re.compile(r"\\(?:[A-Za-z]+|.)|.", re.DOTALL)
_OPENING = {"(": ")", "[": "]", "{": "}", "\\{": "\\}", "\\begin": "\\end", "\\langle": "\\rangle"}
_CLOSING = frozenset(_OPENING.values())


def split(text: str, mark: str) -> list[str]:
    """The parts between marks that stand outside of all brackets.

    Square and round brackets are not counted where sets are joined, for ]0, 1[ has them reversed.
    """
    counted = "{" if mark in ("\\cup", "\\setminus", "\\or") else "([{"
    parts, begin, depth = [], 0, 0
    for piece in _PIECE.finditer(text):
        token = piece[0]
        if token == mark and depth == 0:
            parts.append(text[begin : piece.start()])
            begin = piece.end()
        elif token in _OPENING and (len(token) > 1 or token in counted):
            depth += 1
        elif token in _CLOSING and (
            len(token) > 1 or {")": "(", "]": "[", "}": "{"}[token] in counted
        ):
            depth = max(0, depth - 1)
    return [*parts, text[begin:]]


def relations(text: str) -> tuple[list[str], list[str]]:
    """The sides of a relation, and the signs between them."""
    sides, signs, begin, depth = [], [], 0, 0
    for piece in _PIECE.finditer(text):
        token = piece[0]
        if token in ("=", "<", ">", "\\le", "\\ge", "\\ne", "\\in") and depth == 0:
            sides.append(text[begin : piece.start()])
            signs.append(token)
            begin = piece.end()
        elif token in _OPENING:
            depth += 1
        elif token in _CLOSING:
            depth = max(0, depth - 1)
    return [*sides, text[begin:]], signs


def inside(text: str, opening: str, closing: str) -> str | None:
    """What stands between brackets around the whole text; None where there are none."""
    if not (text.startswith(opening) and text.endswith(closing)):
        return None
    if len(text) < len(opening) + len(closing):
        return None
    inner = text[len(opening) : len(text) - len(closing)]
    return inner if _balanced(inner) else None


def _balanced(text: str) -> bool:
    depth = 0
    for piece in _PIECE.finditer(text):
        depth += (piece[0] in _OPENING) - (piece[0] in _CLOSING)
        if depth < 0:
            return False
    return depth == 0


def pair(text: str) -> tuple[str, str] | None:
    """The two parts on either side of the one comma or semicolon; None where there are not two."""
    if not _balanced(text):
        return None
    for mark in (",", ";"):
        parts = split(text, mark)
        if len(parts) == 2 and all(part.strip() for part in parts):
            return parts[0], parts[1]
    return None


_MATRIX = re.compile(
    r"\\begin\s*\{((?:[pbB]|small)?matrix|array)\}(?:\s*\{[lcr| ]*\})?(.*)\\end\s*\{\1\}", re.DOTALL
)


def matrix(text: str) -> list[list[str]] | None:
    """The cells of a matrix; None where it is none."""
    found = _MATRIX.fullmatch(text.strip())
    if found is None or "\\begin" in found[2]:
        return None
    rows = [row for row in split(found[2], "\\\\") if row.strip()]
    return [split(row, "&") for row in rows]


_POWER = r"\s*(?:\^\s*\{?\s*-?\d\s*\}?)?"
_NAMED_UNIT = rf"\\text\{{[^{{}}]*\}}{_POWER}"
_UNIT = rf"{_NAMED_UNIT}(?:\s*/\s*[a-zA-Z](?![a-zA-Z]){_POWER})?"
_WITH_UNIT = re.compile(rf"(.*?[^\s/*])\s*((?:[/*]?\s*{_UNIT}\s*)+)")
_LETTER_UNIT = re.compile(
    r"([-+\d.,/() ]*\d[)]?)\s+([msghLlJNWVKA](?:\^\{?-?\d\}?)?(?:/[a-z](?:\^\{?\d\}?)?)?)"
)
UNIT_FRACTION = re.compile(rf"\\frac\s*\{{\s*({_NAMED_UNIT})\s*\}}\s*\{{\s*({_NAMED_UNIT})\s*\}}")
_BASE = re.compile(r"(-?\d+)\s*_\s*\{?\s*(?:\\text\{\w+\})?\s*(\d+)\s*\}?")
_SYNONYMS = {
    "centimeter": "cm",
    "centimetre": "cm",
    "millimeter": "mm",
    "millimetre": "mm",
    "kilometer": "km",
    "kilometre": "km",
    "meter": "m",
    "metre": "m",
    "gram": "g",
    "kilogram": "kg",
    "second": "s",
    "sec": "s",
    "minute": "min",
    "hour": "h",
    "hr": "h",
    "inche": "in",
    "inch": "in",
    "foot": "ft",
    "feet": "ft",
    "mile": "mi",
    "pound": "lb",
    "ounce": "oz",
    "liter": "l",
    "litre": "l",
    "deg": "degree",
    "usd": "dollar",
    "buck": "dollar",
    "cent": "cent",
    "sq": "square",
    "yr": "year",
}
_FILLERS = frozenset(["unit", "of", "per", "the", "in", "a"])


def unit(text: str) -> tuple[str, str]:
    """A quantity and its unit in one spelling; "" where it has none. Percent is one."""
    text = text.strip()
    if text.endswith("%"):
        return text[:-1].strip(), "%"
    base = _BASE.fullmatch(text)
    if base is not None:
        return base[1], f"base {base[2]}"
    found = _WITH_UNIT.fullmatch(text) or _LETTER_UNIT.fullmatch(text)
    if found is None:
        return text, ""
    words = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", found[2])
    spelled: list[str] = []
    power = ""
    for word in re.findall(r"[^\W\d_]+|\^\s*\{?\s*-?\d|[/*]", words):
        low = word.lower()
        low = low[:-1] if len(low) > 2 and low.endswith("s") else low
        low = _SYNONYMS.get(low, low)
        if low in ("square", "cubic"):
            power = "^2" if low == "square" else "^3"
        elif low not in _FILLERS and low != "*":
            mark = "".join(c for c in low if c not in "{ ") if low[0] == "^" else low
            spelled.append(mark + power)
            power = ""
    return found[1].strip(), "".join(spelled)


_LABEL = r"(?:\\text\{(?:option|choice|answer|Option|Choice|Answer)\}\s*)?"
_OPTION = re.compile(
    _LABEL + r"(?:\(\s*([A-J])\s*\)|([A-J])\s*[).:])"
    r"(?!\s*(?:[-+*/^=<>(,;&|_]|\\(?:and|or)\b|[A-J]\)))\s*(.*)",
    re.DOTALL,
)
_CHOICES = re.compile(
    _LABEL
    + r"[({]*\s*[A-J]\s*[)}]*(?:(?:\s*(?:,|;|\\and\b|,\s*\\and\b)\s*|\s+)\(?\s*[A-J]\s*[)}]*)*"
)
_RUN = re.compile(r"(?:\\text\{)?([A-J]{2,6})\}?")


def option(text: str) -> tuple[str, str] | None:
    """The letter and the text of an option, "(B) 12"; None where it is none."""
    found = _OPTION.fullmatch(text.strip())
    return None if found is None else (found[1] or found[2], (found[3] or "").strip())


def choices(text: str) -> frozenset[str]:
    """The letters of "A, C" or "AC" or "(A) and (C)"; none where it is something else."""
    text = text.strip().rstrip(".").strip()
    run = _RUN.fullmatch(text)
    if run is not None:
        return frozenset(run[1]) if len(set(run[1])) == len(run[1]) else frozenset()
    if _CHOICES.fullmatch(text) is None:
        return frozenset()
    return frozenset(re.findall(r"(?<![A-Za-z])[A-J](?![A-Za-z])", text))


def words(text: str) -> str:
    """Words in lower case without articles; the rest as it is."""
    text = re.sub(r"\\text\{([^{}]*)\}", lambda word: f" {word[1].lower()} ", text)
    parts = re.sub(r"[.,;:!?\"'()]", " ", text).split()
    return " ".join(part for part in parts if part not in ("the", "a", "an")) or " ".join(parts)


_SUBSCRIPT = r"(?:_(?:\w|\{[^{}]*\}|\\[A-Za-z]+))?"
_NAME = re.compile(
    rf"(?:\\text\{{[^{{}}]*\}})+{_SUBSCRIPT}"
    rf"|(?:[^\W\d_]|\\(?!sin|cos|tan|log|ln|exp|sqrt|frac)[A-Za-z]+){_SUBSCRIPT}'*(?:\^\{{-1\}})?"
    r"(?:\([^()]*\)){0,2}"
    r"|[A-Z]{2,4}|\|[A-Z]{1,2}\|"
    rf"|\\[a-z]+\{{[A-Za-z]+\}}{_SUBSCRIPT}"
    r"|\\(?:angle|triangle|overline)[A-Z]+"
    r"|\\frac\{d[^{}]*\}\{d[^{}]*\}"
    r"|\([^\W\d_](?:,[^\W\d_])*\)"
)


def is_name(text: str) -> bool:
    """Whether a side of an equation names what the other side is: y, f(x), AB, S_n, (x, y)."""
    return _NAME.fullmatch(squeezed(text)) is not None


def joined(answers: Sequence[str]) -> str:
    """Several answers, of which equal ones are one."""
    return " \\lor ".join(f"{{{answer}}}" if "," not in answer else answer for answer in answers)
