"""Forward, and forward with backward, of our kernels and their peers at the size of the goals.

Every form gets the same arguments, q, k, v, log decay, erase and write, and differentiates all six:
scaling keys and values by the roots of their gates is part of each. What differs from ours, or does
not run, is a row that says so.
"""

from collections.abc import Callable
from typing import Any

import torch
import triton
from jaxlab_kernels.delta_rule import launches, torch_launch
from jaxlab_kernels.delta_rule.launches import Operands, Plan

from benchmarks.gpu import peers
from benchmarks.gpu.checks import precision_on, reason
from benchmarks.gpu.operands import TOLERANCES, Given, distance

OURS = "ours (torch launch)"
GOAL = 1.25
# The peers of the goal: forward, and forward with backward, at most GOAL times theirs.
COMPARED = ("fla chunk_kda", "fla chunk_kda, safe gate")
# Each of two results is within its bound of the truth.
PARITY = 2 * TOLERANCES["bfloat16"]
GRADIENTS = ("d_q", "d_k", "d_v", "d_g", "d_erase", "d_write")

Form = Callable[..., torch.Tensor]
Timer = Callable[[Callable[[], Any]], float]


class _Kernels(torch.autograd.Function):
    """Our kernels on tensors, for PyTorch to differentiate what comes before them."""

    @staticmethod
    def forward(ctx, plan, *operands):
        ctx.plan = plan
        ctx.save_for_backward(*operands)
        return torch_launch.forward(plan, Operands(*operands))

    @staticmethod
    def backward(ctx, d_out, d_last):
        operands = Operands(*ctx.saved_tensors)
        return None, *torch_launch.backward(ctx.plan, operands, d_out, d_last)


def ours(operands: Callable[..., Any], plan: Plan) -> Form:
    """(q, k, v, g, erase, write) -> output, by our kernels on operands(...)."""
    return lambda *arrays: _Kernels.apply(plan, *operands(*arrays))[0]


def plan_for(given: Given, processors: int) -> Plan:
    """The plan of these arguments."""
    operands = Operands(given.q, given.k, given.k, given.v, given.g, given.state)
    precision = precision_on(given.q.device.type)
    return launches.plan_of(operands, processors=processors, precision=precision)


def forwards(form: Form, given: Given) -> torch.Tensor:
    """The output alone, nothing kept for gradients."""
    with torch.no_grad():
        return form(*given[:6])


def both(form: Form, given: Given, d_out: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The output and the gradients of all six arguments."""
    leaves = [x.detach().requires_grad_() for x in given[:6]]
    out = form(*leaves)
    return (out, *torch.autograd.grad(out, leaves, d_out))


def median_ms(call: Callable[[], Any]) -> float:
    """Median over CUDA events, the cache emptied before each."""
    return float(triton.testing.do_bench(call, warmup=100, rep=400, return_mode="median"))


def ceilings() -> dict[str, float]:
    """Measured: bytes per second of a copy (read and written), operations per second of bf16."""
    return {"bytes_per_s": _bytes_per_s(), "flops_per_s": _flops_per_s()}


def _bytes_per_s() -> float:
    source = torch.randn(1 << 29, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / median_ms(lambda: target.copy_(source)) * 1e3


def _flops_per_s() -> float:
    x = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    return 2 * 8192**3 / median_ms(lambda: x @ x) * 1e3


def floor_ms(length: int, heads: int, dim: int, which: str, ceiling: dict[str, float]) -> float:
    """The roofline: the larger of bytes over bandwidth and operations over their rate.

    Bytes of a fused pass: q, k, v, both gates and the output in 16 bits, g in float32, each once;
    backwards the same arguments, the output's gradient, and a gradient for each. Operations:
    6 K V + 6 C K + 4 C V per token and head with C = 64; 2.5 times that backwards.
    """
    read = dim * (5 * 2 + 4)
    size, operations = read + 2 * dim, (6 * dim + 10 * 64) * dim
    if which == "both":
        size, operations = size + read + 2 * dim + read, operations * 3.5
    seconds = max(size / ceiling["bytes_per_s"], operations / ceiling["flops_per_s"])
    return 1e3 * length * heads * seconds


def compared(form: Form, expected: Form, given: Given, backward: bool) -> dict[str, float]:
    """Distances of a form from another: the output and, with backward, all gradients."""
    if not backward:
        return {"out": distance(forwards(form, given), forwards(expected, given))}
    torch.manual_seed(1)
    d_out = torch.randn_like(given.v)
    pairs = zip(both(form, given, d_out), both(expected, given, d_out), strict=True)
    return {n: distance(*p) for n, p in zip(("out", *GRADIENTS), pairs, strict=True)}


def time_form(
    name: str, form: Form, given: Given, backward: bool, timer: Timer = median_ms
) -> list[dict[str, Any]]:
    """Rows of the passes: ms or the reason why there is none."""
    d_out = torch.randn_like(given.v)
    calls = {"forward": lambda: forwards(form, given), "both": lambda: both(form, given, d_out)}
    rows = []
    for which, call in calls.items():
        row: dict[str, Any] = {"what": name, "pass": which}
        rows.append(row)
        if which == "both" and not backward:
            row["reason"] = "it has no gradients"
            continue
        try:
            row["ms"] = timer(call)
        except Exception as error:  # memory, a compiler, a driver: the other rows go on
            row["reason"] = reason(error)
    return rows


def time_peer(
    name: str, given: Given, plan: Plan, timer: Timer = median_ms
) -> list[dict[str, Any]]:
    """Rows of a peer: compared with ours on these arguments, and timed where it agrees."""
    package = peers.PACKAGES.get(name, "fla")
    try:
        peer = peers.PEERS[name](given)
        far = compared(peer.forward, ours(peer.operands, plan), given, peer.backward)
    except ModuleNotFoundError as error:
        absent = error.name == package
        why = f"{package} is not installed" if absent else f"refuses: {reason(error)}"
        return [{"what": name, "pass": which, "reason": why} for which in ("forward", "both")]
    except Exception as error:  # its import, its compiler or its checks
        why = f"refuses: {reason(error)}"
        return [{"what": name, "pass": which, "reason": why} for which in ("forward", "both")]
    worst = max(far, key=far.__getitem__)
    if not far[worst] <= PARITY:
        why = f"differs from ours on the same arguments: worst {worst} {far[worst]:.1e}; not timed"
        return [{"what": name, "pass": which, "reason": why} for which in ("forward", "both")]
    parity = {"parity": far[worst], "parity_worst": worst}
    return [{**row, **parity} for row in time_form(name, peer.forward, given, peer.backward, timer)]


def ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ours over each peer, pass by pass, and whether the goal is met where the peer has one."""
    times = {(row["what"], row["pass"]): row["ms"] for row in rows if "ms" in row}
    return [
        {"ours": our, "peer": peer, "pass": which, "ratio": ms / times[peer, which]}
        | ({"goal": GOAL, "met": ms / times[peer, which] <= GOAL} if peer in COMPARED else {})
        for peer in peers.PEERS
        for (our, which), ms in times.items()
        if our.startswith("ours") and (peer, which) in times
    ]


def told(row: dict[str, Any], floor: float, size: str) -> None:
    """Prints the line of a time."""
    result = row.get("reason") or f"{row['ms']:9.3f} ms = {row['ms'] / floor:5.1f} x floor"
    parity = f", {row['parity']:.0e} from ours" if "parity" in row else ""
    print(f"{row['what']:26} {row['pass']:8} {size} {result}{parity}", flush=True)


def told_ratio(row: dict[str, Any], size: str) -> None:
    """Prints the line of a ratio."""
    goal = ""
    if "goal" in row:
        goal = f", goal {row['goal']}: {'met' if row['met'] else 'MISSED'}"
    print(f"{row['ours']} : {row['peer']}, {row['pass']}, {size}: {row['ratio']:.2f}{goal}",
          flush=True)  # fmt: skip
