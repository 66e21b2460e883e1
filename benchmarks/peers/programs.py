"""Compiled programs of one contender of `benchmarks/kernels.py`, built and timed on request."""

import gc
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Program(NamedTuple):
    """A call without arguments that ends when its arrays are there, and its memory.

    Attributes:
        call: returns named arrays.
        temporary: MB of temporaries, if known.
        kept: MB of inputs and outputs, if known.
    """

    call: Callable[[], Mapping[str, Any]]
    temporary: float | None = None
    kept: float | None = None


class Programs:
    """Answers requests of `turns.serve`."""

    def __init__(self, build: Callable[..., Program]):
        """Programs come from `build`, whose arguments are those of `make`."""
        self._build = build
        self._programs: dict[str, Program] = {}
        self._repeats: dict[str, int] = {}

    def __call__(self, do: str, **request: Any) -> dict[str, Any]:
        """Do what is asked: "make", "time", "save" or "drop"."""
        return getattr(self, do)(**request) or {}

    def make(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Build a program under a name; the reply is its memory."""
        program = self._programs[name] = self._build(**arguments)
        return {"temporary": program.temporary, "kept": program.kept}

    def time(self, name: str) -> dict[str, float]:
        """Run it twice; the second run counts, whose memory is back in the caches.

        Short programs run as often as fills 5 ms, and the mean of that counts. The reply is
        the processor time in milliseconds.
        """
        call = self._programs[name].call
        call()
        if name not in self._repeats:
            start = time.process_time()
            call()
            spent = time.process_time() - start
            self._repeats[name] = max(1, math.ceil(0.005 / max(spent, 1e-5)))
        start = time.process_time()
        for _ in range(self._repeats[name]):
            call()
        return {"milliseconds": 1e3 * (time.process_time() - start) / self._repeats[name]}

    def save(self, name: str, path: str) -> None:
        """Run it once and write its arrays as .npz."""
        np.savez(path, **{key: np.asarray(x) for key, x in self._programs[name].call().items()})

    def drop(self) -> None:
        """Forget all programs and their memory."""
        self._programs.clear()
        self._repeats.clear()
        gc.collect()
