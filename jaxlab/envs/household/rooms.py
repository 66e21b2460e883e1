"""Rooms that games are set in: the inventories of AI2-THOR's floor plans, or made-up ones."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import random
from collections.abc import Iterable

from jaxlab.envs.household.catalogue import CONTENTS, LAMP, ROOMS, THINGS
from jaxlab.envs.household.pddl import GameError

LAYOUTS = "JAXLAB_ALFWORLD_LAYOUTS"


@dataclasses.dataclass(frozen=True)
class Room:
    """A floor plan.

    Attributes:
        number: of AI2-THOR's FloorPlan.
        receptacles: (id as `Cabinet|+00.68|+00.50|-02.20`, location as `loc|0|-5|2|30`), sorted.
        things: types of things that lie in it, sorted; a lamp among them.
    """

    number: int
    receptacles: tuple[tuple[str, str], ...]
    things: tuple[str, ...]

    @property
    def kind(self) -> str:
        """ "kitchen", "living room", "bedroom" or "bathroom"."""
        return next(k for k, (first, last) in ROOMS.items() if first <= self.number <= last)

    @property
    def unseen(self) -> bool:
        """Whether it is kept for evaluation: the first six of a kind, as in ALFWorld."""
        return self.number % 100 <= 6


def type_of(receptacle: str) -> str:
    """The type in an id: `Sink|-01.9|...|SinkBasin` is a SinkBasin."""
    first, *rest = receptacle.split("|")
    return rest[-1] if rest and rest[-1].endswith("Basin") else first


def find() -> pathlib.Path:
    """The folder of inventories: what the variable names, or the installed ALFWorld's.

    Raises:
        FileNotFoundError: if there is neither.
    """
    named = os.environ.get(LAYOUTS)
    if named:
        return pathlib.Path(named)
    spec = importlib.util.find_spec("alfworld")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            "no room inventories: pip install 'jaxlab[agents]', which brings ALFWorld's, or name "
            f"a folder of FloorPlanN-objects.json files in {LAYOUTS}"
        )
    return pathlib.Path(next(iter(spec.submodule_search_locations))) / "gen" / "layouts"


def read(folder: str | os.PathLike[str]) -> tuple[Room, ...]:
    """The rooms of a folder with `FloorPlanN-objects.json` and `FloorPlanN-openable.json`.

    A receptacle that is in the inventory but has no place in it, such as a coffee machine, gets
    one of its own.

    Raises:
        GameError: if a file is malformed, or there is none.
    """
    found = []
    for path in sorted(pathlib.Path(folder).glob("FloorPlan*-objects.json")):
        number = path.name.removeprefix("FloorPlan").removesuffix("-objects.json")
        places = path.with_name(f"FloorPlan{number}-openable.json")
        try:
            things = json.loads(path.read_text(encoding="utf-8"))
            points = json.loads(places.read_text(encoding="utf-8"))
            placed = {
                name: f"loc|{round(x / 0.25)}|{round(z / 0.25)}|{round(turn / 90)}|{round(tilt)}"
                for name, (x, z, turn, tilt) in points.items()
            }
            if not isinstance(things, list) or not number.isdigit():
                raise TypeError("it is no list of types")
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise GameError(f"{path}: no inventory of a room: {error}") from None
        placed = {name: loc for name, loc in placed.items() if type_of(name) in CONTENTS}
        missing = sorted((set(things) & set(CONTENTS)) - {type_of(name) for name in placed})
        placed |= dict(_own_place(kind, i) for i, kind in enumerate(missing))
        kept = sorted((set(things) & THINGS) | (set(things) & {LAMP}))
        found.append(Room(int(number), tuple(sorted(placed.items())), tuple(kept)))
    if not found:
        raise GameError(f"{folder}: has no FloorPlanN-objects.json")
    return tuple(sorted(found, key=lambda room: room.number))


def _own_place(kind: str, index: int) -> tuple[str, str]:
    owner = kind.removesuffix("Basin")
    basin = f"|{kind}" if owner != kind else ""
    return f"{owner}|+{index:02d}.50|+01.00|+09.00{basin}", f"loc|{40 + index}|36|0|30"


# Kind of room -> type of receptacle -> least and greatest number.
_FURNITURE: dict[str, dict[str, tuple[int, int]]] = {
    "kitchen": {
        "Cabinet": (4, 8),
        "CoffeeMachine": (1, 1),
        "CounterTop": (2, 3),
        "DiningTable": (0, 1),
        "Drawer": (2, 5),
        "Fridge": (1, 1),
        "GarbageCan": (1, 1),
        "Microwave": (1, 1),
        "Shelf": (0, 3),
        "SinkBasin": (1, 1),
        "StoveBurner": (2, 4),
        "Toaster": (1, 1),
    },
    "living room": {
        "ArmChair": (1, 2),
        "Cabinet": (0, 3),
        "CoffeeTable": (1, 1),
        "DiningTable": (0, 1),
        "Drawer": (1, 4),
        "GarbageCan": (1, 1),
        "Shelf": (0, 3),
        "SideTable": (1, 3),
        "Sofa": (1, 1),
        "TVStand": (0, 1),
    },
    "bedroom": {
        "Bed": (1, 1),
        "Desk": (1, 1),
        "Drawer": (3, 6),
        "Dresser": (0, 1),
        "GarbageCan": (1, 1),
        "LaundryHamper": (0, 1),
        "Safe": (0, 1),
        "Shelf": (2, 5),
        "SideTable": (1, 2),
    },
    "bathroom": {
        "BathtubBasin": (0, 1),
        "Cabinet": (2, 4),
        "CounterTop": (1, 1),
        "Drawer": (0, 2),
        "GarbageCan": (1, 1),
        "HandTowelHolder": (1, 1),
        "Shelf": (0, 2),
        "SinkBasin": (1, 2),
        "Toilet": (1, 1),
        "ToiletPaperHanger": (1, 1),
        "TowelHolder": (1, 1),
    },
}
_LYING = {
    "kitchen": "Apple Bowl Bread ButterKnife Cup DishSponge Egg Fork Kettle Knife Lettuce Mug Pan "
    "PepperShaker Plate Pot Potato SaltShaker SoapBottle Spatula Spoon Tomato WineBottle",
    "living room": "Book Box CreditCard KeyChain Laptop Newspaper Pen Pencil Pillow Plate "
    "RemoteControl Statue TissueBox Vase Watch DeskLamp",
    "bedroom": "AlarmClock BaseballBat Book Bowl Box CD CellPhone CreditCard KeyChain Laptop Mug "
    "Pen Pencil Pillow TennisRacket Watch DeskLamp",
    "bathroom": "Candle Cloth DishSponge HandTowel PaperTowel Plunger SoapBar SoapBottle "
    "SprayBottle TissueBox ToiletPaper Towel",
}


def made_up() -> tuple[Room, ...]:
    """120 rooms of our own, numbered as AI2-THOR's: for where nothing is installed."""
    return tuple(
        _make_up(kind, number)
        for kind, (first, last) in ROOMS.items()
        for number in range(first, last + 1)
    )


def _make_up(kind: str, number: int) -> Room:
    rng = random.Random(f"room {number}")
    placed: dict[str, str] = {}
    for furniture, (least, most) in _FURNITURE[kind].items():
        owner = furniture.removesuffix("Basin")
        basin = f"|{furniture}" if owner != furniture else ""
        for _ in range(rng.randint(least, most)):
            x, z = len(placed) // 6 - 3, len(placed) % 6 - 3
            name = f"{owner}|{x / 4 + 0.13:+06.2f}|{rng.uniform(0, 2):+06.2f}|{z / 4:+06.2f}{basin}"
            placed[name] = f"loc|{x}|{z}|{rng.randrange(4)}|30"
    things = [thing for thing in _LYING[kind].split() if thing == LAMP or rng.random() < 0.8]
    return Room(number, tuple(sorted(placed.items())), tuple(sorted(things)))


def smaller(room: Room, receptacles: int | None, things: int | None) -> Room:
    """The room with at most so many receptacles and types of things.

    What a room is for stays: a kitchen keeps one fridge, one microwave and one sink, any room its
    lamp. The choice is the room's own: all games in it have the same.
    """
    rng = random.Random(f"smaller {room.number}")
    places = [*room.receptacles]
    rng.shuffle(places)
    first = _first_of_kind(places)
    places = (first + [p for p in places if p not in first])[:receptacles]
    # By turns what can be heated, cooled and cleaned, and the rest, so that every family is left.
    lying = [t for t in room.things if t != LAMP]
    rng.shuffle(lying)
    lying = lying[:things] + [t for t in room.things if t == LAMP]
    return Room(room.number, tuple(sorted(places)), tuple(sorted(lying)))


def _first_of_kind(places: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    kept: dict[str, tuple[str, str]] = {}
    for place in places:
        kept.setdefault(type_of(place[0]), place)
    needed = ("SinkBasin", "Microwave", "Fridge")
    return sorted(kept.values(), key=lambda place: type_of(place[0]) not in needed)
