"""A planner that knows the whole state: the oracle for demonstrations and upper bounds."""

import itertools
from collections.abc import Iterable

from jaxlab.envs.household.pddl import Atom, GameError
from jaxlab.envs.household.play import State
from jaxlab.envs.household.world import World

_TREATMENTS = {"isclean": ("clean", "sinks"), "ishot": ("heat", "microwaves")}
_TREATMENTS["iscool"] = ("cool", "fridges")


def plan(state: State) -> tuple[str, ...]:
    """Commands that win from `state`: the shortest found over the ways to reach the goal.

    Things are fetched one after the other, so that the plan is short but not always the shortest.

    Raises:
        GameError: if none of the ways can be walked.
    """
    tried = (_walk(state, yes) for yes, no in state.world.ways if not no)
    plans = [commands for commands in tried if commands is not None]
    if not plans:
        raise GameError("no plan reaches the goal")
    best = min(plans, key=len)
    return tuple(best)


class _Hand:
    """Commands collected while a copy of the state carries them out."""

    def __init__(self, state: State) -> None:
        self.state, self.world = state.copy(), state.world
        self.commands: list[str] = []

    def do(self, command: str) -> bool:
        """Carry out a command; False where it is not admissible."""
        if command not in self.state.admissible():
            return False
        self.state.act(command)
        self.commands.append(command)
        return True

    def go(self, place: str) -> bool:
        return self.state.location == self.world.where[place] or self.do(
            f"go to {self.world.names[place]}"
        )

    def reach(self, place: str) -> bool:
        """Go there and have it open."""
        if not self.go(place):
            return False
        closed = place in self.world.openable and place not in self.state.opened
        return not closed or self.do(f"open {self.world.names[place]}")

    def put(self, place: str) -> bool:
        names, words = self.world.names, self.world.words
        held = self.state.held
        if held is None or not self.reach(place):
            return False
        return self.do(words.put.replace("{o}", names[held]).replace("{r}", names[place]))

    def free(self) -> bool:
        """Have empty hands."""
        held = self.state.held
        if held is None:
            return True
        fits = [r for o, r in sorted(self.world.fits) if o == held]
        # Where one stands if that is possible; anywhere else otherwise.
        fits.sort(key=lambda r: self.world.where.get(r) != self.state.location)
        return any(self.put(place) for place in fits if place in self.world.where)

    def fetch(self, thing: str) -> bool:
        if self.state.held == thing:
            return True
        place = next((r for r, found in self.state.inside.items() if thing in found), None)
        if place is None or not self.free() or not self.reach(place):
            return False
        return self.do(f"take {self.world.names[thing]} from {self.world.names[place]}")

    def treat(self, thing: str, state: str) -> bool:
        names, facts = self.world.names, self.state.facts
        if (state, thing) in facts:
            return True
        if state == "issliced":
            spots = [l for l, found in self.state.floor.items() if thing in found]
            knives = [k for k in sorted(self.world.knives) if k != thing]
            for knife, spot in itertools.product(knives, spots):
                place = next(iter(self.world.at.get(spot, ())), None)
                if place is not None and self.fetch(knife) and self.go(place):
                    return self.do(f"slice {names[thing]} with {names[knife]}")
            return False
        verb, tools = _TREATMENTS[state]
        for tool in sorted(getattr(self.world, tools)):
            if self.fetch(thing) and self.go(tool):
                return self.do(f"{verb} {names[thing]} with {names[tool]}")
        return False


def _walk(state: State, way: Iterable[Atom]) -> list[str] | None:
    hand = _Hand(state)
    wanted = sorted(way)
    done: dict[str, list[str]] = {}
    for head, *args in wanted:
        if head in _TREATMENTS or head == "issliced":
            done.setdefault(args[0], []).append(head)
    # Cutting comes first: it takes a knife in hand and the thing in its place.
    for thing, states in done.items():
        if "issliced" in states and not hand.treat(thing, "issliced"):
            return None
    for head, *args in wanted:
        if head != "inreceptacle":
            continue
        thing, place = args
        for treatment in done.get(thing, []):
            if not hand.treat(thing, treatment):
                return None
        if thing not in hand.state.inside[place] and not (hand.fetch(thing) and hand.put(place)):
            return None
    for head, *args in wanted:
        if head == "holds" and not hand.fetch(args[1]):
            return None
    for head, *args in wanted:
        if head == "istoggled" and (head, *args) not in hand.state.facts:
            at = _place_of(hand.world, hand.state, args[0])
            if at is None or not hand.go(at):
                return None
            if not hand.do(f"use {hand.world.names[args[0]]}"):
                return None
    for head, *args in wanted:
        if head == "atlocation" and args[1] != hand.state.location:
            there = next(iter(hand.world.at.get(args[1], ())), None)
            if there is None or not hand.go(there):
                return None
    return hand.commands if hand.state.won() else None


def _place_of(world: World, state: State, thing: str) -> str | None:
    return next(
        (r for r, found in state.inside.items() if thing in found and r in world.where), None
    )
