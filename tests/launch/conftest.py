import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]

# A door that counts to --steps and goes on from what it has counted. FAULT is what a start of
# process 1 does at step 2: "kill" dies as of SIGKILL, "stop" as of a preemption, in the first start
# alone; "fail" and "bad" always.
DOOR = r"""
import json, os, pathlib, signal, sys, time

words = dict(w.lstrip("-").split("=", 1) for w in sys.argv[1:] if "=" in w)
if "--list" in sys.argv:
    if "stages" in words["config"]:
        print("teacher\nstudent")
        sys.exit()
    if "nowhere" in words["config"]:
        sys.exit("nowhere.py: no such file")
    print("--list: the config is a single run, without stages", file=sys.stderr)
    sys.exit(2)
if "--list_sweep" in sys.argv:
    if "none" in words["config"]:
        sys.exit("--list_sweep: none.py has no function sweep()")
    print('{"optim.b2": 0.95, "seed": 1}\n{"optim.b2": 0.999, "loss.name": "a b", "x": null}')
    sys.exit()
here = pathlib.Path(words["workdir"])
here.mkdir(parents=True, exist_ok=True)
index = os.environ.get("JAXLAB_PROCESS_ID", "0")
state, begun = here / f"state{index}", here / f"begun{index}"
begun.write_text(begun.read_text() + "x" if begun.exists() else "x")
first, fault = begun.read_text() == "x", os.environ.get("FAULT", "")
print("argv", json.dumps(sys.argv[1:]), os.environ.get("JAXLAB_COORDINATOR"), flush=True)
count = int(state.read_text()) if state.exists() else 0
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
while count < 4:
    count += 1
    state.write_text(str(count))
    if index == "1" or os.environ.get("JAXLAB_NUM_PROCESSES") is None:
        if count == 2 and first and fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if count == 2 and first and fault == "stop":
            sys.exit(143)
        if fault in ("fail", "bad"):
            sys.exit({"fail": 1, "bad": 2}[fault])
    if fault == "wait":
        time.sleep(60)
    time.sleep(0.05)
if index == "0":
    with (here / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": count, "loss": count / 8}) + "\n{half")
"""


@pytest.fixture
def door(tmp_path):
    """A folder with the module `door`, for PYTHONPATH."""
    (tmp_path / "door.py").write_text(DOOR)
    return tmp_path


@pytest.fixture
def launch(door, tmp_path):
    """Runs a launcher: launch("local", ...) -> CompletedProcess; its module is `door`."""

    def run(name, *words, config="configs/x.py", **environment):
        paths = os.pathsep.join([str(door), os.environ.get("PYTHONPATH", "")])
        return subprocess.run(
            [
                sys.executable,
                ROOT / "launch" / f"{name}.py",
                f"--config={config}",
                f"--workdir={tmp_path / 'run'}",
                "--module=door",
                *words,
            ],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": paths, **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run
