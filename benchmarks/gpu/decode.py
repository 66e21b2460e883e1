"""One token of many sequences: checked against the recurrence, then its share of the bandwidth."""

import functools
from typing import Any

import torch
from jaxlab_kernels.delta_rule import launches, torch_launch
from jaxlab_kernels.delta_rule.launches import Operands
from jaxlab_kernels.delta_rule.rule import Rule

from benchmarks.gpu import jax_times
from benchmarks.gpu.checks import judged, reason, told
from benchmarks.gpu.operands import distance, recurrence
from benchmarks.gpu.times import median_ms

GOAL = 0.55
# Relative, of float32 with sums of 128.
TOLERANCE = 1e-5
# Bytes per second, by part of the device's name: NVIDIA's data sheets.
DATA_SHEETS = {"H200": 4.8e12, "H100 80GB HBM3": 3.35e12, "B200": 8e12}


def arguments(batch: int, heads: int, dim: int, device: str) -> tuple[torch.Tensor, ...]:
    """q, k, v, log decay, erase, write, state: float32, gates in (0, 1)."""
    torch.manual_seed(1)
    front = (batch, heads)
    q, k, v = (torch.nn.functional.normalize(torch.randn(*front, dim, device=device), dim=-1)
               for _ in range(3))  # fmt: skip
    g = -torch.rand(*front, dim, device=device)
    erase, write = (torch.rand(*front, dim, device=device) for _ in range(2))
    return q, k, v, g, erase, write, torch.randn(*front, dim, dim, device=device)


def step(x: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and new state, in one launch."""
    return launches.step(torch_launch.launch, Rule(), 1.0, *x)


def check(x: tuple[torch.Tensor, ...]) -> dict[str, float]:
    """Distances of the first sequence from the recurrence in float64."""
    q, k, v, g, erase, write, state = (y[:1].double().cpu() for y in x)
    a, z = erase.sqrt() * k, write.sqrt() * v
    expected = recurrence(Operands(*(y[:, None] for y in (q, a, a, z, g)), state))
    out, new = step(x)
    return {"out": distance(out[:1], expected[0][:, 0]), "state": distance(new[:1], expected[1])}


def run(device: str, ceiling: dict[str, float] | None, batch: int, heads: int, dim: int,
        name: str = "") -> list[dict[str, Any]]:  # fmt: skip
    """A row of one launch on tensors; with ceilings, also of JAX where it has the GPU, and timed.

    The state's bytes, read and written, are compared with the
    bandwidth: the data sheet's of a chip of this name, else that of a copy.
    """
    x = arguments(batch, heads, dim, device)
    rows = [judged({"what": "decode (torch launch)"}, TOLERANCE, lambda: check(x))]
    timers = [lambda: median_ms(lambda: step(x))]
    if ceiling and jax_times.platform() == "gpu":
        for implementation in jax_times.STEPS:
            same = functools.partial(jax_times.check_step, implementation, x, step)
            rows.append(judged({"what": f"decode (jax, {implementation})"}, TOLERANCE, same))
            timers.append(functools.partial(jax_times.step_ms, implementation, x))
    for row, timer in zip(rows, timers, strict=True):
        told(row, f"{row['what']}, B={batch} H={heads} D={dim}")
        if row["ok"] and ceiling:
            try:
                row |= shares(timer(), x[-1].numel(), ceiling, name)
            except Exception as error:  # memory or a driver: the other rows go on
                row |= {"ok": False, "reason": reason(error)}
                told(row, f"{row['what']}, timed:")
    return rows


def shares(ms: float, numbers: int, ceiling: dict[str, float], name: str) -> dict[str, Any]:
    """What a time of a state of float32 numbers is of the bandwidth; printed."""
    rate = 2 * numbers * 4 / ms * 1e3
    sheet = next((y for part, y in DATA_SHEETS.items() if part in name), None)
    share, of_copy = rate / (sheet or ceiling["bytes_per_s"]), rate / ceiling["bytes_per_s"]
    of = "the data sheet's" if sheet else "a copy's"
    met = share >= GOAL
    print(f"     {ms:.3f} ms, {100 * of_copy:.0f} % of a copy's bandwidth; {100 * share:.0f} % of "
          f"{of}, goal {100 * GOAL:.0f} %: {'met' if met else 'MISSED'}", flush=True)  # fmt: skip
    return {"ms": ms, "of_copy": of_copy, "share": share, "share_of": of, "goal": GOAL, "met": met}
