"""Changes of a config on the command line: --config.KEY=VALUE.

The dataclass that the config fills says which keys there are and what a value may be, whether or
not the config file writes the key.
"""

import ast
import contextlib
import dataclasses
import re
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from ml_collections import ConfigDict, config_dict

from jaxlab import config as config_lib
from jaxlab.config import ConfigError

_FLAG = re.compile(r"--?(no)?(config(?:\.[^.=\[\]]+|\[\d+\])+)(?:=(.*))?$", re.DOTALL)
_WORDS = {
    **dict.fromkeys(("true", "t", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "f", "no", "off", "0"), False),
}


class Override(NamedTuple):
    """One --config.KEY=VALUE.

    Attributes:
        name: as in errors: "config.optim.b2".
        path: keys, and indices of sequences.
        text: the value as it was written; None where the flag stands alone, as a bool may.
    """

    name: str
    path: tuple[str | int, ...]
    text: str | None


def split(argv: Sequence[str]) -> tuple[list[str], list[Override]]:
    """Returns the words without those that change the config, and the changes.

    A value is behind "=" or the next word; `--config.KEY` alone is true, `--noconfig.KEY` false.
    """
    rest, found, words = [], [], iter(range(len(argv)))
    for i in words:
        match = _FLAG.match(argv[i])
        if match is None:
            rest.append(argv[i])
            continue
        no, name, text = match.groups()
        if no and text is None:
            text = "false"
        elif text is None and i + 1 < len(argv) and not argv[i + 1].startswith("--"):
            text = argv[next(words)]
        keys = re.findall(r"\.([^.\[\]]+)|\[(\d+)\]", name)
        path = tuple(int(index) if index else key for key, index in keys)
        found.append(Override(name, path, text))
    return rest, found


def written(changes: Mapping[str, Any]) -> list[Override]:
    """Returns overrides by key, whose values are no words but values, as `apply` takes them."""
    words = []
    for key, value in changes.items():
        text = value if isinstance(value, str) else repr(value)
        words.append(f"--config.{key}={text}")
    rest, found = split(words)
    if rest:
        raise ConfigError(f"{rest[0].partition('=')[0]} is not a key of a config")
    return found


def apply(config: ConfigDict, changes: Sequence[Override], hint: Any) -> None:
    """Changes the config in place.

    Whatever their order on the command line, a section is set before its keys, and the tag of a
    choice before what stands beside it. Setting a tag to another choice drops the keys of the
    former one.

    Args:
        config: as the config file made it.
        changes: the last one of a key counts.
        hint: the annotation of the whole: the dataclass to be filled, say.

    Raises:
        ConfigError: there is no such key, or its value is none that it may have.
    """
    with config.unlocked(), config.ignore_type():
        for depth in sorted({len(change.path) for change in changes}):
            level = [change for change in changes if len(change.path) == depth]
            for change in sorted(level, key=lambda change: not _sets_tag(config, hint, change)):
                _changed(config, hint, change.path, change, "config")


def keys(hint: Any, config: Any, prefix: str = "") -> Iterator[str]:
    """Yields a line for each key with its type and value, as in "optim.b2: float = 0.999".

    Args:
        hint: the annotation of the whole.
        config: the values that differ from the defaults.
        prefix: of the keys.
    """
    cls = _dataclass(hint, config)
    if cls is None:
        for key in config if _is_mapping(config) else ():
            yield from _lines(_item(hint), _value(config, key), f"{prefix}{key}")
        return
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    if tag := _tag(hint):
        hints[tag[1]] = Literal[tuple(config_lib.members(*tag))]
    for name, field in fields.items():
        given = _is_mapping(config) and name in config
        value = _value(config, name) if given else _default(field)
        yield from _lines(_inner(hints[name], config, fields), value, f"{prefix}{name}")


def _lines(hint: Any, value: Any, key: str) -> Iterator[str]:
    if _tag(hint) is not None or _dataclass(hint, {}) is not None:
        yield from keys(hint, value, f"{key}.")
    else:
        shown = config_lib.to_json(value) if _is_mapping(value) else value
        yield f"{key}: {config_lib.type_name(hint)} = {shown!r}"


def parse(text: str | None, hint: Any, where: str) -> Any:
    """Returns the value that a word of the command line means where the annotation is `hint`.

    Where only a str can be meant, the word itself; else a Python literal, a bool's word, None, or
    words separated by commas for a tuple.

    Raises:
        ConfigError: it is none that the annotation allows.
    """
    kinds = _kinds(hint)
    if text is None:
        if bool not in kinds and hint is not Any:
            raise ConfigError(f"{where} needs a value: --{where}=VALUE")
        return True
    if text in config_lib.literals(hint):
        return text
    if types.NoneType in kinds and text.lower() in ("none", "null"):
        return None
    if all(kind in (str, types.NoneType) for kind in kinds):
        return text
    if bool in kinds and text.lower() in _WORDS:
        return _WORDS[text.lower()]
    value = _literal(text)
    if hint is Any:
        return value
    if any(_is_structured(kind) for kind in kinds) and _is_mapping(value):
        return value
    candidates = [value, text]
    if any((typing.get_origin(kind) or kind) in (tuple, list) for kind in kinds):
        words = [word.strip() for word in text.strip("()[]").split(",")]
        candidates = [value, (value,), tuple(words), [_literal(word) for word in words]]
    for candidate in candidates:
        with contextlib.suppress(ConfigError):
            config_lib.check(hint, candidate, where)
            return candidate
    config_lib.check(hint, value, where)
    return value


def _changed(value: Any, hint: Any, path: Sequence[Any], change: Override, where: str) -> Any:
    """Returns the value with the change applied; a section is changed in place."""
    if not path:
        return parse(change.text, hint, where)
    key, rest = path[0], path[1:]
    if isinstance(key, int):
        return _changed_item(value, hint, path, change, where)
    section = {} if value is None else value
    if not _is_mapping(section):
        raise ConfigError(f"--{change.name}: {where} is {value!r}, which has no keys")
    inner, start = _child(hint, section, key, where, change.name)
    old = start
    if key in section:
        old = _value(section, key)
    if inner is Any and not rest and isinstance(section, ConfigDict) and key in section:
        inner = str | None if section.get_type(key) is str else Any
    new = _changed(old, inner, rest, change, f"{where}.{key}")
    if not rest and new != old:
        _drop_former(section, hint, key)
    if new is not old or key not in section:
        section[key] = new
    return section


def _changed_item(value: Any, hint: Any, path: Sequence[Any], change: Override, where: str) -> Any:
    index, rest = path[0], path[1:]
    if not isinstance(value, list | tuple) or index >= len(value):
        has = f"has {len(value)} items" if isinstance(value, list | tuple) else "is no sequence"
        raise ConfigError(f"--{change.name}: {where} {has}")
    items = list(value)
    items[index] = _changed(items[index], _item(hint, index), rest, change, f"{where}[{index}]")
    return type(value)(items)


def _child(hint: Any, section: Any, key: str, where: str, name: str) -> tuple[Any, Any]:
    """Returns the annotation of a key, and its value where the config has none.

    Raises:
        ConfigError: there is no such key.
    """
    tag = _tag(hint)
    if tag is not None and key == tag[1]:
        return Literal[tuple(config_lib.members(*tag))], None
    cls = _dataclass(hint, section)
    if cls is None:
        item = _item(hint)
        if item is None:
            raise ConfigError(
                f"--{name}: {where} is {config_lib.type_name(hint)}, which has no keys"
            )
        if _dataclass(item, {}) is not None or _tag(item) is not None:
            _check_known(key, section, name)
        return item, None
    fields = {field.name: field for field in dataclasses.fields(cls)}
    _check_known(key, fields, name)
    hints = typing.get_type_hints(cls, include_extras=True)
    for mark in map(_mark, hints.values()):
        if mark is not None and mark.key == key and not mark.open:
            return Literal[tuple(mark.table)], _default(fields[key])
    return _inner(hints[key], section, fields), _default(fields[key])


def _drop_former(section: Any, hint: Any, key: str) -> None:
    """Drops the keys of the choice that a tag named before it is set."""
    tag = _tag(hint)
    if tag is not None and key == tag[1]:
        for former in list(section):
            del section[former]
        return
    cls = _dataclass(hint, section)
    if cls is None:
        return
    for name, field_hint in typing.get_type_hints(cls, include_extras=True).items():
        mark = _mark(field_hint)
        if mark is not None and mark.key == key and name in section:
            del section[name]


def _sets_tag(config: Any, hint: Any, change: Override) -> bool:
    try:
        for key in change.path[:-1]:
            inner = _item(hint, key)
            if isinstance(key, str):
                inner, _ = _child(hint, config, key, "config", change.name)
            hint, config = inner, _value(config, key)
    except (ConfigError, LookupError, TypeError):
        return False  # which is said when the change is applied
    key, tag = change.path[-1], _tag(hint)
    if tag is not None and key == tag[1]:
        return True
    cls = _dataclass(hint, config)
    hints = typing.get_type_hints(cls, include_extras=True) if cls else {}
    return any(mark.key == key for mark in map(_mark, hints.values()) if mark is not None)


def _check_known(key: Any, there: Collection[str], name: str) -> None:
    if key not in there:
        near = config_lib.nearest(key, there)
        listed = f"there are {', '.join(sorted(there))}" if there else "the section is empty"
        cure = f"did you mean {near!r}?" if near else listed
        raise ConfigError(f"--{name}: there is no {key!r}; {cure}")


def _literal(text: str) -> Any:
    """A value in the words of Python, or of JSON; any other text is itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pass
    with contextlib.suppress(ValueError):
        return float(text)  # inf and nan
    return {"true": True, "false": False, "none": None, "null": None}.get(text.lower(), text)


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The members of a union, those of unions in it included; else the annotation itself."""
    if typing.get_origin(hint) is typing.Annotated:
        return _kinds(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(kind for member in typing.get_args(hint) for kind in _kinds(member))
    return (hint,)


def _tag(hint: Any) -> tuple[Any, str] | None:
    """The tagged union that the annotation is or allows, and its key."""
    args = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Annotated:
        return (args[0], args[1].key) if isinstance(args[1], config_lib.Tag) else None
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next((tag for tag in map(_tag, args) if tag is not None), None)
    return None


def _mark(hint: Any) -> config_lib.Fields | None:
    marks = typing.get_args(hint)[1:] if typing.get_origin(hint) is typing.Annotated else ()
    return next((mark for mark in marks if isinstance(mark, config_lib.Fields)), None)


def _dataclass(hint: Any, section: Any) -> Any:
    """The dataclass that a section of this annotation fills; None for dicts and scalars."""
    tag = _tag(hint)
    if tag is not None:
        choices = config_lib.members(*tag)
        name = _value(section, tag[1]) if _is_mapping(section) else None
        return choices.get(name) if isinstance(name, str) else None
    return next((kind for kind in _kinds(hint) if dataclasses.is_dataclass(kind)), None)


def _inner(hint: Any, section: Any, fields: Mapping[str, dataclasses.Field]) -> Any:
    """The annotation of a field of this section, with its mark replaced by the dataclass meant."""
    mark = _mark(hint)
    if mark is None:
        return hint
    name = None
    if mark.key is not None:
        given = section is not None and mark.key in section
        name = _value(section, mark.key) if given else _default(fields[mark.key])
    return mark.of(name) or dict[str, Any]


def _item(hint: Any, key: Any = "") -> Any:
    """The annotation of what a dict or a sequence holds; None where it is neither."""
    for kind in _kinds(hint):
        origin, args = typing.get_origin(kind) or kind, typing.get_args(kind)
        if kind is Any:
            return Any
        if isinstance(key, int) and origin in (tuple, list):
            return args[key] if key < len(args) and args[-1] is not Ellipsis else (*args, Any)[0]
        if isinstance(key, str) and origin in (dict, Mapping):
            return args[1] if args else Any
    return None


def _default(field: dataclasses.Field) -> Any:
    """A field's default as a config would write it; None where it has none."""
    if field.default_factory is not dataclasses.MISSING:
        return config_lib.to_json(field.default_factory())
    if dataclasses.is_dataclass(field.default):
        return config_lib.to_json(field.default)
    return None if field.default is dataclasses.MISSING else field.default


def _value(section: Any, key: Any) -> Any:
    """What the config has there; None where it has nothing, or requires a value."""
    try:
        return section[key]
    except (KeyError, config_dict.RequiredValueError):
        return None


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping | ConfigDict)


def _is_structured(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind) or (typing.get_origin(kind) or kind) in (dict, Mapping)
