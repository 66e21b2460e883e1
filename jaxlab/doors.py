"""What the command-line doors share: flags, one-line errors, exit codes.

Exit codes: 0 done; 1 a failure on the way (the last good checkpoint is intact); 2 a bad flag,
config or input, found before any work; 143 stopped by SIGTERM or Ctrl-C, with a checkpoint saved or
the finished answers kept.
"""

import difflib
import functools
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from jaxlab.runtime import host_memory
from jaxlab.runtime.checkpoint import CheckpointError

# Defined once, so that one program can import several doors; a door declares those that it takes.
CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A file with get_config(variant): configs/NAME.py[:variant].", lock_config=True
)
WORKDIR = flags.DEFINE_string("workdir", None, "Where the run keeps everything it writes.")

# What reading a config, a data file or a model raises when the user is to mend it.
INPUT_ERRORS = (ValueError, KeyError, OSError, ImportError, CheckpointError)


def run(main: Callable[[list[str]], Any], required: list[str], *, positional: bool = False) -> None:
    """Parse the command line, with these flags at least, and call `main` with what is left.

    Args:
        main: the program.
        required: flags that must be there.
        positional: whether anything may be left but the program's name.
    """
    flags.mark_flags_as_required(required)

    def quietly(argv: list[str]) -> Any:
        # absl has put its handler on the root logger by now. Orbax and jax log every checkpoint
        # and every backend that is not there.
        absl_logging.get_absl_handler().setFormatter(logging.Formatter("%(message)s"))
        logging.getLogger("jaxlab").setLevel(logging.INFO)
        logging.getLogger().setLevel(logging.WARNING)
        return main(argv)

    host_memory.keep_freed()
    app.run(quietly, flags_parser=functools.partial(_parse, positional=positional))


def bad_input(error: BaseException) -> NoReturn:
    """Say in one line what is wrong, and leave with code 2."""
    _leave(error, 2)


def failed(error: BaseException) -> NoReturn:
    """The same for a failure on the way whose message says it all: code 1."""
    _leave(error, 1)


def stopped(how_on: str) -> NoReturn:
    """After Ctrl-C say how to go on, and leave with code 143."""
    print(f"stopped: {how_on}", file=sys.stderr)
    sys.exit(143)


@contextmanager
def reading_input() -> Iterator[None]:
    """Whatever goes wrong inside is the input's fault: one line, code 2."""
    try:
        yield
    except INPUT_ERRORS as error:
        bad_input(error)


def _parse(argv: list[str], positional: bool) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
    except (flags.Error, AttributeError, TypeError, *INPUT_ERRORS) as error:
        # --help must answer even where a required flag is missing.
        if any(word in ("--help", "-h", "--helpfull", "--helpshort") for word in argv):
            raise
        bad_input(_unknown_key(argv) or error)
    if len(rest) > 1 and not positional:
        bad_input(ValueError(f"unexpected argument {rest[1]!r}; flags begin with --"))
    return rest


def _unknown_key(argv: list[str]) -> KeyError | None:
    """The first --config.KEY=... that the config has no place for, and what is in that place."""
    names = [word.partition("=") for word in argv if word.startswith("--config")]
    files = [value for name, _, value in names if name == "--config"]
    for name, _, _ in names if files and files[0] else ():
        part: Any = flags.FLAGS["config"].parser.parse(files[0])
        for key in name.split(".")[1:]:
            key = key.partition("[")[0]
            if not isinstance(part, ConfigDict):
                break
            if key not in part:
                near = difflib.get_close_matches(key, part, n=1)
                cure = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(part)}"
                return KeyError(f"{name}: there is no {key!r}; {cure}")
            part = part.get(key)
    return None


def _leave(error: BaseException, code: int) -> NoReturn:
    print(f"error: {one_line(error)}", file=sys.stderr)
    if os.environ.get("JAXLAB_DEBUG"):
        raise error
    sys.exit(code)


def one_line(error: BaseException) -> str:
    """The message without line breaks, KeyError's quotes, or a traceback inside of it."""
    message: Any = error
    while isinstance(message, KeyError | AttributeError) and message.args:
        message = message.args[0]
    # A config file that fails arrives with its whole traceback, whose last line is the message.
    before, trace, inside = str(message).partition("Traceback (most recent call last):")
    if trace:
        message = before + inside.strip().splitlines()[-1]
    return " ".join(str(message).split())
