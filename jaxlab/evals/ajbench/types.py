"""Units of AJ-Bench: a task, what an agent did, and whether that was right."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Subdomain = Literal[
    "Search-Wide",
    "Search-Deep",
    "DS-FileSystem",
    "DS-Postgres",
    "GUI-PPT",
    "GUI-Word",
    "GUI-Excel",
]
# In the order of the leaderboard's columns.
SUBDOMAINS: tuple[Subdomain, ...] = (
    "Search-Wide",
    "Search-Deep",
    "DS-FileSystem",
    "DS-Postgres",
    "GUI-PPT",
    "GUI-Word",
    "GUI-Excel",
)

# Sets of one's own may have the last two besides.
AnySubdomain = Literal[Subdomain, "DS-SQLite", "GUI-Page"]

# What options of a judge may be; see `options`.
Replay = Literal["true", "false", "prebuilt_state"]
Web = Literal["snapshot", "browser", "live"]
Observation = Literal["a11y", "screenshot", "mixed"]
Source = Literal["auto", "system", "wheel"]

Ability = Literal["information acquisition", "state verification", "process verification"]
# The paper names the three abilities; which domain asks for which is our reading of it.
ABILITIES: dict[str, Ability] = {
    "Search": "information acquisition",
    "DS": "state verification",
    "GUI": "process verification",
}


@dataclass(frozen=True)
class Call:
    """One tool call of the judged agent.

    Attributes:
        name: of the tool.
        arguments: what it was called with; None where the trajectory holds no JSON object.
        result: what the trajectory says came back; None where it says nothing.
    """

    name: str
    arguments: Mapping[str, Any] | None
    result: str | None = None


@dataclass(frozen=True)
class Step:
    """One turn of the judged agent: what it said, then what it called."""

    text: str
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True)
class Unit:
    """What is judged, and its label.

    Attributes:
        id: unique in a set.
        subdomain: one of `SUBDOMAINS`; sets of one's own may have others.
        task: units of one task are not independent.
        instruction: what the agent was asked to do.
        label: whether the trajectory, or the item of a search answer, is right.
        steps: the trajectory; empty for Search.
        item: of a search answer: the row or claim that is judged.
        response: the whole search answer, where the data has it.
        meta: the task's definition and where the unit comes from, as JSON values.
    """

    id: str
    subdomain: str
    task: str
    instruction: str
    label: bool
    steps: tuple[Step, ...] = ()
    item: str = ""
    response: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def domain(self) -> str:
        """The part of the sub-domain before the hyphen."""
        return self.subdomain.partition("-")[0]

    @property
    def calls(self) -> tuple[Call, ...]:
        """All tool calls, in order."""
        return tuple(call for step in self.steps for call in step.calls)
