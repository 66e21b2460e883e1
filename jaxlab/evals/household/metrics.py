"""Tables of the household tasks: success by family and split, with Wilson's intervals."""

import math
from collections.abc import Sequence

from jaxlab.evals.metrics import Bootstrap
from jaxlab.evals.results import Result
from jaxlab.evals.tables import Cell, Table

_COUNTS = ("steps", "inadmissible", "act", "query", "rank", "distil")


def wilson(wins: int, games: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (Wilson 1927); of no games (0, 1)."""
    if not games:
        return 0.0, 1.0
    share, square = wins / games, z * z
    centre = (share + square / (2 * games)) / (1 + square / games)
    half = math.sqrt(share * (1 - share) / games + square / (4 * games * games))
    half *= z / (1 + square / games)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def tables(results: Sequence[Result]) -> list[Table]:
    """Overall, by family, by split, and what the library and the parsers did."""
    everything: dict[str, Cell] = {"games": len(results), **_success(results)}
    found = [Table("Scores", [everything], "Success, with Wilson's 95 % interval.")]
    for title, name in (("By family", "family"), ("By split", "split")):
        kinds = sorted({str(result.meta.get(name)) for result in results})
        rows: list[dict[str, Cell]] = [
            {name: kind, **_success([r for r in results if str(r.meta.get(name)) == kind])}
            for kind in kinds
        ]
        found.append(Table(title, rows))
    sums = {name: sum(int(r.meta.get(name, 0)) for r in results) for name in _COUNTS}
    known = [r for r in results if r.meta.get("utility") is not None]
    row: dict[str, Cell] = {
        "steps a game": sums["steps"] / max(len(results), 1),
        "inadmissible": sums["inadmissible"] / max(sums["steps"], 1),
        "unread actions": sums["act"],
        "unread queries": sums["query"],
        "unread rankings": sums["rank"],
        "unread skills": sums["distil"],
        "games with a skill": len(known),
        "its utility": sum(r.meta["utility"] for r in known) / len(known) if known else None,
    }
    found.append(Table("Play", [row], "Inadmissible is a share of steps; unread are replies."))
    return found


def _success(results: Sequence[Result]) -> dict[str, Cell]:
    wins = sum(result.correct for result in results)
    share = wins / len(results) if results else math.nan
    low, high = wilson(wins, len(results))
    return {"success": Bootstrap(share, math.nan, low, high), "won": wins, "of": len(results)}
