"""The interface of an environment, and a batch of environments that are stepped together."""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

CUT = " [...]"
_ANY_TEXT = re.compile(r"<\w+>")


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """What the world answers to an action, or to the beginning of an episode.

    Attributes:
        text: the observation.
        reward: of this step alone.
        done: whether the episode is over; nothing may be stepped after it.
        admissible: the commands that would do something now; empty where an environment takes
            any text. In one such as "search[<query>]" the part in angle brackets stands for any
            text; see `admits`.
        error: why the environment died, where it did; the episode then ends without reward.
    """

    text: str
    reward: float = 0.0
    done: bool = False
    admissible: tuple[str, ...] = ()
    error: str | None = None


class Environment(Protocol):
    """One episode at a time. Two calls, nothing to inherit."""

    def reset(self) -> Step:
        """Begin an episode."""

    def step(self, action: str, /) -> Step:
        """Act with one command; raises when the episode is over."""


def admits(admissible: Iterable[str], action: str) -> bool:
    """Whether an action is one of the commands, or one of them with a text for its <part>."""
    return any(action == command or _with_text(command, action) for command in admissible)


def _with_text(command: str, action: str) -> bool:
    pattern = _pattern(command) if "<" in command else None
    return pattern is not None and pattern.fullmatch(action) is not None


@functools.lru_cache(maxsize=1024)
def _pattern(command: str) -> re.Pattern[str] | None:
    parts = _ANY_TEXT.split(command)
    return re.compile("(?s:.+)".join(map(re.escape, parts))) if len(parts) > 1 else None


def bounded(text: object, limit: int) -> str:
    """`text` as a string of at most `limit` characters; what is cut off is marked."""
    text = text if isinstance(text, str) else repr(text)
    if len(text) <= limit:
        return text
    return (text[: limit - len(CUT)] + CUT) if limit >= len(CUT) else text[:limit]


@dataclasses.dataclass
class Batch:
    """Environments that are stepped together, of which each may fail alone.

    An environment that raises costs its episode, not the run: its step is `done` without reward
    and has the cause in `error`. Actions are cut before an environment sees them, observations
    before anybody else does.

    Attributes:
        environments: any number of them, of any kinds.
        max_action: characters of an action that reach the environment.
        max_text: characters of an observation that leave it.
        counts: how many steps were taken, how many actions and texts were cut, how many
            environments died.
    """

    environments: Sequence[Environment]
    max_action: int = 512
    max_text: int = 16384
    counts: dict[str, int] = dataclasses.field(
        default_factory=lambda: dict.fromkeys(("steps", "cut_actions", "cut_texts", "died"), 0)
    )

    def __post_init__(self) -> None:
        self._live = [False] * len(self.environments)

    @property
    def live(self) -> list[int]:
        """Indices of the episodes that go on."""
        return [i for i, live in enumerate(self._live) if live]

    def reset(self) -> list[Step]:
        """Begin an episode in every environment."""
        return [self.restart(i) for i in range(len(self.environments))]

    def restart(self, index: int) -> Step:
        """Begin an episode in one environment."""
        return self._guarded(index, self.environments[index].reset)

    def step(self, actions: Sequence[str | None]) -> list[Step | None]:
        """Act in every environment whose action is not None.

        Returns:
            One step per environment, None where there was no action.

        Raises:
            ValueError: if there is not one action per environment, or one for an episode that is
                over.
        """
        if len(actions) != len(self.environments):
            raise ValueError(f"{len(actions)} actions for {len(self.environments)} environments")
        over = [i for i, a in enumerate(actions) if a is not None and not self._live[i]]
        if over:
            raise ValueError(f"the episodes of environments {over} are over; reset them first")
        return [None if a is None else self._act(i, a) for i, a in enumerate(actions)]

    def _act(self, index: int, action: str) -> Step:
        self.counts["steps"] += 1
        if not isinstance(action, str) or len(action) > self.max_action:
            self.counts["cut_actions"] += 1
            action = bounded(action, self.max_action)
        step = self.environments[index].step
        return self._guarded(index, lambda: step(action))

    def _guarded(self, index: int, call: Callable[[], Step]) -> Step:
        try:
            step = call()
            if len(step.text) > self.max_text:
                self.counts["cut_texts"] += 1
                step = dataclasses.replace(step, text=bounded(step.text, self.max_text))
        except Exception as error:
            self.counts["died"] += 1
            cause = bounded(f"{type(error).__name__}: {error}", self.max_text)
            step = Step("", done=True, error=cause)
        self._live[index] = not step.done
        return step
