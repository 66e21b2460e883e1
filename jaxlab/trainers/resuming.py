"""What a work directory holds, compared with the run that is to go on in it.

All of it is looked at before anything is written, so that a run that is refused leaves the
directory as it was. `config.json` is the run with its defaults filled in; `inputs.json` has the
digest of every data file by its key in the config, and `run.json` what the run was made with.
"""

import functools
import hashlib
import json
import logging
import pathlib
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from jaxlab import config as config_lib
from jaxlab.config import ConfigError
from jaxlab.rollouts import trajectories
from jaxlab.runtime import manifest, provenance
from jaxlab.runtime import mesh as mesh_lib
from jaxlab.runtime.checkpoint import Checkpointer, CheckpointError

CONFIG, INPUTS, METRICS = "config.json", "inputs.json", "metrics.jsonl"

logger = logging.getLogger(__name__)


class Change(NamedTuple):
    """A key of the config whose value differs from that of the run so far.

    Attributes:
        key: with dots.
        old: the run's value so far.
        new: the value now.
        default: whether the key was and is left to its default, which the code has changed.
    """

    key: str
    old: Any
    new: Any
    default: bool = False

    def __str__(self) -> str:
        return f"{self.key} was {self.old!r}, now is {self.new!r}"


def check_place(workdir: pathlib.Path, *, study: bool) -> None:
    """Check that a study goes on where a study was, and a single run where a single run was.

    Args:
        workdir: may be absent.
        study: whether the config has stages.

    Raises:
        ConfigError: the directory holds something else, which would be overwritten.
    """
    path = workdir / CONFIG
    held = config_lib.load_json(path) if path.exists() else {}
    if study:
        own = any((workdir / name).exists() for name in (METRICS, "checkpoints"))
        if own or (held and "stages" not in held):
            raise ConfigError(f"{workdir} holds a single run, not stages: give another --workdir")
        return
    if "trainer" in held:
        return
    inside = sorted(found.parent.name for found in workdir.glob("*/checkpoints"))
    if "stages" in held or inside:
        names = list(held["stages"]) if isinstance(held.get("stages"), Mapping) else inside
        raise ConfigError(
            f"{workdir} holds other runs ({', '.join(names[:5])}{' ...' * (len(names) > 5)}), not "
            f"a single one: give another --workdir, such as {workdir / 'NAME'}"
        )
    if held:
        raise ConfigError(
            f"{workdir} holds an evaluation ({CONFIG} names no trainer): give another --workdir"
        )


def check(workdir: pathlib.Path, new: dict[str, Any], old: dict[str, Any] | None) -> list[str]:
    """Check that a run can go on from what its directory holds, before its model is built.

    Args:
        workdir: of the run; may be absent.
        new: the config, with its defaults.
        old: that of the run so far, where there is one.

    Returns:
        What will be lost, as lines for the user.

    Raises:
        ConfigError: metrics stand without the checkpoints that go with them; the run has done more
            steps than it is to have; its trainer or the content of a data file is another. The
            message names the key.
    """
    checkpoints = Checkpointer(workdir / "checkpoints")
    done = checkpoints.latest()
    if done is None:
        return _check_rows(workdir, (old or new)["train"])
    for key in ("steps", "stop_after"):
        asked = new["train"].get(key)
        if asked is not None and asked < done:
            raise ConfigError(
                f"train.{key}: {asked} is less than the {done} steps that the run in {workdir} has "
                "done: give more, or another --workdir"
            )
    if old is not None and old.get("trainer", new["trainer"]) != new["trainer"]:
        raise ConfigError(
            f"trainer: {workdir} holds a run of {old['trainer']!r}, not {new['trainer']!r}: give "
            "another --workdir"
        )
    _check_inputs(workdir, new, done)
    if (workdir / METRICS).exists():
        return []
    return [f"{workdir} has a checkpoint of step {done} and no {METRICS}: earlier rows are missing"]


def check_fit(workdir: pathlib.Path, abstract: Any, changes: list[Change]) -> None:
    """Check that the newest checkpoint has the state's arrays.

    Args:
        workdir: of the run.
        abstract: shapes and dtypes of the state.
        changes: of the config, among which the cause is.

    Raises:
        ConfigError: it has others; names the key that changed, and the first array.
    """
    try:
        Checkpointer(workdir / "checkpoints").check_fit(abstract)
    except CheckpointError as error:
        causes = [change for change in changes if change.key.split(".")[0] in _SHAPING] or changes
        because = "; ".join(map(str, causes[:3])) or "the config is the same, the code is not"
        raise ConfigError(f"{because}: {error}; set it back, or give another --workdir") from error


def changes(
    new: Mapping[str, Any],
    old: Mapping[str, Any] | None,
    written: Collection[str] | None = None,
) -> list[Change]:
    """The keys whose values differ; none where there is no old config.

    Args:
        new: the config, with its defaults.
        old: that of the run so far.
        written: keys that the config gives, or gave; the others are left to their defaults. None:
            not known.
    """
    if old is None:
        return []
    before, now = _flat(old), _flat(new)
    left = set() if written is None else {key for key in before if not _is_in(key, written)}
    return [
        Change(key, before.get(key), now.get(key), key in left and key in now)
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]


def written(config: Mapping[str, Any], workdir: pathlib.Path) -> set[str] | None:
    """The keys that the config gives, or gave when the run began; None where that is not known."""
    path = workdir / provenance.FILE
    if not path.exists():
        return None
    return {*_flat(config), *config_lib.load_json(path).get("written", ())}


def told(changed: list[Change]) -> list[str]:
    """Lines for the user."""
    lines = []
    for key, old, new, default in changed:
        start = "config changed since this run began"
        if default:
            start = "the code has another default than when this run began"
        lines.append(f"{start}: {key}: {old!r} -> {new!r}")
    return lines


def note(
    workdir: pathlib.Path, new: dict[str, Any], warnings: list[str], config: Mapping[str, Any]
) -> None:
    """Give the warnings, then write config.json, run.json and inputs.json.

    Args:
        workdir: of the run.
        new: the config, with its defaults.
        warnings: lines for the user.
        config: the config as it is given, whose keys run.json names.
    """
    if not mesh_lib.is_main():
        return
    for warning in warnings:
        logger.warning("%s", warning)
    workdir.mkdir(parents=True, exist_ok=True)
    config_lib.save_json(new, workdir / CONFIG)
    made = provenance.provenance() | {"written": sorted(_flat(config))}
    config_lib.save_json(made, workdir / provenance.FILE)
    found = inputs(new)
    if found:
        config_lib.save_json(found, workdir / INPUTS)


def inputs(config: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of each file that `data` and `thinkers` name, and of tokenizers there, by key.

    Of a directory of a teacher's log-probabilities it is that of its manifest.
    """
    found = {}
    named = [pair for part in _INPUTS for pair in _flat(config.get(part) or {}, part).items()]
    named.append(("teacher.logprobs", (config.get("teacher") or {}).get("logprobs")))
    for key, value in named:
        if not isinstance(value, str) or not value:
            continue
        inside = (pathlib.Path(value) / name for name in _INSIDE)
        for path in (pathlib.Path(value), *inside):
            if path.is_file():
                stat = path.stat()
                found[key] = _digest(path, stat.st_size, stat.st_mtime_ns)
                break
    return found


# What stands for a directory, the first that it has.
_INSIDE = (manifest.NAME, "tokenizer.json", trajectories.NAME)

# Sections of a config that name files of data.
_INPUTS = ("data", "thinkers")

# Sections of a config on which the arrays of a state depend.
_SHAPING = frozenset({"optim", "model", "student"})


def _check_inputs(workdir: pathlib.Path, new: Mapping[str, Any], done: int) -> None:
    path = workdir / INPUTS
    if not path.exists():
        return
    before, now = config_lib.load_json(path), inputs(new)
    old = _flat(config_lib.load_json(workdir / CONFIG)) if (workdir / CONFIG).exists() else {}
    flat = _flat(new)
    for key in sorted(before.keys() & now.keys()):
        # Another path is a change of the config, which is told.
        if before[key] != now[key] and old.get(key) == flat.get(key):
            raise ConfigError(
                f"{key}: the content of {flat[key]} is not what it was when the run in {workdir} "
                f"began, which has done {done} steps: put the old content back, or give another "
                "--workdir"
            )


def _check_rows(workdir: pathlib.Path, train: Mapping[str, Any]) -> list[str]:
    """Without a checkpoint the run begins again, and its rows are dropped: tell, or refuse."""
    last = _last_step(workdir / METRICS)
    if last < 1:
        return []
    lengths = (train.get("checkpoint_every"), train.get("stop_after"), train.get("steps"))
    due = min((length for length in lengths if length), default=1)
    folder = workdir / "checkpoints"
    # A save that was under way has left its scratch directory.
    if last >= due and not (folder.is_dir() and any(folder.iterdir())):
        raise ConfigError(
            f"{workdir / METRICS} goes to step {last}, but {folder} holds no checkpoint: bring it "
            f"back, give another --workdir, or remove {METRICS} to begin again"
        )
    return [
        f"{workdir / METRICS} goes to step {last} and no checkpoint was saved: the run begins "
        "again, without these rows"
    ]


def _last_step(path: pathlib.Path) -> int:
    """The largest step of whole rows; -1 where there is none.

    A row whose loss is not finite has ended its run, which saved nothing of that step.
    """
    steps = [-1]
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
            steps.append(int(row["step"]) if "loss" not in row.get("nonfinite", ()) else -1)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return max(steps)


@functools.lru_cache(maxsize=256)
def _digest(path: pathlib.Path, size: int, changed: int) -> str:
    """SHA-256 of the file; size and time of change tell a new content from one that was read."""
    del size, changed
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_in(key: str, written: Collection[str]) -> bool:
    """Whether the key, or a section around it, is written."""
    parts = key.split(".")
    return any(".".join(parts[:n]) in written for n in range(1, len(parts) + 1))


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat
