"""The Triton kernels, launched on PyTorch tensors, against the recurrence and against themselves.

A row has `ok`, and distances by array or the reason why there are none.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from jaxlab_kernels.delta_rule import launches, torch_launch
from jaxlab_kernels.delta_rule.launches import Launch, Operands, Plan
from jaxlab_kernels.dispatch import Refusal

from benchmarks.gpu.operands import TOLERANCES, distance, random_operands, recurrence

NAMES = ("out", "last", *(f"d_{name}" for name in Operands._fields))
# (B, T, H, D), tokens that share memory: more programs than a grid's second axis takes, and arrays
# whose last elements 32 bits do not count.
LIMITS = {"programs": (1, 2112, 2048, 16), "elements": (1, 8200, 2048, 128)}
# What lives at once, in arrays of q's size, by what `launches` makes: 8 forwards and 18 with the
# backward pass, and some room.
MEMORY = {"forward": 10, "both": 22}


def precision_on(device: str) -> str | None:
    """Triton's interpreter, on a CPU, multiplies 16 bits as float32 only."""
    return "ieee" if device == "cpu" else None


def results(
    plan: Plan, x: Operands, d_out: Any, d_last: Any, launch: Launch = torch_launch.launch
) -> tuple[Any, ...]:
    """Output, last state and every gradient, in the order of `NAMES`."""
    gradients = launches.backward(launch, plan, x, d_out, d_last)
    if plan.head_decay:
        gradients = gradients._replace(g=gradients.g.sum(-1))
    return (*launches.forward(launch, plan, x), *gradients)


def two_warps(kernel: Any, grid: int, arguments: Any, outputs: Any, **meta: Any) -> list[Any]:
    """A launch with two warps: four miscompiled gated chunks on Hopper before (fla 807, 988)."""
    return torch_launch.launch(kernel, grid, arguments, outputs, **{**meta, "num_warps": 2})


def check(plan: Plan, x: Operands, launch: Launch = torch_launch.launch) -> dict[str, float]:
    """Distances from the recurrence in float64 on the CPU."""
    d_out, d_last = torch.randn_like(x.z), torch.randn_like(x.state)
    exact = Operands(*(y.detach().double().cpu().requires_grad_() for y in x))
    out, last = recurrence(exact)
    torch.autograd.backward([out, last], [d_out.double().cpu(), d_last.double().cpu()])
    expected = (out, last, *(y.grad for y in exact))
    actual = results(plan, x, d_out, d_last, launch)
    return {n: distance(*pair) for n, *pair in zip(NAMES, actual, expected, strict=True)}


def plan_like(operands: Operands, heads: int, processors: int) -> Plan:
    """The plan of a call with so many heads and a batch of 1, at the sizes of these operands."""
    batch, length, _, key_dim = operands.q.shape
    wide = operands.z.shape[-1]
    fields = Operands(*(x[:1, :, :1].expand(1, -1, heads, *x.shape[3:]) for x in operands[:5]),
                      operands.state[:1, :1].expand(1, heads, key_dim, wide))  # fmt: skip
    plan = launches.plan_of(
        fields, processors=processors, precision=precision_on(operands.q.device.type)
    )
    return dataclasses.replace(plan, batch=batch, length=length, heads=operands.q.shape[2])


def judged(row: dict[str, Any], tolerance: float, distances: Callable[[], dict[str, float]]
           ) -> dict[str, Any]:  # fmt: skip
    """The row with distances, or with the reason why there are none, and `ok`."""
    try:
        found = distances()
    except Refusal as error:  # not possible here, which is no fault of the kernels
        return {**row, "ok": None, "reason": " ".join(str(error).split())}
    except Exception as error:  # of a compiler or a driver: the other rows go on
        return {**row, "ok": False, "reason": reason(error)}
    # JSON knows no infinity.
    written = {n: x if x < float("inf") else "infinite" for n, x in found.items()}
    return {**row, "ok": max(found.values()) <= tolerance, "distances": written}


def reason(error: Exception) -> str:
    """Type and text in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def told(row: dict[str, Any], what: str) -> None:
    """Prints a line."""
    mark = {True: "ok  ", False: "FAIL", None: "    "}[row["ok"]]
    if "reason" in row:
        text = f"{'not run' if row['ok'] is None else 'failed'}: {row['reason']}"
    else:
        worst = max(row["distances"], key=lambda n: float(row["distances"][n]))
        text = f"worst {worst} {float(row['distances'][worst]):.1e}"
    print(f"{mark} {what} {text}", flush=True)


def check_all(device: str, processors: int, interpret: bool) -> list[dict[str, Any]]:
    """One row per dtype, kind of decay and block sizes."""
    rows = []
    cases = [(decays, False) for decays in ("mild", "mixed")] + [("mild", True)]
    for dtype in ("float32", *(() if interpret else ("bfloat16",))):
        for dim in (16,) if interpret else (64, 128, 256):
            for heads in (processors, 1):
                for decays, head_decay in cases:
                    sizes = (1, 70 if interpret else 200, 2, dim, dim)
                    x = random_operands(sizes, dtype, device, decays=decays, head_decay=head_decay)
                    plan = plan_like(x, heads, processors)
                    row = {
                        "dtype": dtype, "dim": dim, "decays": decays, "head_decay": head_decay,
                        "fused_outputs": plan.fused_outputs, "value_block": plan.value_block,
                    }  # fmt: skip
                    row = judged(row, TOLERANCES[dtype], lambda p=plan, x=x: check(p, x))
                    kind = "head" if head_decay else "channel"
                    what = (f"{dtype:9} D={dim:<4} {decays:6} {kind:8} BV={plan.value_block:<3} "
                            f"fused={plan.fused_outputs!s:5}")  # fmt: skip
                    told(row, what)
                    if not row["ok"]:
                        again = judged({}, TOLERANCES[dtype],
                                       lambda p=plan, x=x: check(p, x, two_warps))  # fmt: skip
                        told(again, f"{what} with two warps")
                        row["with_two_warps"] = again
                    rows.append(row)
    return rows


def check_whole(
    length: int, heads: int, dim: int, processors: int, device: str = "cuda"
) -> dict[str, Any]:
    """bfloat16 against float32 at the size that is timed, both by the kernels."""

    def distances() -> dict[str, float]:
        narrow = random_operands((1, length, heads, dim, dim), "bfloat16", device)
        wide = Operands(*(x.float() for x in narrow))
        d_out, d_last = torch.randn_like(narrow.z), torch.randn_like(narrow.state)
        both = []
        for x in (narrow, wide):
            plan = launches.plan_of(x, processors=processors, precision=precision_on(device))
            both.append(results(plan, x, d_out.to(x.z.dtype), d_last))
        return {n: distance(x, y) for n, x, y in zip(NAMES, *both, strict=True)}

    row = judged({"what": "whole", "heads": heads}, TOLERANCES["bfloat16"], distances)
    told(row, f"bfloat16 against float32 at H={heads} T={length} D={dim}")
    return row


def check_limits(
    device: str, processors: int, free: int, sizes: dict[str, tuple[int, ...]] = LIMITS
) -> list[dict[str, Any]]:
    """Large calls: heads at both ends and in the middle against the same heads by themselves.

    Each small call is the same computation with the same blocks. `free` is the memory in bytes; a
    backward pass, or all of it, that needs more is left out, which the row says.
    """
    rows = []
    for what, (batch, length, heads, dim) in sizes.items():
        elements = batch * length * heads * dim
        needs = {which: times * 2 * elements for which, times in MEMORY.items()}
        row = {"what": what, "sizes": [batch, length, heads, dim]}
        line = f"{what:8} T={length} H={heads} D={dim}, {elements:,} elements:"
        if needs["forward"] > free:
            row |= {"ok": None, "reason": f"needs {needs['forward'] / 1e9:.0f} GB, has "
                                          f"{free / 1e9:.0f}"}  # fmt: skip
        else:
            backward = needs["both"] <= free
            row["backward"] = backward
            sizes_ = (batch, length, heads, dim)
            row = judged(row, TOLERANCES["bfloat16"],
                         lambda s=sizes_, b=backward: _ends(s, device, processors, b))  # fmt: skip
            line += "" if backward else f" forwards alone ({free / 1e9:.0f} GB):"
        told(row, line)
        rows.append(row)
        if device == "cuda":
            torch.cuda.empty_cache()
    return rows


def _ends(sizes: tuple[int, ...], device: str, processors: int, backward: bool) -> dict[str, float]:
    batch, length, heads, dim = sizes
    torch.manual_seed(0)
    few = min(16, -(-heads // 3))
    # One array for q, a, b, z and the output's gradient, and a decay per head: little memory.
    x = torch.empty(batch, length, heads, dim, dtype=torch.bfloat16, device=device)
    for h in range(0, heads, few):
        part = torch.randn(batch, length, few, dim, device=device)
        x[:, :, h : h + few] = torch.nn.functional.normalize(part, dim=-1)
    g = -0.5 * torch.rand(batch, length, heads, device=device)
    state = torch.randn(batch, heads, dim, dim, device=device)
    whole = Operands(x, x, x, x, g, state)
    plan = launches.plan_of(whole, processors=processors, precision=precision_on(device))

    def run(plan: Plan, x: Operands) -> tuple[Any, ...]:
        if backward:
            return results(plan, x, x.z, x.state)
        return torch_launch.forward(plan, x)

    of_all = run(plan, whole)
    found: dict[str, float] = {}
    for first in (0, (heads - few) // 2, heads - few):
        place = slice(first, first + few)
        some = Operands(*(y[:, :, place].contiguous() for y in whole[:5]),
                        state[:, place].contiguous())  # fmt: skip
        alone = run(dataclasses.replace(plan, heads=few), some)
        for name, actual, expected in zip(NAMES, of_all, alone, strict=False):
            by_head = 1 if name in ("last", "d_state") else 2
            far = distance(actual.narrow(by_head, first, few), expected)
            found[name] = max(found.get(name, 0.0), far)
    return found
