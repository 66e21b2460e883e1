"""launch/local.py: processes, restarts, sweeps."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def rows(text):
    """The closing table, as dicts."""
    lines = text.splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith("job "))
    names = lines[begin].split()
    return [dict(zip(names, line.split(), strict=True)) for line in lines[begin + 1 :]]


def starts(folder):
    """How often each process was started."""
    return {path.name: len(path.read_text()) for path in sorted(folder.glob("begun*"))}


def test_one_job(launch, tmp_path):
    done = launch("local", "--config.seed=3", "--config.note", "a b")
    assert done.returncode == 0, done.stderr
    (row,) = rows(done.stdout)
    # The table looks through a row that is half written.
    assert (row["job"], row["code"], row["restarts"], row["step"], row["loss"]) == (
        *("run", "0", "0"),
        *("4", "0.5"),
    )
    log = (tmp_path / "run/launch/0.log").read_text()
    assert f'["--workdir={tmp_path}/run", "--config=configs/x.py", "--config.seed=3"' in log
    assert '"--config.note", "a b"] None' in log
    assert "== start 0: " in log


@pytest.mark.parametrize("fault", ["kill", "stop"])
def test_a_job_of_two_processes_goes_on_after_one_was_stopped(launch, tmp_path, fault):
    done = launch("local", "--processes=2", FAULT=fault)
    assert done.returncode == 0, done.stderr
    assert starts(tmp_path / "run") == {"begun0": 2, "begun1": 2}
    assert [(tmp_path / f"run/state{i}").read_text() for i in range(2)] == ["4", "4"]
    assert rows(done.stdout)[0]["restarts"] == "1"
    code = {"kill": -9, "stop": 143}[fault]
    assert f"run: ended with code {code}; restart 1 of 3" in done.stdout
    log = (tmp_path / "run/launch/1.log").read_text()
    assert "--config.mesh.multihost=env" in log
    # Each start has a coordinator of its own: the old one's port may still be taken.
    assert len(re.findall(r"localhost:\d+", log)) == 2
    left = json.loads((tmp_path / "run/launch/result.json").read_text())
    assert (left["code"], left["restarts"]) == (0, 1)


@pytest.mark.parametrize(("fault", "code"), [("fail", 1), ("bad", 2)])
def test_failures_and_bad_input_are_not_started_again(launch, tmp_path, fault, code):
    done = launch("local", "--processes=2", FAULT=fault)
    assert done.returncode == code
    assert starts(tmp_path / "run") == {"begun0": 1, "begun1": 1}
    assert rows(done.stdout)[0]["code"] == str(code)


def test_restarts_have_an_end(launch, tmp_path):
    done = launch("local", "--max_restarts=0", FAULT="kill")
    assert done.returncode == 1
    assert starts(tmp_path / "run") == {"begun0": 1}
    assert rows(done.stdout)[0]["code"] == "-9"


def test_a_sweep_has_a_job_per_member(launch, tmp_path):
    done = launch("local", "--sweep", "--parallel=2")
    assert done.returncode == 0, done.stderr
    names = ["00-optim.b2=0.95,seed=1", "01-optim.b2=0.999,loss.name=a_b,x=None"]
    assert [row["job"] for row in rows(done.stdout)] == names
    words = (tmp_path / "run" / names[1] / "launch/0.log").read_text()
    assert '"--config.optim.b2=0.999", "--config.loss.name=a b", "--config.x=None"]' in words


def test_sigterm_is_handed_on_and_ends_the_launcher(door, tmp_path):
    paths = os.pathsep.join([str(door), os.environ.get("PYTHONPATH", "")])
    words = [f"--workdir={tmp_path / 'run'}", "--config=x", "--module=door", "--processes=2"]
    process = subprocess.Popen(
        [sys.executable, ROOT / "launch/local.py", *words],
        env={**os.environ, "PYTHONPATH": paths, "FAULT": "wait"},
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while len(list((tmp_path / "run").glob("state*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=30)
    assert process.returncode == 143
    assert rows(text)[0]["code"] == "143"
    assert starts(tmp_path / "run") == {"begun0": 1, "begun1": 1}


def test_dry_run_prints_the_commands(launch, tmp_path):
    done = launch("local", "--dry_run", "--processes=2", "--env=A=b c", config="stages.py")
    assert done.returncode == 0, done.stderr
    head, first, second = done.stdout.splitlines()
    assert head == f"# run: 2 process(es), logs in {tmp_path}/run/launch"
    command = (
        f" JAXLAB_COORDINATOR=localhost:PORT JAXLAB_NUM_PROCESSES=2 JAXLAB_PROCESS_ID=0 "
        f"{sys.executable} -m door --workdir={tmp_path}/run --config=stages.py "
        "--config.stages.teacher.mesh.multihost=env --config.stages.student.mesh.multihost=env"
    )
    assert first.endswith(f"A='b c'{command}")
    assert "JAXLAB_PROCESS_ID=1" in second
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (("--foo=1",), "--foo=1: unknown; --config.KEY=VALUE and --stages=A,B go to the door"),
        (("stray",), "stray: unknown"),
        (("--env=1x",), "--env: '1x' is not NAME=VALUE"),
        (("--processes=0",), "--processes must be 1 or more"),
        (("--parallel=0",), "--parallel must be 1 or more, not 0"),
        (("--max_restarts=-1",), "--max_restarts must be 0 or more, not -1"),
        (("--workdir=gs://bucket/run",), "--workdir: gs://bucket/run is no folder: mount it"),
    ],
)
def test_bad_flags(launch, words, cause):
    done = launch("local", *words)
    assert done.returncode == 2
    assert cause in done.stderr


@pytest.mark.parametrize(
    ("config", "words", "cause"),
    [
        ("none.py", ("--sweep",), "--sweep: --list_sweep: none.py has no function sweep()"),
        ("nowhere.py", ("--processes=2",), "nowhere.py: no such file"),
        ("x.py", ("--python=/no/python",), "/no/python: No such file or directory"),
    ],
)
def test_what_the_door_refuses_is_one_line(launch, config, words, cause):
    done = launch("local", *words, config=config)
    assert done.returncode == 2
    assert done.stderr == f"local.py: {cause}\n"


def test_launchers_load_the_standard_library_alone():
    names = ("jobs", "local", "slurm", "xpk", "on_xmanager")
    program = "import sys\n" + "".join(f"import launch.{name}\n" for name in names)
    program += (
        "tops = {name.partition('.')[0] for name in sys.modules}\n"
        "print(*sorted(tops - set(sys.stdlib_module_names) - {'__main__', 'launch'}))"
    )
    # -S: no site-packages, whose .pth files import what they like.
    command = [sys.executable, "-S", "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr
