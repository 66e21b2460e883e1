"""The child's side of `confined.Worker`: bounds on itself, then calls until its input ends.

What every child imports before it is ready stands here alone, so that it is ready soon.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

from jaxlab.evals.ajbench.sandbox.limits import ToolError

MEMORY = 2 << 30  # bytes of address space
READY = b"ready\n"
FILE = 128 << 20  # bytes of a file that it writes
MAX_TEXT = 1 << 20  # characters of a reply

Run = Callable[[str, bytes, Mapping[str, str]], tuple[str, bytes]]


def serve(run: Run, file: int | None = FILE) -> None:
    """Answer calls on standard input until it ends.

    Args:
        run: from an operation's name, bytes and arguments to a text and bytes.
        file: bytes of the largest file that it may write; None for any.
    """
    parent = int(sys.argv[1])
    with contextlib.suppress(OSError, AttributeError):  # Linux alone has it
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        return
    if file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file, file))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
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
