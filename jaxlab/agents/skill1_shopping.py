"""Skill1's four phases in the words of a shop; the paper's appendix G words each world.

The functions are those of skill1_prompts, whose readers serve here too.
"""

from collections.abc import Sequence

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


def query(task: str, text: str) -> str:
    """Ask for one sentence to search the library by."""
    return f"""You are about to begin a task in an online shop.
Task: {task}
What you see: {text}

Before you act, say what experience would help. Write one sentence that a library of past lessons
is searched by, within <query> and </query>. Choose no action yet.

Example: <query>How to search for clothes of a given size and color, and when to buy.</query>"""


def rank(task: str, text: str, candidates: Sequence[Candidate]) -> str:
    """Ask for the candidates' order, most useful first; they are numbered from 1."""
    listed = "\n".join(
        f"[{i}] When: {c.entry.skill.description}\n    Lesson: {c.entry.skill.strategy}"
        for i, c in enumerate(candidates, 1)
    )
    return f"""You are about to begin a task in an online shop.
Task: {task}
What you see: {text}

Lessons from past tasks:
{listed}

Order them by how useful they are for this task, the most useful first: their numbers with commas
between them, within <rank> and </rank>, such as <rank>2,1,3</rank>."""


def act(
    task: str,
    skill: str | None,
    taken: int,
    history: Sequence[tuple[str, str]],
    text: str,
    admissible: Sequence[str],
) -> str:
    """Ask for the next action; the arguments are those of `skill1_prompts.act`."""
    lesson = (
        ""
        if skill is None
        else f"""
Past reflections on similar tasks: {skill}
They may be out of date: trust what you see before what they say.
"""
    )
    past = "".join(f"\nYou saw: {seen}\nYou did: {done}" for seen, done in history)
    begun = f"\nYou have taken {taken} actions. The last ones:{past}\n" if taken else ""
    return f"""You act in an online shop. Your task is to: {task}
{lesson}{begun}
You see now: {text}
You can do: {", ".join(admissible)}

In search[<query>] write words of your own in place of <query>. Choose the options that the task
asks for before you click[buy now], which ends the task.

Think first, within <think> and </think>. Then choose one of these actions and write it within
<action> and </action>."""


def distil(task: str, won: bool, history: Sequence[tuple[str, str]]) -> str:
    """Ask for what the episode teaches, as JSON."""
    steps = "\n".join(f"Saw: {seen}\nDid: {done}" for seen, done in history)
    how = "successfully" if won else "unsuccessfully"
    return f"""You have ended a task in an online shop {how}.
Task: {task}

{steps}

Write what this teaches for other tasks of its kind as one JSON object:
{{"task_success": {str(won).lower()},
 "action_lesson": what to do or to avoid,
 "navigation_lesson": what to search for, and which pages to look at or not to,
 "description_head": in which kind of task this is useful, not for this task alone}}"""
