"""How fast a run is, and where its time goes: step times, trace windows, FLOP estimates, MFU."""

import collections
import math
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


class StepTimer:
    """Times between successive `tick`s, without those that hold compilation."""

    def __init__(
        self,
        warmup: int = 1,
        window: int = 100,
        clock: Callable[[], float] = time.perf_counter,
    ):
        """Starts the clock.

        Args:
            warmup: how many of the first intervals to leave out.
            window: how many of the last intervals `seconds` looks at.
            clock: seconds, for tests.
        """
        self._skip, self._clock = warmup, clock
        self._intervals: collections.deque[float] = collections.deque(maxlen=window)
        self._last = clock()

    def tick(self) -> None:
        """Ends an interval and starts the next."""
        now = self._clock()
        if self._skip > 0:
            self._skip -= 1
        else:
            self._intervals.append(now - self._last)
        self._last = now

    @property
    def seconds(self) -> float:
        """Median seconds per step in the window; NaN before the first counted one."""
        return statistics.median(self._intervals) if self._intervals else math.nan


class TraceWindow:
    """Records a `jax.profiler` trace of the steps start .. start + steps - 1 into a directory.

    View it with xprof or TensorBoard's profile tab.
    """

    def __init__(self, start: int, steps: int, directory: str | os.PathLike):
        """Sets the window; `steps` 0 means no trace."""
        self._start, self._stop = start, start + steps
        self._directory = os.fspath(directory)
        self._tracing = False

    def step(self, step: int) -> jax.profiler.StepTraceAnnotation:
        """Opens or closes the trace as needed; run the step inside the annotation returned."""
        if not self._tracing and self._start <= step < self._stop:
            jax.profiler.start_trace(self._directory)
            self._tracing = True
        elif self._tracing and step >= self._stop:
            self.close()
        return jax.profiler.StepTraceAnnotation("train", step_num=step)

    def close(self) -> None:
        """Ends a trace that is still open."""
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False


def param_count(tree: Any) -> int:
    """The number of scalars in a tree of arrays or of `jax.ShapeDtypeStruct`."""
    return sum(math.prod(np.shape(leaf)) for leaf in jax.tree.leaves(tree))


def decoder_flops(
    params: int,
    tokens: int,
    *,
    backward: bool = True,
    layers: int = 0,
    attention_dim: int = 0,
    context: int = 0,
) -> float:
    """Estimates the FLOPs of a decoder over some tokens.

    2 N per token for the forward pass and twice as much again for the backward pass (Kaplan et
    al. 2020, arXiv:2001.08361, section 2.1), plus, if given, attention's
    4 x layers x attention_dim x context for the forward pass (Chowdhery et al. 2022,
    arXiv:2204.02311, appendix B), which counts the full square and not its causal half.

    Args:
        params: N, the parameters that each token is multiplied with: without the input embedding,
            and of the experts only the active ones.
        tokens: number of tokens.
        backward: count the backward pass too.
        layers: number of attention layers.
        attention_dim: heads x head size.
        context: the sequence length.
    """
    forward = 2.0 * params + 4.0 * layers * attention_dim * context
    return (3.0 if backward else 1.0) * forward * tokens


def mfu(
    flops_per_step: float, seconds_per_step: float, peak_flops_per_second: float, devices: int = 1
) -> float:
    """Model FLOP utilisation, 0..1: the share of the devices' peak that the model's FLOPs use."""
    return flops_per_step / (seconds_per_step * peak_flops_per_second * devices)


def peak_memory_bytes() -> int:
    """The largest resident set that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
