"""Formats of office files as JSON objects with a closed list of keys."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from jaxlab.evals.ajbench.sandbox.limits import ToolError

Check = Callable[[Any], Any]


def parse(text: str, known: Mapping[str, Check]) -> dict[str, Any]:
    """The checked values.

    Raises:
        ToolError: the text is no JSON object, or has an unknown key or a bad value.
    """
    try:
        wanted = json.loads(text)
    except (ValueError, RecursionError):
        wanted = None
    if not isinstance(wanted, dict) or not wanted:
        raise ToolError(f'a format is a JSON object such as {{"{next(iter(known))}": ...}}')
    for key in wanted:
        if key not in known:
            raise ToolError(f"no format {key!r:.60}: there are {', '.join(known)}")
    try:
        return {key: known[key](value) for key, value in wanted.items()}
    except ValueError as error:
        raise ToolError(str(error)) from None


def number(text: object, low: int, high: int) -> int:
    """An integer between two, both included.

    Raises:
        ToolError: it is none.
    """
    try:
        found = int(str(text)) if len(str(text)) < 20 else None
    except ValueError:
        found = None
    if found is None or not low <= found <= high:
        what = f"a number from {low} to {high}" if high >= low else "nothing, there is none"
        raise ToolError(f"{text!r:.60}: {what} is wanted")
    return found


def boolean(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{value!r:.60}: true or false is wanted")
    return value


def text(value: Any) -> str:
    """A string of at most 200 characters."""
    if not isinstance(value, str) or len(value) > 200:
        raise ValueError(f"{value!r:.60}: a text of at most 200 characters is wanted")
    return value


def size(value: Any) -> float:
    """Points, or a column's width in characters; above 0 and at most 4000."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 4000:
        raise ValueError(f"{value!r:.60}: a number above 0 and at most 4000 is wanted")
    return float(value)


def place(value: Any) -> float:
    """Points from the left or the top, which may lie outside."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -4000 <= value <= 4000:
        raise ValueError(f"{value!r:.60}: a number from -4000 to 4000 is wanted")
    return float(value)


def color(value: Any) -> str:
    """RRGGBB of "#RRGGBB"."""
    digits = value.removeprefix("#").upper() if isinstance(value, str) else ""
    if len(digits) != 6 or set(digits) - set("0123456789ABCDEF"):
        raise ValueError(f"{value!r:.60}: a colour such as #FF0000 is wanted")
    return digits


def one_of(*names: str) -> Check:
    """One of these words."""

    def check(value: Any) -> str:
        if value not in names:
            raise ValueError(f"{value!r:.60}: one of {', '.join(names)} is wanted")
        return str(value)

    return check


# Of letters, in all three kinds of files.
TEXT: dict[str, Check] = {
    "bold": boolean,
    "italic": boolean,
    "underline": boolean,
    "strike": boolean,
    "font": text,
    "size": size,
    "color": color,
}
