"""`make gpu-check` itself, with the CPU in the place of the accelerator."""

import importlib
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxlab_kernels.dispatch import Refusal

from benchmarks import gpu_check
from benchmarks.gpu import parts, suite

SCRIPTS = pathlib.Path(gpu_check.__file__).parent
X = np.array([0.25, -2.0, 1e-6])


@pytest.fixture(name="check")
def _check(monkeypatch, tmp_path):
    """check({name: call}) -> (exit code, rows by name, printed by the JSON that was written)."""
    monkeypatch.setattr(gpu_check, "devices", lambda: (jax.devices()[0],) * 2)

    def run(calls, *flags):
        def part(call):
            return lambda: parts.Part(call, (X,), exact=jnp.sin)

        monkeypatch.setattr(parts, "PARTS", {name: part(call) for name, call in calls.items()})
        path = tmp_path / "rows.json"
        code = gpu_check.main(["--json", str(path), *flags])
        return code, {row.pop("part"): row for row in json.loads(path.read_text())["rows"]}

    return run


def raising(error):
    def call(x):
        raise error

    return call


def test_everything_agrees(check, capsys):
    code, rows = check({"one": jnp.sin, "two": jax.jit(jnp.sin)}, "--skip-tests")
    assert code == 0
    assert [row["ok"] for row in rows.values()] == [True, True]
    assert all(row["seconds"] > 0 for row in rows.values())
    assert capsys.readouterr().out.count("ok  ") == 2


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda x: jnp.sin(x) * 1.001, None),
        (lambda x: jnp.sin(x) * jnp.array([1.0, 1.0, jnp.nan]), None),
        (lambda x: jnp.sin(x)[:2], None),
        (
            raising(AttributeError("no such pass\nin ptxas")),
            "AttributeError: no such pass in ptxas",
        ),
    ],
)
def test_a_part_that_fails_is_a_row_and_the_others_go_on(check, capsys, call, reason):
    code, rows = check({"bad": call, "good": jnp.sin}, "--skip-tests")
    assert code == 1
    assert [rows[name]["ok"] for name in ("bad", "good")] == [False, True]
    assert "seconds" not in rows["bad"]
    assert rows["bad"].get("reason") == reason
    assert f"FAIL {'bad':20} {'failed: ' if reason else 'worst out '}" in capsys.readouterr().out


def test_what_cannot_run_here_is_said_and_no_failure(check, capsys):
    code, rows = check({"triton": raising(Refusal("needs jax-triton")), "b": jnp.sin})
    assert code == 0
    assert rows["triton"] == {"ok": None, "reason": "needs jax-triton"}
    # A CPU stands in for the accelerator: the kernels' tests have run there anyway.
    assert rows["tests"] == {"ok": None, "reason": "they are for NVIDIA GPUs, this is cpu"}
    assert "not run: needs jax-triton" in capsys.readouterr().out


@pytest.mark.parametrize(("module", "ok"), [("no_such_package", None), ("jaxlab.no_such", False)])
def test_a_part_that_cannot_be_made(module, ok):
    """Another's package may be absent; one of ours may not."""
    host = jax.devices("cpu")[0]
    row = gpu_check.compare(lambda: importlib.import_module(module), host, host)
    assert row == {"ok": ok, "reason": f"No module named '{module}'"}


def test_every_gradient_of_the_gated_delta_rule_counts():
    """Each array zeroed, and each with its sign turned, is seen; as it is, all agree."""
    host = jax.devices("cpu")[0]
    part = parts.gated_delta_part("chunked", length=40, heads=2, dim=16)
    expected, _ = gpu_check.reference(part, host)
    actual, _ = gpu_check.measure(part.call, part.arguments, host, repeats=0)
    assert set(actual) == {"out", "state"} | {
        f"d_{n}" for n in ("q", "k", "v", "log_decay", "erase", "write", "initial_state")
    }
    assert all(x.dtype == np.float64 for x in expected.values())
    assert max(gpu_check.distances(actual, expected).values()) <= gpu_check.TOLERANCE
    for name in actual:
        for factor, least in ((0.0, 0.99), (-1.0, 1.99), (1.001, 5 * gpu_check.TOLERANCE)):
            found = gpu_check.distances({**actual, name: factor * actual[name]}, expected)
            assert found[name] >= least, name


def test_the_tests_on_the_chip_become_a_row(tmp_path, check, monkeypatch):
    file = tmp_path / "some_test.py"
    file.write_text(
        "import os, pytest\n"
        "def test_good(): assert os.environ['TRITON_INTERPRET'] == '0'\n"
        "def test_bad(): assert 1 == 2\n"
        "@pytest.mark.skip(reason='needs torch')\n"
        "def test_skipped(): pass\n"
    )
    whole = tmp_path / "whole_test.py"
    whole.write_text("import pytest\npytest.importorskip('no_such_package')\n")
    row = suite.run((str(file), str(whole)))
    assert not row["ok"]
    assert row["passed"] == 1
    assert list(row["failed"]) == ["some_test.test_bad"]
    assert "1 == 2" in row["failed"]["some_test.test_bad"]
    assert row["skipped"].pop("some_test.test_skipped") == "needs torch"
    (reason,) = row["skipped"].values()
    assert reason == "could not import 'no_such_package': No module named 'no_such_package'"
    row["skipped"] = {}
    assert "1 passed, 1 failed, 0 skipped" in gpu_check.told("tests", row)
    assert all((suite.ROOT / name).exists() for name in suite.FILES)
    monkeypatch.setattr(suite.importlib.util, "find_spec", lambda name: None)
    assert suite.run() == {"ok": None, "reason": "pytest is not installed"}


@pytest.mark.parametrize(
    ("script", "line"),
    [("gpu_check.py", "gpu-check needs jax and numpy: "),
     ("delta_rule_gpu.py", "the Triton kernels by PyTorch: not run (")],
)  # fmt: skip
def test_without_jax_there_is_one_line(script, line):
    program = (
        "import runpy, sys\nsys.modules['jax'] = None\n"
        f"sys.argv = [{script!r}]\nrunpy.run_path({str(SCRIPTS / script)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout + done.stderr).splitlines()[0].startswith(line)
    assert len((done.stdout + done.stderr).splitlines()) == 1


def test_a_cpu_alone_is_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "gpu_check.py")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("no accelerator: ")
    assert len(done.stdout.splitlines()) == 1
