"""Programs in forks of one interpreter that has imported what they need.

Importing JAX, or inspect_ai, takes seconds of a program that works for a fraction of one. A fork is
a process all the same, with an environment, an end and an exit code of its own.
"""

import contextlib
import gc
import importlib
import json
import os
import pathlib
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import warnings


class Forks:
    """An interpreter that is started when the first program is to run."""

    def __init__(self, *modules):
        """Names what it imports before it forks, where that is installed."""
        self._modules = modules
        self._paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._server = None
        self._folder = tempfile.TemporaryDirectory()
        self._count = 0
        self.running = set()

    def run(self, target, *arguments, cwd, timeout=300, **environment):
        """As `subprocess.run` of a module's name or a script's path; what it wrote is text."""
        return self.start(target, *arguments, cwd=cwd, **environment).wait(timeout)

    def start(self, target, *arguments, cwd, **environment):
        """The `Program`, which runs beside those that were started before."""
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, __file__, *self._modules],
                env=os.environ | self._paths,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        self._count += 1
        place = pathlib.Path(self._folder.name, str(self._count))
        place.mkdir()
        # They are there for a program that is killed before it writes.
        files = [place / name for name in ("stdout", "stderr")]
        for file in files:
            file.touch()
        program = {
            "argv": [str(target), *map(str, arguments)],
            "cwd": str(cwd),
            "env": {**os.environ, **self._paths, **environment},
            "files": list(map(str, files)),
        }
        pid = self.ask(program)
        self.running.add(pid)
        return Program(self, program, pid)

    def ask(self, request, timeout=None):
        """A number, the interpreter's reply; None if it takes too long."""
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        if timeout is not None and not select.select([self._server.stdout], [], [], timeout)[0]:
            return None
        return int(self._server.stdout.readline())

    def reply(self):
        """The reply that took too long."""
        return int(self._server.stdout.readline())

    def close(self):
        """Ends the interpreter, and the programs that a failed test did not wait for."""
        # Nobody has asked for their ends, so that the numbers are still theirs.
        for pid in self.running:
            os.kill(pid, signal.SIGKILL)
        if self._server is not None:
            self._server.communicate()
        self._folder.cleanup()


class Program:
    """A process of `Forks`, whose `pid` can be sent signals."""

    def __init__(self, forks, program, pid):
        self.pid = pid
        self._forks = forks
        self._program = program

    def ended(self):
        """Whether it has; `wait` is still to be called."""
        return bool(self._forks.ask({"ended": self.pid}))

    def wait(self, timeout=300):
        """As of `subprocess.run`, at its end; one that takes longer is killed."""
        code = self._forks.ask({"wait": self.pid}, timeout)
        if code is None:
            os.kill(self.pid, signal.SIGKILL)
            self._forks.reply()
        self._forks.running.discard(self.pid)
        files = map(pathlib.Path, self._program["files"])
        texts = [file.read_text(encoding="utf-8", errors="replace") for file in files]
        if code is None:
            raise subprocess.TimeoutExpired(self._program["argv"], timeout, *texts)
        return subprocess.CompletedProcess(self._program["argv"], code, *texts)


def _asked():
    """The program to be run, in the fork that is to run it."""
    for line in sys.stdin:
        request = json.loads(line)
        if "ended" in request:
            options = os.WEXITED | os.WNOHANG | os.WNOWAIT
            reply = int(os.waitid(os.P_PID, request["ended"], options) is not None)
        elif "wait" in request:
            reply = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # JAX warns of forks, also before it has any thread
                reply = os.fork()
            if reply == 0:
                return request
        os.write(1, f"{reply}\n".encode())
    sys.exit()


def _prepare(request):
    """Makes this process what a new one would be."""
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    for number, name in enumerate(request["files"], 1):
        with open(name, "w") as file:
            os.dup2(file.fileno(), number)
    os.environ.clear()
    os.environ.update(request["env"])
    tempfile.tempdir = None
    os.chdir(request["cwd"])
    sys.argv = request["argv"]


if __name__ == "__main__":
    gc.disable()  # importing makes no garbage
    del sys.path[0]  # this folder
    for module in sys.argv[1:]:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    gc.freeze()  # so that forks need not copy it
    gc.enable()
    asked = _asked()
    _prepare(asked)
    # From here on as `python -m`, to the interpreter's own end.
    program = asked["argv"][0]
    if program.endswith(".py"):
        runpy.run_path(program, run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)
