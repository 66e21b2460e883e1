"""What the command-line doors share: flags, one-line errors, exit codes.

Exit codes: 0 done; 1 a failure on the way (the last good checkpoint is intact); 2 a bad flag,
config or input, found before any work; 143 stopped by SIGTERM or Ctrl-C, with a checkpoint saved.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from absl import app, flags
from absl import logging as absl_logging

# What reading a config, a data file or a model raises when the user is to mend it.
INPUT_ERRORS = (ValueError, KeyError, OSError, ImportError)


def run(main: Callable[[list[str]], Any]) -> None:
    """Parse the command line and call `main` with what is left of it."""

    def quietly(argv: list[str]) -> Any:
        # absl has put its handler on the root logger by now. Orbax and jax log every checkpoint
        # and every backend that is not there.
        absl_logging.get_absl_handler().setFormatter(logging.Formatter("%(message)s"))
        logging.getLogger("jaxlab").setLevel(logging.INFO)
        logging.getLogger().setLevel(logging.WARNING)
        return main(argv)

    app.run(quietly, flags_parser=_parse)


def bad_input(error: BaseException) -> NoReturn:
    """Say in one line what is wrong, and leave with code 2."""
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    line = " ".join(str(message).split())
    print(f"error: {line}", file=sys.stderr)
    if os.environ.get("JAXLAB_DEBUG"):
        raise error
    sys.exit(2)


@contextmanager
def reading_input() -> Iterator[None]:
    """Whatever goes wrong inside is the input's fault: one line, code 2."""
    try:
        yield
    except INPUT_ERRORS as error:
        bad_input(error)


def _parse(argv: list[str]) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
    except (flags.Error, AttributeError, TypeError, *INPUT_ERRORS) as error:
        # --help must answer even where a required flag is missing.
        if any(word in ("--help", "-h", "--helpfull", "--helpshort") for word in argv):
            raise
        bad_input(error)
    if len(rest) > 1:
        bad_input(ValueError(f"unexpected argument {rest[1]!r}; flags begin with --"))
    return rest
