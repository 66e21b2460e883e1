"""WebShop's goals as tasks of a trainer: those of training, by number, and the panel."""

import dataclasses
from typing import Literal

from jaxlab import ranges
from jaxlab.envs import webshop
from jaxlab.envs.protocol import Environment
from jaxlab.envs.webshop import Goal, ShopError

# In the order of WebShop's files its test set is followed by a development set of 1,000.
_TRAIN = 1500


@dataclasses.dataclass(frozen=True)
class Shopping:
    """Which goals are shopped for.

    Attributes:
        path: a folder with WebShop's own files, see `envs.webshop.files`; None: made-up products.
        products: so many of them; None: 1000 made-up ones, or all of the files.
        max_steps: actions after which an episode is lost.
        panel: goals that are evaluated, the first of the 200 of `generate.panel`, or of the files'
            test set.
    """

    path: str | None = None
    products: int | None = None
    max_steps: int = 15
    panel: int = 200
    name: Literal["webshop"] = "webshop"

    def __post_init__(self) -> None:
        """Check counts."""
        ranges.check_counts(self, "products", "max_steps", "panel")


class Source:
    """The goals that options describe.

    Attributes:
        panel: (split, goal) pairs.
        count: goals of training; made-up ones never end.
    """

    def __init__(self, options: Shopping):
        """Read the files, or make the products.

        Raises:
            ShopError: a file is missing or malformed, or there is nothing to train on.
        """
        self.options = options
        self._goals: tuple[Goal, ...] | None = None
        self.count = 1 << 20
        if options.path is None:
            self._shop = webshop.generate.shop(options.products or webshop.generate.PRODUCTS)
            test = webshop.generate.panel(self._shop)
        else:
            read = webshop.files.read(options.path, options.products)
            self._shop = webshop.Shop(read.products)
            self._goals = read.goals[_TRAIN:] or read.goals[webshop.files.TEST :]
            self.count = len(self._goals)
            test = read.goals[: webshop.files.TEST]
            if not self._goals:
                raise ShopError(
                    f"{options.path}: has {len(read.goals)} goals; training has those behind the "
                    f"{webshop.files.TEST} of the test set"
                )
        self.panel = tuple(("test", goal) for goal in test[: options.panel])
        self.train(0)

    def train(self, number: int) -> Goal:
        """A goal of training, a function of its number."""
        if self._goals is not None:
            return self._goals[number]
        return webshop.generate.training(self._shop, number)

    def load(self, goal: Goal) -> Environment:
        """An environment in which it is shopped for."""
        return webshop.WebShop(self._shop, goal, self.options.max_steps)

    def digest(self) -> str:
        """sha256 of the panel and the products."""
        return webshop.generate.digest_of(self._shop, tuple(goal for _, goal in self.panel))
