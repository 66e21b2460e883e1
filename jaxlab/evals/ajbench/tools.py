"""Tools over an environment: a closed list, checked arguments, bounded results.

What a tool may do is fixed when the list is made. Nothing that a trajectory, a file, a database or
a judge says can add to it.
"""

import json
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxlab.evals.ajbench import trajectories
from jaxlab.evals.ajbench.files import Tree
from jaxlab.evals.ajbench.limits import DEFAULT, Limits, ToolError
from jaxlab.evals.ajbench.sqlite import Database


@dataclass(frozen=True)
class Tool:
    """One tool.

    Attributes:
        name: as a judge calls it.
        description: what a judge reads of it.
        parameters: names of the arguments, all strings and all required, and what they mean.
        run: the work, with the arguments by name; it may raise ToolError.
    """

    name: str
    description: str
    parameters: Mapping[str, str]
    run: Callable[..., str]


@dataclass(frozen=True)
class Reply:
    """What a call came to."""

    text: str
    failed: bool = False


class Toolbox:
    """The tools of one sample."""

    def __init__(self, tools: Sequence[Tool], limits: Limits = DEFAULT):
        self.tools = {tool.name: tool for tool in tools}
        self._limits = limits

    def call(self, name: object, arguments: object) -> Reply:
        """Run a tool; a refusal or failure is a reply too, and nothing else is ever raised."""
        tool = self.tools.get(name) if isinstance(name, str) else None
        if tool is None:
            return Reply(f"no tool {name!r:.60}: there are {', '.join(self.tools)}", True)
        if not isinstance(arguments, Mapping) or set(arguments) != set(tool.parameters):
            wanted = ", ".join(tool.parameters) or "no arguments"
            return Reply(f"{tool.name} takes exactly {wanted}", True)
        if not all(isinstance(value, str) for value in arguments.values()):
            return Reply(f"the arguments of {tool.name} must be strings", True)
        try:
            text = tool.run(**arguments)
        except ToolError as error:
            return Reply(trajectories.cut(str(error), self._limits.characters), True)
        return Reply(trajectories.cut(text, self._limits.characters))


def reading_files(tree: Tree) -> list[Tool]:
    """What only looks, under the names of the MCP file system server."""
    path = {"path": "relative to the folder"}
    return [
        Tool("read_file", "The text of a file.", path, lambda path: _text(tree.read(path))),
        Tool("list_directory", "What is in a folder.", path, lambda path: _listing(tree, path)),
        Tool(
            "directory_tree",
            "All files and folders below a folder.",
            path,
            lambda path: "\n".join(_line(*entry) for entry in tree.walk(path)),
        ),
        Tool(
            "search_files",
            "Paths below a folder that match a shell pattern.",
            {**path, "pattern": "such as *.txt"},
            lambda path, pattern: "\n".join(tree.search(path, pattern)),
        ),
        Tool("get_file_info", "Size and kind.", path, lambda path: _info(tree.stat(path))),
    ]


def writing_files(tree: Tree) -> list[Tool]:
    """What changes files: for replay, and for judges only if that is asked for."""
    path = {"path": "relative to the folder"}

    def write(path: str, content: str) -> str:
        tree.write(path, content.encode("utf-8", "replace"))
        return f"wrote {path}"

    def make(path: str) -> str:
        tree.make_folder(path)
        return f"made {path}"

    def move(source: str, destination: str) -> str:
        tree.move(source, destination)
        return f"moved {source} to {destination}"

    return [
        Tool("write_file", "Make or replace a file.", {**path, "content": "its text"}, write),
        Tool("create_directory", "Make a folder.", path, make),
        Tool("move_file", "Rename.", {"source": "old path", "destination": "new path"}, move),
    ]


def querying(database: Database) -> list[Tool]:
    """One statement, or a list of the tables, of a database in the mode it was opened in."""
    tables = "SELECT type, name, sql FROM sqlite_master ORDER BY name"
    return [
        Tool("execute_sql", "Run one statement.", {"sql": "the statement"}, database.query),
        Tool("list_objects", "Tables and their SQL.", {}, lambda: database.query(tables)),
    ]


def _text(content: bytes) -> str:
    return content.decode("utf-8", "replace")


def _listing(tree: Tree, path: str) -> str:
    return "\n".join(_line(name, info) for name, info in tree.entries(path))


def _line(name: str, info: Any) -> str:
    kind = "DIR" if stat.S_ISDIR(info.st_mode) else "FILE" if stat.S_ISREG(info.st_mode) else "LINK"
    return f"[{kind}] {name}"


def _info(info: Any) -> str:
    return json.dumps({"size": info.st_size, "kind": stat.filemode(info.st_mode)[0]})
