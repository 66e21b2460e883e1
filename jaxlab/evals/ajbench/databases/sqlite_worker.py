"""The child process in which SQL is run: `python -m` this, see `sqlite.Database`.

A statement can spend minutes and gigabytes within one function, where SQLite asks nobody whether
to go on; a process can be ended all the same.
"""

import json
import sqlite3
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxlab.evals.ajbench.databases import json_form
from jaxlab.evals.ajbench.sandbox import serving
from jaxlab.evals.ajbench.sandbox.limits import Limits, ToolError

MAX_SQL = 1 << 18  # characters of a statement
_READ = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_RECURSIVE,
    sqlite3.SQLITE_FUNCTION,
}
_WRITE = _READ | {
    sqlite3.SQLITE_INSERT,
    sqlite3.SQLITE_UPDATE,
    sqlite3.SQLITE_DELETE,
    sqlite3.SQLITE_TRANSACTION,
    sqlite3.SQLITE_SAVEPOINT,
    sqlite3.SQLITE_CREATE_INDEX,
    sqlite3.SQLITE_CREATE_TABLE,
    sqlite3.SQLITE_CREATE_TRIGGER,
    sqlite3.SQLITE_CREATE_VIEW,
    sqlite3.SQLITE_DROP_INDEX,
    sqlite3.SQLITE_DROP_TABLE,
    sqlite3.SQLITE_DROP_TRIGGER,
    sqlite3.SQLITE_DROP_VIEW,
    sqlite3.SQLITE_ALTER_TABLE,
    sqlite3.SQLITE_REINDEX,
    sqlite3.SQLITE_ANALYZE,
}
# Schema questions that change nothing, whatever their argument.
_PRAGMAS = {
    "table_info",
    "table_xinfo",
    "table_list",
    "index_list",
    "index_info",
    "index_xinfo",
    "foreign_key_list",
}
# Of files, memory and the interpreter; a build may have more of them than this one.
_FUNCTIONS = {
    "load_extension",
    "readfile",
    "writefile",
    "edit",
    "fts3_tokenizer",
    "zeroblob",
    "randomblob",
}


class Connection:
    """One connection to a database file.

    The authorizer decides on every statement while it is compiled: ATTACH, VACUUM INTO, extensions
    and settings are refused in either mode, and writes in reading mode, whose connection is
    read-only besides.
    """

    def __init__(self, path: Path, read_only: bool, limits: Limits, largest: int):
        """Opens an existing file, which may grow to `largest` bytes."""
        mode = "ro" if read_only else "rw"
        self._connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None
        )
        self._limits = limits
        self._deadline = 0.0
        connection = self._connection
        connection.text_factory = lambda data: data.decode("utf-8", "replace")
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 4 << 20)
        connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, MAX_SQL)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        connection.execute("PRAGMA temp_store = memory")
        if read_only:
            connection.execute("PRAGMA query_only = on")
        else:
            (page,) = connection.execute("PRAGMA page_size").fetchone()
            connection.execute(f"PRAGMA max_page_count = {largest // page + 1}")
        allowed = _READ if read_only else _WRITE

        def authorize(action: int, first: str | None, second: str | None, *_: str | None) -> int:
            if action == sqlite3.SQLITE_PRAGMA:
                return _verdict((first or "").lower() in _PRAGMAS)
            if action == sqlite3.SQLITE_FUNCTION:
                return _verdict((second or "").lower() not in _FUNCTIONS)
            return _verdict(action in allowed)

        connection.set_authorizer(authorize)
        connection.set_progress_handler(lambda: time.monotonic() > self._deadline, 1000)

    def query(self, text: str) -> str:
        """The rows of one statement as JSON, cut to the limits.

        Raises:
            ToolError: the statement is refused, wrong, several, or takes too long.
        """
        self._deadline = time.monotonic() + self._limits.seconds
        try:
            cursor = self._connection.execute(text)
            columns = [entry[0] for entry in cursor.description or ()]
            return rows_as_json(columns, cursor, self._limits)
        except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError, MemoryError) as error:
            late = time.monotonic() > self._deadline
            cause = f"took more than {self._limits.seconds:g} s" if late else str(error)
            raise ToolError(f"sqlite: {cause}") from None

    def settle(self) -> None:
        """Roll back what was left open, also by a process that was ended in the middle of it."""
        if self._connection.in_transaction:
            self._connection.rollback()
        self.query("SELECT count(*) FROM sqlite_master")


def rows_as_json(columns: list[str], cursor: Iterable[Any], limits: Limits) -> str:
    """Rows as a JSON array of objects; what is beyond the limits is left out and said to be."""
    names = json_form.names(columns)
    lines: list[str] = []
    size = 0
    for row in cursor:
        line = json_form.row(names, [json_form.value(found) for found in row])
        size += len(line) + 2
        if len(lines) == limits.entries or size > limits.characters:
            lines.append('"more rows were left out"')
            break
        lines.append(line)
    return f"[{', '.join(lines)}]"


def _verdict(allowed: bool) -> int:
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


_open: dict[tuple[str, str], Connection] = {}


def run(operation: str, content: bytes, arguments: Mapping[str, str]) -> tuple[str, bytes]:
    """Rows as JSON.

    Args:
        operation: "query" or "settle".
        content: SQL.
        arguments: "path", "read_only" ("1" or ""), "limits" (as JSON) and "largest".

    Raises:
        ToolError: see `Connection.query`.
    """
    key = arguments["path"], arguments["read_only"]
    if key not in _open:
        limits = Limits(**json.loads(arguments["limits"]))
        try:
            _open[key] = Connection(Path(key[0]), bool(key[1]), limits, int(arguments["largest"]))
        except sqlite3.Error as error:
            raise ToolError(f"sqlite: {error}") from None
    if operation == "settle":
        _open[key].settle()
        return "", b""
    return _open[key].query(content.decode("utf-8", "surrogatepass")), b""


if __name__ == "__main__":
    # The database itself may be larger than what other children write.
    serving.serve(run, file=None)
