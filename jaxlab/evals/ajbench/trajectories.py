"""Trajectories as they are recorded: chat messages in two styles, and lines of desktop actions."""

import collections
import json
from collections.abc import Mapping, Sequence
from typing import Any

from jaxlab.evals.ajbench.types import Call, Step
from jaxlab.grading.unicode import well_formed

# Id of a call -> what came back, in order.
Results = dict[str, collections.deque[str]]


def from_messages(messages: Any) -> tuple[str, tuple[Step, ...]]:
    """The instruction and the steps of a chat.

    Two styles are read, also mixed: assistant messages with `tool_calls` that messages of role
    "tool" answer, and items of type "function_call" that "function_call_output" items answer.
    Some providers give several calls one id, or none: the first answer is that of the first call.

    Args:
        messages: a list of objects, or an object that holds one as "messages".

    Returns:
        The text of the first message of role "user" ("" where there is none), and the steps.

    Raises:
        ValueError: this is no list of messages, or a message is malformed; says which and why.
    """
    if isinstance(messages, Mapping):
        messages = messages.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ValueError("expected a list of messages that is not empty")
    results: Results = collections.defaultdict(collections.deque)
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise ValueError(f"message {number} is no object")
        if message.get("role") == "tool":
            results[str(message.get("tool_call_id"))].append(_said(message.get("content")))
        elif message.get("type") == "function_call_output":
            results[str(message.get("call_id"))].append(_said(message.get("output")))
    instruction = ""
    steps: list[Step] = []
    answered = False
    for number, message in enumerate(messages):
        if message.get("type") == "function_call_output":
            answered = True
        elif message.get("type") == "function_call":
            call = _call(message, message.get("call_id"), results, number)
            # The items of one turn follow each other; an answer ends it, also one without a text.
            last = steps.pop() if steps and not answered else Step("")
            steps.append(Step(last.text, (*last.calls, call)))
            answered = False
        elif message.get("role") == "assistant":
            calls = message.get("tool_calls") or []
            if not isinstance(calls, list):
                raise ValueError(f"message {number}: tool_calls is no list")
            made = tuple(_openai_call(call, results, number) for call in calls)
            steps.append(Step(text_of(message.get("content")), made))
            answered = False
        elif message.get("role") == "user" and not instruction:
            instruction = text_of(message.get("content"))
    return instruction, tuple(steps)


def from_actions(lines: Sequence[str]) -> tuple[Step, ...]:
    """The steps of a traj.jsonl of a desktop: each line an `action` and what the agent said.

    Raises:
        ValueError: a line is no JSON object or has no action; says which.
    """
    steps = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = well_formed(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number}: malformed JSON: {error}") from None
        if not isinstance(entry, dict) or "action" not in entry:
            raise ValueError(f"line {number}: expected an object with an action")
        action = entry["action"]
        arguments = action if isinstance(action, dict) else {"code": text_of(action)}
        name = str(arguments.get("action_type") or "action")
        outcome = {
            key: entry[key] for key in ("done", "reward", "info", "screenshot_file") if key in entry
        }
        # The recorded reward would give the label away.
        outcome.pop("reward", None)
        result = json.dumps(outcome) if outcome else None
        steps.append(Step(text_of(entry.get("response")), (Call(name, arguments, result),)))
    if not steps:
        raise ValueError("no action in it")
    return tuple(steps)


def render(steps: Sequence[Step], limit: int = 4000) -> str:
    """The trajectory as text, each argument and result cut to `limit` characters."""
    lines = []
    for number, step in enumerate(steps, start=1):
        lines.append(f"[step {number}]")
        if step.text:
            lines.append(step.text)
        for call in step.calls:
            lines.append(f"call {call.name} {cut(json.dumps(call.arguments), limit)}")
            if call.result is not None:
                lines.append(f"result {cut(call.result, limit)}")
    return "\n".join(lines)


def cut(text: str, limit: int) -> str:
    """`text`, with a note in place of what is beyond `limit` characters."""
    return text if len(text) <= limit else f"{text[:limit]}... [{len(text) - limit} more]"


def text_of(content: Any) -> str:
    """The text of a message's content: a string, parts with a text, or anything else as JSON."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping) and isinstance(content.get("text"), str):
        return content["text"]
    if isinstance(content, list):
        return "\n".join(text_of(part) for part in content)
    return json.dumps(content)


def _said(content: Any) -> str:
    """What a tool has said, out of what MCPMark records: its server's answer as JSON.

    In the second style that is the text of a part that is JSON again.
    """
    text = text_of(content)
    part = _object(text)
    if part.get("type") == "text" and isinstance(part.get("text"), str):
        text = part["text"]
        part = _object(text)
    if not isinstance(part.get("content"), list) or "isError" not in part:
        return text
    said = text_of(part["content"])
    failed = part["isError"] is True and not said.lower().startswith("error")
    return f"Error: {said}" if failed else said


def _object(text: str) -> Mapping[str, Any]:
    """The object that a text is in JSON; an empty one where it is none."""
    try:
        found = well_formed(json.loads(text)) if text.startswith("{") else None
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {}


def _openai_call(call: Any, results: Results, number: int) -> Call:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        raise ValueError(f"message {number}: a tool call without a function")
    return _call(function, call.get("id"), results, number)


def _call(function: Mapping[str, Any], identity: Any, results: Results, number: int) -> Call:
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError(f"message {number}: a call of a function without a name")
    waiting = results[str(identity)]
    result = waiting.popleft() if waiting else None
    return Call(name, _arguments(function.get("arguments")), result)


def _arguments(value: Any) -> dict[str, Any] | None:
    """Arguments given as an object or as its JSON text; None where they are neither."""
    if isinstance(value, str):
        try:
            value = well_formed(json.loads(value)) if value.strip() else {}
        except (ValueError, RecursionError):
            return None
    if value is None:
        return {}
    return dict(value) if isinstance(value, Mapping) else None
