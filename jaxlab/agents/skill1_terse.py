"""Skill1's phases in few words, for small decoders: prompts, readers and a closed vocabulary.

The content is that of skill1_prompts without its sentences: observations keep the words that tell
something, a skill is "THING at PLACE when WORDS", and all past commands take the place of the last
observations. Which commands are admissible is not listed: the choice is made among them.

Two habits make prompts short and easy to copy from. The first of its kind goes without its number
("drawer", "drawer 2"), commands without prepositions ("take cup fridge"). The task comes last, and
in one order, so that the thing it is about stands at the same distance from every reply.
"""

import re
from collections.abc import Sequence

import tokenizers
from tokenizers import models, pre_tokenizers

from jaxlab.agents.skill_options import Candidate, Skill
from jaxlab.envs.household import catalogue
from jaxlab.text.tokenizer import Tokenizer

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
# Words of observations, tasks and commands that tell nothing.
_IDLE = re.findall(
    "[a-z]+",
    "a an and are around arrive at carrying find from in is it looking middle next of on put "
    "quickly room s see some special the them there this to under up using you your with",
)
_SPOKEN = (
    "task see skill did now won lost query rank act distil when at : ; "
    "go open close take move clean cool heat slice use examine inventory look help "
    "two hot light nothing happens closed turn pick normal about facing not cold sliced"
)
_QUERY = 200
_NUMBERS = 40


def tokenizer() -> Tokenizer:
    """One token per word of household games: things, places, numbers up to 40, verbs."""
    names = sorted(name.lower() for name in {*catalogue.THINGS, *catalogue.CONTENTS})
    numbers = map(str, range(_NUMBERS + 1))
    words = (PAD, EOS, UNKNOWN, *_SPOKEN.split(), catalogue.LAMP.lower(), *names, *numbers)
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words))}
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens([PAD, EOS])
    return Tokenizer(backend, {"pad_token": PAD, "eos_token": EOS})


def short(text: str) -> str:
    """The words of a text that tell something; the first of its kind goes without its number."""
    found = re.findall(r"[a-z]+|\d+", text.lower())
    return " ".join(word for word in found if word not in _IDLE and word != "1")


def brief(text: str) -> str:
    """What an observation tells; of a game's beginning what is seen."""
    return short(text.split("Your task is to")[0].split("you see", 1)[-1])


def _did(history: Sequence[tuple[str, str]]) -> str:
    """Commands, of a walk the place alone."""
    return " ".join(short(command).removeprefix("go ") for _, command in history if command)


def query(task: str, text: str) -> str:
    """Ask for words to search the library by."""
    return f"see {brief(text)} task {short(task)} query"


def rank(task: str, text: str, candidates: Sequence[Candidate]) -> str:
    """Ask for the candidates' order, most useful first; they are numbered from 1."""
    listed = " ".join(f"{i} : {c.entry.skill.strategy} ;" for i, c in enumerate(candidates, 1))
    return f"see {brief(text)} {listed} task {short(task)} rank"


def act(
    task: str,
    skill: str | None,
    taken: int,
    history: Sequence[tuple[str, str]],
    text: str,
    admissible: Sequence[str],
) -> str:
    """Ask for the next action; arguments as in `skill1_prompts.act`."""
    del admissible
    lesson = "" if skill is None else f"skill {skill} "
    begun = f"did {_did(history)} " if taken else ""
    return f"{begun}now {brief(text)} {lesson}task {short(task)} act"


def distil(task: str, won: bool, history: Sequence[tuple[str, str]]) -> str:
    """Ask for what the episode teaches."""
    return f"did {_did(history)} {'won' if won else 'lost'} task {short(task)} distil"


def read_query(text: str) -> tuple[str, bool]:
    """The query, and whether there is one."""
    found = " ".join(text.split())[:_QUERY]
    return found, bool(found)


def read_rank(text: str, count: int) -> tuple[list[int], bool]:
    """Positions of `count` candidates, best first; as in `skill1_prompts.read_rank`."""
    numbers = [int(n) - 1 for n in re.findall(r"(?<!\d)\d{1,6}(?!\d)", text[:_QUERY])]
    given = [n for n in dict.fromkeys(numbers) if 0 <= n < count]
    return [*given, *(n for n in range(count) if n not in given)], bool(given)


def read_action(text: str, admissible: Sequence[str]) -> tuple[str, bool]:
    """The action, and whether it is admissible; written as `acting` writes it, or in full."""
    action = " ".join(text.split())
    if action in admissible:
        return action, True
    meant = [command for command in admissible if acting(command) == action]
    return (meant[0], True) if len(meant) == 1 else (action, False)


def read_skill(text: str, task: str) -> Skill | None:
    """The skill of "LESSON when WORDS"; None where a part is missing."""
    lesson, _, when = " ".join(text.split()).partition(" when ")
    return Skill(lesson, when, task) if lesson and when else None


def acting(command: str) -> str:
    """The reply that `read_action` reads as this command."""
    return short(command)


def ranking(order: Sequence[int]) -> str:
    """The reply that `read_rank` reads as this order of positions, best first."""
    return " ".join(str(i + 1) for i in order)
