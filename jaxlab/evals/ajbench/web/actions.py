"""Recorded desktop actions as calls of the tools of `pages.Page`.

OSWorld records actions in two ways: objects of its action space "computer_13" (action_type and
parameters), and lines of Python that call pyautogui. The latter are read as a syntax tree and never
run; what is no plain call with literal arguments is not understood.
"""

import ast
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from jaxlab.evals.ajbench import trajectories
from jaxlab.evals.ajbench.sandbox.files import Tree
from jaxlab.evals.ajbench.sandbox.limits import ToolError
from jaxlab.evals.ajbench.sandbox.tools import Shown, Tool
from jaxlab.evals.ajbench.types import Call, Step

# Tool -> its arguments, in the order of pyautogui's where it has the same.
ACTIONS: dict[str, tuple[str, ...]] = {
    "MOVE_TO": ("x", "y"),
    "CLICK": ("x", "y"),
    "DOUBLE_CLICK": ("x", "y"),
    "RIGHT_CLICK": ("x", "y"),
    "MOUSE_DOWN": (),
    "MOUSE_UP": (),
    "DRAG_TO": ("x", "y"),
    "SCROLL": ("dx", "dy"),
    "TYPING": ("text",),
    "PRESS": ("key",),
    "KEY_DOWN": ("key",),
    "KEY_UP": ("key",),
    "HOTKEY": ("keys",),
    "DONE": (),
}
# They change nothing.
PAUSES = {"WAIT", "FAIL"}
_PYAUTOGUI = {
    "moveTo": "MOVE_TO",
    "click": "CLICK",
    "leftClick": "CLICK",
    "doubleClick": "DOUBLE_CLICK",
    "rightClick": "RIGHT_CLICK",
    "mouseDown": "MOUSE_DOWN",
    "mouseUp": "MOUSE_UP",
    "dragTo": "DRAG_TO",
    "write": "TYPING",
    "typewrite": "TYPING",
    "keyDown": "KEY_DOWN",
    "keyUp": "KEY_UP",
}
_MODIFIERS = {"duration", "interval", "tween", "logScreenshot", "_pause"}


def translated(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The steps with their calls as calls of `Page`'s tools.

    A call that is not understood stays as it is, and fails in replay as a tool that is not there.
    """
    return tuple(
        dataclasses.replace(step, calls=tuple(new for call in step.calls for new in calls_of(call)))
        for step in steps
    )


def calls_of(call: Call) -> tuple[Call, ...]:
    """One recorded action as calls; itself where it is not understood."""
    arguments = call.arguments
    if arguments is None:
        return (call,)
    try:
        if isinstance(arguments.get("code"), str):
            found = _from_code(arguments["code"])
        else:
            found = _from_object(call.name, arguments)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return (call,)
    return tuple(dataclasses.replace(new, result=call.result) for new in found)


def _from_object(name: str, arguments: Mapping[str, Any]) -> list[Call]:
    inner = arguments.get("parameters")
    given = dict(inner if isinstance(inner, Mapping) else arguments)
    given.pop("action_type", None)
    name = name.upper()
    if name in PAUSES:
        return []
    if name == "CLICK":
        return _clicks(given, int(given.pop("num_clicks", 1)), given.pop("button", "left"))
    if name not in ACTIONS:
        raise ValueError(name)
    if "keys" in given and not isinstance(given["keys"], str):
        given["keys"] = "+".join(given["keys"])
    return [_call(name, given)]


def _from_code(code: str) -> list[Call]:
    """The calls of a script: imports and pauses are passed over."""
    if code.strip().upper() in PAUSES | {"DONE"}:
        return [] if code.strip().upper() in PAUSES else [_call("DONE", {})]
    calls: list[Call] = []
    for statement in ast.parse(code).body:
        if isinstance(statement, ast.Import):
            continue
        if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Call):
            raise ValueError("no plain call")
        node = statement.value
        function = node.func
        if not isinstance(function, ast.Attribute) or not isinstance(function.value, ast.Name):
            raise ValueError("no function of a module")
        values = [ast.literal_eval(value) for value in node.args]
        named = {str(key.arg): ast.literal_eval(key.value) for key in node.keywords}
        named = {key: value for key, value in named.items() if key not in _MODIFIERS}
        module, name = function.value.id, function.attr
        if (module, name) in (("time", "sleep"), ("pyautogui", "sleep")):
            continue
        if module != "pyautogui":
            raise ValueError(module)
        calls += _pyautogui(name, values, named)
    return calls


def _pyautogui(name: str, values: list[Any], named: dict[str, Any]) -> list[Call]:
    if name == "hotkey":
        keys = values[0] if values and isinstance(values[0], list | tuple) else values
        return [_call("HOTKEY", {"keys": "+".join(keys)})]
    if name == "press":
        keys = named.get("keys", values[0] if values else "")
        count = named.get("presses", values[1] if len(values) > 1 else 1)
        return [
            _call("PRESS", {"key": key})
            for _ in range(min(int(count), 100))
            for key in ([keys] if isinstance(keys, str) else keys)
        ]
    if name in ("scroll", "vscroll", "hscroll"):
        amount = named.get("clicks", values[0] if values else 0)
        across = name == "hscroll"
        scroll = {"dx": amount if across else 0, "dy": 0 if across else amount}
        place = dict(zip(("x", "y"), values[1:3], strict=False)) | named
        place.pop("clicks", None)
        moved = [_call("MOVE_TO", place)] if place else []
        return [*moved, _call("SCROLL", scroll)]
    if name in ("click", "leftClick"):
        keys = ("x", "y", "clicks", "interval", "button")
        given = dict(zip(keys, values, strict=False)) | named
        given.pop("interval", None)
        return _clicks(given, int(given.pop("clicks", 1)), given.pop("button", "left"))
    tool = _PYAUTOGUI.get(name, "")
    if not tool:
        raise ValueError(name)
    if tool in ("MOUSE_DOWN", "MOUSE_UP") and named.pop("button", "left") != "left":
        raise ValueError("another button")
    names = ("x", "y") if tool.startswith("MOUSE_") else ACTIONS[tool]
    given = dict(zip(names, values, strict=False)) | named
    given = {"text": given.pop("message", None), **given} if "message" in given else given
    if tool == "TYPING" and isinstance(given.get("text"), list):
        return [_call("PRESS", {"key": key}) for key in given["text"]]
    given.pop("button", None)
    if tool.startswith("MOUSE_") and given:
        return [_call("MOVE_TO", given), _call(tool, {})]
    return [_call(tool, given)]


def _clicks(given: dict[str, Any], count: int, button: str) -> list[Call]:
    tools = {("left", 1): ["CLICK"], ("left", 2): ["DOUBLE_CLICK"], ("right", 1): ["RIGHT_CLICK"]}
    # The third click of three extends what the second has selected.
    tools["left", 3] = ["DOUBLE_CLICK", "CLICK"]
    return [_call(tool, given) for tool in tools.get((button, count)) or _unknown(button)]


def _unknown(what: str) -> list[str]:
    raise ValueError(what)


def _call(tool: str, given: Mapping[str, Any]) -> Call:
    """A call with all arguments as strings; a place that is not given is where the mouse is."""
    unknown = set(given) - set(ACTIONS[tool])
    if unknown:
        raise ValueError(f"{tool} has no {unknown}")
    found = {}
    for name in ACTIONS[tool]:
        value = given.get(name, "" if name in ("x", "y") else None)
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise ValueError(f"{tool} needs {name}")
        found[name] = str(value)
    return Call(tool, found)


def viewing(steps: Sequence[Step], stored: Tree | None = None) -> Tool:
    """The tool that shows a stored step, beside what is live.

    Args:
        steps: of the trajectory, numbered from 1.
        stored: the folder with its pictures, as `screenshot_file` names them.
    """

    def view(step: str) -> str:
        if not step.isdecimal() or not 1 <= int(step[:9]) <= len(steps):
            raise ToolError(f"{step!r:.40} is no step: 1 to {len(steps)}")
        found = steps[int(step) - 1]
        picture = b""
        text = trajectories.render([found]).replace("[step 1]", f"[step {int(step)}]", 1)
        for call in found.calls:
            name = _picture(call.result)
            if stored is not None and name:
                # Refuses what is outside or no file.
                picture = stored.read(name)
                text += f"\npicture {'/'.join(stored.parts(name))}"
        return Shown(text, picture) if picture else text

    return Tool(
        "VIEW_TRAJECTORY_STEP", "A step as it was recorded.", {"step": "its number, from 1"}, view
    )


def _picture(result: str | None) -> str:
    try:
        outcome = json.loads(result or "")
    except (ValueError, RecursionError):
        return ""
    name = outcome.get("screenshot_file") if isinstance(outcome, dict) else None
    return name if isinstance(name, str) else ""
