"""The child process in which office files are opened: `python -m` this, see `confined.Worker`."""

import importlib
from collections.abc import Mapping
from typing import Any

from jaxlab.evals.ajbench.office import packages
from jaxlab.evals.ajbench.sandbox import serving
from jaxlab.evals.ajbench.sandbox.limits import ToolError

# Imported when a file of the kind comes: each brings a large library.
MODULES = {".docx": "documents", ".xlsx": "workbooks", ".pptx": "presentations"}


def module(ending: str) -> Any:
    """Where the work on a kind of files is done."""
    return importlib.import_module(f"jaxlab.evals.ajbench.office.{MODULES[ending]}")


def run(operation: str, content: bytes, arguments: Mapping[str, str]) -> tuple[str, bytes]:
    """A text, and the file's new content where the operation changes it.

    Args:
        operation: a name in READING or WRITING of the kind's module.
        content: of the file.
        arguments: of the operation, and "ending", which says the kind.

    Raises:
        ToolError: the file or the operation is refused.
    """
    ending = arguments["ending"]
    work = module(ending)
    changes = operation in work.WRITING
    if not changes and operation not in work.READING:
        known = ", ".join([*work.READING, *work.WRITING])
        raise ToolError(f"{operation} is not for {ending} files: {known} are")
    packages.check(content, ending)
    document = work.load(content)
    given = {key: value for key, value in arguments.items() if key != "ending"}
    text = (work.WRITING if changes else work.READING)[operation](document, **given)
    return text, work.save(document) if changes else b""


if __name__ == "__main__":
    serving.serve(run)
