"""Texts that can be written down: JSON may hold halves of surrogate pairs, UTF-8 may not.

Replies and results of tools come with such halves (an emoji that was cut in two); one of them in a
transcript would end the whole run when it is saved. Rows of files are checked where they are read,
see `sources.check_text`.
"""

from typing import Any


def well_formed(value: Any) -> Any:
    """A JSON value with U+FFFD in place of every lone surrogate; keys of objects included.

    Raises:
        RecursionError: it is nested too deeply.
    """
    if isinstance(value, str):
        if value.isascii():
            return value
        # Halves that stand side by side come together here.
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {well_formed(key): well_formed(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(well_formed, value))
    return value
