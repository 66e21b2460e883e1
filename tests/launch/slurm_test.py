"""launch/slurm.py: the batch script as text and run by bash, and submitit on this machine."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from launch import slurm

SRUN = r"""#!/usr/bin/env bash
# Runs the tasks of all nodes here; its code is the highest of theirs.
shift
code=0
for ((i = 0; i < SLURM_NTASKS; i++)); do SLURM_PROCID=$i "$@" & pids+=($!); done
for pid in "${pids[@]}"; do wait "$pid"; last=$?; ((last > code)) && code=$last; done
exit $code
"""
SCONTROL = r"""#!/usr/bin/env bash
if [ "$1" = requeue ]; then echo "requeued $2"; else echo localhost; fi
"""


@pytest.fixture
def cluster(door, tmp_path):
    """Runs a batch script on two nodes that are this machine."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)

    def run(script, **environment):
        own = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "20123",
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_NTASKS": "2",
            **environment,
        }
        return subprocess.run(
            ["bash", "-c", script], env={**os.environ, **own}, capture_output=True, text=True
        )

    return run


def test_the_script_as_text(launch, tmp_path):
    words = ("--nodes=2", "--gpus_per_node=8", "--time=01:30:00", "--sbatch=--partition=gpu")
    done = launch("slurm", "--dry_run", *words)
    assert done.returncode == 0, done.stderr
    text = done.stdout
    head = text[: text.index("set -u")].splitlines()
    assert head == [
        "#!/usr/bin/env bash",
        "#SBATCH --job-name=run",
        "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=1",
        "#SBATCH --time=01:30:00",
        "#SBATCH --requeue",
        "#SBATCH --signal=TERM@120",
        "#SBATCH --open-mode=append",
        f"#SBATCH --chdir={tmp_path}",
        f"#SBATCH --output={tmp_path}/run/launch/%j.log",
        "#SBATCH --gpus-per-node=8",
        "#SBATCH --partition=gpu",
    ]
    command = (
        f"  0) command=({sys.executable} -m door --workdir={tmp_path}/run --config=configs/x.py "
        "--config.mesh.multihost=env) ;;"
    )
    assert command in text
    assert "export JAXLAB_NUM_PROCESSES=2\n" in text
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    assert not (tmp_path / "run").exists()


def test_the_script_runs_a_process_per_node(launch, cluster, tmp_path):
    done = cluster(launch("slurm", "--dry_run", "--nodes=2").stdout)
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / f"run/state{i}").read_text() for i in range(2)] == ["4", "4"]
    assert done.stdout.count(" localhost:20123\n") == 2
    assert "requeued" not in done.stdout


def test_a_job_that_saved_and_left_is_queued_again(launch, cluster, tmp_path):
    script = launch("slurm", "--dry_run", "--nodes=2", "--max_restarts=2").stdout
    done = cluster(script, FAULT="stop")
    assert done.returncode == 143
    assert "requeued 20123" in done.stdout
    again = cluster(script, FAULT="stop", SLURM_RESTART_COUNT="1")
    assert again.returncode == 0
    assert (tmp_path / "run/state1").read_text() == "4"
    for path in (tmp_path / "run").glob("begun*"):
        path.unlink()
    (tmp_path / "run/state1").unlink()
    last = cluster(script, FAULT="stop", SLURM_RESTART_COUNT="2")
    assert last.returncode == 143
    assert "requeued" not in last.stdout
    assert cluster(script, FAULT="bad").returncode == 2


def test_a_sweep_is_an_array(launch, cluster, tmp_path):
    text = launch("slurm", "--dry_run", "--sweep", "--parallel=1").stdout
    assert "#SBATCH --array=0-1%1\n" in text
    assert "/launch/%A_%a.log" in text
    done = cluster(text, SLURM_ARRAY_TASK_ID="1", SLURM_NTASKS="1")
    assert done.returncode == 0, done.stderr
    words = json.loads(done.stdout.split(" ", 1)[1].rpartition(" ")[0])
    assert words[-2:] == ["--config.loss.name=a b", "--config.x=None"]
    assert [path.name for path in (tmp_path / "run").iterdir()] == [
        "01-optim.b2=0.999,loss.name=a_b,x=None"
    ]


def test_without_sbatch_it_says_what_to_do(launch, tmp_path):
    done = launch("slurm", PATH=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("slurm.py: sbatch is missing: run this on a login node")


def test_it_is_handed_to_sbatch(launch, tmp_path):
    (tmp_path / "bin").mkdir()
    sbatch = tmp_path / "bin/sbatch"
    sbatch.write_text('#!/bin/sh\necho "Submitted batch job 7: $1"\n')
    sbatch.chmod(0o755)
    done = launch("slurm", PATH=f"{tmp_path}/bin:/usr/bin:/bin")
    assert done.returncode == 0, done.stderr
    path = tmp_path / "run/launch/job.sbatch"
    assert f"Submitted batch job 7: {path}" in done.stdout
    assert path.read_text().startswith("#!/usr/bin/env bash\n#SBATCH --job-name=run\n")


def test_submitit_runs_the_processes_here(launch, tmp_path):
    pytest.importorskip("submitit")
    done = launch("slurm", "--submitit=local", "--nodes=2", "--sweep")
    assert done.returncode == 0, done.stderr
    first = tmp_path / "run/00-optim.b2=0.95,seed=1"
    assert [(first / f"state{i}").read_text() for i in range(2)] == ["4", "4"]
    assert done.stdout.splitlines()[1].split() == [first.name, "0", "4", "0.5"]
    logs = list((tmp_path / "run/launch/submitit").glob("*_0_log.out"))
    assert len(logs) == 2
    assert all(" localhost:" in path.read_text() for path in logs)


def test_a_job_that_cannot_start_is_named(launch):
    pytest.importorskip("submitit")
    done = launch("slurm", "--submitit=local", "--python=/no/python")
    assert done.returncode == 1
    assert (
        "run: FileNotFoundError: [Errno 2] No such file or directory: '/no/python'" in done.stderr
    )


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (("--processes=2",), "--processes: a node has one process here: set --nodes"),
        (("--submitit=local", "--sbatch=--qos=x"), "--sbatch: not with --submitit"),
        (("--submitit=slurm", "--dry_run"), "--dry_run: not with --submitit"),
    ],
)
def test_flags_that_would_do_nothing(launch, words, cause):
    done = launch("slurm", *words)
    assert done.returncode == 2
    assert cause in done.stderr


def test_a_bad_limit_is_named(launch):
    pytest.importorskip("submitit")
    done = launch("slurm", "--submitit=local", "--time=1-00")
    assert (done.returncode, done.stderr) == (2, "slurm.py: --time: '1-00' is not HH:MM:SS\n")


def test_a_preempted_task_saves_and_is_submitted_again(door, tmp_path):
    pytest.importorskip("submitit")
    import threading
    import time

    command = [sys.executable, "-m", "door", f"--workdir={tmp_path / 'run'}"]
    variables = {"PYTHONPATH": str(door), "FAULT": "wait"}
    task = slurm.Task(command, variables, processes=1)
    codes = []
    thread = threading.Thread(target=lambda: codes.append(task()))
    thread.start()
    while not pathlib.Path(tmp_path, "run/state0").exists():
        time.sleep(0.05)
    again = task.checkpoint()
    thread.join(30)
    assert codes == [143]
    assert again.function._command == command


def test_without_submitit_it_names_the_install_line(door, tmp_path):
    (tmp_path / "submitit.py").write_text("raise ModuleNotFoundError('no submitit')\n")
    program = (
        "from launch import jobs, slurm\n"
        "jobs.run(slurm.main, ['--config=x', '--workdir=y', '--submitit=local'])"
    )
    root = pathlib.Path(slurm.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{root}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.endswith("submitit is missing: pip install 'jaxlab[launch]'\n")
