"""Task definitions in MCPMark's layout: a folder with description.md and meta.json."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxlab.grading.unicode import well_formed


@dataclass(frozen=True)
class Definition:
    """One task.

    Attributes:
        id: `task_id`, unique within its category.
        category: `category_id`; names the initial state.
        difficulty: as the file has it.
        instruction: the text of description.md.
        state_url: where its authors keep the initial state; None where they give none.
        meta: the whole of meta.json.
    """

    id: str
    category: str
    difficulty: str
    instruction: str
    state_url: str | None
    meta: dict[str, Any]


def read(folder: Path) -> Definition:
    """The definition in a folder.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: meta.json is malformed or lacks a field; names file and field.
    """
    path = folder / "meta.json"
    try:
        meta = well_formed(json.loads(path.read_text(encoding="utf-8-sig")))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: malformed JSON: {error}") from None
    if not isinstance(meta, dict):
        raise ValueError(f"{path}: expected an object, got {type(meta).__name__}")
    for name in ("task_id", "category_id"):
        if not isinstance(meta.get(name), str) or not meta[name]:
            raise ValueError(f"{path}: field {name!r} must be a string, got {meta.get(name)!r:.60}")
    state = meta.get("meta_data")
    url = state.get("stateUrl") if isinstance(state, dict) else None
    return Definition(
        id=meta["task_id"],
        category=meta["category_id"],
        difficulty=str(meta.get("difficulty", "")),
        instruction=(folder / "description.md").read_text(encoding="utf-8-sig"),
        state_url=url if isinstance(url, str) else None,
        meta=meta,
    )


def read_all(root: Path) -> dict[str, Definition]:
    """Every definition below `root`, by "category/id" and, where it is one task's, by "id".

    A task that exists in several difficulties is found under each as
    "difficulty/category/id", after the name of the folder above the category.
    """
    found: dict[str, Definition] = {}
    short: dict[str, list[Definition]] = {}
    for path in sorted(root.rglob("meta.json")):
        definition = read(path.parent)
        above = path.parent.parent.parent.name
        found[f"{above}/{definition.category}/{definition.id}"] = definition
        for key in (f"{definition.category}/{definition.id}", definition.id):
            short.setdefault(key, []).append(definition)
    return found | {key: several[0] for key, several in short.items() if len(several) == 1}
