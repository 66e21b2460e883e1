"""Functions of bytes in a process of their own, with bounds on memory and time.

The libraries that read office files were not written for hostile ones: a merged range of a whole
sheet, say, becomes an object per cell. In a child that can neither grow nor fill the disk they may
fail as they like.
"""

import concurrent.futures
import contextlib
import json
import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from jaxlab.evals.ajbench.sandbox import files, marks, programs
from jaxlab.evals.ajbench.sandbox.limits import ToolError, Unavailable
from jaxlab.evals.ajbench.sandbox.serving import READY

START_SECONDS = 120.0
# Of our environment: what Python needs, and no keys or passwords.
_KEPT = ("PATH", "LANG", "LC_ALL", "TZ", "HOME", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH")
# The kernel ends a child with the thread that started it (PR_SET_PDEATHSIG), and threads that run
# tools come and go; this one stays.
_starter = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="confined")
_ENDING_SECONDS = 5.0
_OVER = "the sample has ended"
_SAID = "stderr"
_TAIL = 1000  # bytes of it

logger = logging.getLogger(__name__)


class Worker:
    """A child that runs one module's `serving.serve` loop; it is started when first needed."""

    def __init__(self, module: str, folder: Path, seconds: float):
        """Names the module; `folder` marks the child as this sample's.

        Args:
            module: to be run by `python -m`; calls `serving.serve`.
            folder: see `marks.kill`; temporary files lie beside it until `close`.
            seconds: of one call, after which the child is killed.
        """
        self._module = module
        self._folder = folder
        self._temporary = programs.beside(folder, "temporary")
        self._seconds = seconds
        self._child: subprocess.Popen[bytes] | None = None
        self._closed = False

    def call(
        self, operation: str, content: bytes, arguments: Mapping[str, str]
    ) -> tuple[str, bytes]:
        """A text and bytes from the child.

        Raises:
            ToolError: the operation refuses, fails, or takes too much time or memory; or the
                sample has ended, while a tool of it was under way.
            Unavailable: the child does not start, or somebody else has killed it; that says
                nothing of the content.
        """
        head = {"operation": operation, "arguments": dict(arguments), "size": len(content)}
        child = self._child or self._start()
        if self._closed:
            self._end()
            raise ToolError(_OVER)
        try:
            deadline = time.monotonic() + self._seconds
            _write(child, json.dumps(head).encode() + b"\n" + content, deadline)
            reply = json.loads(_read(child, None, deadline))
            text = _read(child, reply["text"], deadline).decode("utf-8", "replace")
            result = _read(child, reply["size"], deadline)
        except TimeoutError:
            self._end()
            raise ToolError(f"took more than {self._seconds:g} s") from None
        except (OSError, EOFError, ValueError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_ENDING_SECONDS)  # an end that is its own comes at once
            ended = child.poll()
            said = self._end()
            if self._closed:
                raise ToolError(_OVER) from None
            if ended == -signal.SIGKILL:
                raise Unavailable(f"{self._module} was killed: is there memory left?") from None
            logger.warning("%s ended with %s: %s", self._module, ended, said)
            raise ToolError("needs more memory than is allowed, or breaks its reader") from None
        if reply["failed"]:
            raise ToolError(text)
        return text, result

    def close(self) -> None:
        """Ends the child; there will be no other."""
        self._closed = True
        self._end()

    def _end(self) -> str:
        """End the child; what it has said last on standard error."""
        child, self._child = self._child, None
        if child is None:
            return ""
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        said = b""
        with contextlib.suppress(OSError), (self._temporary / _SAID).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            said = file.read()
        files.remove(self._temporary)
        return " ".join(said.decode("utf-8", "replace").split())

    def _start(self) -> subprocess.Popen[bytes]:
        # More threads of a linear algebra library would only take address space.
        more = {
            marks.MARK: str(self._folder.absolute()),
            "TMPDIR": str(self._temporary),
            "OPENBLAS_NUM_THREADS": "1",
        }
        try:
            self._temporary.mkdir(mode=0o700, exist_ok=True)
            # A file, for a pipe that nobody reads would stop the child when it is full.
            with (self._temporary / _SAID).open("wb") as said:
                child = _starter.submit(
                    subprocess.Popen[bytes],
                    [sys.executable, "-m", self._module, str(os.getpid())],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=said,
                    env={name: os.environ[name] for name in _KEPT if name in os.environ} | more,
                    bufsize=0,
                    start_new_session=True,
                ).result()
        except OSError as error:
            files.remove(self._temporary)
            raise Unavailable(f"{self._module} does not start: {error}") from None
        self._child = child
        try:
            for pipe in (child.stdin, child.stdout):
                assert pipe is not None
                os.set_blocking(pipe.fileno(), False)
            # A call's time begins when the child has loaded its module.
            if _read(child, len(READY), time.monotonic() + START_SECONDS) != READY:
                raise EOFError
        except (OSError, EOFError) as error:
            late = isinstance(error, TimeoutError)
            cause = f"not ready after {START_SECONDS:g} s" if late else "it ended at once"
            raise Unavailable(f"{self._module} does not start: {cause}: {self._end()}") from None
        return child


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
