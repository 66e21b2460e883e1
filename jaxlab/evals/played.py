"""What benchmarks in which a model acts have in common: how it plays, and their tables."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jaxlab import ranges
from jaxlab.evals.metrics import Bootstrap, wilson
from jaxlab.evals.results import Result
from jaxlab.evals.tables import Cell, Table

_COUNTS = ("steps", "inadmissible", "act", "query", "rank", "distil", "died")


@dataclass(frozen=True, kw_only=True)
class Playing:
    """How a model plays.

    Attributes:
        max_steps: actions after which an episode is lost.
        history: so many of the last steps are in a prompt.
        library: "off"; "frozen": searched and left as it is; "growing": it learns from every
            episode, and these are played one after the other.
        skills: the library's file or folder; it must exist to be frozen.
        encoder: directory of a sentence encoder that the library is searched by, such as
            all-MiniLM-L6-v2; None: the one that the library was made with, if it is one of hashed
            words.
        reembed: whether a library that was made with another encoder is embedded again: a frozen
            one in memory, a growing one in its file. Else it is refused.
        top_k: candidates of a query.
        similarity_weight: weight of the query's similarity; a skill's utility has the rest.
    """

    max_steps: int = 50
    history: int = 2
    library: Literal["off", "frozen", "growing"] = "off"
    skills: str | None = None
    encoder: str | None = None
    reembed: bool = False
    top_k: int = 5
    similarity_weight: float = 0.6

    def __post_init__(self) -> None:
        """Check choices and numbers, and that a library has a file."""
        ranges.check_choices(self)
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
        if self.library == "off" and (self.encoder is not None or self.reembed):
            raise ValueError("encoder and reembed are of a library, and library is off")


def tables(results: Sequence[Result], groups: Sequence[str], rewards: bool = False) -> list[Table]:
    """Overall, by groups, and what the library and the parsers did.

    Args:
        results: of episodes.
        groups: names in their metadata, a table each.
        rewards: whether a column has the mean reward, where an episode may be won in part.
    """
    everything: dict[str, Cell] = {"games": len(results), **_success(results, rewards)}
    found = [Table("Scores", [everything], "Success, with Wilson's 95 % interval.")]
    for name in groups:
        kinds = sorted({str(result.meta.get(name)) for result in results})
        rows: list[dict[str, Cell]] = [
            {
                name: kind,
                **_success([r for r in results if str(r.meta.get(name)) == kind], rewards),
            }
            for kind in kinds
        ]
        found.append(Table(f"By {name}", rows))
    sums = {name: sum(int(r.meta.get(name, 0)) for r in results) for name in _COUNTS}
    known = [r for r in results if r.meta.get("utility") is not None]
    row: dict[str, Cell] = {
        "steps a game": sums["steps"] / max(len(results), 1),
        "inadmissible": sums["inadmissible"] / max(sums["steps"], 1),
        "unread actions": sums["act"],
        "unread queries": sums["query"],
        "unread rankings": sums["rank"],
        "unread skills": sums["distil"],
        "died": sums["died"],
        "games with a skill": len(known),
        "its utility": sum(r.meta["utility"] for r in known) / len(known) if known else None,
    }
    note = (
        "Inadmissible is a share of steps; unread are replies; died are games whose environment "
        "failed, which count as lost."
    )
    found.append(Table("Play", [row], note))
    return found


def _success(results: Sequence[Result], rewards: bool) -> dict[str, Cell]:
    wins = sum(result.correct for result in results)
    share = wins / len(results) if results else math.nan
    low, high = wilson(wins, len(results))
    row: dict[str, Cell] = {
        "success": Bootstrap(share, math.nan, low, high),
        "won": wins,
        "of": len(results),
    }
    if rewards:
        total = sum(float(result.meta.get("reward", 0)) for result in results)
        row["mean reward"] = total / len(results) if results else math.nan
    return row
