"""A folder that its tools cannot leave.

Every path is walked from the root's descriptor, one name at a time and without following links
(openat with O_NOFOLLOW), so that no "..", absolute path or link leads out, also not one that
somebody puts there between a check and its use.
"""

import contextlib
import errno
import fnmatch
import hashlib
import os
import secrets
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from jaxlab.evals.ajbench.sandbox.limits import DEFAULT, Limits, ToolError

# Of folders in each other, and of a path in bytes: with the root's own name in front it is still
# one that the system takes, and no reader of trees recurses too deep.
MAX_DEPTH = 100
MAX_PATH = 3000

# They come from what else runs, and say nothing of a path.
_MACHINE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EIO}

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Tree:
    """The files below a root, by paths that are relative to it or begin with one of its names.

    Attributes:
        name: of the root, as a judge is told.
        limits: on sizes and counts.
    """

    def __init__(self, root: Path, names: tuple[str, ...] = ("/",), limits: Limits = DEFAULT):
        """Opens the root.

        Args:
            root: the folder.
            names: absolute paths that mean the root, such as the place where the judged agent
                saw it; the longest that fits is taken off. The first is the name that a judge
                is told.
            limits: on sizes and counts.
        """
        self._root = os.open(root, _FOLDER)
        self._lock = threading.Lock()
        self.name = names[0] if names else "/"
        self._names = sorted(names, key=len, reverse=True)
        self.limits = limits

    def close(self) -> None:
        """Gives the root's descriptor back; what is under way ends in an error at its next path."""
        with self._lock:
            root, self._root = self._root, -1
        if root >= 0:
            os.close(root)

    def _start(self) -> int:
        """A descriptor of the root to walk from, which is the caller's to close.

        A tool may be under way when its sample ends, and the number of the root's descriptor is
        soon that of another sample's.
        """
        with self._lock:
            if self._root < 0:
                raise ToolError("the sample has ended")
            return os.dup(self._root)

    def parts(self, path: object) -> tuple[str, ...]:
        """The names on the way from the root.

        Raises:
            ToolError: the path is no text, leads out, or is too long or too deep.
        """
        if not isinstance(path, str) or "\0" in path or len(path) > 4096:
            raise ToolError("a path must be a string of at most 4096 characters without NUL")
        try:
            path.encode()
        except UnicodeEncodeError:
            raise ToolError("a path must be valid Unicode") from None
        if path.startswith("/"):
            path = self._relative(path)
        found: list[str] = []
        for name in PurePosixPath(path).parts:
            if name == "..":
                if not found:
                    raise ToolError(f"{path!r:.200} leads out of the folder")
                found.pop()
            else:
                found.append(name)
        _check_size(found)
        return tuple(found)

    def read(self, path: object, end: bool = False) -> bytes:
        """The content of a file, at most `Limits.write_bytes` from its beginning, or its `end`."""
        with self._parent(path) as (folder, name):
            # A pipe would block without O_NONBLOCK.
            descriptor = self._open(name, os.O_RDONLY | os.O_NONBLOCK, folder, path)
        with _file(descriptor, "rb", path) as file:
            if end:
                file.seek(max(0, os.fstat(descriptor).st_size - self.limits.write_bytes))
            return file.read(self.limits.write_bytes)

    def write(self, path: object, content: bytes) -> None:
        """Make a file or replace its content."""
        if len(content) > self.limits.write_bytes:
            raise ToolError(f"{len(content)} bytes are more than {self.limits.write_bytes}")
        with self._parent(path) as (folder, name):
            flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK
            descriptor = self._open(name, flags, folder, path)
        with _file(descriptor, "wb", path) as file:
            file.truncate(0)
            file.write(content)

    def make_folder(self, path: object) -> None:
        """Make a folder and those above it; it may exist."""
        folder = self._start()
        try:
            for name in self.parts(path):
                with _refusing(path), contextlib.suppress(FileExistsError):
                    os.mkdir(name, dir_fd=folder)
                inner = self._open(name, _FOLDER, folder, path)
                os.close(folder)
                folder = inner
        finally:
            os.close(folder)

    def move(self, source: object, target: object) -> None:
        """Rename a file or folder; a file of the new name is replaced, as by the recorded server.

        Its description says that this fails, but it calls rename(2) without a look.
        """
        with self._parent(source) as (a, old), self._parent(target) as (b, new):
            # What is inside comes to lie as deep below the target.
            above, before = self.parts(target), len(self.parts(source))
            for inner, _, _ in self._below(self.parts(source)):
                _check_size([*above, *inner[before:]])
            with _refusing(source):
                os.rename(old, new, src_dir_fd=a, dst_dir_fd=b)

    def entries(self, path: object = "") -> list[tuple[str, os.stat_result]]:
        """Names in a folder with what they are, in order; `Limits.entries` at most."""
        with self._folder(self.parts(path), path) as folder, _refusing(path):
            names = sorted(os.listdir(folder))[: self.limits.entries]
            return [(name, os.stat(name, dir_fd=folder, follow_symlinks=False)) for name in names]

    def stat(self, path: object) -> os.stat_result:
        """Size, times and kind of a file or folder."""
        if not self.parts(path):
            with self._folder((), path) as folder:
                return os.fstat(folder)
        with self._parent(path) as (folder, name), _refusing(path):
            return os.stat(name, dir_fd=folder, follow_symlinks=False)

    def walk(self, path: object = "") -> Iterator[tuple[str, os.stat_result]]:
        """Everything below a folder, depth first, `Limits.entries` at most; links are not taken."""
        base = "/".join(self.parts(path))
        stack, seen = [base], 0
        while stack:
            here = stack.pop()
            entries = self.entries(here)
            for name, info in entries:
                if seen == self.limits.entries:
                    return
                seen += 1
                yield f"{here}/{name}".lstrip("/"), info
            stack += [
                f"{here}/{name}".lstrip("/")
                for name, info in reversed(entries)
                if stat.S_ISDIR(info.st_mode)
            ]

    def search(self, path: object, pattern: object) -> list[str]:
        """Paths below a folder whose name, or whole path, matches a shell pattern."""
        if not isinstance(pattern, str) or len(pattern) > 200:
            raise ToolError("a pattern must be a string of at most 200 characters")
        # Here a star crosses folders anyway.
        pattern = pattern.removeprefix("**/")
        return [
            found
            for found, _ in self.walk(path)
            if fnmatch.fnmatchcase(found, pattern)
            or fnmatch.fnmatchcase(found.rpartition("/")[2], pattern)
            or pattern.lower() in found.rpartition("/")[2].lower()
        ]

    def digest(self, content: Callable[[str, BufferedReader], bytes] | None = None) -> str:
        """SHA-256 over paths, kinds, permissions and contents, without any limit.

        Args:
            content: gives the digest of a file from its path and the open file; SHA-256 by default.
        """
        total = hashlib.sha256()
        for parts, folder, entries in self._below(()):
            for name, info in entries:
                path = "/".join((*parts, name))
                total.update(path.encode("utf-8", "surrogateescape"))
                total.update(f"\0{info.st_mode:o}\0".encode())
                if stat.S_ISREG(info.st_mode):
                    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
                    with os.fdopen(descriptor, "rb") as file:
                        total.update((content or _sha256)(path, file))
        return total.hexdigest()

    def _below(
        self, parts: tuple[str, ...]
    ) -> Iterator[tuple[tuple[str, ...], int, list[tuple[str, os.stat_result]]]]:
        """Every folder from one on, open, with what is in it; nothing where it is a file."""
        stack = [parts]
        last: tuple[str, ...] = ()
        folder = self._start()
        try:
            while stack:
                here = stack.pop()
                path = "/".join(here)
                # A child of the one before is one step, so that a deep tree is not quadratic.
                steps: tuple[str, ...] = here[-1:]
                if here[:-1] != last:
                    root, steps = self._start(), here
                    os.close(folder)
                    folder = root
                try:
                    for name in steps:
                        inner = self._open(name, _FOLDER, folder, path)
                        os.close(folder)
                        folder = inner
                except ToolError:
                    if here != parts:
                        raise
                    return
                last = here
                with _refusing(path):
                    names = sorted(os.listdir(folder))
                    entries = [
                        (name, os.stat(name, dir_fd=folder, follow_symlinks=False))
                        for name in names
                    ]
                yield here, folder, entries
                stack += [
                    (*here, name) for name, info in reversed(entries) if stat.S_ISDIR(info.st_mode)
                ]
        finally:
            os.close(folder)

    def _relative(self, path: str) -> str:
        for name in self._names:
            base = name.rstrip("/")
            if path == base or path.startswith(f"{base}/"):
                return path[len(base) :].lstrip("/")
        raise ToolError(f"{path!r:.200} is outside the folder {self.name}")

    @contextlib.contextmanager
    def _parent(self, path: object) -> Iterator[tuple[int, str]]:
        """The open folder that holds the path's last name, and that name."""
        parts = self.parts(path)
        if not parts:
            raise ToolError("that is the folder itself")
        with self._folder(parts[:-1], path) as folder:
            yield folder, parts[-1]

    @contextlib.contextmanager
    def _folder(self, parts: tuple[str, ...], path: object) -> Iterator[int]:
        folder = self._start()
        try:
            for name in parts:
                inner = self._open(name, _FOLDER, folder, path)
                os.close(folder)
                folder = inner
            yield folder
        finally:
            os.close(folder)

    def _open(self, name: str, flags: int, folder: int, path: object) -> int:
        with _refusing(path):
            return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)


def _sha256(path: str, file: BufferedReader) -> bytes:
    return hashlib.file_digest(file, "sha256").digest()


def _file(descriptor: int, mode: str, path: object) -> BinaryIO:
    """The open file of a descriptor, which is closed if it is a folder, a pipe or a device."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ToolError(f"{path!r:.200} is no file")
    return cast(BinaryIO, os.fdopen(descriptor, mode))


@contextlib.contextmanager
def _refusing(path: object) -> Iterator[None]:
    """Errors of the system as errors of the tool, without telling what lies outside."""
    try:
        yield
    except OSError as error:
        if error.errno in _MACHINE:
            raise
        link = error.errno in (errno.ELOOP, errno.EMLINK)
        cause = "leads through a link" if link else os.strerror(error.errno or 0)
        raise ToolError(f"{path!r:.200}: {cause}") from None


def _check_size(parts: Sequence[str]) -> None:
    length = sum(len(os.fsencode(name)) + 1 for name in parts)
    if len(parts) > MAX_DEPTH or length > MAX_PATH:
        raise ToolError(
            f"{'/'.join(parts)!r:.200}: a path may have {MAX_DEPTH} names and {MAX_PATH} bytes"
        )


def copy(source: Path, target: Path) -> list[str]:
    """Copy folders and files with their times of change; what a tree may hold, tasks may ask for.

    Returns what was left out: links, pipes, sockets, devices.

    Raises:
        ValueError: there are too many folders in each other.
    """
    left_out = []
    stack = [PurePosixPath()]
    while stack:
        here = stack.pop()
        if len(here.parts) > MAX_DEPTH:
            raise ValueError(f"{source}: more than {MAX_DEPTH} folders in each other")
        (target / here).mkdir(parents=True, exist_ok=True)
        for entry in sorted(os.scandir(source / here), key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False):
                stack.append(here / entry.name)
            elif entry.is_file(follow_symlinks=False):
                info = entry.stat(follow_symlinks=False)
                (target / here / entry.name).write_bytes(Path(entry.path).read_bytes())
                os.utime(target / here / entry.name, ns=(info.st_atime_ns, info.st_mtime_ns))
            else:
                left_out.append(str(here / entry.name))
    return left_out


def remove(folder: Path) -> bool:
    """Remove a folder with all that is in it, as far as that can be done; whether it is gone.

    Folders come up to the top before they are emptied, so that their depth takes neither the
    interpreter's stack nor a descriptor each, as it does in `shutil.rmtree`.
    """
    try:
        top = os.open(folder, _FOLDER)
    except OSError:
        return not os.path.lexists(folder)
    try:
        token = secrets.token_hex(8)
        waiting = _emptied(top, top, token, 0)
        number = len(waiting)
        while waiting:
            name = waiting.pop()
            with contextlib.suppress(OSError):
                inner = os.open(name, _FOLDER, dir_fd=top)
                try:
                    found = _emptied(inner, top, token, number)
                finally:
                    os.close(inner)
                number += len(found)
                waiting += found
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    # What still runs in there may have written in the meantime.
    with contextlib.suppress(OSError):
        folder.rmdir()
    return not os.path.lexists(folder)


def _emptied(folder: int, top: int, token: str, number: int) -> list[str]:
    """Unlink what is in a folder; its folders' names in `top`, to which they come."""
    with contextlib.suppress(OSError):
        os.fchmod(folder, 0o700)
    found: list[str] = []
    for name in os.listdir(folder):
        with contextlib.suppress(OSError):
            info = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISDIR(info.st_mode):
                os.unlink(name, dir_fd=folder)
                continue
            here = name
            if folder != top:
                here = f"{token}-{number + len(found)}"
                os.rename(name, here, src_dir_fd=folder, dst_dir_fd=top)
            found.append(here)
    return found
