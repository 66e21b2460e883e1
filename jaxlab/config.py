"""A config stops at the door: ConfigDict in, frozen dataclasses out.

`build` checks every key against the dataclass that will receive it, so that a misspelt name or a
wrong type ends the program before anything is compiled.
"""

import dataclasses
import difflib
import json
import os
import pathlib
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar

import ml_collections
from ml_collections import config_dict

T = TypeVar("T")

# What YAML 1.1, in which harnesses read command lines, takes for a bool.
_YAML = {True: ("true", "on", "yes"), False: ("false", "off", "no")}


@dataclasses.dataclass(frozen=True)
class Tag:
    """The key of a section that says which dataclass of a union it fills; see `by`."""

    key: str


@dataclasses.dataclass(frozen=True)
class Fields:
    """The dataclass whose fields are the keys of a dict; see `fields_of`."""

    table: Any
    key: str | None = None
    open: bool = False

    def of(self, name: Any) -> Any:
        """Returns the dataclass of this name; None where the table has none."""
        if self.key is None:
            return self.table
        return self.table.get(name) if isinstance(name, str) else None


def by(key: str) -> Tag:
    """Returns the mark of a tagged union, as in `Annotated[Opd | Aopd, by("name")]`.

    Each member is a dataclass with a field `key`, a Literal whose default is its own tag. A section
    with that key fills the member of that tag.
    """
    return Tag(key)


def fields_of(table: Any, key: str | None = None, *, open: bool = False) -> Fields:
    """Returns the mark of a dict that holds some fields of a dataclass, by their names.

    `build` leaves such a dict as it is, `Annotated[dict[str, Any], fields_of(TASKS, "task")]`; the
    command line takes from the mark which keys there are, and their types.

    Args:
        table: a dataclass; or with `key`, dataclasses by name.
        key: the key beside the dict that says which of them.
        open: whether that key may also be something that the table does not have.
    """
    return Fields(table, key, open)


class ConfigError(ValueError):
    """A config that does not fit its dataclass; the message is one line for the user."""


def build(cls: type[T], config: Mapping[str, Any] | ml_collections.ConfigDict, where="config") -> T:
    """Turns a config into an instance of a dataclass, and its sub-configs into the nested ones.

    Accepted annotations: bool, int, float, str, None, Any, Literal, unions, `tuple[X, ...]`,
    `tuple[X, Y]`, `list[X]`, `dict[str, X]`, dataclasses, and unions of dataclasses told apart by a
    tag (`by`). An int is taken where a float is
    asked for and a list where a tuple is; a bool is never an int. Where a Literal is asked for, a
    bool stands for the choice that YAML reads as that bool ("off", "true"); where a Literal or an
    int is, a string of digits is the int, since command lines keep strings strings.

    Args:
        cls: the dataclass to build.
        config: keys and values; keys with a default in `cls` may be absent.
        where: the dotted prefix that errors name.

    Raises:
        ConfigError: a key is unknown, missing or ill-typed, or the dataclass refuses its values.
    """
    return _build_dataclass(cls, config, where)


def check(hint: Any, value: Any, where: str) -> None:
    """Checks a single value as `build` checks those of a dataclass's fields.

    Raises:
        ConfigError: it is none that the annotation `hint` allows.
    """
    _coerce(hint, value, where)


def unknown_key(where: str, key: Any, names: Collection[str]) -> ConfigError:
    """Returns the error for a key that is none of `names`; it names the nearest, or all of them."""
    near = nearest(key, names)
    valid = ", ".join(sorted(names)) or "none"
    cure = f"did you mean {near!r}?" if near else f"valid keys: {valid}"
    return ConfigError(f"{where}.{key} is not a known key; {cure}")


def nearest(word: Any, names: Iterable[str]) -> str | None:
    """Returns the one of `names` that `word` most resembles, or None where none is near."""
    spelt = {name.casefold(): name for name in names}
    near = difflib.get_close_matches(str(word).casefold(), spelt, n=1, cutoff=0.5)
    return spelt[near[0]] if near else None


def type_name(hint: Any) -> str:
    """Returns the annotation as errors and --help write it."""
    return _name(hint)


def literals(hint: Any) -> tuple:
    """Returns the values of a Literal, or of all Literals of a union."""
    return _choices(hint)


def describe(cls: type) -> list[str]:
    """Returns a line for each key that `build` takes for the dataclass: name, type and default."""
    hints, lines = typing.get_type_hints(cls), []
    for field in dataclasses.fields(cls):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        given = "" if default is dataclasses.MISSING else f" = {default!r}"
        lines.append(f"{field.name}: {_name(hints[field.name])}{given}")
    return lines


def to_json(config: Any) -> Any:
    """Returns a dataclass, ConfigDict or plain value as JSON-able dicts, lists and scalars.

    Raises:
        ConfigError: a value has no JSON form; the message names its key.
    """
    return _to_json(config, "config")


def save_json(config: Any, path: str | os.PathLike) -> None:
    """Writes `to_json(config)` to `path`; a reader never sees half of it."""
    path = pathlib.Path(path)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(json.dumps(to_json(config), indent=2) + "\n")
    scratch.replace(path)


def load_json(path: str | os.PathLike) -> dict[str, Any]:
    """Reads what `save_json` wrote, as plain dicts for `build`.

    Raises:
        ConfigError: the file is absent or is not a JSON object.
    """
    try:
        loaded = json.loads(pathlib.Path(path).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot read the config {path}: {error}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"cannot read the config {path}: expected an object, got {_show(loaded)}")
    return loaded


def _build_dataclass(cls: Any, config: Any, where: str) -> Any:
    if isinstance(config, cls):
        return config
    if not _is_mapping(config):
        raise _ill_typed(where, cls, config)
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in config:
        if key not in fields:
            raise unknown_key(where, key, fields)
    for name, field in fields.items():
        if name not in config and _is_required(field):
            raise ConfigError(
                f"{where}.{name} is missing: expected {_name(hints[name])} ({cls.__name__})"
            )
    values = {}
    for key in config:
        values[key] = _coerce(hints[key], _get(config, key, where), f"{where}.{key}")
    for hint in hints.values():
        _check_choice(hint, fields, values, where)
    try:
        return cls(**values)
    except ConfigError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{where}: {error}") from error


def _check_choice(hint: Any, fields: Mapping[str, Any], values: dict[str, Any], where: str) -> None:
    """Checks the key beside a dict whose fields it chooses; see `fields_of`."""
    marks = typing.get_args(hint)[1:] if typing.get_origin(hint) is typing.Annotated else ()
    for mark in marks:
        if isinstance(mark, Fields) and mark.key is not None and not mark.open:
            name = values.get(mark.key, fields[mark.key].default)
            if name not in mark.table:
                raise _ill_typed(f"{where}.{mark.key}", typing.Literal[tuple(mark.table)], name)


def _coerce(hint: Any, value: Any, where: str) -> Any:
    """Returns `value` in the form that `hint` asks for, or raises ConfigError."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is typing.Annotated:
        if isinstance(args[1], Tag):
            return _coerce_tagged(args[0], args[1], value, where)
        return _coerce(args[0], value, where)
    if origin in (typing.Union, types.UnionType):
        return _coerce_union(hint, args, value, where)
    if origin is typing.Literal:
        if any(type(value) is type(choice) and value == choice for choice in args):
            return value
        if isinstance(value, bool):
            meant = [choice for choice in args if choice in _YAML[value]]
            if len(meant) == 1:
                return meant[0]
        raise _ill_typed(where, hint, value)
    if dataclasses.is_dataclass(hint):
        return _build_dataclass(hint, value, where)
    if origin is tuple or hint is tuple:
        return _coerce_tuple(hint, args or (Any, ...), value, where)
    if (origin is list or hint is list) and isinstance(value, list | tuple):
        item = args[0] if args else Any
        return [_coerce(item, v, f"{where}[{i}]") for i, v in enumerate(value)]
    if (origin in (dict, Mapping) or hint is dict) and _is_mapping(value):
        key_hint, item = args or (str, Any)
        return {
            _coerce(key_hint, k, f"the key {k!r} of {where}"): _coerce(
                item, _get(value, k, where), f"{where}.{k}"
            )
            for k in value
        }
    if hint in (None, types.NoneType) and value is None:
        return None
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:  # an int of more than 300 digits
            raise _ill_typed(where, hint, value) from None
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint in (bool, str) and isinstance(value, hint):
        return value
    raise _ill_typed(where, hint, value)


def members(union: Any, key: str) -> dict[str, Any]:
    """Returns tag -> dataclass of a tagged union, or of a single dataclass."""
    alone = dataclasses.is_dataclass(union)
    found: dict[str, Any] = {}
    for member in (union,) if alone else typing.get_args(union):
        if dataclasses.is_dataclass(member):
            field = next(field for field in dataclasses.fields(member) if field.name == key)
            found[str(field.default)] = member
    return found


def _coerce_tagged(union: Any, tag: Tag, value: Any, where: str) -> Any:
    choices = members(union, tag.key)
    optional = not dataclasses.is_dataclass(union) and types.NoneType in typing.get_args(union)
    if (value is None and optional) or isinstance(value, tuple(choices.values())):
        return value
    if not _is_mapping(value):
        raise _ill_typed(where, union, value)
    names = ", ".join(map(repr, choices))
    if tag.key not in value:
        raise ConfigError(f"{where}.{tag.key} is missing: expected one of {names}")
    name = _get(value, tag.key, where)
    if not isinstance(name, str) or name not in choices:
        near = nearest(name, choices)
        cure = f"; did you mean {near!r}?" if near else ""
        raise ConfigError(f"{where}.{tag.key}: expected one of {names}, got {_show(name)}{cure}")
    return _build_dataclass(choices[name], value, where)


def _coerce_union(hint: Any, members: tuple, value: Any, where: str) -> Any:
    structured = [m for m in members if dataclasses.is_dataclass(m)]
    if len(structured) == 1 and _is_mapping(value) and not _has_dict(members):
        return _build_dataclass(structured[0], value, where)
    # Alone for its kind of value, a member says more exactly what is wrong.
    sequences = [m for m in members if (typing.get_origin(m) or m) in (tuple, list)]
    if len(sequences) == 1 and isinstance(value, list | tuple):
        return _coerce(sequences[0], value, where)
    if int in members and str not in members and _choices(hint) and _is_digits(value):
        value = int(value)
    # An int stays an int under int | float, whichever is written first.
    exact = [m for m in members if m is type(value)]
    others = [m for m in members if m is not type(value)]
    for member in exact + others:
        try:
            return _coerce(member, value, where)
        except ConfigError:
            continue
    raise _ill_typed(where, hint, value)


def _coerce_tuple(hint: Any, args: tuple, value: Any, where: str) -> tuple:
    if not isinstance(value, list | tuple):
        raise _ill_typed(where, hint, value)
    if args[-1] is Ellipsis:
        args = (args[0],) * len(value)
    if len(args) != len(value):
        raise ConfigError(
            f"{where}: expected {_name(hint)} of {len(args)} items, got {len(value)}: {value!r}"
        )
    return tuple(
        _coerce(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(args, value, strict=True))
    )


def _to_json(value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: _to_json(getattr(value, name), f"{where}.{name}") for name in names}
    if _is_mapping(value):
        return {str(k): _to_json(_get(value, k, where), f"{where}.{k}") for k in value}
    if isinstance(value, list | tuple):
        return [_to_json(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(f"{where}: {_show(value)} has no JSON form")


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping | ml_collections.ConfigDict)


def _has_dict(members: tuple) -> bool:
    return any((typing.get_origin(m) or m) in (dict, Mapping) for m in members)


def _is_digits(value: Any) -> bool:
    return isinstance(value, str) and value.isascii() and value.removeprefix("-").isdecimal()


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _get(config: Any, key: str, where: str) -> Any:
    try:
        return config[key]
    except config_dict.RequiredValueError as error:
        raise ConfigError(f"{where}.{key} is missing: the config requires it") from error


def _ill_typed(where: str, hint: Any, value: Any) -> ConfigError:
    near = nearest(value, filter(_is_text, _choices(hint))) if _is_text(value) else None
    cure = f"; did you mean {near!r}?" if near else ""
    return ConfigError(f"{where}: expected {_name(hint)}, got {_show(value)}{cure}")


def _choices(hint: Any) -> tuple:
    """The values of a Literal, or of all Literals of a union."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return args
    if origin in (typing.Union, types.UnionType):
        return tuple(choice for member in args for choice in _choices(member))
    return ()


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _name(hint: Any) -> str:
    """The annotation as a reader would write it, without module names."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint in (None, types.NoneType):
        return "None"
    if hint is Ellipsis:
        return "..."
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_name(a) for a in args)
    if origin is typing.Literal:
        return "one of " + ", ".join(repr(a) for a in args)
    if origin is typing.Annotated:
        return _name(args[0])
    if origin is not None:
        return f"{_name(origin)}[{', '.join(_name(a) for a in args)}]"
    return getattr(hint, "__name__", str(hint))


def _show(value: Any) -> str:
    if value is None:
        return "None"
    if _is_mapping(value):
        return f"the section {{{', '.join(map(str, value))}}}"
    text = " ".join(repr(value).split())
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"
