"""ALFWorld's rules: what may be done, what it changes and how the game tells of it."""

import bisect
import copy

from jaxlab.envs.household.pddl import Atom
from jaxlab.envs.household.world import INTRO, World, listed

NOTHING = "Nothing happens."
MIDDLE = "You are in the middle of a room. Looking quickly around you, you see {}."


class State:
    """A game that is being played.

    Attributes:
        facts: those that hold and may change; what the goal is read from.
        inside: receptacle -> what is in it, sorted by id.
        removed: (object, receptacle) pairs where the one was taken from the other and not put
            back; the game speaks of them when one looks around.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.location = world.location
        self.held: str | None = None
        self.facts: set[Atom] = set(world.start)
        self.inside: dict[str, list[str]] = {place: [] for place in world.where}
        self.opened: set[str] = set()
        self.removed: set[Atom] = set()
        self.floor: dict[str, list[str]] = {}
        for head, *args in world.start:
            if head == "inreceptacle":
                self.inside.setdefault(args[1], []).append(args[0])
            elif head == "opened":
                self.opened.add(args[0])
            elif head == "objectatlocation":
                self.floor.setdefault(args[1], []).append(args[0])
        for found in (*self.inside.values(), *self.floor.values()):
            found.sort()

    def copy(self) -> "State":
        """The same state, to go on from independently."""
        new = copy.copy(self)
        new.facts, new.opened, new.removed = set(self.facts), set(self.opened), set(self.removed)
        new.inside = {place: list(found) for place, found in self.inside.items()}
        new.floor = {location: list(found) for location, found in self.floor.items()}
        return new

    def won(self) -> bool:
        """Whether the goal is reached."""
        facts = self.facts
        # A loop: this is asked after every command, and any() would cost more than the test.
        for yes, no in self.world.ways:  # noqa: SIM110
            if yes <= facts and not (no and no & facts):
                return True
        return False

    def intro(self) -> str:
        """The first text of a game."""
        middle = not self.world.at.get(self.location)
        look = MIDDLE.format(self.world.overview) if middle else self._look()
        return f"{INTRO}\n\n{look}\n\nYour task is to: {self.world.task}"

    def _open(self, place: str) -> bool:
        return place in self.opened or place not in self.world.openable

    def admissible(self) -> tuple[str, ...]:
        """The commands that the rules allow now, sorted."""
        world, held, names = self.world, self.held, self.world.names
        here = world.at.get(self.location, ())
        openable, opened = world.openable, self.opened
        seen: list[tuple[str, str]] = []
        examine = [f"examine {names[r]}" for r in here]
        close, open_, put, use = [], [], [], []
        for place in here:
            if place not in openable:
                seen += [(thing, place) for thing in self.inside[place]]
            elif place in opened:
                seen += [(thing, place) for thing in self.inside[place]]
                close.append(f"close {names[place]}")
            else:
                open_.append(f"open {names[place]}")
            if world.toggleable:
                use += [f"use {names[o]}" for o in self.inside[place] if o in world.toggleable]
        clean, cool, heat, slice_, take = [], [], [], [], []
        if held is None:
            able = world.pickupable
            take = [f"take {names[o]} from {names[r]}" for o, r in seen if o in able]
            take.sort()
        else:
            name = names[held]
            # Only what is held: the domain's list of variables for what lies about has a comma,
            # which the planner takes for a part of the type's name.
            examine.append(f"examine {name}")
            for place in here:
                if (place not in openable or place in opened) and (held, place) in world.fits:
                    put.append(world.words.put.replace("{o}", name).replace("{r}", names[place]))
                if place in world.sinks and held in world.cleanable:
                    clean.append(f"clean {name} with {names[place]}")
                if place in world.fridges and held in world.coolable:
                    cool.append(f"cool {name} with {names[place]}")
                if place in world.microwaves and held in world.heatable:
                    heat.append(f"heat {name} with {names[place]}")
            for commands in (put, clean, cool, heat):
                commands.sort()
            if held in world.knives:
                able = world.sliceable
                things = self.floor.get(self.location, ())
                slice_ = [f"slice {names[o]} with {name}" for o in things if o in able]
                slice_.sort()
        examine.sort()
        move = put if world.words.put.startswith("move") else ()
        # Sorted by the verb; within one, above.
        return (
            *clean,
            *sorted(close),
            *cool,
            *examine,
            *world.goto[self.location],
            *heat,
            *(("help",) if world.words.help_text is not None else ()),
            "inventory",
            "look",
            *move,
            *sorted(open_),
            *(() if move else put),
            *slice_,
            *take,
            *sorted(set(use)),
        )

    def act(self, command: str) -> str:
        """Carry out one of the admissible commands.

        Returns:
            What the game says to it.
        """
        verb, _, rest = command.partition(" ")
        called = self.world.called
        if verb == "go":
            return self._go(called[rest[3:]])
        if verb == "look":
            return self._look()
        if verb == "inventory":
            if self.held is None:
                return "You are not carrying anything."
            return f"You are carrying: a {self.world.names[self.held]}."
        if verb == "help":
            return self.world.words.help_text or ""
        if verb == "examine":
            name = called[rest]
            return self._contents(name) if name in self.world.where else self._thing(name)
        if verb == "take":
            thing, place = (called[name] for name in rest.split(" from ", 1))
            return self._take(thing, place)
        if verb in ("move", "put"):
            thing, place = (
                called[name] for name in rest.split(" to " if verb == "move" else " in/on ", 1)
            )
            return self._put(thing, place)
        if verb in ("open", "close"):
            return self._door(called[rest], verb == "open")
        if verb == "use":
            return self._use(called[rest])
        thing, tool = (called[name] for name in rest.split(" with ", 1))
        return self._treat(verb, thing, tool)

    def _go(self, place: str) -> str:
        world = self.world
        self.facts.discard(("atlocation", world.agent, self.location))
        self.location = world.where[place]
        self.facts.add(("atlocation", world.agent, self.location))
        arrived = place if world.words.arrive == "receptacle" else self.location
        return f"You arrive at {world.names[arrived]}. {self._contents(place)}"

    def _look(self) -> str:
        names = self.world.names
        here = self.world.at.get(self.location)
        if not here:
            # The room's list asks for what is here, but in the first text for what is anywhere.
            return MIDDLE.format("nothing")
        beside = [
            names[thing]
            for thing in self.floor.get(self.location, ())
            for place in here
            if (thing, place) in self.removed
        ]
        # The list of one's whereabouts has no articles.
        facing = [names[place] for place in here]
        if len(facing) > 1:
            facing = [", ".join(facing[:-1]) + ", and " + facing[-1]]
        return f"You are facing the {facing[0]}. Next to it, you see {listed(beside)}."

    def _contents(self, place: str) -> str:
        name = self.world.names[place]
        if place in self.world.openable:
            if place not in self.opened:
                return f"The {name} is closed."
            before = f"The {name} is open. In it"
        else:
            before = f"On the {name}"
        names = self.world.names
        return f"{before}, you see {listed([names[thing] for thing in self.inside[place]])}."

    def _thing(self, thing: str) -> str:
        world, facts = self.world, self.facts
        name = world.names[thing]
        if thing in world.hollow:
            return f"This is a normal {name}. In it, you see {world.within.get(thing, 'nothing')}."
        clean = ("isclean", thing) in facts
        hot, cool = ("ishot", thing) in facts, ("iscool", thing) in facts
        sliced = "sliced " if ("issliced", thing) in facts else ""
        if clean and (hot or cool):
            return f"This is a {'hot' if hot else 'cool'} and clean {sliced}{name}."
        if sliced and (clean or hot or cool):
            return f"This is a {'clean' if clean else 'hot' if hot else 'cool'} sliced {name}."
        if hot or clean or cool:
            return f"This is a {'hot' if hot else 'clean' if clean else 'cold'} {name}."
        if thing in world.toggleable and ("istoggled", thing) in facts:
            return f"This {name} is on."
        if sliced and thing in world.sliceable:
            return f"This is a sliced {name}."
        return f"There's nothing special about {name}."

    def _take(self, thing: str, place: str) -> str:
        world = self.world
        self.inside[place].remove(thing)
        self.facts.discard(("inreceptacle", thing, place))
        self.removed.add((thing, place))
        self.held = thing
        self.facts.add(("holds", world.agent, thing))
        self.facts.add(("holdsany", world.agent))
        if ("objectatlocation", thing, self.location) in self.facts:
            self.facts.discard(("objectatlocation", thing, self.location))
            self.floor[self.location].remove(thing)
        return f"You pick up the {world.names[thing]} from the {world.names[place]}."

    def _put(self, thing: str, place: str) -> str:
        world = self.world
        if ("inreceptacle", thing, place) not in self.facts:
            bisect.insort(self.inside[place], thing)
        self.facts.add(("inreceptacle", thing, place))
        self.removed.discard((thing, place))
        self.held = None
        self.facts.discard(("holds", world.agent, thing))
        self.facts.discard(("holdsany", world.agent))
        if ("objectatlocation", thing, self.location) not in self.facts:
            self.facts.add(("objectatlocation", thing, self.location))
            bisect.insort(self.floor.setdefault(self.location, []), thing)
        text = world.words.put_text
        return text.replace("{o}", world.names[thing]).replace("{r}", world.names[place])

    def _door(self, place: str, opening: bool) -> str:
        name = self.world.names[place]
        if opening:
            self.opened.add(place)
            self.facts.add(("opened", place))
            return f"You open the {name}. {self._contents(place)}"
        self.opened.discard(place)
        self.facts.discard(("opened", place))
        return f"You close the {name}."

    def _use(self, thing: str) -> str:
        self.facts.symmetric_difference_update({("ison", thing)})
        self.facts.add(("istoggled", thing))
        # The grammar asks for what was ever toggled: it never speaks of turning off.
        return f"You turn on the {self.world.names[thing]}."

    def _treat(self, verb: str, thing: str, tool: str) -> str:
        name, with_ = self.world.names[thing], self.world.names[tool]
        if verb == "slice":
            self.facts.add(("issliced", thing))
            return f"You sliced the {name} with the {with_}."
        new, old = {
            "clean": (("isclean", thing), None),
            "heat": (("ishot", thing), ("iscool", thing)),
            "cool": (("iscool", thing), ("ishot", thing)),
        }[verb]
        self.facts.add(new)
        self.facts.discard(old or ())
        return f"You {verb} the {name} using the {with_}."
