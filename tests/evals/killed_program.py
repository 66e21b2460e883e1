"""A benchmark run that kills itself after so many answers: WORKDIR ROWS SAMPLES ANSWERS.

Every answer is noted in WORKDIR/answers.txt first.
"""

import os
import pathlib
import signal
import sys

from jaxlab.evals import benchmark_report, harness
from jaxlab.evals.settings import Benchmark, Run, Sampling, Subject
from tests.evals import scripted


def main():
    workdir, rows, samples, limit = pathlib.Path(sys.argv[1]), *sys.argv[2:]
    count = 0

    def answer(prompt, seed):
        nonlocal count
        with (workdir / "answers.txt").open("a") as file:
            file.write(f"{seed}\n")
        count += 1
        if count == int(limit):
            os.kill(os.getpid(), signal.SIGKILL)
        return f"#### {prompt.split()[1]}"

    benchmark_report._plots = lambda *arguments: {}
    run = Run(
        Subject(name="scripted"),
        Benchmark("gsm8k", path=rows, samples=int(samples)),
        Sampling(batch=4),
    )
    task = harness.prepare(run, workdir, regrade=False)
    log = harness.generate(run, task, workdir, scripted.model(answer, seconds=0.01))
    harness.finish(run, task, log, workdir)


main()
