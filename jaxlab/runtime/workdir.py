"""Work directories: their names as given by users, and one program in each at a time. No jax."""

import contextlib
import fcntl
import logging
import os
import pathlib
import re
import socket
from collections.abc import Mapping
from typing import IO, Any

LOCK = ".lock"
# Keys of configs that name files and directories on this machine.
PATHS = frozenset({"path", "train", "test", "valid", "tokenizer", "cache", "export", "logprobs"})

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_HOME = re.compile(r"~[\w.-]*(/|$)")

logger = logging.getLogger(__name__)


class WorkdirError(ValueError):
    """A directory cannot be used as asked; the message is one line for the user."""


def expand(path: str, where: str) -> str:
    """The path with a leading "~" or "~user" replaced by the home directory.

    Args:
        path: as the user wrote it.
        where: the flag or key that holds it, for errors.

    Raises:
        WorkdirError: it is a URL, or names a user who is not known here.
    """
    if is_url(path):
        raise WorkdirError(
            f"{where}: {path} is a URL, which is not read or written: mount the bucket (gcsfuse, "
            "mountpoint-s3) or copy the files, and give the path on this machine"
        )
    if not _HOME.match(path):
        return path
    expanded = os.path.expanduser(path)
    if expanded == path:
        raise WorkdirError(
            f"{where}: there is no user {path[1:].partition('/')[0]!r}, whose home {path} would be "
            f"in: write ./{path} for a directory of that name"
        )
    return expanded


def is_url(text: str) -> bool:
    """Whether the text begins with a scheme, as gs://bucket or file:/path does."""
    return _URL.match(text) is not None


def local_paths(config: Any, where: str = "config") -> Any:
    """The config with every leading "~" replaced by the home directory.

    Args:
        config: dicts and lists, at whose ends are scalars.
        where: the dotted prefix that errors name.

    Raises:
        WorkdirError: a key of `PATHS` holds a URL, or the home of an unknown user.
    """
    if isinstance(config, Mapping):
        return {key: local_paths(value, f"{where}.{key}") for key, value in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(local_paths(value, f"{where}[{i}]") for i, value in enumerate(config))
    if not isinstance(config, str):
        return config
    if where.rpartition(".")[2] in PATHS:
        return expand(config, where)
    return os.path.expanduser(config) if _HOME.match(config) else config


def directory(path: str | None, where: str) -> pathlib.Path:
    """The directory that a flag names; it need not exist.

    Raises:
        WorkdirError: no name is given, it is a URL or a loop of links, or there is a file of that
            name.
    """
    if not (path or "").strip():
        raise WorkdirError(f"{where} is empty: name a directory")
    found = pathlib.Path(expand(str(path), where))
    try:
        found.resolve()
        is_file = found.exists() and not found.is_dir()
    except (OSError, RuntimeError, ValueError) as error:
        raise WorkdirError(f"{where}: {path} cannot be a directory: {error}") from error
    if is_file:
        raise WorkdirError(f"{where}: {found} is a file: name a directory")
    return found


def lock(workdir: pathlib.Path) -> IO[bytes]:
    """Take the work directory for this process, until what is returned is closed.

    The lock ends with the process, however that ends: a killed run leaves none.

    Raises:
        WorkdirError: another process has it.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    file = (workdir / LOCK).open("a+b", buffering=0)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().decode(errors="replace").strip()
        file.close()
        raise WorkdirError(
            f"another process is at work in {workdir}{holder and f' ({holder})'}: wait for its "
            "end, or give another --workdir"
        ) from None
    except OSError as error:
        logger.warning("%s is not locked against a second run: %s", workdir, error.strerror)
        return file
    # Only told to the user: the lock itself is the kernel's.
    with contextlib.suppress(OSError):
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
    return file
