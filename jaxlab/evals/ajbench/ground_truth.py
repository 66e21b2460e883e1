"""Labels of Search rows that stand beside them: tasks/agent_as_a_judge/ground_truth/.

Where the files of the repository are, and that they hold 0 and 1, is known; how they are written
is not. So every .json and .jsonl file below the folder is read that is an object of id -> label, or
holds rows with an id and a label. One whose path names a sub-domain is of that one alone.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# From src/data of the repository.
FOLDER = Path("..", "..", "tasks", "agent_as_a_judge", "ground_truth")
_KINDS = ("wide", "deep", "filesystem", "postgres", "ppt", "word", "excel")


def read(
    place: Path, subdomain: str, entry: Callable[[dict[str, Any]], tuple[str, bool]]
) -> dict[str, bool]:
    """Id -> label of a sub-domain's rows.

    Args:
        place: the folder, or one file.
        subdomain: such as "Search-Wide".
        entry: from a row to its id and label; raises ValueError with the cause.

    Raises:
        ValueError: a file is malformed, or an id has two labels; says which.
    """
    kind = subdomain.partition("-")[2].lower()
    others = [name for name in _KINDS if name != kind]
    found: dict[str, bool] = {}
    for path in [place] if place.is_file() else sorted(place.rglob("*.json*")):
        # Of the place itself the name says nothing: it may be anything's.
        said = str(path.name if path == place else path.relative_to(place)).lower()
        if kind not in said and any(name in said for name in others):
            continue
        try:
            for row in _rows(path):
                name, label = entry(row)
                if found.setdefault(name, label) != label:
                    raise ValueError(f"the id {name!r} has two labels")
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: {error}") from None
    return found


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    text = path.read_text(encoding="utf-8-sig")
    lines = path.suffix == ".jsonl"
    content = [json.loads(line) for line in text.split("\n") if line.strip()] if lines else None
    if content is None:
        content = json.loads(text)
    if isinstance(content, dict):
        content = [{"id": name, "label": label} for name, label in content.items()]
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise ValueError("expected an object of id -> label, or rows with an id and a label")
    yield from content
