"""One episode of Skill1 (arXiv 2605.06130, section 3.1): query, rank, act, distil.

No weights and no jax: what generates text is handed in, and is told which phase it is in.

    played = await skill1.play(env, task, generate, library)
"""

import collections
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol

from jaxlab.agents import skill1_prompts
from jaxlab.agents.skill_library import Candidate, Episode, SkillLibrary
from jaxlab.agents.skill_options import Skill
from jaxlab.envs.protocol import admits

Phase = Literal["query", "rank", "act", "distil"]
Generate = Callable[[Phase, str], Awaitable[str]]
MOST_TEXT = 8_000


class Seen(Protocol):
    """What an environment answers; see jaxlab/envs/protocol.py."""

    @property
    def text(self) -> str:
        """The observation."""

    @property
    def reward(self) -> float:
        """Of this step."""

    @property
    def done(self) -> bool:
        """Whether the episode is over."""

    @property
    def admissible(self) -> tuple[str, ...]:
        """The commands that do something now."""


class World(Protocol):
    """An environment."""

    def reset(self) -> Seen:
        """Begin."""

    def step(self, action: str, /) -> Seen:
        """Act."""


@dataclasses.dataclass(frozen=True)
class Played:
    """What came of an episode.

    Attributes:
        reward: of its last step.
        actions: commands that were given.
        candidates: what the library offered.
        selected: position among the candidates of the one that was used; None: there was none.
        skill: what was distilled; None where nothing was asked for, or nothing could be read.
        counts: replies that could not be read, by phase, and `inadmissible` actions.
    """

    reward: float
    actions: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    selected: int | None
    skill: Skill | None
    counts: dict[str, int]

    def episode(self) -> Episode:
        """What a library learns from it: it was a success, or it was not (r is 0 or 1)."""
        ids = tuple(candidate.entry.id for candidate in self.candidates)
        selected = None if self.selected is None else ids[self.selected]
        return Episode(float(self.reward == 1), ids, selected, self.skill)


async def play(
    env: World,
    task: str,
    generate: Generate,
    library: SkillLibrary | None = None,
    *,
    greedy: bool = True,
    distil: bool = False,
    history: int = 2,
    words: Any = skill1_prompts,
) -> Played:
    """Play an episode to its end.

    Args:
        env: is reset first, and must end by itself.
        task: what has to be done.
        generate: (phase, prompt) -> reply.
        library: None, or an empty one: there is no query, no ranking and no lesson.
        greedy: leave out the library's bonus for seldom tried skills.
        distil: ask for what the episode teaches.
        history: so many of the last steps are in a prompt.
        words: a module with the functions of skill1_prompts: what the prompts say.
    """
    counts: collections.Counter[str] = collections.Counter()
    seen = env.reset()
    candidates: list[Candidate] = []
    selected = None
    if library is not None and len(library):
        asked, read = words.read_query(await generate("query", words.query(task, seen.text)))
        counts["query"] += not read
        candidates = library.retrieve([asked or task], greedy=greedy)[0]
        if candidates:
            reply = await generate("rank", words.rank(task, seen.text, candidates))
            order, read = words.read_rank(reply, len(candidates))
            counts["rank"] += not read
            selected = order[0]
    lesson = None if selected is None else candidates[selected].entry.skill.strategy
    taken: list[tuple[str, str]] = []
    while not seen.done:
        text = seen.text[:MOST_TEXT]
        last = taken[-history:] if history else []
        prompt = words.act(task, lesson, len(taken), last, text, seen.admissible)
        action, good = words.read_action(await generate("act", prompt), seen.admissible)
        counts["act"] += not good
        counts["inadmissible"] += not admits(seen.admissible, action)
        taken.append((text, action))
        seen = env.step(action)
    skill = None
    if distil:
        won = seen.reward == 1
        reply = await generate("distil", words.distil(task, won, [*taken, (seen.text, "")]))
        skill = words.read_skill(reply, task)
        counts["distil"] += skill is None
    actions = tuple(action for _, action in taken)
    return Played(seen.reward, actions, tuple(candidates), selected, skill, dict(counts))
