"""Which of ALFWorld's released rules a game has: its commands, its sentences, its sinks.

The rules of our engine are those of ALFWorld's domain and grammar. The archives differ from the
package in a few places, which are read here; whatever else differs is refused, since it would play
otherwise than the game says.
"""

import dataclasses
import functools
import hashlib
import json
import re

from jaxlab.envs.household.pddl import GameError, Tree, parse

_TASK = re.compile(r'("rhs": "Your task is to: )((?:[^"\\]|\\.)*)(")')
_HELP = re.compile(r"action help \{.*?\n\}", re.DOTALL)
_HELP_TEXT = re.compile(r'"help.feedback": \[\s*\{\s*"rhs": ("(?:[^"\\]|\\.)*")', re.DOTALL)
# The package since 0.4, and the archives before it.
_PUT = {"move {o} to {r}": "move {o} to {r}", "put {o} in/on {r}": "put {o} in/on {r}"}
_PUT_TEXT = {
    "You move the {o.name} to the {r.name}.": "You move the {o} to the {r}.",
    "You put the {o.name} in/on the {r.name}.": "You put the {o} in/on the {r}.",
}
_ARRIVE = ("You arrive at {r.name}. #examine", "You arrive at {lend.name}. #examine")
HELP = """Available commands:
  look:                             look around your current location
  inventory:                        check your current inventory
  go to (receptacle):               move to a receptacle
  open (receptacle):                open a receptacle
  close (receptacle):               close a receptacle
  take (object) from (receptacle):  take an object from a receptacle
  move (object) to (receptacle):  place an object in or on a receptacle
  examine (something):              examine a receptacle or an object
  use (object):                     use an object
  heat (object) with (receptacle):  heat an object using a receptacle
  clean (object) with (receptacle): clean an object using a receptacle
  cool (object) with (receptacle):  cool an object using a receptacle
  slice (object) with (object):     slice an object using a sharp object
"""
# sha256, first 16 digits, of domain and grammar without what is read here (alfworld 0.4.2).
_DOMAIN = "58b49d96d545e9fc"
_GRAMMAR = "15a27850c9c8fd5e"


@dataclasses.dataclass(frozen=True)
class Wording:
    """Where released games differ from each other.

    Attributes:
        put: the command that puts {o} down at {r}.
        put_text: what it is answered with.
        arrive: "receptacle" or "location": which name one arrives at.
        help_text: the answer to `help`, None where there is no such command.
        sinks: types of receptacles in which things can be cleaned.
    """

    put: str = "move {o} to {r}"
    put_text: str = "You move the {o} to the {r}."
    arrive: str = "receptacle"
    help_text: str | None = HELP
    sinks: tuple[str, ...] = ("sinkbasintype",)


# That of the package, which games have that are generated.
PACKAGE = Wording()


def task_of(grammar: str) -> str:
    """The task's sentence, as `put a hot mug in shelf.`"""
    found = _TASK.search(grammar)
    if found is None:
        raise GameError("field 'grammar': it has no 'Your task is to:'")
    return found.group(2)


@functools.lru_cache(maxsize=64)
def wording(domain: str, grammar: str) -> Wording:
    """The wording of a game with this domain and this grammar (its task left out).

    Raises:
        GameError: if they differ from ALFWorld's otherwise than the archives do.
    """
    shape, sinks = _domain(domain)
    if shape != _DOMAIN:
        raise GameError(
            "field 'pddl_domain': its actions are not those of ALFWorld's archives, which our "
            'rules are; play it with engine="textworld"'
        )
    put = _one(_PUT, re.findall(r'"((?:move|put) \{o\} (?:to|in/on) \{r\})"', grammar))
    put_text = _one(_PUT_TEXT, re.findall(r'"(You (?:move|put) the \{o.name\} [^"]*)"', grammar))
    lend = _ARRIVE[1] in grammar
    help_text = _HELP_TEXT.search(grammar)
    if _grammar(grammar) != _GRAMMAR:
        raise GameError(
            "field 'grammar': its sentences are not those of ALFWorld's archives, which our "
            'rules are; play it with engine="textworld"'
        )
    return Wording(
        put,
        put_text,
        "location" if lend else "receptacle",
        help_text and _unescaped(help_text.group(1)),
        sinks,
    )


def without_task(grammar: str) -> str:
    """The grammar with its task blanked, so that games with the same rules compare equal."""
    return _TASK.sub(r"\1\3", grammar)


def with_task(grammar: str, task: str) -> str:
    """The grammar with the task's sentence, `put a hot mug in shelf.`, in its place."""
    return _TASK.sub(lambda found: found.group(1) + task + found.group(3), grammar)


def _one(known: dict[str, str], found: list[str]) -> str:
    names = set(found)
    if len(names) != 1 or not names <= set(known):
        raise GameError(f"field 'grammar': it puts things down by {sorted(names) or 'no command'}")
    return known[names.pop()]


def _unescaped(quoted: str) -> str:
    # Read once as JSON and once as a grammar, which skips white space at the beginning.
    return str(json.loads(quoted)).replace("\\n", "\n").lstrip()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _grammar(grammar: str) -> str:
    text = _HELP.sub("", without_task(grammar))
    text = text.replace(_ARRIVE[1], _ARRIVE[0])
    for known in (_PUT, _PUT_TEXT):
        first, *others = known
        for other in others:
            text = text.replace(other, first)
    return _digest(" ".join(text.split()))


def _domain(domain: str) -> tuple[str, tuple[str, ...]]:
    """Digest of the domain's actions, and the types of sinks taken out of them."""
    sinks: list[str] = []

    def show(tree: Tree) -> str:
        if isinstance(tree, str):
            return tree
        if tree[:2] == [":action", "help"]:
            return ""
        if len(tree) == 3 and tree[0] == "receptacletype" and str(tree[2]).startswith("sink"):
            sinks.append(str(tree[2]))
            return ""
        return "(" + " ".join(filter(None, map(show, tree))) + ")"

    return _digest(show(parse(domain))), tuple(sorted(sinks))
