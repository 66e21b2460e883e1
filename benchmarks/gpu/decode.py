"""One token of many sequences: checked against the recurrence, then its share of the bandwidth."""

from typing import Any

import torch
from jaxlab_kernels.delta_rule import launches, torch_launch
from jaxlab_kernels.delta_rule.launches import Operands
from jaxlab_kernels.delta_rule.rule import Rule

from benchmarks.gpu.checks import judged, told
from benchmarks.gpu.operands import distance, recurrence
from benchmarks.gpu.times import median_ms

GOAL = 0.55
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
        name: str = "") -> dict[str, Any]:  # fmt: skip
    """A row; with ceilings also the time, and the state's bytes over it as a share of bandwidth."""
    x = arguments(batch, heads, dim, device)
    row = {"what": "decode", "batch": batch, "heads": heads, "dim": dim}
    row = judged(row, 1e-5, lambda: check(x))
    told(row, f"one token, B={batch} H={heads} D={dim}")
    if not (row["ok"] and ceiling):
        return row
    row["ms"] = median_ms(lambda: step(x))
    rate = 2 * x[-1].numel() * 4 / row["ms"] * 1e3
    row["of_copy"] = rate / ceiling["bytes_per_s"]
    sheet = next((y for part, y in DATA_SHEETS.items() if part in name), None)
    of = "the data sheet's" if sheet else "a copy's"
    row["share"] = rate / (sheet or ceiling["bytes_per_s"])
    row |= {"share_of": of, "goal": GOAL, "met": row["share"] >= GOAL}
    print(f"     {row['ms']:.3f} ms, {100 * row['of_copy']:.0f} % of a copy's bandwidth; "
          f"{100 * row['share']:.0f} % of {of}, goal {100 * GOAL:.0f} %: "
          f"{'met' if row['met'] else 'MISSED'}", flush=True)  # fmt: skip
    return row
