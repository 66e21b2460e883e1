"""A benchmark of the user's own: a Python file with a task of inspect_ai.

The task is the function that has the file's name, and takes path, samples, limit and seed, and
what `benchmark.options` gives. The file may also have `tables(results)`, as the benchmarks here do.
"""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from inspect_ai import Task

from jaxlab.evals.results import Result
from jaxlab.evals.tables import Table


def task(path: str) -> Callable[..., Task]:
    """The task of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be imported, or has no function of its own name.
    """
    found = getattr(_module(path), Path(path).stem, None)
    if not callable(found):
        raise ValueError(f"{path}: no function {Path(path).stem}, which is to be the task")
    return found


def tables(path: str) -> Callable[[Sequence[Result]], list[Table]] | None:
    """The file's own tables of a report, where it has any."""
    return getattr(_module(path), "tables", None)


def _module(path: str) -> ModuleType:
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; name a benchmark, or a file with a task")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever it is, it is the file's
        raise ValueError(f"{path}: {type(error).__name__}: {error}") from error
    return module
