"""Checks of numbers in settings, for the `__post_init__` of their dataclasses. No jax."""

import math
import re
import typing
from collections.abc import Iterable
from typing import Any

import numpy as np

# Seeds of data order, parameters and sampling: jax.random.key takes a seed modulo 2**32, so that a
# larger one would repeat the run of a smaller one.
SEEDS = 2**32

# Counts end where int32, in which steps and token positions are counted, does.
COUNTS = 2**31

# Logits divided by a smaller temperature would leave the range of float32.
LOWEST_TEMPERATURE = 1e-6


def check(
    settings: Any,
    *names: str,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> None:
    """Check that numeric fields are finite and within a range; a field that is None passes.

    Floats are compared as the float32 that a device makes of them: 1e-50 is not above 0, and
    0.9999999999 not below 1.

    Args:
        settings: the dataclass.
        names: its fields.
        least: smallest value that passes.
        above: largest value that is too small.
        most: largest value that passes.
        below: smallest value that is too large.

    Raises:
        ValueError: one line that names the field, its range and its value.
    """
    bounds = {"at least": least, "above": above, "at most": most, "below": below}
    wanted = " and ".join(f"{text} {x}" for text, x in bounds.items() if x is not None)
    for name in names:
        value = getattr(settings, name)
        if value is not None and not _within(value, least, above, most, below):
            raise ValueError(f"{name} must be {wanted or 'finite'}, not {value}")


def check_choices(settings: Any) -> None:
    """Check that every field whose type is a Literal has one of its values.

    Raises:
        ValueError: names the field, its value and the choices.
    """
    for name, hint in typing.get_type_hints(type(settings)).items():
        choices = typing.get_args(hint)
        value = getattr(settings, name)
        if typing.get_origin(hint) is typing.Literal and value not in choices:
            raise ValueError(f"{name}={value!r} is not one of {', '.join(map(str, choices))}")


def check_counts(settings: Any, *names: str) -> None:
    """Check that fields are whole numbers from 1 to 2**31 - 1, or None.

    Raises:
        ValueError: one line that names the field, its range and its value.
    """
    check(settings, *names, least=1)
    check(settings, *names, below=COUNTS)


def check_seed(settings: Any, name: str = "seed") -> None:
    """Check that a field is a seed: from 0 to 2**32 - 1.

    Raises:
        ValueError: one line that names the field, its range and its value.
    """
    check(settings, name, least=0, below=SEEDS)


def check_temperature(settings: Any, name: str) -> None:
    """Check that logits can be divided by a field.

    Raises:
        ValueError: one line that names the field, its range and its value.
    """
    check(settings, name, above=0)
    check(settings, name, least=LOWEST_TEMPERATURE)


def check_patterns(name: str, patterns: Iterable[str]) -> None:
    """Check that the strings of a field are regular expressions.

    Raises:
        ValueError: one line that names the field, the expression and what is wrong with it.
    """
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{name}: {pattern!r} is no regular expression: {error}") from None


def _within(
    value: float,
    least: float | None,
    above: float | None,
    most: float | None,
    below: float | None,
) -> bool:
    as_seen = _float32 if isinstance(value, float) else lambda x: x
    x = as_seen(value)
    if isinstance(x, float) and not math.isfinite(x):
        return False
    return (
        (least is None or x >= as_seen(least))
        and (above is None or x > as_seen(above))
        and (most is None or x <= as_seen(most))
        and (below is None or x < as_seen(below))
    )


def _float32(x: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(x))
