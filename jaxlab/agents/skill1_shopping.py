"""Skill1's four phases in the words of a shop; the paper's appendix G words each world.

The functions are those of skill1_prompts, whose readers serve here too.
"""

from collections.abc import Sequence

from jaxlab.agents import skill1_prompts
from jaxlab.agents.skill1_prompts import (
    acting,
    ranking,
    read_action,
    read_query,
    read_rank,
    read_skill,
)
from jaxlab.agents.skill_options import Candidate

__all__ = ["act", "acting", "distil", "query", "rank", "ranking"]
__all__ += ["read_action", "read_query", "read_rank", "read_skill"]

_PLACE = "an online shop"
_ADVICE = """\
In search[<query>] write words of your own in place of <query>. Choose the options that the task
asks for before you click[buy now], which ends the task."""


def query(task: str, text: str) -> str:
    """Ask for one sentence to search the library by."""
    example = "How to search for clothes of a given size and color, and when to buy."
    return skill1_prompts.query(task, text, place=_PLACE, example=example)


def rank(task: str, text: str, candidates: Sequence[Candidate]) -> str:
    """Ask for the candidates' order, most useful first; they are numbered from 1."""
    return skill1_prompts.rank(task, text, candidates, place=_PLACE)


def act(
    task: str,
    skill: str | None,
    taken: int,
    history: Sequence[tuple[str, str]],
    text: str,
    admissible: Sequence[str],
) -> str:
    """Ask for the next action; the arguments are those of `skill1_prompts.act`."""
    asked = (task, skill, taken, history, text, admissible)
    return skill1_prompts.act(*asked, place=_PLACE, advice=_ADVICE)


def distil(task: str, won: bool, history: Sequence[tuple[str, str]]) -> str:
    """Ask for what the episode teaches, as JSON."""
    navigation = "what to search for, and which pages to look at or not to"
    return skill1_prompts.distil(task, won, history, place=_PLACE, navigation=navigation)
