"""Where a run's time goes: trace windows, model FLOP utilisation (MFU)."""

import os
import resource
import sys

import jax


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


# Device kind as JAX names it -> bfloat16 FLOPs per second of one device, from the vendors' data
# sheets, without sparsity.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
}


def mfu(flops_per_second: float, devices: int) -> float | None:
    """Model FLOP utilisation, 0..1, of so many devices; None where their peak is not known."""
    peak = PEAK_FLOPS.get(jax.devices()[0].device_kind)
    return None if peak is None else flops_per_second / (peak * devices)


def peak_memory_bytes() -> int:
    """The largest resident set that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
