"""The kernels' own tests on the accelerator at hand."""

import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any
from xml.etree import ElementTree

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Those in which a device takes part. What is interpreted or compiled for other chips needs none.
FILES = (
    "tests/kernels/gpu_test.py",
    "tests/kernels/triton_test.py",
    "tests/kernels/step_test.py",
    "tests/kernels/delta_rule_test.py",
    "tests/kernels/delta_rule_calls_test.py",
)


def run(files: tuple[str, ...] = FILES) -> dict[str, Any]:
    """Runs pytest in a process of its own, its output passed on.

    Returns:
        ok (None: not run), and either reason, or passed, failed (names with the first line of what
        went wrong) and skipped (names with reasons).
    """
    if importlib.util.find_spec("pytest") is None:
        return {"ok": None, "reason": "pytest is not installed"}
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "kernels"))),
        # Real Triton, not its interpreter; and no process that takes the memory of all others.
        "TRITON_INTERPRET": "0",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-m", "not slow", "--tb=short", "-rfEs",
                   "--durations=5", f"--junitxml={report}", *files]  # fmt: skip
        done = subprocess.run(command, cwd=ROOT, env=environment)
        if not report.exists():
            return {"ok": False, "reason": f"pytest ended with {done.returncode} and no report"}
        return summary(report.read_text(), done.returncode)


def summary(report: str, returncode: int) -> dict[str, Any]:
    """The row of a JUnit report."""
    found: dict[str, Any] = {"passed": 0, "failed": {}, "skipped": {}}
    for case in ElementTree.fromstring(report).iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}.{case.get('name')}".lstrip(".")
        outcome = next((x for x in case if x.tag in ("failure", "error", "skipped")), None)
        if outcome is None:
            found["passed"] += 1
        else:
            message = (outcome.get("message") or "").partition("\n")[0]
            if message == "collection skipped":  # a whole file; the reason is in a tuple's repr
                message = (outcome.text or "").strip().rpartition("Skipped: ")[2][:-2]
            found["skipped" if outcome.tag == "skipped" else "failed"][name] = message[:200]
    return {"ok": returncode == 0 and found["passed"] > 0, **found}
