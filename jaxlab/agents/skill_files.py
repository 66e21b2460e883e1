"""Commands for skill libraries: show a table, export SKILL.md files and import them."""

import argparse
import json
import os
import pathlib
import re
import sqlite3
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxlab.agents.skill_encoders import Encoder, HashedProjection
from jaxlab.agents.skill_library import SkillLibrary
from jaxlab.agents.skill_options import Entry, LibraryError, Skill
from jaxlab.agents.skill_store import file_of

# What a skill begins with where its file does not say.
_NUMBERS = {"utility": 0.5, "selections": 0, "updates": 0, "created": 0, "used": 0}
_HASHED = re.compile(r"hashed projection of (\d+), seed (\d+)")
_READ = {"description", "task", "success", *_NUMBERS}


def table(entries: Sequence[Entry], width: int = 120) -> str:
    """The skills as a table, the most useful first, one line each of at most `width` characters."""
    head = f"{'id':>6} {'U':>6} {'used':>6} {'moved':>6} {'since':>6}  when: what"
    lines = [head]
    for e in sorted(entries, key=lambda e: (-e.utility, e.id)):
        numbers = f"{e.id:>6} {e.utility:>6.3f} {e.selections:>6} {e.updates:>6} {e.created:>6}"
        told = " ".join(f"{e.skill.description}: {e.skill.strategy}".split())
        room = max(width - len(numbers) - 2, 10)
        lines.append(f"{numbers}  {told if len(told) <= room else told[: room - 3] + '...'}")
    return "\n".join([*lines, f"{len(entries)} skills"])


def to_markdown(entry: Entry) -> str:
    """A SKILL.md: name, description and numbers as front matter, the strategy as its body."""
    fields = {
        "name": _name(entry),
        "description": entry.skill.description,
        "task": entry.skill.task,
        **{name: getattr(entry, name) for name in _NUMBERS},
        "success": entry.success,
    }
    # JSON's strings and numbers are YAML's too.
    front = "\n".join(f"{k}: {json.dumps(v, ensure_ascii=False)}" for k, v in fields.items())
    return f"---\n{front}\n---\n\n{entry.skill.strategy}\n"


def from_markdown(path: pathlib.Path) -> Entry:
    """The skill in a SKILL.md; numbers that it does not give are those of a new skill.

    Raises:
        LibraryError: naming file and field.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LibraryError(f"{path}: cannot be read: {error}") from None
    found = re.fullmatch(r"---\n(.*?)\n---\n(.*)", text, re.DOTALL)
    if found is None:
        raise LibraryError(f"{path}: has no front matter between two lines of ---")
    fields: dict[str, Any] = {}
    name = ""
    for line in found.group(1).splitlines():
        if line[:1].isspace() and line.strip() and name in _READ:
            raise LibraryError(f"{path}: field {name!r} has a second line; write it in one")
        name, colon, value = line.partition(":")
        if colon and re.fullmatch(r"\w+", name):
            try:
                fields[name] = json.loads(value)
            except json.JSONDecodeError:
                fields[name] = value.strip()
    strategy = found.group(2).strip()
    if not strategy or not isinstance(fields.get("description"), str) or not fields["description"]:
        field = "description" if strategy else "body"
        raise LibraryError(f"{path}: field {field!r} is missing or empty")
    numbers: dict[str, float] = {}
    for name, start in _NUMBERS.items():
        value = fields.get(name, start)
        if isinstance(value, bool) or not isinstance(value, (int, type(start))) or not value >= 0:
            kind = type(start).__name__
            raise LibraryError(f"{path}: field {name!r} is {value!r}, no {kind} from 0 on")
        numbers[name] = value
    utility = float(numbers.pop("utility"))
    if utility > 1:
        raise LibraryError(f"{path}: field 'utility' is {utility}, above 1")
    success, task = fields.get("success", True), fields.get("task", "")
    if not isinstance(success, bool):
        raise LibraryError(f"{path}: field 'success' is {success!r}, not true or false")
    if not isinstance(task, str):
        raise LibraryError(f"{path}: field 'task' is {task!r}, no text")
    skill = Skill(strategy, fields["description"], task)
    counts = {name: int(value) for name, value in numbers.items()}
    return Entry(0, skill, utility, **counts, success=success)


class _Same:
    """An encoder with the name that is in a library's file, so that any library can be opened."""

    def __init__(self, path: pathlib.Path) -> None:
        try:
            connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
            about = dict(connection.execute("select key, value from about"))
            connection.close()
            self.name, self.dimensions = about["encoder"], int(about["dimensions"])
        except (sqlite3.Error, KeyError, ValueError) as error:
            raise LibraryError(f"{path}: is no skill library: {error}") from None
        self.path = path

    def __call__(self, texts: Sequence[str], /) -> np.ndarray:
        """Encode, where the name says how."""
        found = _HASHED.fullmatch(self.name)
        if found is None:
            raise LibraryError(
                f"{self.path}: field 'encoder' is {self.name!r}, which only the program that made "
                "it has: use SkillLibrary(path, encoder).put(...)"
            )
        return HashedProjection(int(found.group(1)), int(found.group(2)))(texts)


def encoder_of(path: str | os.PathLike[str]) -> Encoder:
    """The encoder that a library was made with, where its name says how; of none, the default.

    Raises:
        LibraryError: the file is no library, or its encoder is one that has to be given.
    """
    file = file_of(path)
    if not file.exists():
        return HashedProjection()
    name = _Same(file).name
    found = _HASHED.fullmatch(name)
    if found is None:
        raise LibraryError(
            f"{file}: was made with the encoder {name!r}: give that, or embed the library again"
        )
    return HashedProjection(int(found[1]), int(found[2]))


def _name(entry: Entry) -> str:
    words = re.findall(r"[a-z0-9]+", entry.skill.description.lower())
    return "-".join([*words[:8], str(entry.id)])[:64].strip("-")


def main(arguments: Sequence[str] | None = None) -> int:
    """Show, export or import a library; see jaxlab/agents/skill_library.py."""
    parser = argparse.ArgumentParser(prog="python -m jaxlab.agents.skill_library")
    parser.add_argument("command", choices=("show", "export", "import"))
    parser.add_argument("directory", help="a run with skills.sqlite in it, or such a file")
    parser.add_argument("--skills", type=pathlib.Path, help="where SKILL.md files are: DIR/skills")
    parser.add_argument("--width", type=int, default=120)
    options = parser.parse_args(arguments)
    path = file_of(options.directory)
    folder = options.skills or path.parent / "skills"
    try:
        encoder: Encoder = _Same(path) if path.exists() else HashedProjection()
        if options.command == "import":
            return _import(path, folder, encoder)
        with SkillLibrary(path, encoder, readonly=True) as library:
            entries = library.entries()
        if options.command == "show":
            print(table(entries, options.width))
            return 0
        for entry in entries:
            target = folder / _name(entry) / "SKILL.md"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(to_markdown(entry), encoding="utf-8")
        print(f"{len(entries)} skills are in {folder}")
        return 0
    except LibraryError as error:
        print(error, file=sys.stderr)
        return 2


def _import(path: pathlib.Path, folder: pathlib.Path, encoder: Encoder) -> int:
    files = sorted(folder.glob("*/SKILL.md"))
    if not files:
        raise LibraryError(f"{folder}: has no NAME/SKILL.md in it")
    entries = [from_markdown(file) for file in files]
    with SkillLibrary(path, encoder) as library:
        added = library.put(entries)
    print(f"{added} of {len(entries)} skills are new in {path}")
    return 0
