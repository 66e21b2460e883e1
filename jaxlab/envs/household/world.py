"""A game's settled facts: names, places, what fits where, and how its goal is reached."""

import collections
from collections.abc import Iterable

from jaxlab.envs.household import goals
from jaxlab.envs.household.pddl import GameError, Problem
from jaxlab.envs.household.wording import Wording

INTRO = "-= Welcome to TextWorld, ALFRED! =-"
KNIVES = ("knifetype", "butterknifetype")


def names_of(ids: Iterable[str]) -> dict[str, str]:
    """Names as ALFWorld's demangler gives them without shuffling: of n cabinets, sorted by id, the
    first is `cabinet n` and the last `cabinet 1`. An id without `_bar_` keeps its name, and is
    followed by a space.
    """
    found, order = {}, sorted(ids)
    left: collections.Counter[str] = collections.Counter()
    kinds = {}
    for name in order:
        kind, bar, _ = name.partition("_bar_")
        if bar:
            # The basin of a sink bears the sink's name first.
            kinds[name] = kind + "basin" * ("basin" in name)
            left[kinds[name]] += 1
    for name in order:
        if name not in kinds:
            found[name] = name.replace("_minus_", "-").replace("_plus_", "+") + " "
            continue
        found[name] = f"{kinds[name]} {left[kinds[name]]}"
        left[kinds[name]] -= 1
    return found


def listed(things: Iterable[str]) -> str:
    """`a mug 1, a pan 2, and a pot 1`; nothing at all is "nothing"."""
    items = [f"a {thing}" for thing in things]
    if len(items) < 2:
        return items[0] if items else "nothing"
    return ", ".join(items[:-1]) + ", and " + items[-1]


class World:
    """What does not change in a game, looked up by id; `play.State` is what does.

    Attributes:
        names: id -> name. Ids sort as the engine lists things.
        at: location -> the receptacles there, sorted.
        where: receptacle -> its location.
        goto: location -> the commands that leave it, sorted.
        fits: (object, receptacle) pairs for which the one may be put into the other.
        openable, pickupable, ...: the ids that have this property.
        ways: the goal; see `goals.ways`.
        start: the facts that hold at the beginning and may change.
    """

    def __init__(self, problem: Problem, words: Wording, task: str) -> None:
        """Raises: GameError: if the facts are not of a room with one agent."""
        self.words, self.task = words, task
        facts = frozenset(problem.facts)
        by_head: dict[str, list[tuple[str, ...]]] = {}
        for fact in problem.facts:
            by_head.setdefault(fact[0], []).append(fact[1:])
        self._check(by_head, problem)
        self.names = names_of({name for fact in problem.facts for name in fact[1:]})
        kinds: dict[str, dict[str, str]] = {"object": {}, "receptacle": {}}
        for name, shown in self.names.items():
            kind = problem.types[name]
            if kind in kinds and kinds[kind].setdefault(shown, name) != name:
                raise GameError(f"two things would be called {shown!r}")
        # What commands name; a thing and a place never share one.
        self.called = {shown: name for found in kinds.values() for shown, name in found.items()}
        agents = by_head.get("atlocation", [])
        if len(agents) != 1:
            raise GameError(f"{len(agents)} agents have a location; one was expected")
        self.agent, self.location = agents[0]

        self.at: dict[str, tuple[str, ...]] = {}
        self.where: dict[str, str] = {}
        for place, location in sorted(by_head.get("receptacleatlocation", [])):
            if self.where.setdefault(place, location) != location:
                raise GameError(f"the receptacle {place} is in two locations")
            self.at[location] = (*self.at.get(location, ()), place)

        def having(head: str) -> frozenset[str]:
            return frozenset(args[0] for args in by_head.get(head, []))

        self.openable, self.pickupable = having("openable"), having("pickupable")
        self.cleanable, self.heatable = having("cleanable"), having("heatable")
        self.coolable, self.sliceable = having("coolable"), having("sliceable")
        self.toggleable, self.hollow = having("toggleable"), having("isreceptacleobject")
        types = by_head.get("receptacletype", [])
        self.sinks = frozenset(r for r, t in types if t in words.sinks)
        self.microwaves = frozenset(r for r, t in types if t == "microwavetype")
        self.fridges = frozenset(r for r, t in types if t == "fridgetype")
        things = by_head.get("objecttype", [])
        self.knives = frozenset(o for o, t in things if t in KNIVES)
        room = {(r, t) for r, t in by_head.get("cancontain", [])}
        self.fits = frozenset((o, r) for o, ot in things for r, rt in types if (rt, ot) in room)
        within: dict[str, list[str]] = {}
        for inner, outer in sorted(by_head.get("inreceptacleobject", [])):
            within.setdefault(outer, []).append(self.names[inner])
        self.within = {o: listed(found) for o, found in within.items()}

        everywhere = sorted(f"go to {self.names[r]}" for r in self.where)
        self.goto = {self.location: tuple(everywhere)}
        for location, places in self.at.items():
            here = {f"go to {self.names[r]}" for r in places}
            self.goto[location] = tuple(c for c in everywhere if c not in here)
        self.start = frozenset(f for f in facts if f[0] in goals.CHANGING)
        self.ways = goals.ways(problem.goal, problem.types, facts)
        self.overview = listed(self.names[r] for r in sorted(self.where))

    @staticmethod
    def _check(by_head: dict[str, list[tuple[str, ...]]], problem: Problem) -> None:
        """Facts of the rules have as many arguments, of the types, that the rules expect."""
        for head, kinds in _ARGUMENTS.items():
            for args in by_head.get(head, []):
                found = tuple(problem.types[name] for name in args)
                if found != kinds:
                    raise GameError(
                        f":init has ({head} {' '.join(args)}) of {found}; it is of {kinds}"
                    )
        if by_head.get("holds") or by_head.get("holdsany"):
            raise GameError("the agent begins with something in its hands")


_ARGUMENTS = {
    "atlocation": ("agent", "location"),
    "receptacleatlocation": ("receptacle", "location"),
    "objectatlocation": ("object", "location"),
    "inreceptacle": ("object", "receptacle"),
    "inreceptacleobject": ("object", "object"),
    "receptacletype": ("receptacle", "rtype"),
    "objecttype": ("object", "otype"),
    "cancontain": ("rtype", "otype"),
    "openable": ("receptacle",),
    "opened": ("receptacle",),
    **dict.fromkeys(
        (
            "isreceptacleobject",
            "isclean",
            "ishot",
            "iscool",
            "ison",
            "istoggled",
            "issliced",
            "cleanable",
            "heatable",
            "coolable",
            "pickupable",
            "toggleable",
            "sliceable",
        ),
        ("object",),
    ),
}
