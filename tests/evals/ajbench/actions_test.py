import json

import pytest

from jaxlab.evals.ajbench import trajectories
from jaxlab.evals.ajbench.sandbox import files
from jaxlab.evals.ajbench.sandbox.tools import Toolbox
from jaxlab.evals.ajbench.types import Call
from jaxlab.evals.ajbench.web import actions

# A recorded action, and the calls that it stands for.
RECORDED = [
    ("pyautogui.click(10, 20)", [("CLICK", {"x": "10", "y": "20"})]),
    ("import pyautogui\npyautogui.click(x=1.5, y=2)", [("CLICK", {"x": "1.5", "y": "2"})]),
    ("pyautogui.click()", [("CLICK", {"x": "", "y": ""})]),
    ("pyautogui.click(1, 2, clicks=2)", [("DOUBLE_CLICK", {"x": "1", "y": "2"})]),
    (
        "pyautogui.click(1, 2, 3)",
        [("DOUBLE_CLICK", {"x": "1", "y": "2"}), ("CLICK", {"x": "1", "y": "2"})],
    ),
    ("pyautogui.click(1, 2, button='right')", [("RIGHT_CLICK", {"x": "1", "y": "2"})]),
    ("pyautogui.doubleClick(1, 2)", [("DOUBLE_CLICK", {"x": "1", "y": "2"})]),
    ("pyautogui.rightClick(1, 2)", [("RIGHT_CLICK", {"x": "1", "y": "2"})]),
    ("pyautogui.moveTo(1, 2, duration=0.5)", [("MOVE_TO", {"x": "1", "y": "2"})]),
    ("pyautogui.dragTo(1, 2, button='left')", [("DRAG_TO", {"x": "1", "y": "2"})]),
    ("pyautogui.mouseDown()", [("MOUSE_DOWN", {})]),
    ("pyautogui.mouseUp(3, 4)", [("MOVE_TO", {"x": "3", "y": "4"}), ("MOUSE_UP", {})]),
    ("pyautogui.scroll(-5)", [("SCROLL", {"dx": "0", "dy": "-5"})]),
    ("pyautogui.hscroll(5)", [("SCROLL", {"dx": "5", "dy": "0"})]),
    ("pyautogui.typewrite('a\\nb', interval=0.1)", [("TYPING", {"text": "a\nb"})]),
    ("pyautogui.write(message='x')", [("TYPING", {"text": "x"})]),
    ("pyautogui.write(['a', 'enter'])", [("PRESS", {"key": "a"}), ("PRESS", {"key": "enter"})]),
    ("pyautogui.press('enter', presses=2)", [("PRESS", {"key": "enter"})] * 2),
    ("pyautogui.press(['up', 'down'])", [("PRESS", {"key": "up"}), ("PRESS", {"key": "down"})]),
    ("pyautogui.hotkey('ctrl', 's')", [("HOTKEY", {"keys": "ctrl+s"})]),
    ("pyautogui.keyDown('shift'); time.sleep(1)", [("KEY_DOWN", {"key": "shift"})]),
    ("WAIT", []),
    ("FAIL", []),
    ("DONE", [("DONE", {})]),
    (
        {"action_type": "CLICK", "parameters": {"x": 1, "y": 2}},
        [("CLICK", {"x": "1", "y": "2"})],
    ),
    (
        {"action_type": "CLICK", "x": 1, "y": 2, "num_clicks": 2},
        [("DOUBLE_CLICK", {"x": "1", "y": "2"})],
    ),
    ({"action_type": "CLICK", "parameters": {}}, [("CLICK", {"x": "", "y": ""})]),
    (
        {"action_type": "SCROLL", "parameters": {"dx": 0, "dy": -3}},
        [("SCROLL", {"dx": "0", "dy": "-3"})],
    ),
    ({"action_type": "TYPING", "parameters": {"text": "hi"}}, [("TYPING", {"text": "hi"})]),
    (
        {"action_type": "HOTKEY", "parameters": {"keys": ["ctrl", "a"]}},
        [("HOTKEY", {"keys": "ctrl+a"})],
    ),
    ({"action_type": "PRESS", "parameters": {"key": "tab"}}, [("PRESS", {"key": "tab"})]),
    ({"action_type": "WAIT"}, []),
    ({"action_type": "DONE"}, [("DONE", {})]),
]


def steps_of(*recorded):
    lines = [json.dumps({"action": action, "screenshot_file": "s.png"}) for action in recorded]
    return trajectories.from_actions(lines)


@pytest.mark.parametrize(("action", "wanted"), RECORDED, ids=[str(entry[0]) for entry in RECORDED])
def test_recorded_actions_are_calls_of_tools(action, wanted):
    (step,) = actions.translated(steps_of(action))
    assert [(call.name, call.arguments) for call in step.calls] == wanted
    for call in step.calls:
        assert tuple(call.arguments) == actions.ACTIONS[call.name]


HOSTILE = [
    "import os; os.system('touch pwned')",
    "__import__('os').system('touch pwned')",
    "pyautogui.click(__import__('os').system('touch pwned'), 1)",
    "pyautogui.click(*[1, 2])",
    "pyautogui.click(**{'x': 1})",
    "pyautogui.run('c')",
    "pyautogui.alert('x')",
    "pyautogui.screenshot('/tmp/x.png')",
    "eval('1')",
    "exec('1')",
    "open('/etc/passwd')",
    "x = 1",
    "while True: pass",
    "lambda: 1",
    "pyautogui.click(1, 2",
    "pyautogui.typewrite(open('/etc/passwd').read())",
    "pyautogui.typewrite(f'{1}')",
    "pyautogui.press('a', presses='x')",
    "pyautogui.click('a', None)",
    "pyautogui.click(1, 2, button='middle')",
    "pyautogui.click(" + "(" * 5000 + ")" * 5000 + ")",
    "os.pyautogui.click(1, 2)",
    "pyautogui.__class__()",
    "\0",
    {"action_type": "RUN", "parameters": {"command": "sh"}},
    {"action_type": "CLICK", "parameters": {"x": [1], "y": {}}},
    {"action_type": "CLICK", "parameters": {"x": 1, "y": 2, "z": 3}},
    {"action_type": "CLICK", "num_clicks": "many"},
    {"action_type": "TYPING", "parameters": {"text": None}},
    {"action_type": "HOTKEY", "parameters": {"keys": [1, 2]}},
]


@pytest.mark.parametrize("action", HOSTILE, ids=[str(entry)[:60] for entry in HOSTILE])
def test_what_is_no_plain_action_stays_and_fails(action, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (before,) = steps_of(action)
    (after,) = actions.translated([before])
    assert after == before
    assert list(tmp_path.iterdir()) == []


def test_calls_without_arguments_stay():
    assert actions.calls_of(Call("CLICK", None)) == (Call("CLICK", None),)


def test_a_stored_step_is_shown_with_its_picture(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "s.png").write_bytes(b"\x89PNG")
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "run" / "link.png").symlink_to(tmp_path / "secret.png")
    steps = steps_of("pyautogui.click(1, 2)", "DONE")
    tree = files.Tree(tmp_path / "run")
    box = Toolbox([actions.viewing(steps, tree)])
    reply = box.call("VIEW_TRAJECTORY_STEP", {"step": "1"})
    assert reply.text.splitlines()[0] == "[step 1]"
    assert reply.text.endswith("picture s.png")
    for step in ("0", "3", "x", "-1", "1.0", "9" * 50):
        assert "is no step: 1 to 2" in box.call("VIEW_TRAJECTORY_STEP", {"step": step}).text
    for name in ("../secret.png", "link.png", "/etc/passwd", "absent.png", "..", "\0"):
        lines = [json.dumps({"action": "DONE", "screenshot_file": name})]
        box = Toolbox([actions.viewing(trajectories.from_actions(lines), tree)])
        assert box.call("VIEW_TRAJECTORY_STEP", {"step": "1"}).failed, name
    tree.close()
