"""Folders of a run that do not outlive it, even if it is killed with -9.

A run holds a lock on a file beside its folder; the kernel drops the lock when the process ends, in
whatever way. The next run removes the folders of all whose lock it can take, and before that ends
the programs that were started for them: those carry the folder's name in their environment.
"""

import contextlib
import fcntl
import logging
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from jaxlab.evals.ajbench.databases import postgres_server
from jaxlab.evals.ajbench.sandbox import files, marks

_PREFIX = "run-"
# A folder whose lock file is gone may be of a run that lives: programs that clean /tmp remove old
# files one by one. It is held by another lock, on itself; before it is taken for a leftover nobody
# may have made or removed anything in it for so long.
_UNLOCKED_SECONDS = 24 * 3600.0

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

logger = logging.getLogger(__name__)


def default_base() -> Path:
    """Where runs of this user keep their folders."""
    return Path(tempfile.gettempdir()) / f"jaxlab-ajbench-{os.getuid()}"


@contextlib.contextmanager
def run_folder(base: Path | None = None) -> Iterator[Path]:
    """A folder of this run alone; leftovers of dead runs below `base` are removed first.

    Raises:
        PermissionError: `base` belongs to somebody else.
    """
    base = default_base() if base is None else base
    base.mkdir(mode=0o711, parents=True, exist_ok=True)
    if base.lstat().st_uid != os.getuid() or base.is_symlink():
        raise PermissionError(f"{base} belongs to another user: set TMPDIR to a folder of yours")
    _let_pass(base)
    sweep(base)
    token = secrets.token_hex(8)
    lock_path, folder = base / f"{_PREFIX}{token}.lock", base / f"{_PREFIX}{token}"
    with _locked(lock_path):
        folder.mkdir(mode=0o711)
        _let_pass(folder)
        handle = os.open(folder, _FOLDER)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield folder
        finally:
            os.close(handle)
            marks.kill(folder)
            if _remove(folder):
                lock_path.unlink(missing_ok=True)


def _let_pass(folder: Path) -> None:
    """A server or browser of another user has to reach its folder, whatever the umask says."""
    folder.chmod(stat.S_IMODE(folder.stat().st_mode) | 0o011)


def sweep(base: Path) -> list[Path]:
    """Remove what dead runs have left below `base`; returns the folders that were removed."""
    removed = []
    for lock_path in base.glob(f"{_PREFIX}*.lock"):
        try:
            descriptor = os.open(lock_path, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            continue  # gone, or nothing that a run has made
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            folder = lock_path.with_suffix("")
            if folder.is_dir() and not folder.is_symlink():
                marks.kill(folder)
                if not _remove(folder):
                    continue
                removed.append(folder)
            lock_path.unlink(missing_ok=True)
        except BlockingIOError:
            pass  # that run lives
        finally:
            os.close(descriptor)
    return removed + [folder for folder in base.glob(f"{_PREFIX}*") if _remove_unlocked(folder)]


def _remove_unlocked(folder: Path) -> bool:
    """Remove a folder that a run has left without its lock file."""
    if folder.suffix == ".lock" or folder.with_suffix(".lock").exists():
        return False
    try:
        handle = os.open(folder, _FOLDER)
    except OSError:
        return False  # gone, or no folder
    try:
        found = os.fstat(handle)
        if found.st_uid != os.getuid() or time.time() - found.st_mtime < _UNLOCKED_SECONDS:
            return False
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        marks.kill(folder)
        return _remove(folder)
    except BlockingIOError:
        return False  # that run lives
    finally:
        os.close(handle)


def _remove(folder: Path) -> bool:
    """Undo a run; False if that has to be tried again, which the next run does."""
    try:
        postgres_server.clean(folder)
        return files.remove(folder)
    # Whatever is there, it must not keep the next run from beginning.
    except Exception as error:
        logger.warning("%s is kept: %s: %s", folder, type(error).__name__, error)
        return False


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            break
        # A sweep took the new file for a leftover between the two calls.
        os.close(descriptor)
    try:
        yield
    finally:
        os.close(descriptor)
