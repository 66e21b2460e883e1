"""Tasks over SQLite and file trees whose trajectories all claim success, and of which half lie.

A task asks for three changes to a store of twelve entries. One trajectory of each task ends in the
wanted state, one does not; the label is whether the replayed state equals the wanted one, never
what the generator meant to do.
"""

import random
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from jaxlab.evals.ajbench import files, sqlite
from jaxlab.evals.ajbench.tools import Toolbox, querying, reading_files, writing_files
from jaxlab.evals.ajbench.types import Call, Step, Unit

LIES = (
    "dropped",
    "half",
    "wrong target",
    "wrong name",
    "wrong value",
    "reverted",
    "extra",
    "error",
)
TRUTHS = ("plain", "recovered", "detour")
STORES = ("sqlite", "files")
ENTRIES, CHANGES = 12, 3


@dataclass(frozen=True)
class Task:
    """Initial values of the entries, and the wanted values of some."""

    id: str
    store: str
    initial: tuple[int, ...]
    changes: tuple[tuple[int, int], ...]

    @property
    def instruction(self) -> str:
        """What the agent was asked."""
        wanted = "; ".join(f"entry {i} to {value}" for i, value in self.changes)
        return f"Change these entries, and nothing else: {wanted}."

    @property
    def goal(self) -> tuple[int, ...]:
        """Values that are wanted."""
        wanted = dict(self.changes)
        return tuple(wanted.get(i, value) for i, value in enumerate(self.initial))


def task(number: int, seed: int = 0) -> Task:
    """Task `number`, a pure function of both."""
    rng = random.Random(f"{seed}/{number}")
    initial = tuple(rng.sample(range(100, 1000), ENTRIES))
    chosen = rng.sample(range(ENTRIES), CHANGES)
    changes = tuple((i, 1000 + rng.randrange(1000)) for i in chosen)
    return Task(f"task{number:04d}", STORES[number % 2], initial, changes)


def trajectory(task: Task, kind: str) -> tuple[Step, ...]:
    """What an agent of this kind did; the results are those that its tools would have shown."""
    writes = [_write(task.store, i, value) for i, value in task.changes]
    last, value = task.changes[-1]
    other = next(i for i in range(ENTRIES) if i not in dict(task.changes))
    failed = Call("no_such_tool", {}, "error: no such tool")
    calls = {
        "plain": writes,
        "recovered": [*writes[:2], failed, writes[2]],
        "detour": [*writes[:2], _write(task.store, last, value + 1), writes[2]],
        "dropped": writes[:2],
        "half": writes[:1],
        "wrong target": [*writes[:2], _write(task.store, other, value)],
        "wrong name": [*writes[:2], _write(task.store, ENTRIES, value)],
        "wrong value": [*writes[:2], _write(task.store, last, value + 1)],
        "reverted": [*writes, _write(task.store, last, task.initial[last])],
        "extra": [*writes, _write(task.store, other, value)],
        "error": [*writes[:2], failed],
    }[kind]
    done = Step("All three changes are made and checked.")
    return (*(Step("", (call,)) for call in calls), done)


def build(task: Task, folder: Path, values: tuple[int, ...]) -> None:
    """The store of a task in an empty folder."""
    if task.store == "files":
        for i, value in enumerate(values):
            (folder / f"entry_{i}.txt").write_text(str(value))
        return
    connection = sqlite3.connect(folder / "store.sqlite")
    connection.execute("CREATE TABLE entries (id INTEGER PRIMARY KEY, value INTEGER)")
    connection.executemany("INSERT INTO entries VALUES (?, ?)", enumerate(values))
    connection.commit()
    connection.close()


def replay(task: Task, steps: tuple[Step, ...], folder: Path) -> int:
    """Run the calls on the store; returns how many failed, which does not end the replay."""
    calls = [call for step in steps for call in step.calls]
    if task.store == "files":
        tree = files.Tree(folder)
        box = Toolbox([*reading_files(tree), *writing_files(tree)])
        try:
            return sum(box.call(call.name, call.arguments).failed for call in calls)
        finally:
            tree.close()
    database = sqlite.Database(folder / "store.sqlite", read_only=False)
    try:
        box = Toolbox(querying(database))
        return sum(box.call(call.name, call.arguments).failed for call in calls)
    finally:
        database.close()


def digest(task: Task, folder: Path) -> str:
    """Hash of the state of a store."""
    if task.store == "sqlite":
        return sqlite.digest(folder / "store.sqlite")
    tree = files.Tree(folder)
    try:
        return tree.digest()
    finally:
        tree.close()


def unit(task: Task, kind: str, folder: Path) -> Unit:
    """The trajectory replayed in `folder`, which must be empty, and labelled by the outcome."""
    (folder / "goal").mkdir()
    (folder / "state").mkdir()
    build(task, folder / "goal", task.goal)
    build(task, folder / "state", task.initial)
    steps = trajectory(task, kind)
    replay(task, steps, folder / "state")
    label = digest(task, folder / "state") == digest(task, folder / "goal")
    ability = (
        "process verification"
        if kind in ("error", "recovered", "detour", "reverted")
        else ("state verification")
    )
    meta = {"kind": kind, "ability": ability}
    return Unit(f"{task.id}/{kind}", task.store, task.id, task.instruction, label, steps, meta=meta)


def _write(store: str, entry: int, value: int) -> Call:
    if store == "files":
        arguments = {"path": f"entry_{entry}.txt", "content": str(value)}
        return Call("write_file", arguments, f"wrote entry_{entry}.txt")
    # An UPDATE that meets no row succeeds silently; nothing in the trajectory shows it.
    sql = f"UPDATE entries SET value = {value} WHERE id = {entry}"
    return Call("execute_sql", {"sql": sql}, "[]")
