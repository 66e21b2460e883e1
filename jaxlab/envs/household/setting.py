"""One game set in one room: what the task is about, where things lie, and the PDDL of it."""

import dataclasses
import random

from jaxlab.envs.household import catalogue
from jaxlab.envs.household.catalogue import CONTENTS, LAMP
from jaxlab.envs.household.rooms import Room, smaller, type_of

TEMPLATES = {
    "pick_and_place_simple": ("put a {o} in {r}.", "put some {o} on {r}."),
    "look_at_obj_in_light": ("look at {o} under the {l}.", "examine the {o} with the {l}."),
    "pick_clean_then_place_in_recep": (
        "put a clean {o} in {r}.",
        "clean some {o} and put it in {r}.",
    ),
    "pick_heat_then_place_in_recep": ("put a hot {o} in {r}.", "heat some {o} and put it in {r}."),
    "pick_cool_then_place_in_recep": ("put a cool {o} in {r}.", "cool some {o} and put it in {r}."),
    "pick_two_obj_and_place": ("put two {o} in {r}.", "find two {o} and put them in {r}."),
}
# Family -> the things it is about, the tool it takes, and the facts that its goal asks for.
_TREATED = {
    "pick_clean_then_place_in_recep": (catalogue.CLEANABLE, "SinkBasin", "cleanable", "isClean"),
    "pick_heat_then_place_in_recep": (catalogue.HEATABLE, "Microwave", "heatable", "isHot"),
    "pick_cool_then_place_in_recep": (catalogue.COOLABLE, "Fridge", "coolable", "isCool"),
}
_PROPERTIES = {
    "cleanable": catalogue.CLEANABLE,
    "heatable": catalogue.HEATABLE,
    "coolable": catalogue.COOLABLE,
    "sliceable": catalogue.SLICEABLE,
    "isReceptacleObject": catalogue.HOLLOW,
}
# The domain speaks of these types, so that the planner asks for their declaration.
_OTYPES = ("ButterKnifeType", "KnifeType")
_RTYPES = ("FridgeType", "MicrowaveType", "SinkBasinType", "SinkType")
_START = "loc|0|0|0|0"
_SPELT = str.maketrans({"-": "_minus_", "|": "_bar_", "+": "_plus_", ".": "_dot_"})


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large games are; the defaults are ALFWorld's own sizes.

    Attributes:
        receptacles: at most so many in a room; None: all.
        things: at most so many types of things in a room; None: all.
        copies: at most so many things of a type.
        habit: probability that a thing lies where its type usually lies in that room, which
            nothing but experience tells. 0: anywhere, as in ALFWorld.
    """

    receptacles: int | None = None
    things: int | None = None
    copies: int = 3
    habit: float = 0.0


@dataclasses.dataclass(frozen=True)
class Setting:
    """Name, task and PDDL of a game."""

    name: str
    task: str
    problem: str


def targets(family: str, room: Room) -> list[tuple[str, str]]:
    """(type of thing, type of receptacle) pairs that a task of the family can be about.

    The thing can lie somewhere else than where it is to be put. Of "look_at_obj_in_light" the
    receptacle is empty.
    """
    kinds = {type_of(name) for name, _ in room.receptacles}
    things = [t for t in room.things if t != LAMP]
    if family == "look_at_obj_in_light":
        if LAMP not in room.things or not kinds & set(catalogue.LAMP_PLACES):
            return []
        return [(t, "") for t in things if any(t in CONTENTS[k] for k in kinds)]
    able, tool, *_ = _TREATED.get(family, (catalogue.THINGS, ""))
    if tool and tool not in kinds:
        return []
    pairs = []
    for thing in things:
        fits = sorted(k for k in kinds if thing in CONTENTS[k])
        if thing in able and len(fits) > 1:
            pairs += [(thing, place) for place in fits if place != tool]
    return pairs


def setting(family: str, room: Room, sizes: Sizes, rng: random.Random) -> Setting | None:
    """A game in a room; None if the room can hold none of the family."""
    room = smaller(room, sizes.receptacles, sizes.things)
    pairs = targets(family, room)
    if not pairs:
        return None
    # First the thing: otherwise most tasks would be about what fits everywhere.
    thing = rng.choice(sorted({thing for thing, _ in pairs}))
    place = rng.choice([p for t, p in pairs if t == thing])
    lying: dict[str, str] = {}
    for kind in room.things:
        for copy in range(_copies(kind, thing, family, sizes, rng)):
            spots = _spots(kind, room, without=place if kind == thing else "")
            if spots:
                lying[_thing_id(kind, copy, rng)] = _spot(kind, spots, room, sizes.habit, rng)
    words = {"o": thing.lower(), "r": place.lower(), "l": LAMP.lower()}
    task = rng.choice(TEMPLATES[family]).format(**words)
    goal_place = place or LAMP
    name = f"{family}-{thing}-None-{goal_place}-{room.number}"
    return Setting(name, task, _pddl(room, lying, _goal(family, thing, place)))


def _copies(kind: str, thing: str, family: str, sizes: Sizes, rng: random.Random) -> int:
    if kind == LAMP:
        return 1
    needed = 2 if kind == thing and family == "pick_two_obj_and_place" else 1
    return rng.randint(needed, max(needed, sizes.copies))


def _spots(kind: str, room: Room, without: str) -> list[str]:
    if kind == LAMP:
        return [r for r, _ in room.receptacles if type_of(r) in catalogue.LAMP_PLACES]
    return [
        r for r, _ in room.receptacles if kind in CONTENTS[type_of(r)] and type_of(r) != without
    ]


def _spot(kind: str, spots: list[str], room: Room, habit: float, rng: random.Random) -> str:
    # Drawn in any case, so that a habit of 0 and one of 1 differ in nothing else.
    anywhere, usual = rng.choice(spots), rng.random() < habit
    if not usual:
        return anywhere
    order = _spots(kind, room, without="")
    random.Random(f"habit {room.number} {kind}").shuffle(order)
    return next(spot for spot in order if spot in spots)


def _thing_id(kind: str, copy: int, rng: random.Random) -> str:
    # The copy's number keeps ids apart; the coordinates shuffle which copy is called "1".
    x, z = rng.uniform(-3, 3), rng.uniform(-3, 3)
    return f"{kind}|{x:+06.2f}|+{copy:02d}.90|{z:+06.2f}"


def spelt(name: str) -> str:
    """An id in ALFWorld's spelling: `Cabinet_bar__plus_00_dot_68...`."""
    return name.translate(_SPELT)


def _goal(family: str, thing: str, place: str) -> str:
    if family == "look_at_obj_in_light":
        return f"""(and
    (exists (?ot - object ?r - receptacle ?a - agent ?l - location) (and
      (objectType ?ot {LAMP}Type) (toggleable ?ot) (isToggled ?ot)
      (receptacleAtLocation ?r ?l) (atLocation ?a ?l) (inReceptacle ?ot ?r)))
    (exists (?o - object ?a - agent) (and (objectType ?o {thing}Type) (holds ?a ?o))))"""
    there = f"(objectType ?o {thing}Type) (receptacleType ?r {place}Type) (inReceptacle ?o ?r)"
    if family == "pick_two_obj_and_place":
        one, two = there.replace("?o", "?o1"), there.replace("?o", "?o2")
        return f"""(and (exists (?r - receptacle) (exists (?o1 - object) (and
    {one}
    (exists (?o2 - object) (and (not (= ?o1 ?o2))
      {two}))))))"""
    able, state = _TREATED[family][2:] if family in _TREATED else ("", "")
    treated = f"({able} ?o) ({state} ?o) " if able else ""
    return f"(and (exists (?r - receptacle) (exists (?o - object) (and\n    {treated}{there}))))"


def _pddl(room: Room, lying: dict[str, str], goal: str) -> str:
    where = dict(room.receptacles)
    kinds = {name: name.split("|", 1)[0] for name in lying}
    places = {name: type_of(name) for name in where}
    otypes = sorted({f"{kind}Type" for kind in kinds.values()} | set(_OTYPES))
    rtypes = sorted({f"{kind}Type" for kind in places.values()} | set(_RTYPES))
    objects = [
        "agent1 - agent",
        *(f"{kind} - otype" for kind in otypes),
        *(f"{kind} - rtype" for kind in rtypes),
        *(f"{spelt(name)} - object" for name in sorted(lying)),
        *(f"{spelt(name)} - receptacle" for name in sorted(where)),
        *(f"{spelt(loc)} - location" for loc in sorted({_START, *where.values()})),
    ]
    facts = [f"atLocation agent1 {spelt(_START)}"]
    facts += [f"receptacleType {spelt(name)} {kind}Type" for name, kind in sorted(places.items())]
    facts += [f"objectType {spelt(name)} {kind}Type" for name, kind in sorted(kinds.items())]
    facts += [
        f"canContain {place}Type {kind}Type"
        for place in sorted(set(places.values()))
        for kind in sorted(set(kinds.values()) & CONTENTS[place])
    ]
    facts += [f"pickupable {spelt(name)}" for name, kind in sorted(kinds.items()) if kind != LAMP]
    facts += [f"toggleable {spelt(name)}" for name, kind in sorted(kinds.items()) if kind == LAMP]
    for able, types in _PROPERTIES.items():
        facts += [f"{able} {spelt(name)}" for name, kind in sorted(kinds.items()) if kind in types]
    opens = sorted(name for name, kind in places.items() if kind in catalogue.OPENABLE)
    facts += [f"openable {spelt(name)}" for name in opens]
    facts += [f"inReceptacle {spelt(name)} {spelt(spot)}" for name, spot in sorted(lying.items())]
    facts += [f"receptacleAtLocation {spelt(n)} {spelt(loc)}" for n, loc in sorted(where.items())]
    facts += [f"objectAtLocation {spelt(n)} {spelt(where[s])}" for n, s in sorted(lying.items())]
    shown = "\n    ".join(objects), "\n    ".join(f"({fact})" for fact in facts)
    return (
        f"(define (problem plan_{room.number})\n  (:domain alfred)\n  (:objects\n    {shown[0]})\n"
        f"  (:init\n    {shown[1]})\n  (:goal {goal}))\n"
    )
