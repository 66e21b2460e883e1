"""Office files as an environment: .docx, .xlsx and .pptx in a folder, read and changed by tools.

The files themselves are the state, as a desktop's program would have saved them. Libraries open
them in a child process (`office_worker`) that gets bytes and gives text or bytes back; only this
side touches the folder.
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from io import BufferedReader
from pathlib import Path

from jaxlab.evals.ajbench.office import packages, soffice
from jaxlab.evals.ajbench.sandbox import programs
from jaxlab.evals.ajbench.sandbox.confined import Worker
from jaxlab.evals.ajbench.sandbox.file_tools import reading_files, writing_files
from jaxlab.evals.ajbench.sandbox.files import Tree
from jaxlab.evals.ajbench.sandbox.limits import DEFAULT, Limits, ToolError
from jaxlab.evals.ajbench.sandbox.tools import Shown, Tool

MAX_BYTES = 32 << 20  # of an office file

_PATH = {"path": "of the file, relative to the folder"}
_SHEET = {**_PATH, "sheet": "its name", "cells": "a cell or range such as A1:C9 or A:C"}
_SLIDE = {**_PATH, "slide": "its number, from 1"}
_SHAPE = {**_SLIDE, "shape": "its id, as read_slide shows it"}
_NUMBER = {**_PATH, "number": "of the paragraph, from 1"}
_TABLE = {**_PATH, "table": "its number, from 1"}
_FORMAT = {"format": 'a JSON object such as {"bold": true, "size": 12, "color": "#FF0000"}'}

# Name -> what a judge reads of it, and its arguments. The work is in `documents`, `workbooks` and
# `presentations` under the same names.
READING: dict[str, tuple[str, dict[str, str]]] = {
    "overview": ("What is in an office file: sheets, sections, slides, charts, pictures.", _PATH),
    "find_text": ("Where an office file holds a text.", {**_PATH, "text": "in any case"}),
    "read_cells": ("Excel: values and formulas of cells.", _SHEET),
    "read_styles": ("Excel: fonts, colours, alignment and number formats of cells.", _SHEET),
    "read_paragraphs": (
        "Word: paragraphs with styles, spacing and the formats of their parts.",
        {**_PATH, "first": "number, from 1", "last": "number"},
    ),
    "read_table": ("Word: the cells of a table.", _TABLE),
    "read_slide": ("PowerPoint: shapes, places, texts, formats, background, notes.", _SLIDE),
}
WRITING: dict[str, tuple[str, dict[str, str]]] = {
    "set_cell": (
        "Excel: write a number, text or =formula.",
        {**_PATH, "sheet": "its name", "cell": "such as B2", "value": "empty to clear"},
    ),
    "format_cells": (
        "Excel: also fill, align, valign, wrap, number_format, merge, width, height.",
        {**_SHEET, **_FORMAT},
    ),
    "change_sheets": (
        "Excel: sheets as a whole.",
        {
            **_PATH,
            "action": "add, rename, copy, move or delete",
            "sheet": "its name",
            "name": "the new name, or the place to move to; else empty",
        },
    ),
    "replace_text": ("Word: replace a text.", {**_PATH, "old": "text", "new": "text"}),
    "insert_paragraph": (
        "Word: insert a paragraph.",
        {**_PATH, "after": "number, 0 for the start", "text": "its text", "style": "or empty"},
    ),
    "delete_paragraph": ("Word: delete a paragraph.", _NUMBER),
    "format_paragraph": (
        "Word: also align, style, line_spacing, space_before, space_after, indents.",
        {**_NUMBER, **_FORMAT},
    ),
    "set_table_cell": (
        "Word: replace the text of a table's cell.",
        {**_TABLE, "row": "from 1", "column": "from 1", "text": "the new text"},
    ),
    "set_shape_text": ("PowerPoint: replace a shape's text.", {**_SHAPE, "text": "the new text"}),
    "format_shape": (
        "PowerPoint: also align, fill, left, top, width, height in points.",
        {**_SHAPE, **_FORMAT},
    ),
    "set_notes": ("PowerPoint: replace the notes.", {**_SLIDE, "text": "the new text"}),
    "set_background": ("PowerPoint: fill the background.", {**_SLIDE, "color": "#RRGGBB"}),
    "change_slides": (
        "PowerPoint: slides as a whole.",
        {
            **_PATH,
            "action": "add, delete or move",
            "slide": "its number",
            "value": "add: the layout's name; move: the new number; else empty",
        },
    ),
}


class Office:
    """The files of one sample, in a private folder."""

    def __init__(
        self,
        folder: Path,
        names: tuple[str, ...] = ("/",),
        limits: Limits = DEFAULT,
        seconds: float = 30.0,
        picture_seconds: float = 120.0,
    ):
        """Opens the folder.

        Args:
            folder: holds the sample's files.
            names: absolute paths that mean the folder, see `files.Tree`.
            limits: on what tools read and write as text.
            seconds: of an operation on an office file; it starts with opening the file.
            picture_seconds: of LibreOffice; its first start makes a profile.
        """
        self._folder = folder
        self._names = names
        self._limits = limits
        self._tree = Tree(folder, names, dataclasses.replace(limits, write_bytes=MAX_BYTES))
        self._worker = Worker("jaxlab.evals.ajbench.office.office_worker", folder, seconds)
        self._picture_seconds = picture_seconds
        self._closing = contextlib.ExitStack()
        self._closing.callback(self._tree.close)
        self._closing.callback(self._worker.close)
        self._scratch: Path | None = None

    def tools(self, read_only: bool) -> list[Tool]:
        """The tools for the files' content, and those for plain files beside them."""
        found = [*reading_files(self._tree), *self._made(READING, self._read)]
        found.append(
            Tool(
                "screenshot",
                "A page of an office file as LibreOffice shows it; gives the picture's path.",
                {**_PATH, "page": "its number, from 1"},
                self._picture,
            )
        )
        if not read_only:
            found += [*writing_files(self._tree), *self._made(WRITING, self._write)]
        return found

    def screenshot(self, path: str, page: int = 1) -> bytes:
        """A page of a file as PNG.

        Raises:
            ToolError: see `soffice.picture`.
        """
        ending = packages.kind(path)
        soffice.program()
        content = self._content(path)
        if self._scratch is None:
            self._scratch = programs.scratch(self._folder)
            self._closing.callback(programs.remove, self._scratch)
        return soffice.picture(content, ending, page, self._scratch, self._picture_seconds)

    def digest(self) -> str:
        """SHA-256 over paths, kinds and contents; of office files, over what is in their parts.

        Times of saving are left out, so that the same changes give the same digest.
        """
        return self._tree.digest(_content_digest)

    def address(self, read_only: bool) -> dict[str, str]:
        """What a tool server of the user's needs: the folder, which it has to guard itself."""
        del read_only
        return {"root": str(self._folder)}

    def close(self) -> None:
        """Ends the child and what LibreOffice has left."""
        self._closing.close()

    def _made(
        self, table: Mapping[str, tuple[str, dict[str, str]]], run: Callable[..., str]
    ) -> list[Tool]:
        return [
            Tool(name, description, parameters, functools.partial(run, name))
            for name, (description, parameters) in table.items()
        ]

    def _read(self, operation: str, path: str, **arguments: str) -> str:
        ending = packages.kind(path)
        with _naming(path):
            return self._worker.call(
                operation, self._content(path), {**arguments, "ending": ending}
            )[0]

    def _write(self, operation: str, path: str, **arguments: str) -> str:
        ending = packages.kind(path)
        with _naming(path):
            content = self._content(path)
            text, content = self._worker.call(operation, content, {**arguments, "ending": ending})
        self._tree.write(path, content)
        return text

    def _picture(self, path: str, page: str) -> str:
        if not page.isdecimal() or not 1 <= int(page[:5]) <= 9999:
            raise ToolError(f"{page!r:.60} is no page: a number from 1 is wanted")
        content = self.screenshot(path, int(page))
        assert self._scratch is not None
        target = self._scratch / "screenshot.png"
        target.write_bytes(content)
        return Shown(str(target), content)

    def _content(self, path: str) -> bytes:
        size = self._tree.stat(path).st_size
        if size > MAX_BYTES:
            raise ToolError(f"{size} bytes; {MAX_BYTES} at most are read")
        return self._tree.read(path)


def _content_digest(path: str, file: BufferedReader) -> bytes:
    ending = f".{path.rpartition('.')[2].lower()}"
    if ending in packages.KINDS and os.fstat(file.fileno()).st_size <= MAX_BYTES:
        return packages.digest(file.read(), ending)
    return hashlib.file_digest(file, "sha256").digest()


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
    """Refusals that say which file they are about."""
    try:
        yield
    except ToolError as error:
        text = str(error)
        raise ToolError(text if path in text else f"{path!r:.200}: {text}") from None
