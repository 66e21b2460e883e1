"""JSON files of checkpoint directories: read whole, and every key that is used checked once.

A reader says what it expects of each key, {key: Kind}, and calls `check`; beyond it no value is of
another type than the reader thinks. Keys that nobody reads may hold anything.
"""

import dataclasses
import json
import reprlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

# More than any size of a model, and small enough for the int32 of shapes and positions.
_LARGEST = 2**31 - 1
LARGEST_FLOAT = 1e30
_MOST_LAYERS = 10_000


class CheckpointFormatError(ValueError):
    """A checkpoint directory that is damaged, incomplete, or of a kind that is not supported."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """Values that a key may have.

    Attributes:
        expected: in words, for errors.
        accepts: whether a value is one of them.
    """

    expected: str
    accepts: Callable[[Any], bool]

    def __or__(self, other: "Kind") -> "Kind":
        return Kind(
            f"{self.expected} or {other.expected}",
            lambda value: self.accepts(value) or other.accepts(value),
        )


def whole(least: int, most: int = _LARGEST) -> Kind:
    """Whole numbers of a range; 16.0 and true are none."""
    expected = f"a whole number from {least} to {most}"
    return Kind(expected, lambda value: type(value) is int and least <= value <= most)


def number(above: float, most: float = LARGEST_FLOAT) -> Kind:
    """Finite numbers of a range."""
    expected = f"a number above {above:g}" + (f", up to {most:g}" * (most < LARGEST_FLOAT))
    return Kind(expected, lambda value: type(value) in (int, float) and above < value <= most)


def list_of(kind: Kind) -> Kind:
    """Lists of such values."""
    return Kind(
        f"a list, each {kind.expected}",
        lambda value: isinstance(value, list) and all(map(kind.accepts, value)),
    )


def _is_text(value: Any) -> bool:
    # JSON can write half of a surrogate pair, which is no text.
    return isinstance(value, str) and value.encode("utf-8", "replace").decode() == value


NULL = Kind("null", lambda value: value is None)
BOOL = Kind("true or false", lambda value: isinstance(value, bool))
TEXT = Kind("a text", _is_text)
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
SIZE = whole(1)
COUNT = whole(0)
LAYERS = whole(1, _MOST_LAYERS)
POSITIVE = number(0)


def read(file: Path) -> dict[str, Any]:
    """One JSON object, UTF-8 with or without a byte order mark.

    Raises:
        CheckpointFormatError: no such file, no JSON object in it, or a key of an object occurs
            twice.
    """
    try:
        data = parse(file.read_bytes())
    except FileNotFoundError:
        raise CheckpointFormatError(f"{file}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointFormatError(f"{file}: unreadable JSON: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointFormatError(f"{file}: expected a JSON object, not {show(data)}")
    return data


def parse(text: bytes) -> Any:
    """A JSON value.

    Raises:
        ValueError: it is none, is not UTF-8, or a key of an object occurs twice.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text.decode("utf-8-sig"), object_pairs_hook=_unique)


def check(data: Mapping[str, Any], kinds: Mapping[str, Kind], where: str) -> None:
    """Check those of the keys that are there.

    Args:
        data: a JSON object.
        kinds: what each key may hold.
        where: what errors begin with: the file, or the file and the key of an object in it.

    Raises:
        CheckpointFormatError: naming the first key that holds something else.
    """
    for key, kind in kinds.items():
        if key in data and not kind.accepts(data[key]):
            raise CheckpointFormatError(
                f"{where}: {key} is {show(data[key])}: expected {kind.expected}"
            )


def show(value: Any) -> str:
    """A JSON value as the file has it, in few characters."""
    plain = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return plain[value]
    return reprlib.repr(value)


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} occurs twice")
        found[key] = value
    return found
