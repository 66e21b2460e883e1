"""GUI units: the files that a recorded run has left, or a page on which it is run again.

    GUI/{PPT,Word,Excel}/TASK/{true,false}/    traj.jsonl, pictures of the steps, result files
    STATES/office/TASK/ or TASK.zip            the files to begin with, where there is no result
    STATES/page/TASK/ or TASK.zip              index.html and what belongs to it, of GUI-Page

A result file is the final state; a desktop's clicks have no meaning without the desktop, so nothing
is replayed on it. Of a run's folder a judge is given result files alone: what lies beside them may
hold the score (result.txt, rewards in traj.jsonl) or the wanted file.
"""

import contextlib
import json
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from jaxlab.evals.ajbench.office import packages
from jaxlab.evals.ajbench.office.office import READING
from jaxlab.evals.ajbench.sandbox.files import Tree
from jaxlab.evals.ajbench.sandbox.limits import Limits
from jaxlab.evals.ajbench.types import Call, Observation, Step, Unit
from jaxlab.evals.ajbench.web import actions

# Beside what the definition names. Pictures are not among them: they are those of the steps.
RESULTS = (*packages.KINDS, ".odt", ".ods", ".odp", ".pdf", ".csv")

# Tools that tell in words what a page or a file holds, and the one that shows it.
WORDS = {"accessibility_tree", "read_page", "find_in_page", *READING}
PICTURE = "screenshot"


def observed(tool: str, observation: Observation) -> bool:
    """Whether a judge of a GUI unit has a tool: of two ways to look, it may have one only."""
    return tool not in (WORDS if observation == "screenshot" else ()) and (
        tool != PICTURE or observation != "a11y"
    )


@dataclass(frozen=True)
class Named:
    """What a task's definition says of files, in the layout of OSWorld.

    Attributes:
        results: names of files that were judged, at their place and as they were fetched.
        expected: names of the files that they were held against.
        folders: absolute paths of folders in which they lay, the most frequent first.
    """

    results: frozenset[str] = frozenset()
    expected: frozenset[str] = frozenset()
    folders: tuple[str, ...] = ()


def named(definition: Mapping[str, Any]) -> Named:
    """The files of `evaluator` and `config`; whatever has another form names none."""
    evaluator = definition.get("evaluator")
    evaluator = evaluator if isinstance(evaluator, Mapping) else {}
    results = list(_paths(evaluator.get("result")))
    expected = {PurePosixPath(path).name for path in _paths(evaluator.get("expected"))}
    places = [path for path in (*results, *_paths(definition.get("config"))) if path[:1] == "/"]
    folders: dict[str, int] = {}
    for place in places:
        folder = str(PurePosixPath(place).parent)
        folders[folder] = folders.get(folder, 0) + 1
    names = {PurePosixPath(path).name for path in results}
    return Named(
        frozenset(names),
        frozenset(expected - names),
        tuple(sorted(folders, key=lambda folder: -folders[folder])),
    )


def results(unit: Unit) -> list[str]:
    """Paths of results, relative to the unit's folder; links are not followed."""
    files = files_of(unit)
    with contextlib.closing(Tree(folder(unit), limits=Limits(entries=1 << 20))) as tree:
        found = [path for path, info in tree.walk() if stat.S_ISREG(info.st_mode)]
    return [path for path in found if _is_result(PurePosixPath(path), files)]


def take(unit: Unit, target: Path) -> None:
    """Copy the results of a unit into a new folder."""
    target.mkdir(mode=0o700)
    for path in results(unit):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder(unit) / path, target / path, follow_symlinks=False)


def folder(unit: Unit) -> Path:
    """The folder of a unit's trajectory, with what was stored beside it."""
    return Path(unit.meta["source"]).resolve().parent


def files_of(unit: Unit) -> Named:
    """`named` of the unit's definition."""
    try:
        definition = json.loads(Path(unit.meta["definition"]).read_text(encoding="utf-8-sig"))
    except (KeyError, OSError, ValueError, RecursionError):
        return Named()
    return named(definition) if isinstance(definition, Mapping) else Named()


def office_calls(steps: Sequence[Step]) -> tuple[Call, ...]:
    """The calls, with `parameters` as their arguments where an action has them."""
    return tuple(_plain(call) for step in steps for call in step.calls)


def page_calls(steps: Sequence[Step]) -> tuple[Call, ...]:
    """The recorded actions as calls of a page's tools."""
    return tuple(call for step in actions.translated(steps) for call in step.calls)


def _folder(unit: Unit) -> Path:
    return Path(unit.meta["source"]).parent


def _plain(call: Call) -> Call:
    inner = (call.arguments or {}).get("parameters")
    return Call(call.name, inner, call.result) if isinstance(inner, Mapping) else call


def _is_result(path: PurePosixPath, files: Named) -> bool:
    if path.name in files.results:
        return True
    return path.suffix.lower() in RESULTS and path.name not in files.expected


def _paths(value: object) -> Iterator[str]:
    """Values of "path" and "dest", at any depth; a list of them names several files."""
    stack = [value]
    while stack:
        node = stack.pop()
        if isinstance(node, Mapping):
            for key, inner in node.items():
                several = inner if isinstance(inner, list) else [inner]
                if key in ("path", "dest"):
                    # The path of a file in the cloud is its address.
                    yield from (str(one) for one in several if isinstance(one, str))
                else:
                    stack.append(inner)
        elif isinstance(node, list):
            stack += node
