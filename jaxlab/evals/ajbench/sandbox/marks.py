"""Programs that are started for a sample carry the name of its folder, by which they are ended."""

import os
import signal
from pathlib import Path

# In the environment of each: the folder that it belongs to.
MARK = "JAXLAB_AJBENCH_FOLDER"


def kill(folder: Path) -> list[int]:
    """End every program that carries `MARK` with this folder or one below it; returns their ids.

    A process that this user may not look at or end is left alone, and where the system has no
    /proc nothing is found.
    """
    wanted = f"{MARK}={folder}".encode()
    killed = []
    for entry in Path("/proc").glob("[0-9]*"):
        process = int(entry.name)
        if process == os.getpid():
            continue
        try:
            # The descriptor stays this process's, also if the number is given to another one.
            handle = os.pidfd_open(process)
        except OSError:
            continue
        try:
            marks = (entry / "environ").read_bytes().split(b"\0")
            if any(mark == wanted or mark.startswith(wanted + b"/") for mark in marks):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                killed.append(process)
        except OSError:
            continue
        finally:
            os.close(handle)
    return killed
