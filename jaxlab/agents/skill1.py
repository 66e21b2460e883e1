"""One episode of Skill1 (arXiv 2605.06130, section 3.1): query, rank, act, distil.

No weights and no jax: what generates text is handed in, and is told which phase it is in.

    played = await skill1.play(env, task, generate, library)
"""

import collections
import dataclasses
import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, Protocol

from jaxlab.agents import skill1_prompts
from jaxlab.agents.skill_options import Candidate, Episode, Skill
from jaxlab.envs.protocol import Batch, Environment, admits, bounded

Phase = Literal["query", "rank", "act", "distil"]
PHASES: tuple[Phase, ...] = ("query", "rank", "act", "distil")
# (phase, prompt, the replies that can be read; none: any text may come) -> reply.
Generate = Callable[[Phase, str, Sequence[str]], Awaitable[str]]
MOST_TEXT = 8_000
# Orders of more candidates are too many to choose among: then any text may come.
_MOST_RANKED = 5


class Searched(Protocol):
    """What an episode asks of a library; `skill_library.SkillLibrary` is one."""

    def __len__(self) -> int:
        """Skills in it."""

    def retrieve(self, queries: Sequence[str], greedy: bool = False) -> list[list[Candidate]]:
        """The best candidates of each query, best first."""


class Wording(Protocol):
    """What the phases ask, and how replies are read; modules are such: skill1_prompts is the first.

    The functions are those of skill1_prompts; `acting` and `ranking` write the reply that
    `read_action` and `read_rank` read as this command or order.
    """

    def query(self, task: str, text: str) -> str:
        """Ask for a query."""

    def rank(self, task: str, text: str, candidates: Sequence[Candidate]) -> str:
        """Ask for the candidates' order."""

    def act(
        self,
        task: str,
        skill: str | None,
        taken: int,
        history: Sequence[tuple[str, str]],
        text: str,
        admissible: Sequence[str],
    ) -> str:
        """Ask for the next action."""

    def distil(self, task: str, won: bool, history: Sequence[tuple[str, str]]) -> str:
        """Ask for what the episode teaches."""

    def read_query(self, text: str) -> tuple[str, bool]:
        """The query, and whether it could be read."""

    def read_rank(self, text: str, count: int) -> tuple[list[int], bool]:
        """The order, and whether it could be read."""

    def read_action(self, text: str, admissible: Sequence[str]) -> tuple[str, bool]:
        """The action, and whether it could be read and is admissible."""

    def read_skill(self, text: str, task: str) -> Skill | None:
        """The skill; None where it could not be read."""

    def acting(self, command: str) -> str:
        """The reply that is this command."""

    def ranking(self, order: Sequence[int]) -> str:
        """The reply that is this order."""


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
        query: what the library was asked; None: it was not.
        order: the ranking that was read; None: none was asked for, or none could be read.
        states: what each action was chosen by, observation and admissible commands: two steps
            with equal states had the same choice before them.
        bad: whether each action could not be read or was not admissible.
        error: why the environment died, where it did.
    """

    reward: float
    actions: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    selected: int | None
    skill: Skill | None
    counts: dict[str, int]
    query: str | None = None
    order: tuple[int, ...] | None = None
    states: tuple[str, ...] = ()
    bad: tuple[bool, ...] = ()
    error: str | None = None

    def episode(self) -> Episode:
        """What a library learns from it: it was a success, or it was not (r is 0 or 1)."""
        ids = tuple(candidate.entry.id for candidate in self.candidates)
        selected = None if self.selected is None else ids[self.selected]
        return Episode(float(self.reward == 1), ids, selected, self.skill)


async def play(
    env: Environment,
    task: str,
    generate: Generate,
    library: Searched | None = None,
    *,
    greedy: bool = True,
    distil: bool | Literal["raw"] = False,
    select: bool = True,
    history: int = 2,
    words: Wording = skill1_prompts,
) -> Played:
    """Play an episode to its end.

    Args:
        env: is reset first, and must end by itself. One that raises ends the episode without
            reward and is counted under `died`.
        task: what has to be done.
        generate: (phase, prompt, choices) -> reply.
        library: None, or an empty one: there is no query, no ranking and no lesson.
        greedy: leave out the library's bonus for seldom tried skills.
        distil: ask for what the episode teaches; "raw": its actions are the skill, as in the
            paper's ablation without distillation.
        select: ask for a query and a ranking; False: the library is searched by the task, and the
            first candidate is used, as in the paper's ablation without selection.
        history: so many of the last steps are in a prompt.
        words: of the prompts.
    """
    counts: collections.Counter[str] = collections.Counter()
    world = Batch([env])
    seen = world.reset()[0]
    candidates: list[Candidate] = []
    asked = order = selected = None
    if library is not None and len(library) and not seen.done:
        asked = task
        if select:
            reply = await generate("query", words.query(task, seen.text), ())
            asked, read = words.read_query(reply)
            counts["query"] += not read
        candidates = library.retrieve([asked or task], greedy=greedy)[0]
        if candidates:
            selected = 0
        if candidates and select:
            choices = _orders(words, len(candidates))
            reply = await generate("rank", words.rank(task, seen.text, candidates), choices)
            ranked, read = words.read_rank(reply, len(candidates))
            counts["rank"] += not read
            order = tuple(ranked) if read else None
            selected = ranked[0]
    lesson = None if selected is None else candidates[selected].entry.skill.strategy
    taken: list[tuple[str, str]] = []
    states, bad = [], []
    while not seen.done:
        text = seen.text[:MOST_TEXT]
        last = taken[-history:] if history else []
        prompt = words.act(task, lesson, len(taken), last, text, seen.admissible)
        choices = _commands(words, seen.admissible)
        action, good = words.read_action(await generate("act", prompt, choices), seen.admissible)
        # What nobody can read may be long, and comes back in the next prompts.
        action = bounded(action, world.max_action)
        counts["act"] += not good
        admissible = admits(seen.admissible, action)
        counts["inadmissible"] += not admissible
        taken.append((text, action))
        states.append("\n".join((text, *seen.admissible)))
        bad.append(not (good and admissible))
        seen = world.step([action])[0] or seen
    for name in ("died", "cut_texts"):
        if world.counts[name]:
            counts[name] = world.counts[name]
    skill = None
    actions = tuple(action for _, action in taken)
    if distil == "raw":
        skill = Skill("; ".join(actions), task, task)
    elif distil and seen.error is None:
        won = seen.reward == 1
        prompt = words.distil(task, won, [*taken, (seen.text[:MOST_TEXT], "")])
        skill = words.read_skill(await generate("distil", prompt, ()), task)
        counts["distil"] += skill is None
    return Played(
        seen.reward,
        actions,
        tuple(candidates),
        selected,
        skill,
        dict(counts),
        asked,
        order,
        tuple(states),
        tuple(bad),
        seen.error,
    )


def _commands(words: Wording, admissible: Sequence[str]) -> list[str]:
    """The replies that are commands; none where one of them has a part that may be any text."""
    if any("<" in command for command in admissible):
        return []
    return [words.acting(command) for command in admissible]


def _orders(words: Wording, count: int) -> list[str]:
    if count > _MOST_RANKED:
        return []
    return [words.ranking(order) for order in itertools.permutations(range(count))]
