"""File trees and databases as environments."""

import logging
import re
from collections import Counter
from pathlib import Path

from jaxlab.evals.ajbench.databases import postgres, postgres_restore, sql_tools, sqlite
from jaxlab.evals.ajbench.databases.postgres_cluster import DATABASE, Cluster
from jaxlab.evals.ajbench.environments import states
from jaxlab.evals.ajbench.environments.environment import Place
from jaxlab.evals.ajbench.sandbox import file_tools, files
from jaxlab.evals.ajbench.sandbox.limits import DEFAULT, Limits
from jaxlab.evals.ajbench.sandbox.tools import Tool
from jaxlab.evals.ajbench.types import Call, Unit

# As in GRANT CONNECT ON DATABASE shop, or ALTER DATABASE "shop".
_DATABASE = re.compile(r'(?i)\b(?:ON|IN|ALTER)\s+DATABASE\s+(?:"([^"\0]{1,63})"|([a-z_]\w{0,62}))')

logger = logging.getLogger(__name__)


class FileSystem:
    """A copy of a file tree."""

    def __init__(self, folder: Path, names: tuple[str, ...] = (), limits: Limits = DEFAULT):
        """Opens the tree in `folder`.

        Args:
            folder: the root.
            names: absolute paths under which the trajectory knew it; "/" where that is unknown.
            limits: on tools.
        """
        # With a name of its own, "/tmp" is as far outside as it was for the recorded server.
        self._tree = files.Tree(folder, names or ("/",), limits)
        self._folder = folder

    def tools(self, read_only: bool) -> list[Tool]:
        """Those of the MCP file system server."""
        reading = file_tools.reading_files(self._tree)
        return reading if read_only else [*reading, *file_tools.writing_files(self._tree)]

    def digest(self) -> str:
        """Over paths, kinds, permissions and contents."""
        return self._tree.digest()

    def address(self, read_only: bool) -> dict[str, str]:
        """What a tool server of the user's needs: the folder, which it has to guard itself."""
        del read_only
        return {"root": str(self._folder)}

    def close(self) -> None:
        """Closes the root."""
        self._tree.close()


class SQLite:
    """A database file."""

    def __init__(self, path: Path, limits: Limits = DEFAULT):
        """Opens nothing yet; the file must exist."""
        self._path, self._limits = path, limits
        self._open: dict[bool, sqlite.Database] = {}

    def tools(self, read_only: bool) -> list[Tool]:
        """Statements, under the authorizer of the mode."""
        if read_only:
            self._settle()
        if read_only not in self._open:
            self._open[read_only] = sqlite.Database(self._path, read_only, self._limits)
        return sql_tools.querying_sqlite(self._open[read_only])

    def digest(self) -> str:
        """Over schema and rows."""
        self._settle()
        return sqlite.digest(self._path)

    def address(self, read_only: bool) -> dict[str, str]:
        """What a tool server of the user's needs: the file, which it has to guard itself."""
        del read_only
        return {"sqlite": str(self._path)}

    def close(self) -> None:
        """Closes the connections."""
        for database in self._open.values():
            database.close()

    def _settle(self) -> None:
        """A transaction that a trajectory has left open was never made."""
        if False in self._open:
            self._open[False].settle()


class Postgres:
    """A private database server."""

    def __init__(self, cluster: Cluster, limits: Limits = DEFAULT):
        """Takes the cluster over, and ends it with itself."""
        self._cluster, self._limits = cluster, limits
        self._open: dict[bool, postgres.Database] = {}

    def tools(self, read_only: bool) -> list[Tool]:
        """Those of postgres-mcp, with the rights of a reader or of the owner."""
        if read_only not in self._open:
            info = self._conninfo(read_only)
            self._open[read_only] = postgres.Database(info, read_only, self._limits)
        return sql_tools.querying_postgres(self._open[read_only])

    def digest(self) -> str:
        """Over definitions, roles, rights and rows."""
        return postgres.digest(self._conninfo(read_only=True))

    def address(self, read_only: bool) -> dict[str, str]:
        """What a tool server of the user's needs: a URL with the rights of the role."""
        self._conninfo(read_only)
        return {"dsn": self._cluster.url("reader" if read_only else "owner")}

    def close(self) -> None:
        """Ends the server, and with it all that was in it."""
        for database in self._open.values():
            database.close()
        self._cluster.close()

    def _conninfo(self, read_only: bool) -> str:
        if read_only:
            self._cluster.let_read()
        return self._cluster.conninfo("reader" if read_only else "owner")


def open_files(place: Place) -> FileSystem:
    """The tree of the unit's category; the root's names are those of the trajectory."""
    root = place.folder / "root"
    states.tree(place.state("filesystem"), root)
    names = _allowed(place.unit) or states.names_of_root(
        [text for call in place.unit.calls for text in _texts(call) if text.startswith("/")],
        [path.name for path in root.iterdir()],
    )
    return FileSystem(root, tuple(names[:1]), place.run.limits)


def open_sqlite(place: Place) -> SQLite:
    """The database of the unit's category."""
    path = place.folder / "database.sqlite"
    states.sqlite_file(place.state("sqlite"), path)
    return SQLite(path, place.run.limits)


def open_postgres(place: Place) -> Postgres:
    """A server with the state of the unit's task, which is restored once in a run.

    Raises:
        ValueError: it could not be restored.
        NoServer: no server can be started.
    """
    source = place.state("postgres")
    server = place.run.server()
    template = server.template(str(source), lambda cluster: _fill(cluster, source))
    cluster = server.open(template)
    try:
        cluster.rename(_database(place.unit))
        return Postgres(cluster, place.run.limits)
    except BaseException:
        cluster.close()
        raise


def _fill(cluster: Cluster, source: Path) -> None:
    passed = postgres_restore.restore(cluster, source)
    if passed:
        logger.warning("%s: %d errors passed over, such as: %s", source, len(passed), passed[0])


def _database(unit: Unit) -> str:
    """The name by which the trajectory's statements call their database."""
    texts = "\n".join(text for call in unit.calls for text in _texts(call))
    # Names without quotes are lower case.
    found = Counter(a or b.lower() for a, b in _DATABASE.findall(texts))
    return found.most_common(1)[0][0] if found else DATABASE


def needs_postgres(place: Place) -> Path:
    """A dump and a server."""
    found = place.state("postgres")
    if place.run.no_server is not None:
        raise place.run.no_server
    return found


def _allowed(unit: Unit) -> list[str]:
    """Folders that the file system server of the trajectory said to have."""
    return [
        line.strip()
        for call in unit.calls
        if call.name == "list_allowed_directories"
        for line in (call.result or "").splitlines()
        if line.startswith("/")
    ]


def _texts(call: Call) -> list[str]:
    """Strings among the arguments, and in lists of them."""
    found: list[object] = []
    for value in (call.arguments or {}).values():
        found += value if isinstance(value, list) else [value]
    return [value for value in found if isinstance(value, str)]
