"""What the command-line doors share: flags, one-line errors, exit codes.

Exit codes: 0 done; 1 a failure on the way (the last good checkpoint is intact); 2 a bad flag,
config or input, found before any work; 143 stopped by SIGTERM or Ctrl-C, with a checkpoint saved or
the finished answers kept; 130 a second Ctrl-C, with nothing more saved.
"""

import ast
import dataclasses
import errno
import functools
import importlib.machinery
import importlib.util
import logging
import os
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict

from jaxlab import config as config_lib
from jaxlab import overrides
from jaxlab.runtime import decode_devices, host_memory
from jaxlab.runtime import mesh as mesh_lib
from jaxlab.runtime import workdir as workdir_lib
from jaxlab.runtime.checkpoint import CheckpointError

# Defined once, so that one program can import several doors; a door declares those that it takes.
CONFIG = flags.DEFINE_string(
    "config", None, "A file with get_config(variant): configs/NAME.py[:variant]."
)
WORKDIR = flags.DEFINE_string("workdir", None, "Where the run keeps everything it writes.")

# What reading a config, a data file or a model raises when the user is to mend it.
INPUT_ERRORS = (ValueError, KeyError, OSError, ImportError, CheckpointError)
CONFIGS = Path("configs")
# What comes with the extra "evals".
OF_THE_EXTRA = ("inspect_ai", "mcp", "psycopg", "playwright", "bs4", "docx", "openpyxl", "pptx")
HELP = ("--help", "-h", "-help", "--helpfull", "--helpshort")


def run(
    main: Callable[[list[str]], Any],
    required: list[str],
    *,
    positional: bool = False,
    configs: str | None = None,
    schema: Callable[[Mapping[str, Any]], Any] | None = None,
    more_help: Callable[[], str] = str,
) -> None:
    """Parse the command line, with these flags at least, and call `main` with what is left.

    Args:
        main: the program.
        required: flags that must be there.
        positional: whether anything may be left but the program's name.
        configs: the start of the names of the config files that --help lists, as an expression.
        schema: the annotation that a config is to fill, which types --config.KEY=VALUE.
        more_help: what --help says besides.
    """
    if any(word in HELP for word in sys.argv):
        listed = _list_configs(configs) if configs else ""
        module = sys.modules["__main__"]
        module.__doc__ = f"{module.__doc__ or ''}{listed}{_list_keys(schema)}{more_help()}"
    flags.mark_flags_as_required(required)

    def quietly(argv: list[str]) -> Any:
        # absl has put its handler on the root logger by now. Orbax and jax log every checkpoint
        # and every backend that is not there.
        absl_logging.get_absl_handler().setFormatter(logging.Formatter("%(message)s"))
        logging.getLogger("jaxlab").setLevel(logging.INFO)
        logging.getLogger().setLevel(logging.WARNING)
        try:
            return main(argv)
        except KeyboardInterrupt:
            stopped("the same command goes on, or begins again")

    host_memory.keep_freed()
    decode_devices.automatically()
    parser = functools.partial(_parse, required=required, positional=positional, schema=schema)
    app.run(quietly, flags_parser=parser)


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
    """Whatever goes wrong inside is the input's fault: one line, code 2; but not a full disk."""
    with working():
        try:
            yield
        except INPUT_ERRORS as error:
            if not _is_full(error):
                bad_input(error)
            raise


@contextmanager
def naming_the_extra(what: str) -> Iterator[None]:
    """A package that is missing inside, and comes with the extra "evals", is an ImportError."""
    try:
        yield
    except ModuleNotFoundError as error:
        # A file of the user's may lack something else.
        if error.name not in OF_THE_EXTRA:
            raise
        raise ImportError(
            f"{what} needs {error.name}; install it with: pip install jaxlab[evals]"
        ) from error


@contextmanager
def working(*errors: type[Exception]) -> Iterator[None]:
    """These errors, a full disk and a checkpoint that fails are one line and code 1."""
    try:
        yield
    except Exception as error:
        if isinstance(error, (CheckpointError, *errors)) or _is_full(error):
            failed(error)
        raise


def config() -> dict[str, Any]:
    """The config of --config, with what --config.KEY changes in it."""
    return _loaded().config.to_dict()


def sweep() -> list[dict[str, Any]]:
    """What `sweep()` of the config file yields: overrides by key, such as {"optim.b2": 0.95}.

    Raises:
        ValueError: there is no such function, it fails, or its overrides are no dicts.
    """
    module = _loaded().module
    if not hasattr(module, "sweep"):
        raise ValueError(f"--list_sweep: {module.__file__} has no function sweep()")
    try:
        found = list(module.sweep())
    except Exception as error:  # whatever it is, it is the file's
        raise ValueError(f"{module.__file__}: sweep(): {one_line(error)}") from error
    for one in found:
        if not isinstance(one, dict) or not all(isinstance(key, str) for key in one):
            raise ValueError(f"{module.__file__}: sweep() yields {one!r}, not a dict of keys")
    return found


def with_overrides(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The config of --config with these keys changed too.

    Raises:
        ConfigError: there is no such key, or its value is none that it may have.
    """
    loaded = _loaded()
    changed = ConfigDict(loaded.config.to_dict())
    overrides.apply(changed, overrides.written(changes), loaded.hint)
    return changed.to_dict()


def workdir() -> Path:
    """The directory of --workdir.

    Raises:
        ValueError: it is not given, is empty, a URL or a file.
    """
    if WORKDIR.value is None:
        raise ValueError(f"--workdir is missing: {flags.FLAGS['workdir'].help}")
    return workdir_lib.directory(WORKDIR.value, "--workdir")


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """While inside, no other run can begin in the directory; the processes of one run share it.

    Raises:
        WorkdirError: another run is in it.
    """
    held, fault = None, None
    if mesh_lib.is_main():
        try:
            held = workdir_lib.lock(directory)
        except workdir_lib.WorkdirError as error:
            fault = str(error)
    fault = mesh_lib.broadcast(fault)
    if fault is not None:
        raise workdir_lib.WorkdirError(fault)
    with held or nullcontext():
        yield


def _loaded() -> "_Loaded":
    loaded: Any = CONFIG.value  # `_parse` has put it in the place of the file's name
    assert isinstance(loaded, _Loaded)
    return loaded


def _is_full(error: Exception) -> bool:
    """Whether the disk, a quota or a limit on the size of files is the cause."""
    known = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    number = getattr(error, "errno", None)
    # Libraries in other languages hand on the system's words only.
    return number in known or any(os.strerror(code) in str(error) for code in known)


def _parse(
    argv: list[str],
    required: list[str],
    positional: bool,
    schema: Callable[[Mapping[str, Any]], Any] | None = None,
) -> list[str]:
    # --help must answer whatever else is wrong.
    if any(word in HELP for word in argv):
        return flags.FLAGS(overrides.split(argv)[0])
    # No shell expands the ~ of --config=~/NAME.py.
    argv = [re.sub("^(--?config=)~(?=/)", rf"\g<1>{Path.home()}", word) for word in argv]
    argv, changes = overrides.split(argv)
    loaded = _load_config(argv)
    try:
        rest = flags.FLAGS(argv)
        if loaded is not None:
            loaded.hint = schema(loaded.config) if schema else Any
            overrides.apply(loaded.config, changes, loaded.hint)
            flags.FLAGS["config"].value = loaded
        elif changes:
            raise ValueError(f"--{changes[0].name} changes a config: --config is missing")
    except (flags.Error, *INPUT_ERRORS) as error:
        bad_input(_missing_flag(required, error) or error)
    if len(rest) > 1 and not positional:
        bad_input(ValueError(f"unexpected argument {rest[1]!r}; flags begin with --"))
    return rest


@dataclasses.dataclass
class _Loaded:
    """A config, the module of its file, and the annotation that it is to fill."""

    config: ConfigDict
    module: Any
    hint: Any = Any


def _load_config(argv: list[str]) -> _Loaded | None:
    """The config that --config names; None where there is no such flag.

    A file that is absent or fails ends the program with one line and code 2.
    """
    words = [word.lstrip("-") if word.startswith("-") else "" for word in argv]
    argument = None
    # Of a flag that is given twice, the last one counts, as everywhere.
    for word, behind in zip(words, [*argv[1:], None], strict=True):
        if word.startswith("config="):
            argument = word.removeprefix("config=")
        elif word == "config" and behind is not None:
            argument = behind
    if argument is None:
        return None
    path = Path(argument.partition(":")[0])
    # A config may import its neighbours, and as configs.NAME, wherever the program is started.
    sys.path += [str(path.absolute().parent.parent), str(path.absolute().parent)]
    if not path.is_file():
        there = {found.stem: str(found) for found in _configs(path.parent) or _configs(CONFIGS)}
        near = config_lib.nearest(path.stem, there)
        listed = ", ".join(there.values()) or f"none in {path.parent}"
        cure = f"did you mean {there[near]}?" if near else f"there are {listed}"
        bad_input(ValueError(f"--config={argument}: there is no file {path}; {cure}"))
    try:
        module: Any = load(path)
        config = module.get_config(*argument.split(":", 1)[1:])
        if config is None:
            raise ValueError("get_config() gives None: is its return missing?")
        if not isinstance(config, Mapping | ConfigDict):
            raise ValueError(f"get_config() gives {config!r}, not a ConfigDict or a dict")
        config = ConfigDict(dict(config)) if isinstance(config, Mapping) else config
        return _Loaded(config, module)
    except Exception as error:  # whatever it is, it is the file's
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        bad_input(ValueError(f"--config={argument}: {kind}{one_line(error)}"))


def load(path: Path) -> types.ModuleType:
    """The module in a config file."""
    name = f"jaxlab_config_{path.stem}"
    loader = importlib.machinery.SourceFileLoader(name, str(path))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where its dataclasses look for their annotations
    loader.exec_module(module)
    return module


def _configs(folder: Path, pattern: str = "") -> list[Path]:
    """The files in the folder that make a config and whose names match the expression."""
    found = [path for path in sorted(folder.glob("*.py")) if re.match(pattern, path.name)]
    return [path for path in found if "def get_config" in path.read_text(errors="replace")]


def _list_configs(pattern: str) -> str:
    """Lines for --help: each config and the first line of what it says of itself."""
    found = _configs(CONFIGS, pattern)
    lines = ["", "Configs; each tells of its variants and keys at its head:", ""] if found else []
    for path in found:
        about = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        lines.append(f"    {path}  {about.splitlines()[0] if about else ''}")
    return "\n".join([*lines, ""])


def _list_keys(schema: Callable[[Mapping[str, Any]], Any] | None) -> str:
    """Lines for --help: the keys of the config that --config names, if it does."""
    words, changes = overrides.split(sys.argv)
    try:
        loaded = _load_config(words)
        if loaded is None or schema is None:
            return ""
        hint = schema(loaded.config)
        overrides.apply(loaded.config, changes, hint)
    except (SystemExit, ValueError):
        return ""  # --help answers whatever else is wrong
    lines = [f"    --config.{line}" for line in overrides.keys(hint, loaded.config)]
    return "\n".join(["", "Keys of this config, with type and value:", "", *lines, ""])


def _missing_flag(required: list[str], error: Exception) -> ValueError | None:
    """The first flag that must be there and is not, if that is the error."""
    for name in required:
        if f"flag --{name}=None: " in str(error):
            return ValueError(f"--{name} is missing: {flags.FLAGS[name].help}")
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
