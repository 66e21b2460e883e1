"""Goals with quantifiers -> ways to reach them, each a few facts that can change."""

import itertools
from collections.abc import Iterable, Iterator

from jaxlab.envs.household.pddl import Atom, GameError, Tree, typed

# What actions change; everything else is settled when a game begins.
CHANGING = frozenset({"atlocation", "objectatlocation", "opened", "inreceptacle", "holds"})
CHANGING |= {"holdsany", "isclean", "ishot", "iscool", "ison", "istoggled", "issliced", "checked"}
MOST = 50_000

Way = tuple[frozenset[Atom], frozenset[Atom]]
NO_WAY: list[Way] = []
ANY_WAY: list[Way] = [(frozenset(), frozenset())]


def ways(goal: Tree, types: dict[str, str], facts: frozenset[Atom]) -> tuple[Way, ...]:
    """The goal as a disjunction: any way whose first facts all hold and second all do not.

    Args:
        goal: of `and`, `or`, `not` before a fact, `exists`, `forall`, `=` and facts.
        types: name -> type, what the quantifiers range over.
        facts: what holds at the beginning, from which settled facts are read.

    Raises:
        GameError: for other formulas, and where there are too many ways.
    """
    found = list(dict.fromkeys(_Reader(types, facts).ways(goal, {})))
    # A way that asks for everything that another asks for, and more, adds nothing.
    return tuple(
        w for w in found if not any(v != w and v[0] <= w[0] and v[1] <= w[1] for v in found)
    )


class _Reader:
    def __init__(self, types: dict[str, str], facts: frozenset[Atom]) -> None:
        self.facts = facts
        self.by_type: dict[str, list[str]] = {}
        for name, kind in types.items():
            self.by_type.setdefault(kind, []).append(name)

    def ways(self, tree: Tree, bound: dict[str, str]) -> list[Way]:
        """Ways to make a formula true under values of its variables."""
        if not isinstance(tree, list) or not tree or not isinstance(tree[0], str):
            raise GameError(f"the goal holds {tree!r}, which is no formula")
        head, rest = tree[0], tree[1:]
        if head == "and":
            return self._all((part, bound) for part in _settled_first(rest))
        if head == "or":
            return self._any((part, bound) for part in rest)
        if head in ("exists", "forall"):
            if len(rest) != 2 or not isinstance(rest[0], list):
                raise GameError(f"the goal has {head} with {len(rest)} parts instead of two")
            body = rest[1]
            choices = self._choices(typed(rest[0]), body, bound, head == "exists")
            parts = ((body, {**bound, **values}) for values in choices)
            return self._any(parts) if head == "exists" else self._all(parts)
        if head == "not":
            if len(rest) != 1:
                raise GameError(f"the goal negates {len(rest)} formulas at once")
            return _negated(self.ways(rest[0], bound))
        atom = _ground(tree, bound)
        if head == "=":
            if len(atom) != 3:
                raise GameError(f"the goal holds {tree!r}, which compares no two things")
            return ANY_WAY if atom[1] == atom[2] else NO_WAY
        # What cannot be picked up, such as a lamp, stays where it is.
        moved = {"inreceptacle": 1, "holds": 2}.get(head)
        stays = moved is not None and ("pickupable", *atom[moved : moved + 1]) not in self.facts
        if head in CHANGING and not stays:
            return [(frozenset([atom]), frozenset())]
        return ANY_WAY if atom in self.facts else NO_WAY

    def _choices(
        self, names: dict[str, str], body: Tree, bound: dict[str, str], prune: bool
    ) -> Iterator[dict[str, str]]:
        """Values of variables; of a conjunction without those that settled facts rule out."""
        conjuncts = body[1:] if isinstance(body, list) and body and body[0] == "and" else [body]
        candidates = []
        for name, kind in names.items():
            values = self.by_type.get(kind, [])
            for part in conjuncts if prune else []:
                if isinstance(part, list) and _settled(part, {*bound, name}) and name in part:
                    values = [v for v in values if _ground(part, {**bound, name: v}) in self.facts]
            candidates.append(values)
        for chosen in itertools.product(*candidates):
            yield dict(zip(names, chosen, strict=True))

    def _any(self, parts: Iterable[tuple[Tree, dict[str, str]]]) -> list[Way]:
        found: list[Way] = []
        for tree, bound in parts:
            found += self.ways(tree, bound)
            _bounded(len(found))
        return found

    def _all(self, parts: Iterable[tuple[Tree, dict[str, str]]]) -> list[Way]:
        found = ANY_WAY
        for tree, bound in parts:
            more = self.ways(tree, bound)
            _bounded(len(found) * len(more))
            found = [(a | c, b | d) for a, b in found for c, d in more]
            if not found:
                return NO_WAY
        return found


def _bounded(count: int) -> None:
    if count > MOST:
        raise GameError(f"the goal can be reached in more than {MOST} ways")


def _negated(inner: list[Way]) -> list[Way]:
    if inner == NO_WAY:
        return ANY_WAY
    if ANY_WAY[0] in inner:
        return NO_WAY
    if len(inner) == 1 and len(inner[0][0]) == 1 and not inner[0][1]:
        return [(frozenset(), inner[0][0])]
    raise GameError("the goal negates more than a single fact")


def _ground(tree: list[Tree], bound: dict[str, str]) -> Atom:
    atom = []
    for word in tree:
        if not isinstance(word, str):
            raise GameError(f"the goal holds {tree!r}, which is no fact")
        if word.startswith("?") and word not in bound:
            raise GameError(f"the goal's variable {word} is not bound")
        atom.append(bound.get(word, word))
    return tuple(atom)


def _settled(part: list[Tree], known: set[str]) -> bool:
    """Whether it is a fact that cannot change, of known variables only."""
    words = [word for word in part if isinstance(word, str)]
    plain = (
        len(words) == len(part) and words and words[0] not in (*CHANGING, "not", "=", "and", "or")
    )
    return bool(plain) and all(word[0] != "?" or word in known for word in words)


def _settled_first(parts: list[Tree]) -> list[Tree]:
    """Facts that cannot change before others, so that hopeless branches end early."""

    def rank(part: Tree) -> int:
        head = part[0] if isinstance(part, list) and part else ""
        quantified = head in ("exists", "forall", "or", "and")
        return 2 if quantified else 1 if head in CHANGING else 0

    return sorted(parts, key=rank)
