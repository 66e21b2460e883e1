"""Tools over a file tree, with the names and arguments of @modelcontextprotocol/server-filesystem.

Recorded trajectories call that server, so what it takes is taken here; answers are of the same
content, in words of our own.
"""

import base64
import json
import mimetypes
import stat
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from jaxlab.evals.ajbench.sandbox.files import Tree
from jaxlab.evals.ajbench.sandbox.limits import ToolError
from jaxlab.evals.ajbench.sandbox.tools import BOOLEAN, INTEGER, STRING, STRINGS, Tool

_EDITS = {
    "type": "array",
    "items": {"type": "object", "properties": {"oldText": STRING, "newText": STRING}},
}
_PATH = {"path": "relative to the folder, or with its name in front"}
# Of one call.
MAX_EDITS = 1000
MAX_PATTERNS = 20
_CONTEXT = 3  # lines around a difference
_PATTERNS = {"excludePatterns": "shell patterns of what to leave out"}


def reading_files(tree: Tree) -> list[Tool]:
    """What only looks."""
    part = {"head": "only so many first lines", "tail": "only so many last lines"}
    numbers = {"head": INTEGER, "tail": INTEGER}

    def read(path: str, head: int | None = None, tail: int | None = None) -> str:
        return _part(_text(tree.read(path, end=tail is not None)), head, tail)

    def media(path: str) -> str:
        kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
        return json.dumps({"mimeType": kind, "data": base64.b64encode(tree.read(path)).decode()})

    def several(paths: list[str]) -> str:
        texts: list[str] = []
        size = 0
        for path in paths:
            texts.append(f"{path:.4096}:\n{_or_error(tree, path)}")
            size += len(texts[-1])
            if size > tree.limits.characters:
                break  # what comes after is cut off anyway
        return "\n---\n".join(texts)

    def search(path: str, pattern: str, excludePatterns: Sequence[str] = ()) -> str:
        left_out = _matching(tree, path, excludePatterns)
        found = [name for name in tree.search(path, pattern) if name not in left_out]
        if sum(1 for _ in tree.walk(path)) == tree.limits.entries:
            found.append(f"... only the first {tree.limits.entries} were looked at: name a folder")
        return "\n".join(found) or "nothing matches"

    return [
        Tool("read_file", "The text of a file.", {**_PATH, **part}, read, numbers, tuple(part)),
        Tool(
            "read_text_file", "The text of a file.", {**_PATH, **part}, read, numbers, tuple(part)
        ),
        Tool("read_media_file", "A file in base64.", _PATH, media),
        Tool(
            "read_multiple_files",
            "The texts of several files.",
            {"paths": "a list of paths"},
            several,
            {"paths": STRINGS},
        ),
        Tool("list_directory", "What is in a folder.", _PATH, lambda path: _listing(tree, path)),
        Tool(
            "list_directory_with_sizes",
            "What is in a folder, with sizes.",
            {**_PATH, "sortBy": "name or size"},
            lambda path, sortBy="name": _sizes(tree, path, sortBy),
            optional=("sortBy",),
        ),
        Tool(
            "directory_tree",
            "All files and folders below a folder, as JSON.",
            {**_PATH, **_PATTERNS},
            lambda path, excludePatterns=(): _tree(tree, path, excludePatterns),
            {"excludePatterns": STRINGS},
            ("excludePatterns",),
        ),
        Tool(
            "search_files",
            "Paths below a folder that match a shell pattern.",
            {**_PATH, "pattern": "such as *.txt", **_PATTERNS},
            search,
            {"excludePatterns": STRINGS},
            ("excludePatterns",),
        ),
        Tool("get_file_info", "Size, times and kind.", _PATH, lambda path: _info(tree.stat(path))),
        Tool("list_allowed_directories", "The folder.", {}, lambda: tree.name),
    ]


def writing_files(tree: Tree) -> list[Tool]:
    """What changes files: for replay, and for judges only if that is asked for."""

    def write(path: str, content: str) -> str:
        tree.write(path, content.encode("utf-8", "replace"))
        return f"wrote {path}"

    def edit(path: str, edits: list[dict[str, Any]], dryRun: bool = False) -> str:
        size = tree.stat(path).st_size
        if size > tree.limits.write_bytes:  # more than is read
            raise ToolError(f"{size} bytes are more than {tree.limits.write_bytes}")
        before = tree.read(path).decode("utf-8", "replace").replace("\r\n", "\n")
        after = before
        if len(edits) > MAX_EDITS:
            raise ToolError(f"{len(edits)} edits are more than {MAX_EDITS}")
        for one in edits:
            after = replaced(after, one["oldText"], one["newText"])
        if not dryRun:
            tree.write(path, after.encode("utf-8", "replace"))
        return _difference(before.splitlines(), after.splitlines(), path)

    def make(path: str) -> str:
        tree.make_folder(path)
        return f"made {path}"

    def move(source: str, destination: str) -> str:
        tree.move(source, destination)
        return f"moved {source} to {destination}"

    return [
        Tool("write_file", "Make or replace a file.", {**_PATH, "content": "its text"}, write),
        Tool(
            "edit_file",
            "Replace parts of a file.",
            {
                **_PATH,
                "edits": "a list of {oldText, newText}, made in order",
                "dryRun": "only show",
            },
            edit,
            {"edits": _EDITS, "dryRun": BOOLEAN},
            ("dryRun",),
        ),
        Tool("create_directory", "Make a folder.", _PATH, make),
        Tool("move_file", "Rename.", {"source": "old path", "destination": "new path"}, move),
    ]


def replaced(text: str, old: str, new: str) -> str:
    """`text` with the first occurrence of `old` replaced.

    Where there is none, lines are compared without the spaces around them, and the new lines are
    indented as the first line that was found.

    Raises:
        ToolError: it does not occur.
    """
    old, new = old.replace("\r\n", "\n"), new.replace("\r\n", "\n")
    if old in text:
        return text.replace(old, new, 1)
    lines, wanted = text.split("\n"), old.split("\n")
    # One search in one text: line by line it would be quadratic.
    bare = _stripped(lines)
    place = bare.find(_stripped(wanted))
    if place < 0:
        raise ToolError(f"the text to replace does not occur: {old!r:.200}")
    start = bare.count("\n", 0, place)
    indent = lines[start][: len(lines[start]) - len(lines[start].lstrip())]
    first, *rest = new.split("\n")
    base = len(old) - len(old.lstrip(" \t"))
    moved = [indent + first.lstrip(), *(_reindented(line, indent, base) for line in rest)]
    return "\n".join([*lines[:start], *moved, *lines[start + len(wanted) :]])


def _stripped(lines: Sequence[str]) -> str:
    """Lines without the spaces around them, each between two line breaks."""
    return "".join(f"\n{line.strip()}" for line in lines) + "\n"


def _difference(before: Sequence[str], after: Sequence[str], path: str) -> str:
    """A unified diff of one hunk, from the first line that differs to the last.

    A shortest one may take minutes to find.
    """
    same = min(len(before), len(after))
    start = next((i for i in range(same) if before[i] != after[i]), same)
    left = same - start
    end = next((i for i in range(left) if before[-1 - i] != after[-1 - i]), left)
    if start == len(before) == len(after):
        return ""
    top, below = max(0, start - _CONTEXT), min(end, _CONTEXT)
    old, new = before[start : len(before) - end], after[start : len(after) - end]
    sizes = [len(part) + start - top + below for part in (old, new)]
    return "\n".join(
        [
            f"--- {path}",
            f"+++ {path}",
            f"@@ -{top + 1},{sizes[0]} +{top + 1},{sizes[1]} @@",
            *(f" {line}" for line in before[top:start]),
            *(f"-{line}" for line in old),
            *(f"+{line}" for line in new),
            *(f" {line}" for line in before[len(before) - end :][:below]),
        ]
    )


def _matching(tree: Tree, path: str, patterns: Sequence[str]) -> set[str]:
    if len(patterns) > MAX_PATTERNS:
        raise ToolError(f"{len(patterns)} patterns are more than {MAX_PATTERNS}")
    return {name for one in patterns for name in tree.search(path, one)}


def _reindented(line: str, indent: str, base: int) -> str:
    """A line as deep below `indent` as it was below `base` spaces."""
    bare = line.lstrip()
    return indent + " " * max(0, len(line) - len(bare) - base) + bare if bare else ""


def _part(text: str, head: int | None, tail: int | None) -> str:
    if head is not None and tail is not None:
        raise ToolError("give head or tail, and not both")
    lines = text.splitlines()
    if head is not None:
        return "\n".join(lines[: max(0, head)])
    if tail is not None:
        return "\n".join(lines[max(0, len(lines) - max(0, tail)) :])
    return text


def _or_error(tree: Tree, path: str) -> str:
    """One bad path of several does not hide the others."""
    try:
        return _text(tree.read(path))
    except ToolError as error:
        return f"error: {error}"


def _text(content: bytes) -> str:
    return content.decode("utf-8", "replace")


def _listing(tree: Tree, path: str) -> str:
    return "\n".join(_line(name, info) for name, info in tree.entries(path))


def _sizes(tree: Tree, path: str, order: str) -> str:
    entries = tree.entries(path)
    if order == "size":
        entries.sort(key=lambda entry: -entry[1].st_size)
    lines = [f"{_line(name, info)} {info.st_size}" for name, info in entries]
    files = [info.st_size for _, info in entries if stat.S_ISREG(info.st_mode)]
    return "\n".join([*lines, f"{len(files)} files, {sum(files)} bytes"])


def _tree(tree: Tree, path: str, patterns: Sequence[str]) -> str:
    left_out = _matching(tree, path, patterns)
    top: list[dict[str, Any]] = []
    base = "/".join(tree.parts(path))
    inside = {base: top}
    for name, info in tree.walk(path):
        folder, _, last = name.rpartition("/")
        if name in left_out or folder not in inside:
            continue
        entry: dict[str, Any] = {"name": last, "type": "file"}
        if stat.S_ISDIR(info.st_mode):
            entry = {"name": last, "type": "directory", "children": []}
            inside[name] = entry["children"]
        inside[folder].append(entry)
    return json.dumps(top, indent=2)


def _line(name: str, info: Any) -> str:
    kind = "DIR" if stat.S_ISDIR(info.st_mode) else "FILE" if stat.S_ISREG(info.st_mode) else "LINK"
    return f"[{kind}] {name}"


def _info(info: Any) -> str:
    kind = "directory" if stat.S_ISDIR(info.st_mode) else "file"
    modified = datetime.fromtimestamp(info.st_mtime, UTC).isoformat(timespec="seconds")
    facts = {"size": info.st_size, "type": kind, "modified": modified}
    return json.dumps(facts | {"permissions": f"{stat.S_IMODE(info.st_mode):o}"})
