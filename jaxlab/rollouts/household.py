"""Household games as tasks of a trainer: those of training, by number, and the panel."""

import dataclasses
import functools
import pathlib
from typing import Literal

from jaxlab import ranges
from jaxlab.envs import household
from jaxlab.envs.household import Game, GameError, generate
from jaxlab.envs.household.rooms import Room
from jaxlab.envs.household.setting import Sizes
from jaxlab.envs.protocol import Environment


@dataclasses.dataclass(frozen=True)
class Games:
    """Which games are played.

    Attributes:
        rooms: of generated games: AI2-THOR's ("alfworld") or "made_up" ones.
        train: a folder of game.tw-pddl files that are played in place of generated games.
        test: the same for the panel; with neither the panel is generated.
        engine: "fast": our rules; "textworld": ALFWorld itself (extra `agents`).
        max_steps: actions after which a game is lost.
        kind_rooms: so many rooms of each kind, seen and unseen; None: all.
        sizes: of generated games.
        panel: games that are evaluated: half in rooms of training, half in others; of a folder the
            first. 240 of ALFWorld's own size are the panel whose digest is checked.
    """

    rooms: generate.Inventory = "made_up"
    train: str | None = None
    test: str | None = None
    engine: Literal["fast", "textworld"] = "fast"
    max_steps: int = 50
    kind_rooms: int | None = None
    sizes: Sizes = dataclasses.field(default_factory=Sizes)
    panel: int = 240
    name: Literal["household"] = "household"

    def __post_init__(self) -> None:
        """Check counts."""
        ranges.check_choices(self)
        ranges.check_counts(self, "max_steps", "kind_rooms", "panel")


class Source:
    """The games that options describe."""

    def __init__(self, options: Games):
        """Look at folders and rooms.

        Raises:
            GameError, FileNotFoundError, ValueError: a file is malformed, there are no games, or no
                inventory of rooms.
        """
        self.options = options
        self._files = None if options.train is None else files(options.train, options.engine)
        self.panel = self._panel()
        self.train = functools.lru_cache(maxsize=4096)(self._train)
        self.train(0)

    @property
    def count(self) -> int:
        """Games of training; generated ones never end."""
        return 1 << 20 if self._files is None else len(self._files)

    def _train(self, number: int) -> Game:
        """A game of training, a function of its number."""
        if self._files is not None:
            return self._files[number]
        return generate.game("train", number, self._among, self.options.sizes)

    def load(self, game: Game) -> Environment:
        """An environment that plays it."""
        return household.load(game, self.options.engine, self.options.max_steps)

    def digest(self) -> str:
        """sha256 of the panel."""
        return generate.digest(game for _, game in self.panel)

    @functools.cached_property
    def _among(self) -> tuple[Room, ...]:
        every = generate.inventory(self.options.rooms)
        if self.options.kind_rooms is None:
            return every
        kept: dict[tuple[str, bool], list[Room]] = {}
        for room in every:
            kept.setdefault((room.kind, room.unseen), []).append(room)
        return tuple(room for rooms in kept.values() for room in rooms[: self.options.kind_rooms])

    def _panel(self) -> tuple[tuple[str, Game], ...]:
        """(split, game) pairs."""
        options = self.options
        if options.test is not None:
            found = files(options.test, options.engine)[: options.panel]
            return tuple(("test", game) for game in found)
        own = options.sizes == Sizes() and options.kind_rooms is None
        if own and options.panel == generate.PANEL:
            games = generate.panel(options.rooms)
            half = len(games) // 2
            return tuple(("seen" if i < half else "unseen", g) for i, g in enumerate(games))
        splits: tuple[generate.Split, ...] = ("seen", "unseen")
        return tuple(
            (split, generate.game(split, i, self._among, options.sizes))
            for split in splits
            for i in range(max(options.panel // 2, 1))
        )


@functools.lru_cache(maxsize=4)
def files(folder: str, engine: str) -> tuple[Game, ...]:
    """The games of a folder that can be won, by path.

    Raises:
        FileNotFoundError: there is no such folder, or no game in it.
        GameError: a file is no game.
    """
    root = pathlib.Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"{folder}: is no folder of games")
    read = (
        household.read(p, any_rules=engine == "textworld")
        for p in sorted(root.rglob("game.tw-pddl"))
    )
    found = tuple(game for game in read if game.solvable is not False)
    if not found:
        raise GameError(f"{folder}: has no game.tw-pddl of a game that can be won")
    return found
