"""The options of GSM8K and of the other mathematical problems."""

from dataclasses import dataclass
from typing import Literal

from jaxlab.grading.math.prompts import Style
from jaxlab.grading.rows import BadRows, Ids


@dataclass(frozen=True, kw_only=True)
class Grading:
    """How answers are graded.

    Attributes:
        truncated: whether a completion that was cut off counts as wrong or is graded.
    """

    truncated: Literal["wrong", "graded"] = "wrong"


@dataclass(frozen=True, kw_only=True)
class Options(Grading):
    """The options of `math`.

    Attributes:
        prompt: how a problem is put, see `prompts.TEMPLATES`.
        ids: only the rows of these ids; all if there are none.
        bad_rows: whether a malformed row ends the run or is left out, see `rows.read`.
    """

    prompt: Style = "boxed"
    ids: Ids = ()
    bad_rows: BadRows = "error"


@dataclass(frozen=True, kw_only=True)
class Gsm8kOptions(Options):
    """The options of `gsm8k`: those of `math` with another prompt."""

    prompt: Style = "gsm8k"
