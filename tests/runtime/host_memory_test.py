"""Freed memory stays in the process: using it again costs no page faults."""

import pathlib
import platform
import subprocess
import sys

import pytest

from jaxlab.runtime import host_memory

ROOT = pathlib.Path(__file__).resolve().parents[2]
# The third time that 64 MiB are taken, written and freed.
PROGRAM = """
import ctypes, resource, threading
from jaxlab.runtime import host_memory
if {keep}:
    assert host_memory.keep_freed()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.memset.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
libc.free.argtypes = (ctypes.c_void_p,)
faults = []
def use():
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = libc.malloc(64 << 20)
        libc.memset(block, 1, 64 << 20)
        libc.free(block)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=use)
thread.start()
thread.join()
print(faults[2])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these switches")
def test_memory_freed_in_a_thread_is_used_again():
    done = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM.format(keep=keep)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        for keep in (False, True)
    ]
    mapped_anew, kept = (int(one.stdout) for one in done)
    assert kept < 64 < mapped_anew


# Small blocks, all freed but for one in a thousand, then a compilation.
HOLES = """
import ctypes, pathlib
from jaxlab.runtime import host_memory
assert host_memory.keep_freed()
import jax
jax.jit(lambda x: x + 1)(1.0).block_until_ready()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.memset.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
libc.free.argtypes = (ctypes.c_void_p,)
def resident_mib():
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20
blocks = [libc.malloc(8192) for _ in range(8192)]
for block in blocks:
    libc.memset(block, 1, 8192)
for i, block in enumerate(blocks):
    if i % 1000:
        libc.free(block)
before = resident_mib()
jax.jit(lambda x: x - 1)(1.0).block_until_ready()
print(before - resident_mib())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these switches")
def test_what_a_compilation_leaves_is_given_back():
    done = subprocess.run(
        [sys.executable, "-c", HOLES],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) > 30


def test_nothing_is_done_beside_an_accelerator(monkeypatch):
    monkeypatch.setattr(host_memory, "_PLUGINS", ("json",))
    assert not host_memory.keep_freed()
