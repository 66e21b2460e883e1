"""The options of the household tasks."""

from dataclasses import dataclass
from typing import Literal

from jaxlab.evals.played import Playing


@dataclass(frozen=True, kw_only=True)
class Grading:
    """Nothing to choose: a game knows whether it is won."""


@dataclass(frozen=True, kw_only=True)
class Options(Playing, Grading):
    """The options of `household`, beside those of all episodes.

    Attributes:
        engine: "fast": our rules; "textworld": ALFWorld itself (extra `agents`).
    """

    engine: Literal["fast", "textworld"] = "fast"
