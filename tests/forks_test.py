"""A fork is what a new process would be."""

import os
import signal
import subprocess
import time

import pytest

from tests.forks import Forks

PROGRAM = """
import json, os, sys
print(json.dumps([sys.argv[1:], os.getcwd(), os.environ.get("ASKED"), sys.stdin.read(), __name__]))
print("cause", file=sys.stderr)
sys.exit(3)
"""


@pytest.fixture
def small():
    """Forks of an interpreter that has imported nothing."""
    forks = Forks("json", "a_module_that_is_not_installed")
    yield forks
    forks.close()


def test_words_folder_environment_output_and_code_are_its_own(small, tmp_path, monkeypatch):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    monkeypatch.setenv("ASKED", "no")
    for asked in ("yes", "no"):
        more = {"ASKED": asked} if asked == "yes" else {}
        done = small.run(program, "a", 1, cwd=tmp_path, **more)
        assert done.stdout == f'[["a", "1"], "{tmp_path}", "{asked}", "", "__main__"]\n'
        assert (done.returncode, done.stderr) == (3, "cause\n")
    monkeypatch.delenv("ASKED")
    assert "null" in small.run(program, cwd=tmp_path).stdout


def test_a_traceback_is_code_1_and_a_module_runs_by_its_name(small, tmp_path):
    program = tmp_path / "program.py"
    program.write_text("raise ValueError('no')")
    done = small.run(program, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith("ValueError: no\n")
    done = small.run("timeit", "-n1", "-r1", cwd=tmp_path)
    assert (done.returncode, "1 loop" in done.stdout) == (0, True)


def test_one_that_takes_too_long_is_killed_and_one_that_nobody_waits_for_as_well(tmp_path):
    forks = Forks()
    program = tmp_path / "program.py"
    program.write_text("import time; print(1, flush=True); time.sleep(600)")
    with pytest.raises(subprocess.TimeoutExpired) as late:
        forks.run(program, cwd=tmp_path, timeout=1)
    assert late.value.output == "1\n"
    killed = forks.start(program, cwd=tmp_path)
    assert not killed.ended()
    os.kill(killed.pid, signal.SIGTERM)
    assert killed.wait(60).returncode == -signal.SIGTERM
    left = forks.start(program, cwd=tmp_path)
    forks.close()
    limit = time.monotonic() + 60
    while _runs(left.pid):
        assert time.monotonic() < limit
        time.sleep(0.01)


def _runs(pid):
    """Whether it does; one that has ended may wait for its parent to notice."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
