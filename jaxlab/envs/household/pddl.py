"""Planning problems as ALFWorld's games hold them: PDDL text -> objects, facts and a goal."""

import dataclasses
import re

Atom = tuple[str, ...]
Tree = str | list["Tree"]

_TOKEN = re.compile(r"[()]|[^\s()]+")


class GameError(ValueError):
    """A game that cannot be played; the message names file and field."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """A planning problem. Names are in lower case, as the planner reads them.

    Attributes:
        types: name of each declared object -> its type.
        facts: what holds at the beginning: (predicate, argument, ...). Distances and costs,
            which are written as equations, are left out.
        goal: the goal's formula as nested lists.
    """

    types: dict[str, str]
    facts: tuple[Atom, ...]
    goal: Tree


def parse(text: str) -> Tree:
    """PDDL text as nested lists of words in lower case, comments left out.

    Raises:
        GameError: if parentheses do not match or anything follows the last one.
    """
    stack: list[list[Tree]] = [[]]
    for line in text.lower().split("\n"):
        for token in _TOKEN.findall(line.split(";", 1)[0]):
            if token == "(":
                stack.append([])
            elif token == ")":
                if len(stack) == 1:
                    raise GameError("a closing parenthesis has no opening one")
                done = stack.pop()
                stack[-1].append(done)
            else:
                stack[-1].append(token)
    if len(stack) > 1:
        raise GameError(f"{len(stack) - 1} parentheses are not closed: the text is cut off")
    if len(stack[0]) != 1:
        raise GameError(f"{len(stack[0])} expressions where one was expected")
    return stack[0][0]


def typed(words: list[Tree]) -> dict[str, str]:
    """Names and their types, from `a b - t c - u`; names without one are of type "object"."""
    found: dict[str, str] = {}
    waiting: list[str] = []
    position = 0
    while position < len(words):
        word = words[position]
        if not isinstance(word, str):
            raise GameError(f"a list of names holds {word}")
        if word == "-":
            if position + 1 >= len(words) or not isinstance(words[position + 1], str):
                raise GameError("a list of names ends with a dash: the type is missing")
            found.update(dict.fromkeys(waiting, str(words[position + 1])))
            waiting = []
            position += 1
        else:
            waiting.append(word)
        position += 1
    found.update(dict.fromkeys(waiting, "object"))
    return found


def problem(text: str) -> Problem:
    """The problem that `text` describes.

    Raises:
        GameError: if it is malformed, a section is missing, or a fact names what was not declared.
    """
    tree = parse(text)
    if not isinstance(tree, list) or not tree or tree[0] != "define":
        raise GameError("it does not begin with (define")
    sections: dict[str, list[Tree]] = {}
    for part in tree[1:]:
        if not isinstance(part, list) or not part or not isinstance(part[0], str):
            raise GameError(f"a section is {part!r}")
        sections[part[0]] = part[1:]
    for name in (":objects", ":init", ":goal"):
        if not sections.get(name):
            raise GameError(f"the section {name} is missing or empty")
    types = typed(sections[":objects"])
    facts: dict[Atom, None] = {}
    for fact in sections[":init"]:
        if not isinstance(fact, list) or not fact:
            raise GameError(f":init holds {fact!r}, which is no fact")
        if fact[0] == "=":
            continue
        atom = tuple(word for word in fact if isinstance(word, str))
        if len(atom) != len(fact):
            raise GameError(f":init holds {fact!r}, which is no fact")
        for name in atom[1:]:
            if name not in types:
                raise GameError(f":init has ({' '.join(atom)}), but :objects has no {name!r}")
        facts[atom] = None
    if len(sections[":goal"]) != 1:
        raise GameError(f":goal holds {len(sections[':goal'])} formulas instead of one")
    return Problem(types, tuple(facts), sections[":goal"][0])
