"""Checkpoints: save, restore on any mesh, refuse what is damaged.

Where a run starts from, first match wins:

1. a good checkpoint in its own work directory (`Checkpointer.restore`): the run resumes;
2. the path named for initialisation (`Checkpointer.restore_params` on another run's directory, or
   a HuggingFace directory): params only, step 0;
3. scratch.

On disk, `<directory>/<step>/` holds `state/` (arrays, written by orbax as nested dicts named after
the state's fields), `extra.json` and `manifest.json`: size and CRC-32 of every file. All of it is
written under another name and renamed at the end, so a directory named by a number is complete,
and the manifest tells whether it still is. The directory is one that all processes share.

This is the only file that imports orbax.
"""

import contextlib
import errno
import gc
import json
import logging
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath  # orbax's own path type: its handlers take no other

from jaxlab.runtime import atomic, manifest
from jaxlab.runtime import mesh as mesh_lib
from jaxlab.runtime import sharding as sharding_lib

_STATE, _EXTRA = "state", "extra.json"
_UNFINISHED = (".orbax-checkpoint-tmp", ".deleted")
_CAUSES = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT), os.strerror(errno.EFBIG))

logger = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """A checkpoint is damaged, absent or does not fit; the message is one line for the user."""


class Restored(NamedTuple):
    """What `Checkpointer.restore` gives back."""

    step: int
    state: Any
    extra: dict[str, Any]


class Checkpointer:
    """Saves and restores the training states of one run.

    Every process of the run makes one and calls the same methods in the same order.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        keep: int | None = 3,
        keep_every: int | None = None,
        async_save: bool = True,
    ):
        """Names the directory; nothing is read or written yet.

        Args:
            directory: where the `<step>/` directories are.
            keep: how many of the latest steps stay; None keeps all.
            keep_every: steps that are a multiple of this stay as well.
            async_save: `save` returns once the arrays are copied to host memory.
        """
        if "://" in os.fspath(directory):
            raise CheckpointError(
                f"{directory} is a URL; mount the bucket (gcsfuse, mountpoint-s3) and give its path"
            )
        if keep is not None and keep < 1:
            raise CheckpointError(f"keep must be at least 1 or None; got {keep}")
        self.directory = pathlib.Path(directory).absolute()
        self._keep, self._keep_every, self._async = keep, keep_every, async_save
        self._saving: tuple[int, dict[str, Any]] | None = None
        self._saver: ocp.AsyncCheckpointer | None = None

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *_):
        self.close()

    def steps(self) -> list[int]:
        """The steps that are on disk, ascending; whether they are good is not looked at."""
        if not self.directory.is_dir():
            return []
        return sorted(int(p.name) for p in self.directory.iterdir() if _is_step(p))

    def latest(self) -> int | None:
        """The last step on disk, or None."""
        return max(self.steps(), default=None)

    def save(self, step: int, state: Any, extra: Mapping[str, Any] | None = None) -> bool:
        """Saves a state; waits for the save before it, and not for this one if `async_save`.

        Args:
            step: the name of the checkpoint; a step that is there already is left as it is.
            state: any pytree of arrays. With several processes, global arrays; an array that is
                local to a process counts as equal in all of them, and process 0's is taken.
            extra: JSON-able facts kept beside it.

        Returns:
            Whether a checkpoint was written.

        Raises:
            CheckpointError: a leaf cannot be saved, or this save or the one before cannot be
                written, for example for want of room.
        """
        self.wait()
        step, facts = int(step), json.loads(json.dumps(dict(extra or {})))
        tree = _nest({path: _to_saved(path, leaf) for path, leaf in _leaves(state).items()})
        if mesh_lib.is_main():
            self.directory.mkdir(parents=True, exist_ok=True)
        if mesh_lib.broadcast(self._path(step).exists()):
            return False
        if self._saver is None:
            self._saver = self._start_saver()
        self._saving = (step, facts)
        saver, args = self._saver, ocp.args.Composite(**{_STATE: ocp.args.PyTreeSave(tree)})
        self._attempt_save(lambda: saver.save(self._path(step), args=args))
        if not self._async:
            self.wait()
        return True

    def wait(self) -> None:
        """Waits until the last save is on disk, then deletes the steps that need not stay.

        Raises:
            CheckpointError: it could not be written; the checkpoints before it are as they were.
        """
        if self._saver is None or self._saving is None:
            return
        self._attempt_save(self._saver.wait_until_finished)
        self._saving = None
        if mesh_lib.is_main():
            self._delete_old()

    def close(self) -> None:
        """Waits and frees the background thread; the object can not save after this."""
        self.wait()
        if self._saver is not None:
            self._saver.close()
            self._saver = None

    def restore(self, example: Any, step: int | None = None) -> Restored | None:
        """Restores the newest good checkpoint of the run that owns this directory.

        A damaged checkpoint is reported by a warning, moved aside to `<step>.corrupt`, and the one
        before it is used. One that lost its manifest is used if it reads without error.

        Args:
            example: the expected state; leaves are arrays or `jax.ShapeDtypeStruct`. Those with a
                sharding are restored to it, whatever mesh wrote the checkpoint; numpy leaves and
                leaves without one become host arrays and default-device arrays.
            step: this step and no other.

        Returns:
            The restored state, or None if the directory holds no checkpoint.

        Raises:
            CheckpointError: no checkpoint is good (all are named, with the reasons), the step asked
                for is not, or a checkpoint does not fit `example` (the first differing path is
                named).
        """
        self.wait()

        def read(chosen: int) -> Any:
            return self._read_state(chosen, example)

        found = self._first_good(read, step)
        if found is None:
            return None
        chosen, state, sealed, faults = found
        if mesh_lib.is_main():
            for bad, reason in faults.items():
                self._move_aside(bad, reason)
            if not sealed:
                manifest.write(self._path(chosen))
        mesh_lib.barrier("jaxlab_restored")
        return Restored(chosen, state, self._read_extra(chosen))

    def check_fit(self, example: Any) -> None:
        """Checks that the newest checkpoint whose layout can be read fits; reads no arrays.

        Raises:
            CheckpointError: it does not fit `example` (the first differing path is named).
        """
        expected = _leaves(example)
        for step in reversed(self.steps()):
            try:
                stored = _metadata(self._path(step))
            except Exception:  # damaged: `restore` tells, and takes the one before
                continue
            _check_fit(self._path(step), expected, stored)
            return

    def restore_params(
        self,
        step: int | None = None,
        shardings: Any | Callable[[Any], Any] | None = None,
        dtype: Any | None = None,
    ) -> dict[str, Any]:
        """Restores the params alone, of a structure that need not be known; changes no file.

        Args:
            step: this step; None takes the newest good one.
            shardings: None gives numpy arrays. Otherwise one `Sharding` for all, a tree of them, or
                a function from the abstract params to such a tree (for example one calling
                `infer`).
            dtype: converts the floating-point params.

        Returns:
            Nested dicts of arrays.

        Raises:
            CheckpointError: there is no good checkpoint, or it holds no `params`.
        """
        self.wait()

        def read(chosen: int) -> Any:
            return self._read_params(chosen, shardings, dtype)

        found = self._first_good(read, step)
        if found is None:
            raise CheckpointError(f"there is no checkpoint in {self.directory}")
        _, params, _, faults = found
        for bad, reason in faults.items():
            logger.warning("ignoring the damaged checkpoint %s: %s", self._path(bad), reason)
        return params

    def _path(self, step: int) -> pathlib.Path:
        return self.directory / str(step)

    def _attempt_save(self, part: Callable[[], Any]) -> None:
        try:
            part()
            return
        except Exception as error:  # orbax and tensorstore raise many kinds
            fault = self._give_up(error)
        # By now the error and its frames are gone, and with them what its threads would complain
        # of when they are collected, each with a trace.
        with _unraisable_ignored():
            gc.collect()
        raise fault

    def _give_up(self, error: Exception) -> CheckpointError:
        """Says in one line what became of a save; the next saver removes what it has left."""
        logger.debug("a checkpoint could not be written", exc_info=error)
        assert self._saver is not None
        assert self._saving is not None
        saver, (step, _) = self._saver, self._saving
        self._saver = self._saving = None
        with contextlib.suppress(Exception):  # the same error once more
            saver.close()
        text = " ".join(str(error).split())
        # Tensorstore wraps the system's words into a page of its own.
        cause = next((known for known in _CAUSES if known in text), text[:200])
        good = self.latest()
        kept = "there is none before it" if good is None else f"the last one, of step {good}, stays"
        return CheckpointError(
            f"the checkpoint of step {step} in {self.directory} could not be written ({cause}); "
            f"{kept}"
        )

    def _start_saver(self) -> ocp.AsyncCheckpointer:
        """Sweeps what killed runs left half-written, and starts the background writer."""
        if mesh_lib.is_main():
            for path in self.directory.iterdir():
                if any(mark in path.name for mark in _UNFINISHED):
                    logger.warning("removing the unfinished checkpoint %s", path)
                    shutil.rmtree(path, ignore_errors=True)
        mesh_lib.barrier("jaxlab_checkpoint_sweep")
        for name in ("absl", "asyncio"):
            logging.getLogger(name).addFilter(_without_traces)
        return ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(),
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._before_rename),
        )

    def _before_rename(self) -> None:
        """Called by orbax in process 0 when all arrays are written and the rename is next."""
        assert self._saving is not None
        step, extra = self._saving
        for path in self.directory.glob(f"{step}{_UNFINISHED[0]}*"):
            atomic.write(path / _EXTRA, json.dumps(extra).encode())
            manifest.write(path)

    def _delete_old(self) -> None:
        if self._keep is None:
            return
        for step in self.steps()[: -self._keep]:
            if self._keep_every and step % self._keep_every == 0:
                continue
            # Renamed first: a kill while deleting must not leave half a checkpoint with a name.
            doomed = self._path(step).rename(self._path(step).with_name(f"{step}.deleted"))
            shutil.rmtree(doomed)

    def _move_aside(self, step: int, reason: str) -> None:
        aside = self.directory / f"{step}.corrupt"
        shutil.rmtree(aside, ignore_errors=True)
        self._path(step).rename(aside)
        logger.warning(
            "the checkpoint %s is damaged (%s); moved to %s", self._path(step), reason, aside.name
        )

    def _first_good(
        self, read: Callable[[int], Any], step: int | None
    ) -> tuple[int, Any, bool, dict[int, str]] | None:
        """Returns (step, what `read` made of it, had a manifest, {damaged newer step: reason})."""
        steps = mesh_lib.broadcast([s for s in self.steps() if step in (None, s)])
        if step is not None and not steps:
            raise CheckpointError(f"there is no checkpoint of step {step} in {self.directory}")
        faults: dict[int, str] = {}
        for candidate in reversed(steps):
            sealed, fault = mesh_lib.broadcast(
                manifest.check(self._path(candidate)) if mesh_lib.is_main() else None
            )
            if fault is None and sealed:
                return candidate, read(candidate), True, faults
            if fault is None:
                value, fault = _attempt(read, candidate)
                if mesh_lib.everywhere(fault is None):
                    return candidate, value, False, faults
            faults[candidate] = fault or "another process could not read it"
        if not faults:
            return None
        listed = "; ".join(f"{s}: {reason}" for s, reason in faults.items())
        raise CheckpointError(f"no good checkpoint in {self.directory} ({listed})")

    def _read_extra(self, step: int) -> dict[str, Any]:
        path = self._path(step) / _EXTRA
        return json.loads(path.read_text()) if path.exists() else {}

    def _read_state(self, step: int, example: Any) -> Any:
        expected = _leaves(example)
        stored = _metadata(self._path(step))
        _check_fit(self._path(step), expected, stored)
        arrays = _read_arrays(self._path(step), {k: _restore_args(v) for k, v in expected.items()})
        leaves = [_from_saved(arrays[path], like) for path, like in expected.items()]
        return jax.tree.unflatten(jax.tree.structure(example), leaves)

    def _read_params(self, step: int, shardings: Any, dtype: Any) -> dict[str, Any]:
        stored = {
            path: jax.ShapeDtypeStruct(
                leaf.shape, dtype if dtype and _is_floating(leaf.dtype) else leaf.dtype
            )
            for path, leaf in _metadata(self._path(step)).items()
            if path[0] == "params"
        }
        if not stored:
            raise CheckpointError(f"the checkpoint {self._path(step)} holds no params")
        abstract = _nest(stored)["params"]
        if callable(shardings):
            shardings = shardings(abstract)
        if isinstance(shardings, jax.sharding.Sharding):
            shardings = jax.tree.map(lambda _: shardings, abstract)
        if shardings is None:
            args = {path: ocp.RestoreArgs(restore_type=np.ndarray) for path in stored}
        else:
            placed = {("params", *path): s for path, s in _leaves(shardings).items()}
            differing = sorted(set(placed) ^ set(stored))
            if differing:
                name = "/".join(differing[0])
                raise CheckpointError(f"the shardings and the stored params differ at {name}")
            args = {
                path: ocp.ArrayRestoreArgs(sharding=placed[path], dtype=leaf.dtype)
                for path, leaf in stored.items()
            }
        arrays = _read_arrays(self._path(step), args)
        if shardings is None:
            arrays = {p: np.asarray(a).astype(stored[p].dtype) for p, a in arrays.items()}
        return _nest(arrays)["params"]


def _without_traces(record: logging.LogRecord) -> bool:
    """A filter: orbax's threads log each error with its trace before it is raised here."""
    theirs = "orbax" in pathlib.Path(record.pathname).parts
    return not (record.exc_info and (theirs or "never retrieved" in record.getMessage()))


@contextlib.contextmanager
def _unraisable_ignored() -> Iterator[None]:
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        yield
    finally:
        sys.unraisablehook = hook


def _is_step(path: pathlib.Path) -> bool:
    return path.name.isdecimal() and path.is_dir()


def _leaves(tree: Any) -> dict[tuple[str, ...], Any]:
    """The leaves by path, in the order of `jax.tree.leaves`."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    leaves = {sharding_lib.leaf_path(path): leaf for path, leaf in flat}
    if len(leaves) != len(flat):
        raise CheckpointError("two leaves of the state have the same path (keys such as 1 and '1')")
    return leaves


def _nest(leaves: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    root: dict[str, Any] = {}
    for path, leaf in leaves.items():
        if not path:
            raise CheckpointError("a state must be a container of arrays, not one array")
        node = root
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = leaf
    return root


def _is_floating(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.floating)


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_saved(path: tuple[str, ...], leaf: Any) -> Any:
    """The leaf as an array that orbax writes: keys as their words, scalars as arrays."""
    if _is_key(leaf):
        leaf = jax.random.key_data(leaf)
    is_global = isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
    if not is_global and (jax.process_count() > 1 or not isinstance(leaf, jax.Array)):
        leaf = np.asarray(leaf)
    if leaf.size == 0 or leaf.dtype == object:
        raise CheckpointError(
            f"{'/'.join(path)} cannot be saved: {leaf.dtype} of shape {leaf.shape}"
        )
    return leaf


def _saved_form(leaf: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype that `_to_saved` gives a leaf of the expected state."""
    if _is_key(leaf):
        return jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
    if not hasattr(leaf, "dtype"):
        leaf = np.asarray(leaf)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _restore_args(leaf: Any) -> ocp.RestoreArgs:
    sharding = getattr(leaf, "sharding", None)
    if _is_key(leaf) or sharding is None:
        return ocp.RestoreArgs(restore_type=np.ndarray)
    if jax.process_count() > 1 and sharding.is_fully_addressable:
        return ocp.RestoreArgs(restore_type=np.ndarray)
    return ocp.ArrayRestoreArgs(sharding=sharding, dtype=leaf.dtype)


def _from_saved(array: Any, like: Any) -> Any:
    """The restored array in the form of the expected leaf."""
    if _is_key(like):
        key = jax.random.wrap_key_data(jnp.asarray(array), impl=_key_impl(like))
        sharding = getattr(like, "sharding", None)
        return key if sharding is None else jax.device_put(key, sharding)
    if isinstance(array, jax.Array) or isinstance(like, np.ndarray | np.generic):
        return array
    if not hasattr(like, "dtype"):
        return type(like)(np.asarray(array).item())
    return jax.device_put(array, getattr(like, "sharding", None))


def _key_impl(like: Any) -> Any:
    """The generator of a key of which perhaps only shape and dtype are known."""
    seen = []

    def look(key):
        seen.append(jax.random.key_impl(key))
        return jax.random.key_data(key)

    jax.eval_shape(look, jax.ShapeDtypeStruct(like.shape, like.dtype))
    return seen[0]


def _metadata(path: pathlib.Path) -> dict[tuple[str, ...], Any]:
    """Shape and dtype of every stored array, by path."""
    tree = ocp.PyTreeCheckpointHandler().metadata(epath.Path(path / _STATE)).tree
    return _leaves(jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype), tree))


def _read_arrays(path: pathlib.Path, args: Mapping[tuple[str, ...], ocp.RestoreArgs]) -> dict:
    tree = _nest(args)
    restored = ocp.PyTreeCheckpointHandler().restore(
        epath.Path(path / _STATE),
        args=ocp.args.PyTreeRestore(
            item=jax.tree.map(lambda _: 0, tree), restore_args=tree, partial_restore=True
        ),
    )
    return _leaves(restored)


def _check_fit(path: pathlib.Path, expected: Mapping, stored: Mapping) -> None:
    for name in sorted(set(expected) | set(stored)):
        wanted = _describe(_saved_form(expected[name])) if name in expected else "nothing"
        found = _describe(stored[name]) if name in stored else "nothing"
        if wanted != found:
            raise CheckpointError(
                f"the checkpoint {path} does not fit the state: {'/'.join(name)}: "
                f"expected {wanted}, found {found}"
            )


def _describe(leaf: Any) -> str:
    return f"{np.dtype(leaf.dtype).name}[{','.join(map(str, leaf.shape))}]"


def _attempt(read: Callable[[int], Any], step: int) -> tuple[Any, str | None]:
    """Reads a checkpoint of unknown quality; returns (value, None) or (None, what went wrong)."""
    try:
        return read(step), None
    except CheckpointError:
        raise
    except Exception as error:  # orbax and tensorstore raise many kinds for damaged files
        return None, f"no manifest, and unreadable: {' '.join(str(error).split())[:200]}"
