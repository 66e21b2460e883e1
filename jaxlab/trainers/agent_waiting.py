"""Skills whose worth is not known yet, for credit "delayed": what was written, and by which policy.

It is state of the host: part of every checkpoint.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxlab.agents.skill1 import Played
from jaxlab.agents.skill_library import SkillLibrary
from jaxlab.credit import segments
from jaxlab.rollouts.turns import Asked, Turn
from jaxlab.trainers.agent_settings import Credit


@dataclasses.dataclass(frozen=True)
class Pending:
    """A skill that was written and whose worth is not known yet, for mode "delayed".

    Attributes:
        turn: its tokens, with the log-probabilities by the policy that wrote it.
        skill: its id in the library.
        updates: outcomes that had moved its utility when it was written.
        utilities: of the candidates when it was written.
    """

    turn: Turn
    skill: int
    updates: int
    utilities: tuple[float, ...]

    def credit(self, later: float, weight: float) -> float:
        """lambda_2 (U(s) - U-hat when it was written); the ratio is the loss's affair."""
        known = segments.Episode(0, 0.0, self.utilities, later=later)
        (found,) = segments.advantages([known], "delayed", weights=(0.0, weight))
        return found["distil"]


class Waiting:
    """The skills that are awaited.

    Attributes:
        lost: how many left without credit, because they were evicted or too many waited.
    """

    def __init__(self, credit: Credit):
        self._credit = credit
        self._pending: list[Pending] = []
        self.lost = 0

    def __len__(self) -> int:
        return len(self._pending)

    def ripe(self, library: SkillLibrary) -> list[tuple[Pending, float]]:
        """Skills whose utility is known by now, with it; they are awaited no longer."""
        entries = {entry.id: entry for entry in library.entries()}
        ripe, left = [], []
        for one in self._pending:
            entry = entries.get(one.skill)
            if entry is None:
                self.lost += 1
            elif entry.updates - one.updates >= self._credit.uses:
                ripe.append((one, entry.utility))
            else:
                left.append(one)
        self._pending = left
        return ripe

    def add(
        self,
        library: SkillLibrary,
        played: Sequence[Played],
        written: Mapping[int, int | None],
        turns: Sequence[Turn],
    ) -> None:
        """Await the skills of a step.

        Args:
            library: that has learned from it.
            played: its episodes.
            written: episode -> the id under which its skill is kept.
            turns: of all episodes.
        """
        updates = {entry.id: entry.updates for entry in library.entries()}
        for turn in turns:
            skill = written.get(turn.asked.episode)
            if turn.asked.phase != "distil" or skill is None or skill not in updates:
                continue
            utilities = tuple(c.entry.utility for c in played[turn.asked.episode].candidates)
            # The question's text is not needed any more.
            kept = dataclasses.replace(turn, asked=turn.asked._replace(prompt="", choices=()))
            self._pending.append(Pending(kept, skill, updates[skill], utilities))
        surplus = max(len(self._pending) - self._credit.pending, 0)
        self.lost += surplus
        self._pending = self._pending[surplus:]

    def dump(self) -> dict[str, Any]:
        """JSON-able."""
        return {"lost": self.lost, "pending": [dataclasses.asdict(one) for one in self._pending]}

    def load(self, kept: Mapping[str, Any]) -> None:
        """Become what was dumped."""
        self.lost = kept["lost"]
        self._pending = [_pending(one) for one in kept["pending"]]


def _pending(kept: Mapping[str, Any]) -> Pending:
    turn = kept["turn"]
    number, call, phase, prompt, choices = turn["asked"]
    return Pending(
        Turn(
            Asked(number, call, phase, prompt, tuple(choices)),
            turn["reply"],
            tuple(turn["prompt"]),
            tuple(turn["response"]),
            tuple(turn["logprobs"]),
            turn["stopped"],
            tuple(tuple(ids) for ids in turn["choices"]),
            turn["cut"],
        ),
        kept["skill"],
        kept["updates"],
        tuple(kept["utilities"]),
    )
