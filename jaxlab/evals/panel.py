"""Scores of episodes that were played on a panel: success by family, and what the library did.

Numbers of text; no jax. Trainers of agents call it, as they call `loop`.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

from jaxlab.agents.skill1 import Played
from jaxlab.evals.metrics import wilson


class Of(NamedTuple):
    """What is known of a game beside how it went."""

    family: str
    split: str


def success(won: Sequence[bool], groups: Mapping[str, Sequence[Hashable]]) -> dict[str, float]:
    """Shares of games won, each with its 95 % interval (Wilson 1927) as `_low` and `_high`.

    Args:
        won: of each game.
        groups: names of the ways to part the games -> the part of each game.

    Returns:
        `success` of all, and `success_PART` of each part.
    """
    parts: dict[str, list[bool]] = {"success": list(won)}
    for values in groups.values():
        for part, one in zip(values, won, strict=True):
            parts.setdefault(f"success_{part}", []).append(one)
    found: dict[str, float] = {}
    for name, games in parts.items():
        low, high = wilson(sum(games), len(games))
        share = sum(games) / len(games) if games else 0.0
        found |= {name: share, f"{name}_low": low, f"{name}_high": high}
    return found


def behaviour(played: Sequence[Played]) -> dict[str, float]:
    """How episodes went, as means.

    Returns:
        `actions` of an episode; `inadmissible`, a share of actions; `unread_PHASE`, replies that
        could not be read, an episode; `died`, episodes whose environment did. Where a library
        offered anything also `retrieved`, the share of such episodes, and over them
        `selection_precision`, mean utility of the skill that was used; `u_hat`, of the best one
        offered; `distil_positive`, the share with r > U-hat (of all episodes; r is 0 or 1;
        with nothing retrieved U-hat is 0); `similarity` of query and used skill.
    """
    count = max(len(played), 1)
    actions = sum(len(one.actions) for one in played)
    found: dict[str, float] = {
        "actions": actions / count,
        "inadmissible": sum(one.counts.get("inadmissible", 0) for one in played) / max(actions, 1),
        "died": sum(one.counts.get("died", 0) for one in played) / count,
    }
    for phase in ("query", "rank", "act", "distil"):
        found[f"unread_{phase}"] = sum(one.counts.get(phase, 0) for one in played) / count
    offered = [one for one in played if one.candidates]
    if not offered:
        return found
    used = [(one, one.candidates[one.selected or 0]) for one in offered]
    best = [max(c.entry.utility for c in one.candidates) for one in offered]
    beaten = sum((one.reward == 1) > u for one, u in zip(offered, best, strict=True))
    beaten += sum(one.reward == 1 for one in played if not one.candidates)
    return found | {
        "retrieved": len(offered) / count,
        "selection_precision": sum(c.entry.utility for _, c in used) / len(used),
        "u_hat": sum(best) / len(best),
        "distil_positive": beaten / count,
        "similarity": sum(c.similarity for _, c in used) / len(used),
    }
