"""Environments: what a trajectory acted on, opened for one unit in a private folder.

An environment has the three methods of `Environment` and inherits nothing. `ENVIRONMENTS` says
which sub-domain has which; a new one is a function of `Place` and a line there.
"""

import dataclasses
import hashlib
import secrets
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, Protocol

from jaxlab.evals.ajbench import (
    actions,
    file_tools,
    files,
    gui,
    postgres,
    postgres_server,
    snapshot,
    sql_tools,
    sqlite,
    states,
)
from jaxlab.evals.ajbench.limits import DEFAULT, Limits
from jaxlab.evals.ajbench.office import Office
from jaxlab.evals.ajbench.postgres_server import Server, Source
from jaxlab.evals.ajbench.tools import Tool, Toolbox
from jaxlab.evals.ajbench.types import Call, Unit

Replay = Literal["true", "false", "prebuilt_state"]
Web = Literal["snapshot", "browser", "live"]


class Environment(Protocol):
    """The state that a trajectory left behind, behind tools.

    One in which something else than the unit's calls is to be replayed says what as `calls`.
    """

    def tools(self, read_only: bool) -> list[Tool]:
        """What looks, and, if not `read_only`, what changes."""

    def digest(self) -> str:
        """Hash of the state; equal hashes mean equal states."""

    def close(self) -> None:
        """Let go of everything outside the private folder."""


class Run:
    """What the samples of a run share: where states come from, one database server, and pages.

    Attributes:
        folder: of the run.
        states: the user's folder of initial states; see `states`.
        limits: on tools.
        replay: "prebuilt_state" opens the state of the unit's id instead of its category's.
        web: what judges of search answers have: "snapshot" its pages as text, "browser" the same
            in Chromium, "live" nothing of ours, for a server of the user's.
    """

    def __init__(
        self,
        folder: Path,
        states: Path | None = None,
        postgres: Source = "auto",
        dsn: str | None = None,
        limits: Limits = DEFAULT,
        replay: Replay = "true",
        web: Web = "snapshot",
    ):
        """Starts nothing: the server comes with the first sample that needs it."""
        self.folder, self.states, self.limits, self.replay = folder, states, limits, replay
        self.web = web
        self._source, self._dsn = postgres, dsn
        self._server: Server | None = None
        self._snapshots: dict[Path, snapshot.Snapshot] = {}
        self._lock = threading.Lock()

    def server(self) -> Server:
        """The server.

        Raises:
            NoServer: none can be had.
        """
        with self._lock:
            if self._server is None:
                self._server = postgres_server.start(self.folder, self._source, self._dsn)
            return self._server

    def snapshot(self, folder: Path) -> snapshot.Snapshot:
        """The pages of a folder, read when they are first asked for."""
        with self._lock:
            if folder not in self._snapshots:
                home = self.folder / f"web-{secrets.token_hex(4)}"
                home.mkdir(mode=0o700)
                found = snapshot.Snapshot(folder, self.limits, home=home)
                found.read_all()
                self._snapshots[folder] = found
            return self._snapshots[folder]

    def close(self) -> None:
        """Gives the pages back; a server ends with the run's folder."""
        for found in self._snapshots.values():
            found.close()
        self._snapshots.clear()


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an environment is opened.

    Attributes:
        unit: whose state it is.
        folder: private to the sample, empty, removed afterwards.
        run: what it shares with others.
    """

    unit: Unit
    folder: Path
    run: Run

    def state(self, kind: str) -> Path:
        """The state to begin with.

        Raises:
            FileNotFoundError: it is not in the user's folder.
        """
        key = self.unit.id if self.run.replay == "prebuilt_state" else self.key
        return states.find(self.run.states, kind, key)

    @property
    def key(self) -> str:
        """Name of the task's initial state."""
        return str(self.unit.meta.get("category") or self.unit.task.partition("/")[2])


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
        if read_only not in self._open:
            self._open[read_only] = sqlite.Database(self._path, read_only, self._limits)
        return sql_tools.querying_sqlite(self._open[read_only])

    def digest(self) -> str:
        """Over schema and rows."""
        return sqlite.digest(self._path)

    def address(self, read_only: bool) -> dict[str, str]:
        """What a tool server of the user's needs: the file, which it has to guard itself."""
        del read_only
        return {"sqlite": str(self._path)}

    def close(self) -> None:
        """Closes the connections."""
        for database in self._open.values():
            database.close()


class Postgres:
    """A private database on the run's server."""

    def __init__(self, server: Server, template: str, limits: Limits = DEFAULT):
        """Makes a copy of the database `template`."""
        self._server, self._limits = server, limits
        self._name = server.create(template)
        self._open: dict[bool, postgres.Database] = {}

    def tools(self, read_only: bool) -> list[Tool]:
        """Those of postgres-mcp, with the rights of a reader or of the owner."""
        if read_only:
            self._server.allow_reading(self._name)
        if read_only not in self._open:
            info = self._server.conninfo(self._name, "reader" if read_only else "owner")
            self._open[read_only] = postgres.Database(info, read_only, self._limits)
        return sql_tools.querying_postgres(self._open[read_only])

    def digest(self) -> str:
        """Over definitions, rights (also those to read that judges get) and rows."""
        self._server.allow_reading(self._name)
        return postgres.digest(self._server.conninfo(self._name, "owner"))

    def address(self, read_only: bool) -> dict[str, str]:
        """What a tool server of the user's needs: a URL with the rights of the role."""
        if read_only:
            self._server.allow_reading(self._name)
        return {"dsn": self._server.url(self._name, "reader" if read_only else "owner")}

    def close(self) -> None:
        """Drops the database."""
        for database in self._open.values():
            database.close()
        self._server.drop(self._name)


class Recorded:
    """An environment and the record of how it came about, of which a judge may see single steps.

    Attributes:
        calls: what is to be replayed.
    """

    def __init__(self, inner: Environment, unit: Unit, calls: tuple[Call, ...]):
        """Opens the folder with the pictures of the steps, beside the trajectory."""
        self.calls = calls
        self._inner = inner
        self._stored = files.Tree(gui.folder(unit))
        self._view = actions.viewing(unit.steps, self._stored)

    def tools(self, read_only: bool) -> list[Tool]:
        """Those of the environment, and the one that shows a step."""
        return [*self._inner.tools(read_only), self._view]

    def digest(self) -> str:
        """Of the environment."""
        return self._inner.digest()

    def address(self, read_only: bool) -> dict[str, str]:
        """That of the environment, if a tool server of the user's can reach it."""
        found = getattr(self._inner, "address", None)
        return dict(found(read_only)) if found else {}

    def close(self) -> None:
        """Closes both."""
        self._stored.close()
        self._inner.close()


class Pages:
    """The pages of a snapshot, which samples share, as text or in a browser of the sample's own."""

    def __init__(self, pages: snapshot.Snapshot, folder: Path | None = None):
        """Opens a browser if it gets an empty folder for it."""
        self._pages = pages
        self._browser: Environment | None = None
        if folder is not None:
            # Here, for it brings playwright along.
            from jaxlab.evals.ajbench.pages import Page

            self._browser = Page(folder, "", pages)

    def tools(self, read_only: bool) -> list[Tool]:
        """Search and reading; in a browser, search and the browser's."""
        found = self._pages.tools(read_only)
        if self._browser is None:
            return found
        # Both have a tool "open".
        search = [tool for tool in found if tool.name == "search"]
        return [*search, *self._browser.tools(read_only)]

    def digest(self) -> str:
        """Over the snapshot, and the browser's own files."""
        return (self._browser or self._pages).digest()

    def close(self) -> None:
        """Ends the browser; the snapshot is the run's."""
        if self._browser is not None:
            self._browser.close()


class Nothing:
    """What a judge has who brings all tools along, for the web as it is."""

    def tools(self, read_only: bool) -> list[Tool]:
        """None."""
        del read_only
        return []

    def digest(self) -> str:
        """That of nothing: what is out there is not ours."""
        return hashlib.sha256().hexdigest()

    def close(self) -> None:
        """Nothing."""


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
    """A copy of the database of the unit's category, which is restored once in a run."""
    source = place.state("postgres")
    server = place.run.server()

    def fill(server: Server, name: str) -> None:
        states.restore(server, name, source)

    return Postgres(server, server.template(str(source), fill), place.run.limits)


def open_office(place: Place) -> Recorded:
    """The result files of the run; without any, the task's files, on which the calls are run."""
    root = _passable(place) / "root"
    initial = needs_office(place)
    if initial is None:
        gui.take(place.unit, root)
    else:
        states.tree(initial, root)
    calls = () if initial is None else gui.office_calls(place.unit.steps)
    names = (*gui.files_of(place.unit).folders, "/")
    return _recorded(Office(root, names, place.run.limits), place.unit, calls)


def open_page(place: Place) -> Recorded:
    """The task's page in a browser, on which the recorded actions are run."""
    from jaxlab.evals.ajbench.pages import Page

    root = _passable(place) / "root"
    states.tree(place.state("page"), root)
    page = Page(root, limits=place.run.limits)
    return _recorded(page, place.unit, gui.page_calls(place.unit.steps))


def open_search(place: Place) -> Pages | Nothing:
    """The pages of the task, of its sub-domain or of all."""
    found = needs_pages(place)
    if found is None:
        return Nothing()
    pages = place.run.snapshot(found)
    if place.run.web == "snapshot":
        return Pages(pages)
    own = _passable(place) / "own"
    own.mkdir(mode=0o700)
    return Pages(pages, own)


ENVIRONMENTS: dict[str, Callable[[Place], Environment]] = {
    "Search-Wide": open_search,
    "Search-Deep": open_search,
    "DS-FileSystem": open_files,
    "DS-Postgres": open_postgres,
    "DS-SQLite": open_sqlite,
    "GUI-PPT": open_office,
    "GUI-Word": open_office,
    "GUI-Excel": open_office,
    "GUI-Page": open_page,
}


def needs_office(place: Place) -> Path | None:
    """The initial files of an office unit; None if its run has left results."""
    if gui.results(place.unit):
        return None
    try:
        return place.state("office")
    except FileNotFoundError as error:
        source = place.unit.meta["source"]
        raise FileNotFoundError(f"no result file beside {source}; {error}") from None


def needs_page(place: Place) -> Path:
    """A page and a browser."""
    from jaxlab.evals.ajbench import browser

    browser.program()
    return place.state("page")


def needs_pages(place: Place) -> Path | None:
    """The snapshot for a search answer, and a browser if one is wanted; None for the live web."""
    if place.run.web == "live":
        return None
    if place.run.web == "browser":
        from jaxlab.evals.ajbench import browser

        browser.program()
    return states.find_web(place.run.states, place.unit.subdomain, place.key)


# What can be found missing before anything is opened.
NEEDS: dict[str, Callable[[Place], Path | None]] = {
    "Search-Wide": needs_pages,
    "Search-Deep": needs_pages,
    "DS-FileSystem": lambda place: place.state("filesystem"),
    "DS-Postgres": lambda place: place.state("postgres"),
    "DS-SQLite": lambda place: place.state("sqlite"),
    "GUI-PPT": needs_office,
    "GUI-Word": needs_office,
    "GUI-Excel": needs_office,
    "GUI-Page": needs_page,
}


def missing(units: Iterable[Unit], run: Run) -> list[str]:
    """Why units could not be opened, "id: cause" for each; nothing is opened to find out."""
    found = []
    for unit in units:
        try:
            if unit.subdomain in NEEDS:
                NEEDS[unit.subdomain](Place(unit, run.folder, run))
        except FileNotFoundError as error:
            found.append(f"{unit.id}: {error}")
    return found


@dataclasses.dataclass(frozen=True)
class Report:
    """What came of a replay.

    Attributes:
        calls: how many there were.
        failed: "tool: cause" of those that failed here.
        diverged: how many failed here and not in the trajectory, or the other way round.
        left_out: names of tools that change nothing and are not here.
    """

    calls: int = 0
    failed: tuple[str, ...] = ()
    diverged: int = 0
    left_out: tuple[str, ...] = ()


def open_environment(place: Place) -> Environment:
    """The environment of a unit.

    Raises:
        ValueError: its sub-domain has none.
        FileNotFoundError, NoServer: a part of it is missing.
    """
    if place.unit.subdomain not in ENVIRONMENTS:
        raise ValueError(
            f"no environment for {place.unit.subdomain}: there are {', '.join(ENVIRONMENTS)}; "
            "judge it with arm=text"
        )
    return ENVIRONMENTS[place.unit.subdomain](place)


def calls_of(environment: Environment, unit: Unit) -> tuple[Call, ...]:
    """What is to be replayed in a unit's environment."""
    found: tuple[Call, ...] = getattr(environment, "calls", unit.calls)
    return found


def replay(environment: Environment, calls: Iterable[Call], limits: Limits = DEFAULT) -> Report:
    """Run a trajectory's calls; one that fails, as some did when they were recorded, ends nothing.

    A call whose arguments were no JSON object failed then and is failed here.
    """
    box = Toolbox(environment.tools(read_only=False), limits)
    count, diverged = 0, 0
    failed, left_out = [], []
    for call in calls:
        count += 1
        if call.name in sql_tools.ADVICE and call.name not in box.tools:
            left_out.append(call.name)
            continue
        reply = box.call(call.name, call.arguments)
        if reply.failed:
            failed.append(f"{call.name}: {reply.text:.200}")
        if call.result is not None:
            diverged += reply.failed != looks_failed(call.result)
    return Report(count, tuple(failed), diverged, tuple(left_out))


def looks_failed(result: str) -> bool:
    """Whether a recorded result says that the call failed: servers of tools begin with the word."""
    start = result.lstrip(" \t\n\"'[{(").lower()
    return start.startswith(("error", "failed", "access denied", "invalid arguments", "mcp error"))


def _recorded(inner: Environment, unit: Unit, calls: tuple[Call, ...]) -> Recorded:
    try:
        return Recorded(inner, unit, calls)
    except BaseException:
        inner.close()
        raise


def _passable(place: Place) -> Path:
    """The sample's folder, open for passing to the user that its programs run as."""
    place.folder.chmod(0o711)
    return place.folder


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
