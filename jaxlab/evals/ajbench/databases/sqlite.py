"""SQLite databases as an environment: reading without writing, replay without leaving the file."""

import dataclasses
import hashlib
import json
import sqlite3
import threading
from pathlib import Path

from jaxlab.evals.ajbench.databases.sqlite_worker import MAX_SQL
from jaxlab.evals.ajbench.sandbox.confined import Worker
from jaxlab.evals.ajbench.sandbox.limits import DEFAULT, Limits, ToolError

# Of a statement that its own process should have ended.
_GRACE = 1.0


class Database:
    """A database file behind one connection, which a child process holds; see `sqlite_worker`."""

    def __init__(
        self,
        path: Path,
        read_only: bool = True,
        limits: Limits = DEFAULT,
        folder: Path | None = None,
    ):
        """Opens nothing yet.

        Args:
            path: of an existing file.
            read_only: refuse whatever writes.
            limits: on time, results, and what the file may grow by.
            folder: see `confined.Worker`; that of the file by default.

        Raises:
            FileNotFoundError: there is no such file.
        """
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no such database")
        self._arguments = {
            "path": str(path.absolute()),
            "read_only": "1" if read_only else "",
            "limits": json.dumps(dataclasses.asdict(limits)),
            "largest": str(path.stat().st_size + limits.database_bytes),
        }
        module = "jaxlab.evals.ajbench.databases.sqlite_worker"
        self._worker = Worker(module, folder or path.absolute().parent, limits.seconds + _GRACE)
        # A sample may end while a tool of it is under way.
        self._lock = threading.Lock()

    def close(self) -> None:
        """Ends the child, also in the middle of a statement."""
        self._worker.close()

    def query(self, sql: object) -> str:
        """The rows of one statement as JSON, cut to the limits.

        Raises:
            ToolError: the statement is refused, wrong, several, or takes too much time or memory.
        """
        if not isinstance(sql, str) or len(sql) > MAX_SQL:
            raise ToolError(f"sql must be a string of at most {MAX_SQL} characters")
        return self._call("query", sql.encode("utf-8", "surrogatepass"))

    def settle(self) -> None:
        """Roll back what was left open, which would keep others from reading.

        Raises:
            ToolError: it takes too long.
        """
        self._call("settle", b"")

    def _call(self, operation: str, content: bytes) -> str:
        try:
            with self._lock:
                return self._worker.call(operation, content, self._arguments)[0]
        except ToolError as error:
            text = str(error)
            raise ToolError(text if text.startswith("sqlite: ") else f"sqlite: {text}") from None


def digest(path: Path) -> str:
    """SHA-256 over the schema and every row, whatever the layout of the file and the rows' order.

    Not over its dump: that ends texts at NUL, and cannot hold those that are not UTF-8, of which
    SQLite may have any.
    """
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    try:
        schema = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name"
        entries = connection.execute(schema).fetchall()
        total = hashlib.sha256(repr(entries).encode("utf-8", "surrogatepass"))
        # Unlike a blob, which is bytes.
        connection.text_factory = lambda text: ("text", text)
        for kind, name, _, text in entries:
            # What belongs to virtual tables lies in others; statistics are no content.
            virtual = (text or "").upper().startswith("CREATE VIRTUAL")
            if kind == "table" and not virtual and not name.startswith("sqlite_stat"):
                total.update(_sum_of(connection, name))
        return total.hexdigest()
    finally:
        connection.close()


def _sum_of(connection: sqlite3.Connection, table: str) -> bytes:
    """SHA-256 over a table's rows; what is computed when it is read is none of it."""
    found = connection.execute("SELECT name FROM pragma_table_info(?)", [table])
    columns = ", ".join(_quoted(name.decode()) for ((_, name),) in found.fetchall())
    rows = connection.execute(f"SELECT {columns} FROM {_quoted(table)}")
    sums = sorted(hashlib.sha256(repr(row).encode()).digest() for row in rows)
    return hashlib.sha256(b"".join(sums)).digest()


def _quoted(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'
