"""Compare this machine's accelerator with its CPU, and time it: decoder, sampling, losses, kernels.

    make gpu-check                      # PYTHON=... chooses the interpreter
    python benchmarks/gpu_check.py --json benchmarks/results/DATE-CHIP.json
    python benchmarks/gpu_check.py --skip-tests

Every part is computed on the accelerator and on the CPU of the same process, in float32 with the
highest matmul precision (the kernels' reference in float64), and must agree before it is timed.
On NVIDIA GPUs the kernels' tests follow, where pytest is installed, with everything on the chip.
`make gpu-check` goes on with `delta_rule_gpu.py`, which takes the Triton kernels alone, at full
size and beside their peers. What fails is a row with its reason, and the rest goes on. Exit code 1:
something failed or differs, or there is no accelerator.
"""

import argparse
import datetime
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

try:
    import jax
    import numpy as np
    from jaxlab_kernels.dispatch import Refusal

    from benchmarks.gpu import parts, suite
except ImportError as missing:
    sys.exit(f"gpu-check needs jax and numpy: {missing}")

# Largest |accelerator - CPU| of an array over its largest |CPU|: float32's 2^-24 in sums of up to
# 32 768 terms (a square root of them: 1e-5), a decoder deep. A gradient that is missing or has the
# wrong sign is at 1 or 2.
TOLERANCE = 1e-4


def devices() -> tuple[Any, Any]:
    """(the accelerator, the CPU).

    Raises:
        RuntimeError: there is no accelerator, or JAX cannot start; one line.
    """
    # The tests run beside this process, and PyTorch may.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    platforms = jax.config.jax_platforms
    if platforms and "cpu" not in platforms.split(","):  # JAX_PLATFORMS=cuda hides the CPU
        jax.config.update("jax_platforms", f"{platforms},cpu")
    try:
        device, host = jax.devices()[0], jax.devices("cpu")[0]
    except RuntimeError as error:
        raise RuntimeError(f"no accelerator: {_line(error)}") from None
    if device.platform == "cpu":
        raise RuntimeError("no accelerator: jax sees CPUs only (a CUDA or TPU jaxlib is needed)")
    return device, host


def measure(call: Callable[..., Any], arguments: Any, device: Any, repeats: int = 5
            ) -> tuple[Any, float]:  # fmt: skip
    """The result as NumPy arrays, and the median of the timed calls in seconds."""
    with jax.default_device(device):
        placed = jax.device_put(arguments, device)
        result = jax.block_until_ready(call(*placed))
        seconds = []
        for _ in range(repeats):
            begin = time.perf_counter()
            jax.block_until_ready(call(*placed))
            seconds.append(time.perf_counter() - begin)
    return jax.device_get(result), float(np.median(seconds)) if seconds else math.nan


def reference(part: parts.Part, host: Any) -> tuple[Any, float | None]:
    """What the CPU computes, and its time where it is the same computation."""
    if part.exact is None:
        return measure(part.call, part.arguments, host)
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda x: x.astype(np.float64), part.arguments)
        return measure(part.exact, exact, host, repeats=0)[0], None


def distances(actual: Any, expected: Any) -> dict[str, float]:
    """By array: largest |difference| over the largest |expected|; of whole numbers the count.

    Infinite where something is not finite.
    """
    named = jax.tree_util.tree_leaves_with_path(actual)
    pairs = zip(named, jax.tree.leaves(expected), strict=True)
    return {_name(path): _distance(x, y) for (path, x), y in pairs}


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".") or "out"


def _distance(actual: Any, expected: Any) -> float:
    actual, expected = np.asarray(actual), np.asarray(expected)
    if actual.shape != expected.shape:
        return math.inf
    if np.issubdtype(expected.dtype, np.integer):
        return float(np.sum(actual != expected))
    actual, expected = actual.astype(np.float64), expected.astype(np.float64)
    if not (np.isfinite(actual) & np.isfinite(expected)).all():
        return math.inf
    largest = np.max(np.abs(expected), initial=0.0)
    return float(np.max(np.abs(actual - expected), initial=0.0) / (largest or 1.0))


def compare(make: Callable[[], parts.Part], device: Any, host: Any) -> dict[str, Any]:
    """The row of a part: ok (None: not run), and reason, or distances and, where ok, seconds."""
    try:
        with jax.default_device(host):
            part = make()
        expected, host_seconds = reference(part, host)
        actual, seconds = measure(part.call, part.arguments, device)
        found = distances(actual, expected)
    except Refusal as reason:  # not possible here, which is no fault of the part
        return {"ok": None, "reason": _line(reason)}
    except ModuleNotFoundError as error:
        absent = (error.name or "").partition(".")[0]
        ours = absent in ("jaxlab", "jaxlab_kernels", "benchmarks")
        return {"ok": False if ours else None, "reason": str(error)}
    except Exception as error:  # a compiler's or a driver's: the other parts go on
        return {"ok": False, "reason": _line(error)}
    worst = max(found, key=found.__getitem__)
    row: dict[str, Any] = {
        # JSON knows no infinity.
        "ok": found[worst] <= TOLERANCE, "worst": worst,
        "distances": {n: x if math.isfinite(x) else str(x) for n, x in found.items()},
    }  # fmt: skip
    return row | ({"seconds": seconds, "host_seconds": host_seconds} if row["ok"] else {})


def told(name: str, row: dict[str, Any]) -> str:
    """A line."""
    mark = {True: "ok  ", False: "FAIL", None: "    "}[row["ok"]]
    if "reason" in row:
        return f"{mark} {name:20} {'not run' if row['ok'] is None else 'failed'}: {row['reason']}"
    if "passed" in row:
        return (f"{mark} {name:20} {row['passed']} passed, {len(row['failed'])} failed, "
                f"{len(row['skipped'])} skipped")  # fmt: skip
    line = f"{mark} {name:20} worst {row['worst']} {float(row['distances'][row['worst']]):.1e}"
    if not row["ok"]:
        return f"{line}, not timed"
    line += f"  {row['seconds'] * 1e3:9.3f} ms"
    host_seconds = row["host_seconds"]
    return line if host_seconds is None else f"{line}, CPU {host_seconds * 1e3:9.3f} ms"


def _line(error: BaseException) -> str:
    """Type and text in one line."""
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, Refusal) else f"{type(error).__name__}: {text}"


def main(argv: list[str] | None = None) -> int:
    """Check, time, print; write JSON if asked, after every row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=pathlib.Path, help="also write the rows here")
    parser.add_argument("--skip-tests", action="store_true", help="do not run the kernels' tests")
    args = parser.parse_args(argv)
    try:
        device, host = devices()
    except RuntimeError as error:
        print(error)
        return 1
    record: dict[str, Any] = {
        "date": datetime.date.today().isoformat(), "device": device.device_kind,
        "jax": jax.__version__, "rows": [],
    }  # fmt: skip
    print(f"{device.device_kind} beside this machine's CPU, jax {jax.__version__}")

    def add(name: str, row: dict[str, Any]) -> None:
        record["rows"].append({"part": name, **row})
        print(told(name, row), flush=True)
        if args.json:
            args.json.write_text(json.dumps(record, indent=1) + "\n")

    with jax.default_matmul_precision("highest"):
        for name, make in parts.PARTS.items():
            add(name, compare(make, device, host))
    if not args.skip_tests:
        print("the kernels' tests:", flush=True)
        only = {"ok": None, "reason": f"they are for NVIDIA GPUs, this is {device.platform}"}
        add("tests", suite.run() if device.platform == "gpu" else only)
    return int(any(row["ok"] is False for row in record["rows"]))


if __name__ == "__main__":
    sys.exit(main())
