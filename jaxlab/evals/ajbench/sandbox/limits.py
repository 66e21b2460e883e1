"""What a tool may cost, and the error that a judge is told."""

from dataclasses import dataclass


class ToolError(Exception):
    """A tool refuses or fails; the message goes to whoever called it."""


class Unavailable(RuntimeError):
    """The machine fails, and not the tool: an error of the sample, which is tried again."""


@dataclass(frozen=True)
class Limits:
    """Bounds on one tool call.

    Attributes:
        seconds: of a database statement.
        characters: of a result; the rest is cut off and said to be.
        entries: files or rows that a listing, a search or a query reads.
        write_bytes: largest file that a tool writes.
        database_bytes: what a trajectory may add to a database.
        replay_seconds: of all calls of a trajectory.
    """

    seconds: float = 5.0
    characters: int = 20_000
    entries: int = 2_000
    write_bytes: int = 4 << 20
    database_bytes: int = 1 << 29
    replay_seconds: float = 600.0


DEFAULT = Limits()
