"""Files of JSON lines, one row each, checked when they are opened and read at random."""

import json
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


class Jsonl:
    """A JSON-lines file, indexed by line.

    The file is read once when the source is made: every line is checked, so that a bad row is
    reported before training and not at the step that reaches it. Rows are then read from disk on
    demand. Blank lines are skipped.
    """

    def __init__(self, path: str | Path, required: Sequence[str] = ("question", "answer")):
        """Indexes and checks `path`.

        Args:
            path: the file, UTF-8.
            required: fields that every row must hold as strings.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: "file:line: cause", for the first bad row; or the file has no rows.
        """
        self.path = Path(path)
        self.required = tuple(required)
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: no such file; give the path of a .jsonl file")
        offsets, lines = [], []
        with self.path.open("rb") as file:
            offset = 0
            for number, line in enumerate(file, start=1):
                if line.strip():
                    self._parse(line, number)
                    offsets.append(offset)
                    lines.append(number)
                offset += len(line)
        if not offsets:
            raise ValueError(f"{self.path}: the file is empty; expected one JSON object per line")
        self._offsets = np.array(offsets, np.int64)
        self._lines = np.array(lines, np.int64)

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, i: int) -> dict[str, Any]:
        i = row_index(i, len(self))
        with self.path.open("rb") as file:
            file.seek(int(self._offsets[i]))
            return self._parse(file.readline(), int(self._lines[i]))

    def where(self, i: int) -> str:
        """'file:line' of row `i`, for error messages."""
        return f"{self.path}:{self._lines[row_index(i, len(self))]}"

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        return parse_row(line, f"{self.path}:{number}", self.required)


def parse_row(line: bytes, where: str, required: Sequence[str] = ()) -> dict[str, Any]:
    """One line of a JSON-lines file.

    Args:
        line: UTF-8, perhaps behind a byte order mark.
        where: "file:line", for errors.
        required: fields that the row must hold as strings.

    Raises:
        ValueError: "where: cause"; half of a surrogate pair in any text is one.
    """
    try:
        row = json.loads(line.decode("utf-8-sig"))
        if b"\\u" in line:  # no half of a pair is UTF-8, but JSON can write one
            check_text(row)
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not UTF-8 ({error.reason} at byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: malformed JSON: {error.msg} at column {error.colno}") from None
    except LoneSurrogateError as error:
        raise ValueError(f"{where}: {error}") from None
    except (RecursionError, ValueError) as error:  # deep nesting, integers of 4300+ digits
        raise ValueError(f"{where}: malformed JSON: {error}") from None
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected a JSON object, got {type(row).__name__}")
    for field in required:
        if field not in row:
            raise ValueError(
                f"{where}: missing field {field!r}; the row has {', '.join(row) or 'none'}"
            )
        if not isinstance(row[field], str):
            raise ValueError(
                f"{where}: field {field!r} must be a string, got {type(row[field]).__name__}"
            )
    return row


class LoneSurrogateError(ValueError):
    """Half of a surrogate pair, such as an emoji that was cut in two: no UTF-8, and so no text."""


def check_text(value: Any, field: str = "") -> None:
    """Check that every string of a JSON value is text, keys of objects included.

    Args:
        value: the row, or a part of it.
        field: the part's name, for errors.

    Raises:
        LoneSurrogateError: one is not; names its field and the place in it.
        RecursionError: the value is nested too deeply.
    """
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            where = f"field {field!r}" if field else "the row"
            raise LoneSurrogateError(
                f"{where} has a lone surrogate at character {error.start}, which is no text: mend "
                "the row or leave it out"
            ) from None
    elif isinstance(value, dict):
        for key, inner in value.items():
            check_text(key, field)
            check_text(inner, f"{field}.{key}" if field else key)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            check_text(inner, f"{field}[{i}]")


def row_index(i: int, n: int) -> int:
    """Check that row `i` is one of `n`; IndexError if it is not."""
    i = operator.index(i)
    if not 0 <= i < n:
        raise IndexError(f"row {i} of a source with {n} rows")
    return i
