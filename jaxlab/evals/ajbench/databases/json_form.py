r"""The JSON form of rows, the same for all databases.

Numbers that a double holds as they are written, truth values, null and JSON are themselves;
everything else is text: NaN and Infinity, decimals with more digits, dates (ISO 8601), and bytes
("\x" and two digits for each). Columns of one name get numbers: id, id_2.
"""

import decimal
import json
import math
from collections.abc import Sequence
from typing import Any


def names(columns: Sequence[str]) -> list[str]:
    """The same names, each once: the second `id` is `id_2`, or the next one that is free."""
    taken, last = set(columns), dict.fromkeys(columns, 0)
    found = []
    for column in columns:
        last[column] += 1
        name = column
        while last[column] > 1 and (name := f"{column}_{last[column]}") in taken:
            last[column] += 1
        taken.add(name)
        found.append(name)
    return found


def row(columns: Sequence[str], literals: Sequence[str]) -> str:
    """An object of these names and values, which are JSON already."""
    pairs = zip(columns, literals, strict=True)
    return f"{{{', '.join(f'{json.dumps(name)}: {literal}' for name, literal in pairs)}}}"


def number(text: str) -> str:
    """A decimal number in JSON, or as text where reading it as a double would change it."""
    try:
        value = float(text)
        same = math.isfinite(value) and decimal.Decimal(repr(value)) == decimal.Decimal(text)
        json.loads(text)
    except (ValueError, decimal.InvalidOperation):
        same = False
    return text if same else json.dumps(text)


def document(text: str) -> str:
    """A JSON document as it is, with all digits and double keys; as text where it is none."""
    try:
        json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return json.dumps(text)
    return text


def value(found: Any) -> str:
    """A value of Python in JSON."""
    if isinstance(found, float) and not math.isfinite(found):
        return json.dumps("NaN" if math.isnan(found) else f"{'-' * (found < 0)}Infinity")
    if isinstance(found, bytes | bytearray | memoryview):
        return json.dumps(rf"\x{bytes(found).hex()}")
    if isinstance(found, decimal.Decimal):
        return number(str(found))
    return json.dumps(found, default=str)


def _refuse(constant: str) -> Any:
    raise ValueError(constant)
