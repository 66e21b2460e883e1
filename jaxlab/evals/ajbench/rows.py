"""The units of AJ-Bench, read from the layout of its repository.

    Search/deep_llm_judge_single_row.json, Search/wide_llm_judge_single_row.jsonl
    DS/{filesystem,postgres}/.../{success,fail}/RUN/messages.json
    GUI/{PPT,Word,Excel}/TASK/{true,false}/traj.jsonl with the result files beside it

The label of DS and GUI is a directory's name. The keys of the Search files are not published in
writing, so several names of each are tried and a map of one's own goes before them; a row without
a label has it in `ground_truth`. Files are UTF-8 with or without a byte order mark.
"""

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxlab.evals.ajbench import definitions, ground_truth, trajectories
from jaxlab.evals.ajbench.types import ABILITIES, Unit
from jaxlab.grading import rows
from jaxlab.grading.rows import BadRows, Panel, Rejected, Row
from jaxlab.grading.unicode import well_formed

# Field of ours -> names under which it is looked for.
ALIASES: dict[str, tuple[str, ...]] = {
    "id": ("id", "row_id", "item_id"),
    "task": ("task_id", "query_id", "instance_id"),
    "query": ("query", "question", "task", "instruction"),
    "item": ("single_row", "row", "item", "claim"),
    "response": ("response", "answer", "full_response"),
    "label": ("label", "ground_truth", "gt"),
}

# Sub-domain -> the folders below the root, the file of a trajectory, and the labels' folders.
SEARCH = {"Search-Wide": "wide_llm_judge_single_row", "Search-Deep": "deep_llm_judge_single_row"}
# The third is not the paper's: sets of one's own over SQLite.
DS = {"DS-FileSystem": "filesystem", "DS-Postgres": "postgres", "DS-SQLite": "sqlite"}
# The last is not the paper's: sets of one's own on pages.
GUI = {"GUI-PPT": "PPT", "GUI-Word": "Word", "GUI-Excel": "Excel", "GUI-Page": "Page"}
DS_LABELS = {"success": True, "fail": False}
GUI_LABELS = {"true": True, "false": False}
# A table's column in which some are missing is written as 1.0 and 0.0.
_LABELS = {"1": True, "1.0": True, "true": True, "success": True}
_LABELS |= {"0": False, "0.0": False, "false": False, "fail": False}


@dataclass(frozen=True)
class Units:
    """The units of a run, and what could not be read."""

    units: tuple[Unit, ...]
    rejected: tuple[Rejected, ...] = ()

    def panel(self) -> Panel:
        """The same as rows of any benchmark: the reference is "1" or "0", clusters are tasks.

        A row's question holds the instruction and all that is judged, so that the panel's digest
        changes with any of it.
        """
        return Panel(tuple(map(_row, self.units)), self.rejected)


def read(
    root: str | Path,
    subdomains: Sequence[str] = (),
    fields: Mapping[str, str] | None = None,
    tasks: str | Path | None = None,
    bad_rows: BadRows = "error",
    labels: str | Path | None = None,
) -> Units:
    """Every unit below `root`, which holds the folders Search, DS and GUI, or some of them.

    Args:
        root: such as src/data of the official repository.
        subdomains: only these; all that are there by default.
        fields: our name of a field of the Search files -> its name there.
        tasks: folder of MCPMark definitions; DS units take their instruction from there, and
            without it from the trajectory's first user message.
        bad_rows: "error" ends at the first unit that cannot be read; "skip" leaves it out and
            keeps an account.
        labels: folder or file of the labels of Search rows that have none; by default that of the
            repository, if it is there, see `ground_truth`.

    Raises:
        FileNotFoundError: nothing of the layout is below `root`; there are no such labels.
        ValueError: a bad unit, as "file: cause"; an unknown sub-domain or field.
    """
    root = Path(root)
    loaders: dict[str, Callable[[], Iterator[Unit | Rejected]]] = {}
    known = definitions.read_all(Path(tasks)) if tasks is not None else {}
    place = Path(labels) if labels is not None else root / ground_truth.FOLDER
    if labels is not None and not place.exists():
        raise FileNotFoundError(f"{place}: no such file or folder of labels")
    apart = place if place.exists() else None
    for name, stem in SEARCH.items():
        files = (root / "Search" / f"{stem}{end}" for end in (".jsonl", ".json"))
        path = next((path for path in files if path.is_file()), None)
        if path is not None:
            search = _SearchParser(fields, name, apart)
            loaders[name] = functools.partial(_search, path, name, search, bad_rows)
    for name, folder in DS.items():
        if (root / "DS" / folder).is_dir():
            loaders[name] = functools.partial(_ds, root / "DS" / folder, name, known)
    for name, folder in GUI.items():
        if (root / "GUI" / folder).is_dir():
            loaders[name] = functools.partial(_gui, root / "GUI" / folder, name)
    if not loaders:
        raise FileNotFoundError(
            f"{root}: no Search, DS or GUI of AJ-Bench in it; give the folder src/data of its "
            "repository"
        )
    missing = [name for name in subdomains if name not in loaders]
    if missing:
        raise ValueError(f"no sub-domain {missing[0]!r} below {root}: it has {', '.join(loaders)}")
    units: dict[str, Unit] = {}
    rejected: list[Rejected] = []
    for name in subdomains or loaders:
        for unit in loaders[name]():
            bad = unit if isinstance(unit, Rejected) else None
            if isinstance(unit, Unit) and unit.id in units:
                bad = Rejected(str(unit.meta["source"]), f"the id {unit.id!r} occurs twice")
            if bad is None:
                assert isinstance(unit, Unit)
                units[unit.id] = unit
            elif bad_rows == "error":
                raise ValueError(f"{bad.where}: {bad.cause}")
            else:
                rejected.append(bad)
    if not units:
        raise ValueError(f"{root}: no usable unit, {len(rejected)} bad ones")
    return Units(tuple(units.values()), tuple(rejected))


class _SearchParser:
    """Makes rows of the Search files; see `ALIASES`."""

    def __init__(self, fields: Mapping[str, str] | None, subdomain: str, labels: Path | None):
        unknown = set(fields or {}) - ALIASES.keys()
        if unknown:
            raise ValueError(f"no field {min(unknown)!r}: the fields are {', '.join(ALIASES)}")
        self._names = {
            ours: ((fields or {})[ours],) if ours in (fields or {}) else names
            for ours, names in ALIASES.items()
        }
        self._subdomain, self._labels = subdomain, labels

    @functools.cached_property
    def _apart(self) -> dict[str, bool]:
        """Labels beside the rows."""
        if self._labels is None:
            return {}
        return ground_truth.read(self._labels, self._subdomain, self._entry)

    def _entry(self, row: dict[str, Any]) -> tuple[str, bool]:
        if all(row.get(name) is None for name in self._names["id"]):
            raise ValueError(f"no field {' or '.join(self._names['id'])}")
        return rows.row_id(row, self._names["id"]), _label(row, self._names["label"])

    def __call__(self, row: dict[str, Any]) -> Row:
        query = rows.first_text(row, self._names["query"])
        item = _text(row, self._names["item"])
        response = _text(row, self._names["response"], required=False)
        identity = rows.row_id(row, self._names["id"], query, item, response)
        if self._labels is not None and all(row.get(n) is None for n in self._names["label"]):
            if identity not in self._apart:
                raise ValueError(f"it has no label, and {self._labels} none of the id {identity}")
            label = self._apart[identity]
        else:
            label = _label(row, self._names["label"])
        # Rows of one query are not independent.
        task = rows.row_id(row, self._names["task"], query)
        meta = {"item": item, "response": response, "task": task}
        return Row(identity, query, str(int(label)), task, meta)


def _search(
    path: Path, subdomain: str, parse: _SearchParser, bad_rows: BadRows
) -> Iterator[Unit | Rejected]:
    panel = rows.read(path, parse, bad_rows)
    yield from panel.rejected
    for row in panel.rows:
        yield Unit(
            id=f"{subdomain}/{row.id}",
            subdomain=subdomain,
            task=f"{subdomain}/{row.meta['task']}",
            instruction=row.question,
            label=row.answer == "1",
            item=row.meta["item"],
            response=row.meta["response"],
            meta={"source": str(path)},
        )


def _ds(
    folder: Path, subdomain: str, known: Mapping[str, definitions.Definition]
) -> Iterator[Unit | Rejected]:
    for path in sorted(folder.rglob("messages.json")):
        label = path.parent.parent.name
        if label not in DS_LABELS:
            yield Rejected(str(path), f"its label is the folder {label!r}: success or fail needed")
            continue
        task = path.parent.parent.parent.relative_to(folder).as_posix()
        try:
            messages = well_formed(json.loads(path.read_text(encoding="utf-8-sig")))
            instruction, steps = trajectories.from_messages(messages)
        except (ValueError, RecursionError) as error:
            yield Rejected(str(path), str(error))
            continue
        *above, name = _parts(task)
        definition = _definition([*above, name], known)
        meta: dict[str, Any] = {"source": str(path), "run": path.parent.name, "name": name}
        if definition is not None:
            meta |= {"category": definition.category, "name": definition.id}
            meta["difficulty"] = definition.difficulty
        elif above:
            meta["category"] = above[-1]
        yield Unit(
            id=f"{subdomain}/{task}/{label}/{path.parent.name}",
            subdomain=subdomain,
            task=f"{subdomain}/{task}",
            instruction=definition.instruction if definition else instruction,
            label=DS_LABELS[label],
            steps=steps,
            meta=meta,
        )


def _parts(task: str) -> list[str]:
    """A task's folder as its parts: category/task, or both in one name with "__" between."""
    return task.replace("__", "/").split("/")


def _definition(
    parts: Sequence[str], known: Mapping[str, definitions.Definition]
) -> definitions.Definition | None:
    """The definition of a task; by its name alone only where no other category is named."""
    found = known.get("/".join(parts[-3:])) or known.get("/".join(parts[-2:]))
    alone = known.get(parts[-1])
    difficulties = {key.split("/")[0] for key in known if key.count("/") == 2}
    if found is None and alone is not None and {*parts[:-1]} <= difficulties:
        return alone
    return found


def _gui(folder: Path, subdomain: str) -> Iterator[Unit | Rejected]:
    for path in sorted(folder.rglob("traj.jsonl")):
        label = path.parent.name
        if label not in GUI_LABELS:
            yield Rejected(str(path), f"its label is the folder {label!r}: true or false needed")
            continue
        home = path.parent.parent
        task = home.relative_to(folder).as_posix()
        try:
            # Not splitlines: a JSON text may hold signs that are line breaks to Python alone.
            steps = trajectories.from_actions(path.read_text(encoding="utf-8-sig").split("\n"))
            definition, where = _gui_task(home, path.parent)
        except ValueError as error:
            yield Rejected(str(path), str(error))
            continue
        yield Unit(
            id=f"{subdomain}/{task}/{label}",
            subdomain=subdomain,
            task=f"{subdomain}/{task}",
            instruction=definition["instruction"],
            label=GUI_LABELS[label],
            steps=steps,
            meta={"source": str(path), "definition": str(where)},
        )


def _gui_task(*folders: Path) -> tuple[dict[str, Any], Path]:
    """The first JSON file with an instruction, in the task's folder or the trajectory's."""
    for folder in folders:
        for path in sorted(folder.glob("*.json")):
            try:
                content = well_formed(json.loads(path.read_text(encoding="utf-8-sig")))
            except (ValueError, RecursionError):
                continue
            if isinstance(content, dict) and isinstance(content.get("instruction"), str):
                return content, path
    raise ValueError(f"no JSON file with an instruction in {' or '.join(map(str, folders))}")


def _label(row: Mapping[str, Any], names: Sequence[str]) -> bool:
    value = next((row[name] for name in names if row.get(name) is not None), None)
    simple = isinstance(value, str | int | float)
    label = _LABELS.get(str(value).strip().lower()) if simple else None
    if label is None:
        raise ValueError(f"field {' or '.join(names)} must be 0 or 1, got {value!r:.60}")
    return label


def _text(row: Mapping[str, Any], names: Sequence[str], required: bool = True) -> str:
    """A field as text; rows of a table come as objects or lists and are kept as JSON."""
    value = next((row[name] for name in names if row.get(name) is not None), None)
    text = value.strip() if isinstance(value, str) else "" if value is None else json.dumps(value)
    if required and not text:
        raise ValueError(f"no field {' or '.join(names)}; the row has {', '.join(row) or 'none'}")
    return text


def _row(unit: Unit) -> Row:
    judged = unit.item + unit.response + trajectories.render(unit.steps, limit=1 << 30)
    meta = {
        "subdomain": unit.subdomain,
        "domain": unit.domain,
        "task": unit.task,
        "ability": unit.meta.get("ability", ABILITIES.get(unit.domain, "state verification")),
        **{key: unit.meta[key] for key in ("kind", "category", "difficulty") if key in unit.meta},
    }
    return Row(unit.id, f"{unit.instruction}\n\n{judged}", str(int(unit.label)), unit.task, meta)
