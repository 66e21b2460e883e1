"""A benchmark of the user's own: a Python file with a task of inspect_ai.

The task is the function that has the file's name, and takes path, samples, limit and seed, and
what `benchmark.options` gives. The file may also have `tables(results)`, as the benchmarks here do.
"""

import importlib.util
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from inspect_ai import Task

from jaxlab import config
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


def check_options(path: str, make: Callable[..., Task], options: Mapping[str, Any]) -> None:
    """Check that the task of the file takes these options, and these of its Literals.

    Raises:
        ConfigError: it takes no argument of a name, or a value is none of an argument's choices;
            names the nearest.
    """
    parameters = inspect.signature(make).parameters
    for name in ("path", "samples", "limit", "seed"):
        if name not in parameters and not _takes_any(parameters):
            raise config.ConfigError(
                f"{path}: the task has no parameter {name!r}, which it is given"
            )
    try:
        hints = typing.get_type_hints(inspect.unwrap(make))
    except Exception:  # annotations are the user's, and need not exist when it runs
        hints = {}
    for name, value in options.items():
        if name not in parameters and not _takes_any(parameters):
            free = parameters.keys() - {"path", "samples", "limit", "seed"}
            raise config.unknown_key("benchmark.options", name, free)
        if _has_choices(hints.get(name)):
            config.check(hints[name], value, f"benchmark.options.{name}")


def _takes_any(parameters: Mapping[str, inspect.Parameter]) -> bool:
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


def _has_choices(hint: Any) -> bool:
    """Whether an annotation is a Literal, or a union with one."""
    return typing.get_origin(hint) is typing.Literal or any(
        typing.get_origin(member) is typing.Literal for member in typing.get_args(hint)
    )


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
