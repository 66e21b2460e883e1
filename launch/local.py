"""Run a config, or the members of its sweep, on this machine.

    python launch/local.py --config=configs/NAME.py[:variant] --workdir=DIR [--sweep] [--dry_run]
        [--processes=2] [--parallel=1] [--max_restarts=3] [--config.KEY=VALUE ...]

A job is so many processes, which find each other by JAXLAB_COORDINATOR. When one is killed, or ends
with code 143 (stopped, with a checkpoint saved), the others are stopped too and the same command
goes on from the last checkpoint. Codes 1 (a failure on the way) and 2 (bad input) end the job. What
the processes print is in WORKDIR/launch/PROCESS.log; SIGTERM and Ctrl-C are handed on.
"""

import concurrent.futures
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from launch import jobs

_POLL = 0.1  # seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Run the jobs of the command line; returns the exit code."""
    flags = jobs.parser(__doc__)
    flags.add_argument("--parallel", type=int, default=1, help="jobs at a time")
    flags.add_argument(
        "--grace", type=float, default=60.0, help="seconds from SIGTERM to SIGKILL for a process"
    )
    arguments = jobs.parse(flags, argv)
    found = jobs.jobs(arguments, "env" if arguments.processes > 1 else None)
    variables = jobs.variables(arguments)
    if arguments.dry_run:
        for job in found:
            print(f"# {job.name}: {arguments.processes} process(es), logs in {job.logs}")
            for index in range(arguments.processes):
                own = _own(arguments.processes, "localhost:PORT", index)
                print(jobs.show(job.command, {**variables, **own}))
        return 0
    stop = threading.Event()
    previous = {n: signal.signal(n, lambda *_: stop.set()) for n in (signal.SIGTERM, signal.SIGINT)}
    options = (arguments.processes, variables, arguments.max_restarts, arguments.grace, stop)
    try:
        with concurrent.futures.ThreadPoolExecutor(max(arguments.parallel, 1)) as pool:
            rows = list(pool.map(lambda job: run(job, *options), found))
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    print(jobs.table(rows))
    codes = {row["code"] for row in rows}
    known = (jobs.BAD_INPUT, jobs.STOPPED, 0)
    return 1 if codes - set(known) else next(code for code in known if code in codes)


def run(
    job: jobs.Job,
    processes: int,
    variables: Mapping[str, str],
    max_restarts: int,
    grace: float,
    stop: threading.Event,
    say: Callable[[str], None] = print,
) -> dict[str, object]:
    """Run one job to its end, restarts included; returns its row of the closing table."""
    begun, restarts, code = time.monotonic(), 0, jobs.STOPPED
    job.logs.mkdir(parents=True, exist_ok=True)
    result = job.logs / jobs.RESULT
    result.unlink(missing_ok=True)
    while not stop.is_set():
        code = _attempt(job, processes, variables, restarts, grace, stop, say)
        if not _was_stopped(code) or stop.is_set() or restarts == max_restarts:
            break
        restarts += 1
        say(f"{job.name}: ended with code {code}; restart {restarts} of {max_restarts}")
    seconds = time.monotonic() - begun
    row = {"code": code, "restarts": restarts, "minutes": f"{seconds / 60:.1f}"}
    result.write_text(json.dumps(row) + "\n")
    return {"job": job.name, **row, **jobs.last_metrics(job.workdir), "logs": job.logs}


def _attempt(
    job: jobs.Job,
    processes: int,
    variables: Mapping[str, str],
    number: int,
    grace: float,
    stop: threading.Event,
    say: Callable[[str], None],
) -> int:
    """Start the processes, wait for them, and return the code of the first that failed, else 0."""
    coordinator = f"localhost:{jobs.free_port()}"
    running = []
    try:
        for index in range(processes):
            own = {**os.environ, **variables, **_own(processes, coordinator, index)}
            with (job.logs / f"{index}.log").open("a") as log:
                log.write(f"== start {number}: {jobs.show(job.command)}\n")
                log.flush()
                # Ctrl-C reaches the launcher alone, which hands it on once.
                process = subprocess.Popen(
                    job.command, env=own, stdout=log, stderr=log, start_new_session=True
                )
            running.append(process)
            say(f"{job.name}: start {number}, process {index} is {process.pid}")
        while True:
            codes = [process.poll() for process in running]
            failed = [code for code in codes if code]
            if failed:
                # What was killed, not what lost its peer and failed of that.
                first = next((code for code in failed if _was_stopped(code)), failed[0])
                # Peers of a process that saved and left do so too; those of a dead one would wait.
                _end(running, grace if first == jobs.STOPPED else 0.0)
                return first
            if all(code == 0 for code in codes):
                return 0
            if stop.is_set():
                _end(running, grace)
                return jobs.STOPPED if any(process.returncode for process in running) else 0
            time.sleep(_POLL)
    except OSError as error:
        raise jobs.LaunchError(f"{job.command[0]}: {error.strerror}") from error
    finally:
        _end(running, grace)


def _end(running: Sequence[subprocess.Popen], grace: float) -> None:
    """Stop what still runs: SIGTERM, and SIGKILL after the grace."""
    for process in running:
        if process.poll() is None:
            process.terminate()
    last = time.monotonic() + grace
    for process in running:
        try:
            process.wait(max(last - time.monotonic(), 0.01))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _own(processes: int, coordinator: str, index: int) -> dict[str, str]:
    return jobs.environment(coordinator, processes, index) if processes > 1 else {}


def _was_stopped(code: int) -> bool:
    """Whether a signal ended it: -N of a process, 128 + N of a shell or a door."""
    return code < 0 or code > 128


if __name__ == "__main__":
    jobs.run(main)
