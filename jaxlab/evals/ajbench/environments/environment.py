"""What a trajectory acted on, opened for one unit in a private folder, and its calls run on it.

An environment has the three methods of `Environment` and inherits nothing; `subdomains` says
which sub-domain has which.
"""

import dataclasses
import functools
import secrets
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from jaxlab.evals.ajbench.databases import postgres_server, sql_tools
from jaxlab.evals.ajbench.databases.postgres_programs import NoServer
from jaxlab.evals.ajbench.databases.postgres_server import Server
from jaxlab.evals.ajbench.environments import states
from jaxlab.evals.ajbench.sandbox.limits import DEFAULT, Limits
from jaxlab.evals.ajbench.sandbox.tools import Tool, Toolbox
from jaxlab.evals.ajbench.types import Call, Replay, Source, Unit, Web
from jaxlab.evals.ajbench.web import snapshot


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
    """What the samples of a run share: where states come from, restored databases, and pages.

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
        limits: Limits = DEFAULT,
        replay: Replay = "true",
        web: Web = "snapshot",
    ):
        """Starts nothing: databases come with the first sample that needs one."""
        self.folder, self.states, self.limits, self.replay = folder, states, limits, replay
        self.web = web
        self._source = postgres
        self._server: Server | None = None
        self._snapshots: dict[Path, snapshot.Snapshot] = {}
        self._lock = threading.Lock()

    def server(self) -> Server:
        """What makes database servers for samples.

        Raises:
            NoServer: none can be had.
        """
        with self._lock:
            if self._server is None:
                self._server = postgres_server.start(self.folder, self._source)
            return self._server

    @functools.cached_property
    def no_server(self) -> NoServer | None:
        """Why `server` would have none, or None."""
        try:
            postgres_server.look(self._source)
        except NoServer as error:
            return error
        return None

    def snapshot(self, folder: Path) -> snapshot.Snapshot:
        """The pages of a folder, read when they are first asked for."""
        with self._lock:
            if folder not in self._snapshots:
                home = self.folder / f"web-{secrets.token_hex(4)}"
                home.mkdir(mode=0o700)
                found = snapshot.Snapshot(folder, self.limits, home=home)
                try:
                    found.read_all()
                except BaseException:
                    found.close()
                    raise
                self._snapshots[folder] = found
            return self._snapshots[folder]

    def close(self) -> None:
        """Gives the pages back; servers end with their samples or with the run's folder."""
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
        prebuilt = self.run.replay == "prebuilt_state"
        keys = (self.unit.id,) if prebuilt else self.keys
        return states.find(self.run.states, kind, *keys)

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the task's initial state: its own before that of its category."""
        folder = self.unit.task.partition("/")[2]
        category, task = self.unit.meta.get("category"), self.unit.meta.get("name")
        if not category:
            return (folder,)
        own = (folder, f"{category}/{task}") if task else ()
        return tuple(dict.fromkeys((*own, str(category))))


class TooLong(RuntimeError):
    """A trajectory was not replayed to its end."""


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


def calls_of(environment: Environment, unit: Unit) -> tuple[Call, ...]:
    """What is to be replayed in a unit's environment."""
    found: tuple[Call, ...] = getattr(environment, "calls", unit.calls)
    return found


def replay(environment: Environment, calls: Iterable[Call], limits: Limits = DEFAULT) -> Report:
    """Run a trajectory's calls; one that fails, as some did when they were recorded, ends nothing.

    A call whose arguments were no JSON object failed then and is failed here.

    Raises:
        TooLong: it takes more than `Limits.replay_seconds`: the state is not the trajectory's.
    """
    deadline = time.monotonic() + limits.replay_seconds
    box = Toolbox(environment.tools(read_only=False), limits)
    count, diverged = 0, 0
    failed, left_out = [], []
    for call in calls:
        if time.monotonic() > deadline:
            raise TooLong(
                f"the first {count} calls of the replay took more than {limits.replay_seconds:g} s"
            )
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
