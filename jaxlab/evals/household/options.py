"""The options of the household tasks."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Grading:
    """Nothing to choose: a game knows whether it is won."""


@dataclass(frozen=True, kw_only=True)
class Options(Grading):
    """The options of `household`.

    Attributes:
        engine: "fast": our rules; "textworld": ALFWorld itself (extra `agents`).
        max_steps: actions after which a game is lost.
        history: so many of the last steps are in a prompt.
        library: "off"; "frozen": searched and left as it is; "growing": it learns from every
            game, and games are played one after the other.
        skills: the library's file or folder; it must exist to be frozen.
        top_k: candidates of a query.
        similarity_weight: weight of the query's similarity; a skill's utility has the rest.
    """

    engine: Literal["fast", "textworld"] = "fast"
    max_steps: int = 50
    history: int = 2
    library: Literal["off", "frozen", "growing"] = "off"
    skills: str | None = None
    top_k: int = 5
    similarity_weight: float = 0.6

    def __post_init__(self) -> None:
        """Check the numbers, and that a library has a file."""
        for name, least in (("max_steps", 1), ("history", 0), ("top_k", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if not 0 <= self.similarity_weight <= 1:
            raise ValueError(
                f"similarity_weight must be between 0 and 1, not {self.similarity_weight}"
            )
        if (self.library == "off") != (self.skills is None):
            raise ValueError(
                "skills names the library's file where library is frozen or growing, and only there"
            )
