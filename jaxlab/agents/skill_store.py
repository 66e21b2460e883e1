"""The file of a skill library: SQLite with one writer, many readers, and whole steps or none."""

import contextlib
import fcntl
import os
import pathlib
import sqlite3
from collections.abc import Iterator

from jaxlab.agents.skill_options import LibraryError

SCHEMA = 1
FILE = "skills.sqlite"
_TABLES = """
create table about (key text primary key, value text not null) without rowid;
create table skills (
    id integer primary key autoincrement,
    strategy text not null, description text not null, task text not null,
    utility real not null, selections integer not null, updates integer not null,
    created integer not null, used integer not null, success integer not null,
    embedding blob not null
);
"""


def file_of(path: str | os.PathLike[str]) -> pathlib.Path:
    """The library's file: `path`, or `skills.sqlite` in it where it is a folder."""
    path = pathlib.Path(path)
    return path / FILE if path.is_dir() else path


class Store:
    """An open library file.

    A transaction is a whole step: a process that is killed between any two statements leaves the
    library as it was before the step or as it is after it. The lock that keeps a second writer out
    belongs to the process and goes with it.

    Attributes:
        foreign: whether the vectors in the file are another encoder's.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        encoder: str,
        dimensions: int,
        readonly: bool,
        reembed: bool = False,
    ) -> None:
        """Open the file, or make it if it is to be written.

        Args:
            path: its file, or the folder in which it is `skills.sqlite`.
            encoder: name of the encoder.
            dimensions: of its vectors.
            readonly: whether the file is left as it is.
            reembed: whether the vectors may be another encoder's.

        Raises:
            LibraryError: if it is no library, one of another schema or encoder, does not exist
                and is only to be read, or another process writes it.
        """
        self.path, self.readonly = file_of(path), readonly
        self._reembed, self.foreign = reembed, False
        self._lock: int | None = None
        if readonly and not self.path.is_file():
            raise LibraryError(f"{self.path}: there is no skill library to read")
        if not readonly:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._take_lock()
        try:
            self.connection = self._connected()
            self._checked(encoder, dimensions)
        except sqlite3.DatabaseError as error:
            self.close()
            raise LibraryError(f"{self.path}: is no skill library: {error}") from None
        except LibraryError:
            self.close()
            raise

    def _connected(self) -> sqlite3.Connection:
        mode = "ro" if self.readonly else "rwc"
        uri = f"{self.path.absolute().as_uri()}?mode={mode}"
        # Transactions are begun and ended here, never by the library on its own.
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=30)
        if not self.readonly:
            connection.execute("pragma journal_mode = wal")
            connection.execute("pragma synchronous = full")
        return connection

    def _take_lock(self) -> None:
        self._lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            self._lock = None
            raise LibraryError(
                f"{self.path}: another process writes it; open it with readonly=True"
            ) from None

    def _checked(self, encoder: str, dimensions: int) -> None:
        tables = {name for (name,) in self.connection.execute("select name from sqlite_master")}
        wanted = {"schema": SCHEMA, "encoder": encoder, "dimensions": dimensions}
        if not tables & {"about", "skills"}:
            if tables or self.readonly:
                raise LibraryError(f"{self.path}: is a database, but no skill library")
            with self.transaction():
                for statement in _TABLES.split(";"):
                    self.connection.execute(statement)
                self.connection.executemany(
                    "insert into about values (?, ?)", [(k, str(v)) for k, v in wanted.items()]
                )
        found = dict(self.connection.execute("select key, value from about"))
        for key, value in wanted.items():
            if found.get(key) == str(value):
                continue
            if key != "schema" and self._reembed:
                self.foreign = True
                continue
            cure = "see CHANGELOG" if key == "schema" else "use that one, or reembed=True"
            raise LibraryError(
                f"{self.path}: field {key!r} is {found.get(key)!r}, not {str(value)!r}: {cure}"
            )

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything within it happens, or nothing.

        Raises:
            LibraryError: if the library is only read.
        """
        if self.readonly:
            raise LibraryError(f"{self.path}: was opened with readonly=True and cannot learn")
        self.connection.execute("begin immediate")
        try:
            yield self.connection
        except BaseException:
            self.connection.execute("rollback")
            raise
        self.connection.execute("commit")

    def version(self) -> int:
        """A number that changes when another process has changed the file."""
        return int(self.connection.execute("pragma data_version").fetchone()[0])

    def close(self) -> None:
        """Close the file, and give the writer's lock back."""
        connection = getattr(self, "connection", None)
        if connection is not None:
            connection.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
