"""Files that are whole or absent."""

import os
import pathlib


def write(path: pathlib.Path, content: bytes) -> None:
    """The whole file or what was there before, also after a loss of power."""
    scratch = path.with_name(f".{path.name}.tmp")
    with scratch.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
