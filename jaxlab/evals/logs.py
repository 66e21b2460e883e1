"""The logs below a work directory, and whose answers they hold.

Beside inspect_ai's own fields a log says what its answers depend on: the digest of the rows, that
of the prompts as they are sent, the checkpoint, and the options of the grading that its scores are
of. A run that is graded again has its log rewritten, so that there is one truth about it.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from inspect_ai import Task
from inspect_ai.log import (
    EvalLog,
    RecoveryNotAvailable,
    list_eval_logs,
    read_eval_log,
    recover_eval_log,
    write_eval_log,
)

from jaxlab import config as config_lib
from jaxlab.evals import fingerprint, options
from jaxlab.evals.settings import Run

# Options that are the scorer's: they can change without a new generation.
GRADING = tuple(
    dict.fromkeys(name for cls in options.GRADING.values() for name in options.names(cls))
)
# What may differ between a run and its continuation: no answer depends on it.
FREE = (
    "mesh",
    "eval.batch",
    "eval.padding",
    "benchmark.max_parse_failures",
)

# Field of a log's metadata -> what its answers belong to.
_IDENTITY = {
    "panel": "to other rows",
    "prompts": "to other prompts or references",
    "checkpoint": "of another checkpoint",
}


def metadata(run: Run, task: Task) -> dict[str, Any]:
    """What the log of this run is to say besides: the task's own, and whose answers they are."""
    name = run.model.name or ""
    ours = run.model.path or (name.removeprefix("jaxlab/") if name.startswith("jaxlab/") else None)
    return {
        **(task.metadata or {}),
        "prompts": _prompts(task),
        "checkpoint": None if ours is None else fingerprint.of_model(ours),
        "grading": grading(run),
    }


def grading(run: Run) -> dict[str, Any]:
    """What its scores depend on, and its answers do not: options, and the code of a user's file."""
    found = {key: run.benchmark.options.get(key) for key in GRADING}
    return {
        **found,
        "file": fingerprint.of_benchmark(run.benchmark.name) if run.benchmark.own else None,
    }


def newest(workdir: Path, header_only: bool = False) -> EvalLog | None:
    """The last log of a run, which holds all that the earlier ones do; None where there is none."""
    if not (workdir / "logs").exists():
        return None
    found = list_eval_logs(str(workdir / "logs"))
    return read_eval_log(found[0], header_only=header_only) if found else None


def whole(log: EvalLog) -> EvalLog:
    """The log as it stands on disk, with the long texts that it keeps apart."""
    return read_eval_log(log.location, resolve_attachments=True)


def check_config(run: Run, workdir: Path, regrade: bool) -> None:
    """Refuse to mix the answers of two configs in one work directory.

    Raises:
        ConfigError: it holds answers of another one, or they were graded otherwise.
    """
    path = workdir / "config.json"
    if not path.exists():
        return
    before = _flat(_written(path))
    # Between a log that was graded again and its config the program may have ended.
    log = newest(workdir, header_only=True)
    graded = ((log and log.eval.metadata) or {}).get("grading", {})
    before |= {f"benchmark.options.{key}": graded[key] for key in GRADING if key in graded}
    now = _flat(config_lib.to_json(run))
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) == now.get(key) or any(key.startswith(free) for free in FREE):
            continue
        change = f"{key} was {before.get(key)!r}, now is {now.get(key)!r}"
        if key.removeprefix("benchmark.options.") not in GRADING:
            raise config_lib.ConfigError(
                f"{workdir} holds another run ({change}): give another --workdir"
            )
        if not regrade:
            raise config_lib.ConfigError(
                f"{workdir} was graded otherwise ({change}): add --regrade to grade its answers "
                "again, or give another --workdir"
            )


def _written(path: Path) -> dict[str, Any]:
    """The config of an earlier run, with today's defaults of options that it does not name."""
    config = config_lib.load_json(path)
    benchmark: Any = config.get("benchmark")
    with contextlib.suppress(config_lib.ConfigError, KeyError, TypeError):
        benchmark["options"] = options.filled(benchmark["name"], benchmark["options"])
    return config


def check_answers(task: Task, workdir: Path, regrade: bool) -> None:
    """Refuse to mix answers to two sets of rows or prompts, or of two checkpoints.

    Args:
        task: with the metadata of `metadata`.
        workdir: may hold the log of an earlier run.
        regrade: whether its answers are only graded again, whoever gave them.

    Raises:
        ConfigError: it holds others, or their grades are of a user's file that was another one.
    """
    log = newest(workdir, header_only=True)
    held, now = (log and log.eval.metadata) or {}, task.metadata or {}
    for name, whose in _IDENTITY.items():
        # Of an older log, or a model that is not on this disk, nothing is known.
        known = held.get(name) is not None and now.get(name) is not None
        if known and held[name] != now[name] and not (regrade and name == "checkpoint"):
            raise config_lib.ConfigError(
                f"{workdir} holds answers {whose} ({name} was {held[name]}, now is {now[name]}): "
                "give another --workdir"
            )
    was, is_now = (found.get("grading", {}).get("file") for found in (held, now))
    if was is not None and is_now is not None and was != is_now and not regrade:
        raise config_lib.ConfigError(
            f"{workdir} was graded by a benchmark file that has changed: add --regrade to grade "
            "its answers again, or give another --workdir"
        )


def answered(workdir: Path) -> EvalLog | None:
    """The last log with all answers that have been finished, also where the run was killed."""
    log = newest(workdir, header_only=True)
    if log is not None and log.status == "started" and log.location:
        # As a run that goes on would; what was not flushed into the log comes from its buffer.
        with contextlib.suppress(RecoveryNotAvailable):
            recover_eval_log(log.location, cleanup=False)
    return newest(workdir)


def replace(log: EvalLog, workdir: Path) -> None:
    """Rewrite a log of the work directory where it stands; a reader never sees half of it."""
    scratch = workdir / f".{os.getpid()}.eval"
    write_eval_log(log, str(scratch))
    scratch.replace(url2pathname(urlparse(log.location).path))


def _prompts(task: Task) -> str:
    """16 hex digits over ids, inputs and references; the order of the samples does not matter."""
    lines = []
    for sample in task.dataset:
        sent: Any = sample.input
        if not isinstance(sent, str):
            # Messages are numbered at random.
            sent = [message.model_dump(mode="json", exclude={"id"}) for message in sent]
        lines.append(json.dumps([sample.id, sent, sample.target], sort_keys=True))
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
