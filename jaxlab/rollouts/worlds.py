"""What a trainer of agents asks of a world: tasks by number, a panel, and environments."""

from collections.abc import Sequence
from typing import Annotated, Any, Protocol

from jaxlab.config import by
from jaxlab.envs.protocol import Environment
from jaxlab.rollouts import household, shopping
from jaxlab.rollouts.household import Games
from jaxlab.rollouts.shopping import Shopping

World = Annotated[Games | Shopping, by("name")]


class Told(Protocol):
    """A task."""

    @property
    def id(self) -> str:
        """Names it."""

    @property
    def task(self) -> str:
        """What is to be done."""

    @property
    def family(self) -> str:
        """By which results are grouped."""


class Source(Protocol):
    """The tasks of a world."""

    @property
    def panel(self) -> Sequence[tuple[str, Any]]:
        """(split, task) pairs that are evaluated."""

    @property
    def count(self) -> int:
        """Tasks of training."""

    @property
    def train(self) -> Any:
        """Number -> task of training."""

    def load(self, told: Any, /) -> Environment:
        """An environment of a task."""

    def digest(self) -> str:
        """sha256 of the panel."""


def source(options: Games | Shopping) -> Source:
    """The tasks that options describe.

    Raises:
        ValueError, FileNotFoundError: a file is malformed, or there are no tasks.
    """
    if isinstance(options, Shopping):
        return shopping.Source(options)
    return household.Source(options)
