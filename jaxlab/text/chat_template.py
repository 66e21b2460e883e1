"""Renders chat templates as transformers does: the same Jinja settings, filters and globals."""

import itertools
import json
import traceback
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

__all__ = ["TemplateError", "named_templates", "render", "template_files", "write_templates"]

# Turns of loops and calls of macros in one rendering, which take some seconds. A conversation of a
# thousand messages takes thousands.
_MOST_STEPS = 5_000_000
_STEP = "_count_step"

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


def template_files(directory: Path) -> dict[str, Path]:
    """{name: file} of the .jinja files of a HuggingFace directory; {} if it has none."""
    files = {"default": directory / "chat_template.jinja"}
    files |= {file.stem: file for file in sorted((directory / _MORE_TEMPLATES).glob("*.jinja"))}
    return {name: file for name, file in files.items() if file.is_file()}


def write_templates(directory: Path, templates: dict[str, str]) -> None:
    """Writes the files that `template_files` finds."""
    for name, source in templates.items():
        file = directory / _MORE_TEMPLATES / f"{name}.jinja"
        if name == "default":
            file = directory / "chat_template.jinja"
        file.parent.mkdir(exist_ok=True)
        file.write_text(source, encoding="utf-8")


def render(template: str, messages: Sequence[dict[str, Any]], **variables: Any) -> str:
    """Renders `messages` through `template`, which is untrusted code and runs in a sandbox.

    Raises:
        ValueError: there are no messages, or a part of one is no text.
        TemplateError: the template is malformed, fails, does not end, or refuses the messages; one
            line.
    """
    if not messages:
        raise ValueError("a chat template needs at least one message")
    for message in messages:
        _check_parts(message)
    steps = itertools.count(1)

    def count_step() -> None:
        if next(steps) > _MOST_STEPS:
            raise TemplateError(f"it does not end after {_MOST_STEPS} turns of its loops")

    variables = {"messages": [_message(m) for m in messages], **variables, _STEP: count_step}
    try:
        return _compile(template).render(**variables)
    except Exception as error:  # a template can do anything that Python can
        raise TemplateError(_one_line(error)) from error


def _check_parts(message: dict[str, Any]) -> None:
    """Check that a message is text, as all of the models are for text."""
    content = message.get("content")
    for part in content if isinstance(content, list | tuple) else ():
        kind = part.get("type") if isinstance(part, dict) else part
        if kind != "text":
            raise ValueError(
                f"a message of the {message.get('role')} has a part of type {kind!r:.40}, and a "
                "text model reads text alone: leave such parts out"
            )


def _one_line(error: Exception) -> str:
    """The cause and its line in the template."""
    lines = [getattr(error, "lineno", None)]
    frames = traceback.extract_tb(error.__traceback__)
    lines += [frame.lineno for frame in frames[::-1] if frame.filename == "<template>"]
    line = next((line for line in lines if line is not None), None)
    known = type(error) is TemplateError
    cause = getattr(error, "message", None) or str(error)
    cause = " ".join(cause.split()) or "it fails without a reason"
    return f"{'' if known else f'{type(error).__name__}: '}{cause}" + (
        "" if line is None else f" (line {line})"
    )


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
    tree = environment.parse(template)
    repeated: list[nodes.For | nodes.Macro] = [*tree.find_all(nodes.For)]
    repeated += tree.find_all(nodes.Macro)
    for node in repeated:
        step = nodes.Call(nodes.Name(_STEP, "load"), [], [], None, None)
        node.body.insert(0, nodes.ExprStmt(step).set_lineno(node.lineno))
    return environment.from_string(tree)


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
