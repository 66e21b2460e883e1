"""A scripted player of household games by our own engine: demonstrations for a warm-up.

It knows the rules and not the room: it looks for things in a random order, goes where the lesson in
its prompt says first, and acts as the planner would once a thing has been seen. How well it asks,
ranks and distils is a number, so that a policy that imitates it has something left to learn.
"""

import dataclasses
import random
import re
from collections.abc import Sequence

from jaxlab.agents.skill1 import Phase, Wording
from jaxlab.agents.skill1_terse import short
from jaxlab.agents.skill_options import Candidate, Entry, Skill
from jaxlab.envs.household import catalogue
from jaxlab.envs.household.engine import Household
from jaxlab.envs.household.planner import plan
from jaxlab.envs.household.play import State

_AT = re.compile(r" skill ([a-z]+) at ([a-z]+(?: \d+)?) ")


@dataclasses.dataclass
class Script:
    """Answers of one episode; the generator of a `skill1.play`.

    Attributes:
        env: the game that is played, which it looks into.
        words: of the prompts.
        rng: of its choices.
        quality: how often it asks for the right thing, ranks a lesson about it first, and writes
            down the place where it lay; else it does something else.
    """

    env: Household
    words: Wording
    rng: random.Random
    quality: float = 0.5

    def __post_init__(self) -> None:
        self._looked: set[str] = set()
        self._lesson: str | None = None
        self._taken: list[str] = []

    @property
    def thing(self) -> str:
        """The type of thing that the task is about."""
        return self.env.game.id.split("-")[1].lower()

    def reply(self, phase: Phase, prompt: str, choices: Sequence[str]) -> str:
        """The reply to a prompt, as `words` read it."""
        del choices
        if phase == "act":
            command = self._act(prompt)
            self._taken.append(command)
            return self.words.acting(command)
        right = self.rng.random() < self.quality
        if phase == "query":
            other = self.env.game.id.split("-")[3].lower()
            return self.thing if right else other
        if phase == "rank":
            return self.words.ranking(self._rank(prompt, right))
        places = [c.split(" from ")[1] for c in self._taken if c.startswith("take")]
        if not places or not right:
            places = [c[6:] for c in self._taken if c.startswith("go to ")] or ["shelf 1"]
        return f"{self.thing} at {short(self.rng.choice(places))} when {self.thing}"

    def _rank(self, prompt: str, right: bool) -> list[int]:
        lessons = re.findall(r"(\d+) : ([^;]*) ;", prompt)
        order = list(range(len(lessons)))
        self.rng.shuffle(order)
        if right:
            order.sort(key=lambda i: not lessons[i][1].startswith(f"{self.thing} "))
        return order

    def _act(self, prompt: str) -> str:
        state = self.env.state
        assert state is not None, "the episode is over"
        self._look(state)
        found = _AT.search(prompt)
        lesson = found[2] if found and found[1] == self.thing else None
        commands = plan(state)
        hidden = self._hidden(state, commands)
        if hidden is None:
            return commands[0]
        return self._explore(state, lesson)

    def _look(self, state: State) -> None:
        """Note what is in sight."""
        names = state.world.names
        for place in state.world.at.get(state.location, ()):
            if place not in state.world.openable or place in state.opened:
                self._looked.add(names[place])

    def _hidden(self, state: State, commands: Sequence[str]) -> str | None:
        """The place of the plan's next thing, or of the lamp, if it has not been seen yet."""
        for command in commands:
            if command.startswith("take"):
                place = command.split(" from ")[1]
                return None if place in self._looked else place
            if command.startswith("use"):
                lamp = next(
                    (
                        p
                        for p, inside in state.inside.items()
                        for x in inside
                        if "lamp" in x.lower()
                    ),
                    None,
                )
                place = state.world.names.get(lamp or "", "")
                return None if place in self._looked else place
            if not command.startswith(("go", "open")):
                return None
        return None

    def _explore(self, state: State, lesson: str | None) -> str:
        """Open what is closed here, else go to another place, the lesson's first."""
        world = state.world
        here = world.at.get(state.location, ())
        for place in here:
            if place in world.openable and place not in state.opened:
                return f"open {world.names[place]}"
        left = sorted({world.names[p] for p in world.where} - self._looked)
        told = next((name for name in left if short(name) == lesson), None)
        if told is not None and not self._holds(state):
            return f"go to {told}"
        return f"go to {self.rng.choice(left)}" if left else "look"

    def _holds(self, state: State) -> bool:
        return state.held is not None


class Rehearsal:
    """A made-up library for demonstrations: lessons about random things, one about the task's.

    It is `skill1.Searched`; what it offers is a function of its generator.
    """

    def __init__(self, env: Household, rng: random.Random, top_k: int, right: float) -> None:
        """Offer `top_k` lessons; the one about the task's thing is true with probability `right`.

        Needs the game to have begun, to know where things are.
        """
        self._env, self._rng, self._top_k, self._right = env, rng, top_k, right

    def __len__(self) -> int:
        return self._top_k

    def retrieve(self, queries: Sequence[str], greedy: bool = False) -> list[list[Candidate]]:
        """The lessons, in random order, whatever the queries are."""
        del greedy
        return [self._lessons() for _ in queries]

    def _lessons(self) -> list[Candidate]:
        state = self._env.state
        assert state is not None, "the game has not begun"
        names = state.world.names
        places = sorted(names[p] for p in state.world.where)
        thing = self._env.game.id.split("-")[1].lower()
        others = sorted(t.lower() for t in catalogue.THINGS if t.lower() != thing)
        lessons = [(self._rng.choice(others), self._rng.choice(places)) for _ in range(self._top_k)]
        # Whatever a task is about lies somewhere.
        true = next(
            names[place]
            for place, inside in sorted(state.inside.items())
            if place in names and any(names[x].split()[0] == thing for x in inside)
        )
        told = true if self._rng.random() < self._right else self._rng.choice(places)
        lessons[self._rng.randrange(self._top_k)] = (thing, told)
        return [
            Candidate(Entry(i, Skill(f"{t} at {short(p)}", t), 0.5, 0, 0, 0, 0, True), 1.0, 1.0)
            for i, (t, p) in enumerate(lessons)
        ]
