"""Submit a config, or the members of its sweep as an array, to SLURM.

    python launch/slurm.py --config=configs/NAME.py[:variant] --workdir=DIR [--sweep] [--dry_run]
        [--nodes=2] [--gpus_per_node=8] [--time=24:00:00] [--sbatch=--partition=gpu ...]

Each node has one process, which owns the node's devices. WORKDIR/launch/job.sbatch is written and
handed to sbatch; --dry_run prints it. SLURM sends SIGTERM two minutes before the limit, and when it
preempts: the run saves and leaves with code 143, and the job is queued again, up to --max_restarts
times. The folder of --workdir must be the same on all nodes.

With --submitit=slurm, submitit (`pip install 'jaxlab[launch]'`) submits instead and waits for the
end; --submitit=local is the same on this machine, for a try without a cluster.
"""

import argparse
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from launch import jobs

_GRACE = 120  # seconds from SIGTERM to SIGKILL


def main(argv: Sequence[str] | None = None) -> int:
    """Submit the jobs of the command line; returns the exit code."""
    flags = jobs.parser(__doc__)
    flags.add_argument("--nodes", type=int, default=1, help="of a job; as many processes")
    flags.add_argument("--gpus_per_node", type=int, default=0)
    flags.add_argument("--cpus_per_task", type=int, default=0, help="0: SLURM's default")
    flags.add_argument("--time", default="24:00:00", help="limit of a job, HH:MM:SS")
    flags.add_argument("--parallel", type=int, default=0, help="jobs of a sweep at a time; 0: all")
    flags.add_argument("--submitit", choices=("local", "slurm"))
    flags.add_argument(
        "--sbatch", action="append", default=[], metavar="OPTION", help="more of sbatch's options"
    )
    arguments = jobs.parse(flags, argv)
    jobs.refuse(flags, arguments, "a node has one process here: set --nodes", "processes")
    if arguments.submitit:
        jobs.refuse(flags, arguments, "not with --submitit", "sbatch", "parallel", "dry_run")
    arguments.processes = arguments.nodes
    found = jobs.jobs(arguments, "env" if arguments.processes > 1 else None)
    if arguments.submitit:
        return _by_submitit(found, arguments)
    text = script(found, arguments)
    if arguments.dry_run:
        print(text, end="")
        return 0
    sbatch = jobs.need(
        "sbatch", "run this on a login node of the cluster, or try --submitit=local or --dry_run"
    )
    folder = pathlib.Path(arguments.workdir, "launch")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "job.sbatch"
    path.write_text(text)
    done = subprocess.run([sbatch, str(path)])
    print(jobs.table([{"job": job.name, "workdir": job.workdir} for job in found]))
    return 1 if done.returncode else 0


def script(found: Sequence[jobs.Job], arguments: argparse.Namespace) -> str:
    """The text of the batch script."""
    name = pathlib.PurePath(arguments.workdir).name
    options = [
        f"--job-name={name}",
        f"--nodes={arguments.processes}",
        "--ntasks-per-node=1",
        f"--time={arguments.time}",
        "--requeue",
        # To the tasks of srun, not to this script, which waits for them.
        f"--signal=TERM@{_GRACE}",
        "--open-mode=append",
        f"--chdir={os.getcwd()}",
        f"--output={arguments.workdir}/launch/{'%A_%a' if arguments.sweep else '%j'}.log",
    ]
    if arguments.sweep:
        limit = f"%{arguments.parallel}" if arguments.parallel else ""
        options.insert(1, f"--array=0-{len(found) - 1}{limit}")
    if arguments.gpus_per_node:
        options.append(f"--gpus-per-node={arguments.gpus_per_node}")
    if arguments.cpus_per_task:
        options.append(f"--cpus-per-task={arguments.cpus_per_task}")
    lines = ["#!/usr/bin/env bash", *(f"#SBATCH {option}" for option in options)]
    lines += [f"#SBATCH {option}" for option in arguments.sbatch]
    lines += ["set -u", ""]
    for key, value in jobs.variables(arguments).items():
        lines.append(f"export {key}={shlex.quote(value)}")
    if arguments.processes > 1:
        lines += [
            'first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
            'export JAXLAB_COORDINATOR="$first:$((20000 + SLURM_JOB_ID % 20000))"',
            f"export JAXLAB_NUM_PROCESSES={arguments.processes}",
        ]
    lines += ["", 'case "${SLURM_ARRAY_TASK_ID:-0}" in']
    lines += [f"  {i}) command=({shlex.join(job.command)}) ;;" for i, job in enumerate(found)]
    lines += [
        "esac",
        "",
        "# One process per node; when one is lost, the others cannot go on.",
        "srun --kill-on-bad-exit=1 bash -c "
        '\'export JAXLAB_PROCESS_ID=$SLURM_PROCID; exec "$@"\' task "${command[@]}"',
        "code=$?",
        f"if [ $code -eq {jobs.STOPPED} ] && "
        f"[ ${{SLURM_RESTART_COUNT:-0}} -lt {arguments.max_restarts} ]; then",
        '  echo "stopped with a checkpoint: queued again"',
        '  scontrol requeue "$SLURM_JOB_ID"',
        "fi",
        "exit $code",
    ]
    return "\n".join(lines) + "\n"


class Task:
    """One process of a job, as submitit runs and, when it is preempted, submits it again."""

    def __init__(self, command: Sequence[str], variables: Mapping[str, str], processes: int):
        self._command, self._variables, self._processes = list(command), variables, processes
        self._child: subprocess.Popen | None = None

    def __call__(self) -> int:
        """Run the command; returns its code."""
        own = {**os.environ, **self._variables}
        if self._processes > 1:
            own["JAXLAB_PROCESS_ID"] = own.get(
                "SLURM_PROCID", own.get("SUBMITIT_LOCAL_GLOBALID", "0")
            )
            if "JAXLAB_COORDINATOR" not in self._variables:
                own["JAXLAB_COORDINATOR"] = _first_node(own)
            own["JAXLAB_NUM_PROCESSES"] = str(self._processes)
        self._child = subprocess.Popen(self._command, env=own)
        return self._child.wait()

    def checkpoint(self) -> Any:
        """End the command, which saves, and return what is to be submitted again."""
        import submitit

        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)
            self._child.wait()
        return submitit.helpers.DelayedSubmission(
            Task(self._command, self._variables, self._processes)
        )


def _first_node(own: Mapping[str, str]) -> str:
    """Address of the first task of this SLURM job; the port is the job's."""
    show = ["scontrol", "show", "hostnames", own["SLURM_JOB_NODELIST"]]
    first = subprocess.check_output(show, text=True).split()[0]
    return f"{first}:{20000 + int(own['SLURM_JOB_ID']) % 20000}"


def _by_submitit(found: Sequence[jobs.Job], arguments: argparse.Namespace) -> int:
    """Submit by submitit, wait, and print the table; returns the exit code."""
    try:
        import submitit
    except ModuleNotFoundError:
        raise jobs.LaunchError("submitit is missing: pip install 'jaxlab[launch]'") from None
    # A job finds this file by its module's name.
    os.environ["PYTHONPATH"] = jobs.variables(arguments)["PYTHONPATH"]
    local = arguments.submitit == "local"
    folder = pathlib.Path(arguments.workdir, "launch", "submitit")
    # Under SLURM submitit itself counts the submissions of a job.
    options = {} if local else {"max_num_timeout": arguments.max_restarts}
    executor = submitit.AutoExecutor(
        folder,
        cluster=arguments.submitit,
        **{f"slurm_{key}": value for key, value in options.items()},
    )
    limit = re.fullmatch(r"(\d+):(\d\d):(\d\d)", arguments.time)
    if limit is None:
        raise jobs.LaunchError(f"--time: {arguments.time!r} is not HH:MM:SS")
    hours, minutes, seconds = map(int, limit.groups())
    executor.update_parameters(
        name=pathlib.PurePath(arguments.workdir).name,
        nodes=1 if local else arguments.processes,
        tasks_per_node=arguments.processes if local else 1,
        timeout_min=hours * 60 + minutes + (seconds > 0),
        **({"gpus_per_node": arguments.gpus_per_node} if arguments.gpus_per_node else {}),
        **({"cpus_per_task": arguments.cpus_per_task} if arguments.cpus_per_task else {}),
    )
    submitted = []
    for job in found:
        variables = jobs.variables(arguments)
        if local and arguments.processes > 1:
            variables["JAXLAB_COORDINATOR"] = f"localhost:{jobs.free_port()}"
        task = _module().Task(job.command, variables, arguments.processes)
        submitted.append(executor.submit(task))
    rows = []
    for job, handle in zip(found, submitted, strict=True):
        try:
            code = max(handle.results(), key=abs)
        except Exception as error:  # whatever a job can die of, the others go on
            code = 1
            # A traceback between two lines of dashes, then where the log is.
            cause = str(error).rstrip().rpartition("\n---")[0] or str(error)
            print(f"{job.name}: {cause.strip().splitlines()[-1]}", file=sys.stderr)
        rows.append({"job": job.name, "code": code, **jobs.last_metrics(job.workdir)})
    print(f"{jobs.table(rows)}\nlogs: {folder}")
    return max((row["code"] != 0 for row in rows), default=0)


def _module() -> Any:
    """This file under a name that a job can import, also where it is run as __main__."""
    import importlib

    return importlib.import_module("launch.slurm")


if __name__ == "__main__":
    jobs.run(main)
