"""Functions of bytes in a process of their own, with bounds on memory and time.

The libraries that read office files were not written for hostile ones: a merged range of a whole
sheet, say, becomes an object per cell. In a child that can neither grow nor fill the disk they may
fail as they like.
"""

import concurrent.futures
import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from jaxlab.evals.ajbench import files, programs, workspace
from jaxlab.evals.ajbench.limits import ToolError

MEMORY = 2 << 30  # bytes of address space
START_SECONDS = 120.0
READY = b"ready\n"
# Of our environment: what Python needs, and no keys or passwords.
_KEPT = ("PATH", "LANG", "LC_ALL", "TZ", "HOME", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH")
# The kernel ends a child with the thread that started it (PR_SET_PDEATHSIG), and threads that run
# tools come and go; this one stays.
_starter = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="confined")
FILE = 128 << 20  # bytes of a temporary file
MAX_TEXT = 1 << 20  # characters of a reply


class Worker:
    """A child that runs one module's `serve` loop; it is started when first needed."""

    def __init__(self, module: str, folder: Path, seconds: float):
        """Names the module; `folder` marks the child as this sample's.

        Args:
            module: to be run by `python -m`; calls `serve`.
            folder: see `workspace.kill`; temporary files lie beside it until `close`.
            seconds: of one call, after which the child is killed.
        """
        self._module = module
        self._folder = folder
        self._temporary = programs.beside(folder, "temporary")
        self._seconds = seconds
        self._child: subprocess.Popen[bytes] | None = None

    def call(
        self, operation: str, content: bytes, arguments: Mapping[str, str]
    ) -> tuple[str, bytes]:
        """A text and bytes from the child.

        Raises:
            ToolError: the operation refuses, fails, or takes too much time or memory.
        """
        head = {"operation": operation, "arguments": dict(arguments), "size": len(content)}
        try:
            child = self._child or self._start()
            deadline = time.monotonic() + self._seconds
            _write(child, json.dumps(head).encode() + b"\n" + content, deadline)
            reply = json.loads(_read(child, None, deadline))
            text = _read(child, reply["text"], deadline).decode("utf-8", "replace")
            result = _read(child, reply["size"], deadline)
        except TimeoutError:
            self.close()
            raise ToolError(f"took more than {self._seconds:g} s") from None
        except (OSError, EOFError, ValueError):
            self.close()
            raise ToolError("needs more memory than is allowed, or breaks its reader") from None
        if reply["failed"]:
            raise ToolError(text)
        return text, result

    def close(self) -> None:
        """Ends the child."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            files.remove(self._temporary)

    def _start(self) -> subprocess.Popen[bytes]:
        # More threads of a linear algebra library would only take address space.
        more = {
            workspace.MARK: str(self._folder.absolute()),
            "TMPDIR": str(self._temporary),
            "OPENBLAS_NUM_THREADS": "1",
        }
        self._temporary.mkdir(mode=0o700, exist_ok=True)
        child = _starter.submit(
            subprocess.Popen[bytes],
            [sys.executable, "-m", self._module, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in _KEPT if name in os.environ} | more,
            bufsize=0,
            start_new_session=True,
        ).result()
        for pipe in (child.stdin, child.stdout):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
        self._child = child
        # A call's time begins when the child has loaded its module.
        if _read(child, len(READY), time.monotonic() + START_SECONDS) != READY:
            raise EOFError
        return child


Run = Callable[[str, bytes, Mapping[str, str]], tuple[str, bytes]]


def serve(run: Run) -> None:
    """Answer calls on standard input until it ends; the child's side of `Worker`.

    Args:
        run: from an operation's name, bytes and arguments to a text and bytes.
    """
    parent = int(sys.argv[1])
    with contextlib.suppress(OSError, AttributeError):  # Linux alone has it
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        return
    for limit, value in ((resource.RLIMIT_FSIZE, FILE), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(limit, (value, value))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that a write fails with an error instead
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    source, target = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr
    target.write(READY)
    target.flush()
    while line := source.readline():
        head = json.loads(line)
        content = source.read(head["size"])
        answer, result, failed = _answer(run, head, content)
        text = answer[:MAX_TEXT].encode("utf-8", "replace")
        reply = {"text": len(text), "size": len(result), "failed": failed}
        target.write(json.dumps(reply).encode() + b"\n" + text + result)
        target.flush()


def _answer(run: Run, head: Mapping[str, Any], content: bytes) -> tuple[str, bytes, bool]:
    try:
        text, result = run(head["operation"], content, head["arguments"])
        return text, result, False
    except ToolError as error:
        return str(error), b"", True
    except MemoryError:
        return "needs more memory than is allowed", b"", True
    except Exception as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        return f"cannot be read or changed: {cause[:200]}", b"", True


def _write(child: subprocess.Popen[bytes], data: bytes, deadline: float) -> None:
    pipe = child.stdin
    assert pipe is not None
    view = memoryview(data)
    while view:
        _wait(pipe, deadline, write=True)
        view = view[pipe.write(view) or 0 :]


def _read(child: subprocess.Popen[bytes], size: int | None, deadline: float) -> bytes:
    """So many bytes, or a line."""
    pipe = child.stdout
    assert pipe is not None
    data = bytearray()
    while size != len(data) and not (size is None and data.endswith(b"\n")):
        _wait(pipe, deadline)
        # A byte at a time up to the end of the line: what follows it is not ours yet.
        chunk = pipe.read(1 if size is None else size - len(data))
        if not chunk:
            raise EOFError
        data += chunk
    return bytes(data)


def _wait(pipe: IO[bytes], deadline: float, write: bool = False) -> None:
    left = deadline - time.monotonic()
    poll = select.poll()  # unlike select, of any descriptor's number
    poll.register(pipe, select.POLLOUT if write else select.POLLIN)
    if left <= 0 or not poll.poll(1000 * left):
        raise TimeoutError
