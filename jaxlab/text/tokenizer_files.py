"""The files of a tokenizer: what each key of them may hold, and reading them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from jaxlab import json_file
from jaxlab.json_file import BOOL, NULL, OBJECT, TEXT, CheckpointFormatError, Kind

SPECIAL_TOKENS = tuple(
    f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
)
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


_TOKEN_ID = json_file.COUNT
_CONTENT = Kind(
    "an object with a text as content",
    lambda value: isinstance(value, dict) and TEXT.accepts(value.get("content")),
)
_TEMPLATES = Kind(
    "objects with name and template",
    lambda value: (
        all(TEXT.accepts(template) for template in value.values())
        if isinstance(value, dict)
        else isinstance(value, list)
        and all(
            isinstance(entry, dict) and TEXT.accepts(entry.get(key))
            for entry in value
            for key in ("name", "template")
        )
    ),
)
_ADDED = Kind(
    "an object of objects with content, and flags that are true or false, by token id",
    lambda value: isinstance(value, dict) and all(map(_is_added, value.items())),
)
# What is read of the files beside tokenizer.json.
TOKENS = dict.fromkeys(SPECIAL_TOKENS, TEXT | _CONTENT | NULL)
CONFIG = TOKENS | {"chat_template": TEXT | _TEMPLATES | NULL, "added_tokens_decoder": _ADDED}
EOS = {"eos_token_id": _TOKEN_ID | json_file.list_of(_TOKEN_ID) | NULL}
GENERATION_CONFIG = EOS | {"pad_token_id": _TOKEN_ID | NULL}
MODEL_CONFIG = EOS | {"text_config": OBJECT | NULL}


def _is_added(item: tuple[str, Any]) -> bool:
    token_id, fields = item
    flags = [fields[flag] for flag in _FLAGS if flag in fields] if isinstance(fields, dict) else []
    # Of this length, a number is within reach of any vocabulary.
    whole = token_id.isascii() and token_id.isdecimal() and len(token_id) < 10
    return whole and _CONTENT.accepts(fields) and all(map(BOOL.accepts, flags))


def read_backend(path: Path) -> tokenizers.Tokenizer:
    """The tokenizer of tokenizer.json.

    Raises:
        CheckpointFormatError: there is none in it; names the key at which it fails.
    """
    try:
        backend = _parsed(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        where = f" ({key})" if (key := _broken_key(path)) else ""
        raise CheckpointFormatError(
            f"{path}{where}: not a tokenizer of the tokenizers library: {error}"
        ) from error
    _check_post_processor(path, backend)
    return backend


def _parsed(text: str) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(text)
    except BaseException as error:  # the library raises bare Exception, and worse where it panics
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise ValueError(str(error)) from error


def _broken_key(path: Path) -> str | None:
    """The key of tokenizer.json that is of no use even by itself, where it is one."""
    empty = {
        "version": "1.0",
        "added_tokens": [],
        "model": {"type": "BPE", "vocab": {}, "merges": []},
    }
    try:
        data = json_file.read(path)
    except CheckpointFormatError:
        return None
    for key, value in data.items():
        try:
            _parsed(json.dumps(empty | {key: value}))
        except ValueError:
            return key
    return None if "model" in data else "model"


def _check_post_processor(path: Path, backend: tokenizers.Tokenizer) -> None:
    """Check that a template describes the tokens that it uses: the library would not, but panic."""
    if backend.post_processor is None:
        return
    stages = [json.loads(backend.post_processor.__getstate__())]
    while stages:
        stage = stages.pop()
        stages += stage.get("processors", [])
        pieces = [*(stage.get("single") or []), *(stage.get("pair") or [])]
        used = {piece["SpecialToken"]["id"] for piece in pieces if "SpecialToken" in piece}
        unknown = used - (stage.get("special_tokens") or {}).keys()
        if unknown:
            raise CheckpointFormatError(
                f"{path}: post_processor.special_tokens lacks {min(unknown)!r}, "
                "which its template uses"
            )


def add_missing_tokens(backend: tokenizers.Tokenizer, decoder: dict[str, Any], where: str) -> None:
    """Adds tokens that only tokenizer_config.json lists, as older directories do.

    Args:
        backend: gets them.
        decoder: added_tokens_decoder, as `CONFIG` describes it.
        where: the file, for errors.

    Raises:
        CheckpointFormatError: a token would have another id.
    """
    for token_id, fields in sorted(decoder.items(), key=lambda item: int(item[0])):
        if backend.token_to_id(fields["content"]) is None:
            options = {flag: fields[flag] for flag in _FLAGS if flag in fields}
            backend.add_tokens([tokenizers.AddedToken(fields["content"], **options)])
            if backend.token_to_id(fields["content"]) != int(token_id):
                raise CheckpointFormatError(
                    f"{where}: added_tokens_decoder gives {fields['content']!r} the id {token_id}, "
                    "tokenizer.json has no room for it there; the two files do not fit together"
                )


def content(token: str | dict[str, Any]) -> str:
    """The text of a special token in either form."""
    return token["content"] if isinstance(token, dict) else token


def read_json(path: Path, kinds: Mapping[str, Kind] | None = None) -> dict[str, Any]:
    """The JSON object of a file, or an empty one where there is no file.

    Raises:
        CheckpointFormatError: it is no JSON object, or a key holds another than its kind.
    """
    data = json_file.read(path) if path.exists() else {}
    json_file.check(data, kinds or {}, str(path))
    return data


def read_text(path: Path) -> str:
    """A chat template.

    Raises:
        CheckpointFormatError: the file cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise CheckpointFormatError(f"{path}: unreadable chat template: {error}") from error
