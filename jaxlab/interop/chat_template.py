"""Renders chat templates as transformers does: the same Jinja settings, filters and globals."""

import json
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

__all__ = ["TemplateError", "named_templates", "read_templates", "render", "write_templates"]

_MORE_TEMPLATES = "additional_chat_templates"

# The names under which a message's reasoning is passed. Templates read the first; older ones
# read the second.
_REASONING = ("reasoning_content", "thinking", "reasoning")


def named_templates(
    source: str | list[dict[str, str]] | dict[str, str] | None,
) -> dict[str, str]:
    """{name: template} from the entry `chat_template` of tokenizer_config.json, in any form."""
    if source is None:
        return {}
    if isinstance(source, str):
        return {"default": source}
    if isinstance(source, dict):
        return dict(source)
    return {entry["name"]: entry["template"] for entry in source}


def read_templates(directory: Path) -> dict[str, str]:
    """{name: template} from the .jinja files of a HuggingFace directory; {} if it has none."""
    files = {"default": directory / "chat_template.jinja"}
    files |= {file.stem: file for file in sorted((directory / _MORE_TEMPLATES).glob("*.jinja"))}
    return {n: file.read_text(encoding="utf-8") for n, file in files.items() if file.is_file()}


def write_templates(directory: Path, templates: dict[str, str]) -> None:
    """Writes what `read_templates` reads."""
    for name, source in templates.items():
        file = directory / _MORE_TEMPLATES / f"{name}.jinja"
        if name == "default":
            file = directory / "chat_template.jinja"
        file.parent.mkdir(exist_ok=True)
        file.write_text(source, encoding="utf-8")


def render(template: str, messages: Sequence[dict[str, Any]], **variables: Any) -> str:
    """Renders `messages` through `template`, which is untrusted code and runs in a sandbox.

    Raises:
        ValueError: there are no messages.
        TemplateError: the template is malformed or refuses the messages.
    """
    if not messages:
        raise ValueError("a chat template needs at least one message")
    return _compile(template).render(messages=[_message(m) for m in messages], **variables)


def _message(message: dict[str, Any]) -> dict[str, Any]:
    # Many templates print a None that should be absent.
    message = {key: value for key, value in message.items() if value is not None}
    reasoning = next((message[key] for key in _REASONING if key in message), None)
    if reasoning is not None:
        message = {"thinking": reasoning, **message, "reasoning_content": reasoning}
    return message


class _Generation(Extension):
    """{% generation %}...{% endgeneration %} marks the assistant's words; it prints its body."""

    tags = {"generation"}  # noqa: RUF012 (as Jinja declares it)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Any) -> str:
        return caller()


@lru_cache(maxsize=16)
def _compile(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    # Jinja's own tojson escapes HTML.
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> None:
    raise TemplateError(message)
