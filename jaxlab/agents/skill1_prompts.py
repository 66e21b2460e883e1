"""What Skill1's four phases ask of a policy, and how its replies are read.

The content is that of the paper's appendix G; the words are ours. A reader takes any text: what it
falls back on is the released trainer's, and every reader says whether it had to.
"""

import json
import re
from collections.abc import Sequence

from jaxlab.agents.skill_options import Candidate, Skill
from jaxlab.envs.protocol import admits
from jaxlab.grading.answers import without_thinking

# Characters of a reply that are read, of its end; and of a query that is searched for.
_READ, _QUERY = 20_000, 500
# A lesson of so few characters says nothing (the released trainer's bound).
_SHORTEST = 6


_QUERIED = "Where to look for a kitchen tool, and how to clean it before it is put\naway."


def query(task: str, text: str, *, place: str = "a household", example: str = _QUERIED) -> str:
    """Ask for one sentence to search the library by.

    Args:
        task: what is to be done.
        text: what is seen now.
        place: where; what other worlds word otherwise is a parameter of these functions.
        example: of a query.
    """
    return f"""You are about to begin a task in {place}.
Task: {task}
What you see: {text}

Before you act, say what experience would help. Write one sentence that a library of past lessons
is searched by, within <query> and </query>. Choose no action yet.

Example: <query>{example}</query>"""


def rank(
    task: str, text: str, candidates: Sequence[Candidate], *, place: str = "a household"
) -> str:
    """Ask for the candidates' order, most useful first; they are numbered from 1."""
    listed = "\n".join(
        f"[{i}] When: {c.entry.skill.description}\n    Lesson: {c.entry.skill.strategy}"
        for i, c in enumerate(candidates, 1)
    )
    return f"""You are about to begin a task in {place}.
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
    *,
    place: str = "a household",
    advice: str = "",
) -> str:
    """Ask for the next action.

    Args:
        task: what is to be done.
        skill: the lesson that was selected; None: the prompt does not speak of lessons.
        taken: actions taken before.
        history: the last of them, (what was seen, what was done), oldest first.
        text: what is seen now.
        admissible: commands that do something now.
        place: where.
        advice: a paragraph about the commands.
    """
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
    told = f"\n{advice}\n" if advice else ""
    return f"""You act in {place}. Your task is to: {task}
{lesson}{begun}
You see now: {text}
You can do: {", ".join(admissible)}
{told}
Think first, within <think> and </think>. Then choose one of these actions and write it within
<action> and </action>."""


def distil(
    task: str,
    won: bool,
    history: Sequence[tuple[str, str]],
    *,
    place: str = "a household",
    navigation: str = "where to look or not to",
) -> str:
    """Ask for what the episode teaches, as JSON.

    Args:
        task: what was to be done.
        won: whether it was.
        history: all steps, (what was seen, what was done), oldest first.
        place: where.
        navigation: what its second lesson is about.
    """
    steps = "\n".join(f"Saw: {seen}\nDid: {done}" for seen, done in history)
    how = "successfully" if won else "unsuccessfully"
    return f"""You have ended a task in {place} {how}.
Task: {task}

{steps}

Write what this teaches for other tasks of its kind as one JSON object:
{{"task_success": {str(won).lower()},
 "action_lesson": what to do or to avoid,
 "navigation_lesson": {navigation},
 "description_head": in which kind of task this is useful, not for this task alone}}"""


def acting(command: str) -> str:
    """The reply that `read_action` reads as this command."""
    return f"<action>{command}</action>"


def ranking(order: Sequence[int]) -> str:
    """The reply that `read_rank` reads as this order of positions, best first."""
    return f"<rank>{','.join(str(i + 1) for i in order)}</rank>"


def _tagged(text: str, tag: str) -> str | None:
    """What stands in the last pair of tags."""
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", text[-_READ:], re.DOTALL | re.IGNORECASE)
    return found[-1].strip() if found else None


def read_query(text: str) -> tuple[str, bool]:
    """The query, and whether it was in its tags; without them the whole reply is one."""
    found = _tagged(text, "query")
    query = without_thinking(text[-_READ:]) if found is None else found
    return " ".join(query.split())[:_QUERY], found is not None


def read_rank(text: str, count: int) -> tuple[list[int], bool]:
    """Positions of `count` candidates, best first, and whether the reply gave any.

    Numbers twice or out of range are dropped, and those that are missing follow in the order of
    retrieval.
    """
    found = _tagged(text, "rank") or ""
    numbers = [int(n) - 1 for n in re.findall(r"(?<!\d)\d{1,6}(?!\d)", found)]
    given = [n for n in dict.fromkeys(numbers) if 0 <= n < count]
    return [*given, *(n for n in range(count) if n not in given)], bool(given)


def read_action(text: str, admissible: Sequence[str]) -> tuple[str, bool]:
    """The action, and whether it was in its tags and is admissible.

    Without tags the last line is one. Spaces and capital letters that differ do not matter, but
    for those of a text of the policy's own, as in "search[<query>]".
    """
    found = _tagged(text, "action")
    lines = without_thinking(text[-_READ:]).strip().splitlines() or [""]
    action = " ".join((lines[-1] if found is None else found).split())
    known = {" ".join(command.lower().split()): command for command in admissible}
    command = known.get(action.lower(), action if admits(admissible, action) else None)
    return (action if command is None else command), found is not None and command is not None


def read_skill(text: str, task: str) -> Skill | None:
    """The skill of a reply; None where there is no JSON object with a lesson and a description."""
    text = without_thinking(text[-_READ:])
    for start in list(re.finditer(r"\{", text))[:50]:
        try:
            found, _ = json.JSONDecoder().raw_decode(text[start.start() :])
        except (ValueError, RecursionError):
            continue
        lessons = []
        for name, head in (("action_lesson", "Action"), ("navigation_lesson", "Navigation")):
            lesson = found.get(name)
            if isinstance(lesson, str) and len(lesson.strip()) >= _SHORTEST:
                lessons.append(f"{head} Insight: {lesson.strip()}")
        when = found.get("description_head")
        if lessons and isinstance(when, str) and when.strip():
            return Skill(" | ".join(lessons), when.strip(), task)
    return None
