"""Judges that follow a script: three that read the trajectory, one that looks at the state."""

import json
import random

from jaxlab.evals.ajbench.environments.environment import Environment
from jaxlab.evals.ajbench.reproduction import ENTRIES, Task
from jaxlab.evals.ajbench.sandbox.tools import Toolbox
from jaxlab.evals.ajbench.types import Unit


def claims(unit: Unit) -> bool:
    """T0: believes the final message, so always "right" here."""
    return "All three changes are made" in unit.steps[-1].text


def errors(unit: Unit) -> bool:
    """T1: believes it unless a result says error."""
    return claims(unit) and not any("error" in (call.result or "") for call in unit.calls)


def calls(unit: Unit, task: Task) -> bool:
    """T2: wants every value that was asked for in some call, and pardons errors."""
    written = " ".join(json.dumps(call.arguments) for call in unit.calls)
    return claims(unit) and all(str(value) in written for _, value in task.changes)


def tools(task: Task, store: Environment, turns: int, seed: int = 0) -> bool:
    """A1: one look at the final state per turn, first at what was to change; "right" if all fit.

    Entry `ENTRIES` stands for a look at the list: are there entries that should not be?
    """
    wanted = [i for i, _ in task.changes]
    rest = [i for i in range(ENTRIES + 1) if i not in wanted]
    random.Random(f"{seed}/{task.id}").shuffle(rest)
    order = [*wanted, *rest][:turns]
    box = Toolbox(store.tools(read_only=True))
    fits = _file_fits if task.store == "DS-FileSystem" else _row_fits
    return all(fits(box, task, i) for i in order)


def _file_fits(box: Toolbox, task: Task, entry: int) -> bool:
    if entry == ENTRIES:
        return len(box.call("list_directory", {"path": ""}).text.splitlines()) == ENTRIES
    reply = box.call("read_file", {"path": f"entry_{entry}.txt"})
    return reply.text == str(task.goal[entry])


def _row_fits(box: Toolbox, task: Task, entry: int) -> bool:
    count = entry == ENTRIES
    column, where = ("count(*)", "") if count else ("value", f" WHERE id = {entry}")
    reply = box.call("execute_sql", {"sql": f"SELECT {column} AS x FROM entries{where}"})
    expected = ENTRIES if count else task.goal[entry]
    return reply.text == json.dumps([{"x": expected}])
