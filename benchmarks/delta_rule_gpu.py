"""The Triton kernels of the gated delta rule on this machine's GPU: check, then time beside peers.

    make gpu-check                                     # runs this too; PYTHON= chooses
    python benchmarks/delta_rule_gpu.py --json OUT.json
    python benchmarks/delta_rule_gpu.py --interpret    # no GPU: check through Triton's interpreter

Needs torch and triton; jax_triton, fla and flash_kda are used where they are installed. Outputs,
last states and every gradient are compared with the recurrence in float64 on the CPU, at the block
sizes that are then timed; what fails is not timed. Times are medians of CUDA events. The floor of a
row is the larger of its bytes over the measured copy bandwidth and its operations over the measured
rate of a bfloat16 matrix product.
"""

import argparse
import dataclasses
import datetime
import importlib.util
import json
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "kernels"))
if "--interpret" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported

try:
    import torch
    import triton
except ImportError as error:
    print(f"the Triton kernels by PyTorch: not run ({error})")
    sys.exit(0)

from jaxlab_kernels.delta_rule import launches, torch_launch
from jaxlab_kernels.delta_rule.launches import Operands, Plan
from jaxlab_kernels.delta_rule.rule import Rule
from jaxlab_kernels.delta_rule.triton_versions import check_triton

# Relative Euclidean distance from the float64 recurrence on the same (rounded) arguments. float32
# is three TF32 products of 2^-11 each; bfloat16 rounds every operand of a product by 2^-9, a
# handful of products deep. Under the interpreter bfloat16 is cut off, not rounded.
TOLERANCES = {"float32": 2e-5, "bfloat16": 2e-2}
LENGTH, DIM = 8192, 128
HEADS = (64, 16)


def random_operands(
    plan_sizes: tuple[int, int, int, int, int], dtype: str, device: str, *,
    decays: str = "mild", head_decay: bool = False, seed: int = 0,
) -> Operands:  # fmt: skip
    """q and keys of norm 1; a = b = sqrt(gate) k, z = sqrt(gate) v as in FG2-GDN+."""
    batch, length, heads, key_dim, value_dim = plan_sizes
    torch.manual_seed(seed)
    kind = {"dtype": torch.float32, "device": device}
    front = (batch, length, heads)

    def unit(*shape):
        return torch.nn.functional.normalize(torch.randn(*shape, **kind), dim=-1)

    wide = front if head_decay else (*front, key_dim)
    g = -0.5 * torch.rand(*wide, **kind)
    if decays == "mixed":
        g = torch.where(torch.rand(*wide, **kind) < 0.1, -20.0 + 0 * g, g)
    keys = torch.rand(*front, key_dim, **kind).sqrt() * unit(*front, key_dim)
    target = torch.rand(*front, value_dim, **kind).sqrt() * torch.randn(*front, value_dim, **kind)
    narrow = getattr(torch, dtype)
    q, a, z = (x.to(narrow) for x in (unit(*front, key_dim) * key_dim**-0.5, keys, target))
    state = torch.randn(batch, heads, key_dim, value_dim, **kind)
    return Operands(q, a, a.clone(), z, g, state)


def recurrence(x: Operands) -> tuple[torch.Tensor, torch.Tensor]:
    """The definition, token by token."""
    state, out = x.state, []
    decay = torch.exp(x.g if x.g.ndim == 4 else x.g[..., None])
    for t in range(x.q.shape[1]):
        state = decay[:, t, :, :, None] * state
        u = x.z[:, t] - torch.einsum("bhk,bhkv->bhv", x.a[:, t], state)
        state = state + x.b[:, t, :, :, None] * u[:, :, None, :]
        out.append(torch.einsum("bhk,bhkv->bhv", x.q[:, t], state))
    return torch.stack(out, 1), state


def distance(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative Euclidean distance; infinite where something is not finite."""
    actual = actual.detach().double().cpu()
    if not torch.isfinite(actual).all():
        return float("inf")
    return float(torch.linalg.norm(actual - expected) / torch.linalg.norm(expected))


def check(plan: Plan, operands: Operands) -> dict[str, float]:
    """Distances of the output, the last state and every gradient."""
    d_out = torch.randn_like(operands.z)
    d_last = torch.randn_like(operands.state)
    exact = Operands(*(x.detach().double().cpu().requires_grad_() for x in operands))
    out, last = recurrence(exact)
    torch.autograd.backward([out, last], [d_out.double().cpu(), d_last.double().cpu()])
    ours = torch_launch.forward(plan, operands)
    gradients = torch_launch.backward(plan, operands, d_out, d_last)
    rows = {"out": distance(ours[0], out.detach()), "last": distance(ours[1], last.detach())}
    pairs = zip(Operands._fields, gradients, exact, strict=True)
    return rows | {f"d_{name}": distance(x, y.grad) for name, x, y in pairs}


def plan_like(operands: Operands, heads: int, processors: int, interpret: bool) -> Plan:
    """The plan of a call with so many heads and a batch of 1, at the sizes of these operands."""
    batch, length, _, key_dim = operands.q.shape
    wide = operands.z.shape[-1]
    fields = Operands(*(x[:1, :, :1].expand(1, -1, heads, *x.shape[3:]) for x in operands[:5]),
                      operands.state[:1, :1].expand(1, heads, key_dim, wide))  # fmt: skip
    plan = launches.plan_of(fields, processors=processors, precision="ieee" if interpret else None)
    return dataclasses.replace(plan, batch=batch, length=length, heads=operands.q.shape[2])


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
                    plan = plan_like(x, heads, processors, interpret)
                    distances = check(plan, x)
                    rows.append({
                        "dtype": dtype, "dim": dim, "decays": decays, "head_decay": head_decay,
                        "fused_outputs": plan.fused_outputs, "value_block": plan.value_block,
                        "distances": distances, "ok": max(distances.values()) <= TOLERANCES[dtype],
                    })  # fmt: skip
                    print_check(rows[-1])
    return rows


def print_check(row: dict[str, Any]) -> None:
    """One line."""
    worst = max(row["distances"], key=row["distances"].get)
    kind = "head" if row["head_decay"] else "channel"
    print(f"{'ok  ' if row['ok'] else 'FAIL'} {row['dtype']:9} D={row['dim']:<4} {row['decays']:6} "
          f"{kind:8} BV={row['value_block']:<3} fused={row['fused_outputs']!s:5} "
          f"worst {worst} {row['distances'][worst]:.1e}", flush=True)  # fmt: skip


def median_ms(call: Callable[[], Any]) -> float:
    """Median over CUDA events."""
    return float(triton.testing.do_bench(call, warmup=100, rep=400, return_mode="median"))


def ceilings() -> dict[str, float]:
    """Measured: bytes per second of a copy (read and written), operations per second of bf16."""
    big = torch.randn(1 << 29, device="cuda")
    other = torch.empty_like(big)
    copy = 2 * big.numel() * 4 / median_ms(lambda: other.copy_(big)) * 1e3
    del big, other
    x = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    return {"bytes_per_s": copy, "flops_per_s": 2 * 8192**3 / median_ms(lambda: x @ x) * 1e3}


def model(heads: int, backward: bool) -> tuple[float, float]:
    """(bytes, operations) of a fused pass at T = LENGTH, K = V = DIM.

    Bytes: q, k, v, both gates and the output in 16 bits, g in float32, each once; backwards the
    same arguments, the output's gradient, and a gradient for each. Operations: 6 K V + 6 C K +
    4 C V per token and head with C = 64; 2.5 times that backwards.
    """
    tokens = LENGTH * heads
    read = DIM * (5 * 2 + 4)
    operations = (6 * DIM + 10 * 64) * DIM
    if not backward:
        return tokens * (read + 2 * DIM), tokens * operations
    return tokens * (2 * read + 2 * DIM + read + 2 * DIM), tokens * operations * 3.5


def prescaled(k, v, erase, write):
    """What FG2-GDN+ does before any kernel of this family can run; timed with each of them."""
    a = erase.sqrt() * k
    return a, write.sqrt() * v


def check_whole(heads: int, processors: int) -> dict[str, Any]:
    """bfloat16 against float32 at the size that is timed, both by the kernels."""
    narrow = random_operands((1, LENGTH, heads, DIM, DIM), "bfloat16", "cuda")
    wide = Operands(*(x.float() for x in narrow))
    d_out, d_last = torch.randn_like(narrow.z), torch.randn_like(narrow.state)
    results = []
    for x in (narrow, wide):
        plan = launches.plan_of(x, processors=processors)
        gradients = torch_launch.backward(plan, x, d_out.to(x.z.dtype), d_last)
        results.append((*torch_launch.forward(plan, x), *gradients))
    names = ("out", "last", *(f"d_{name}" for name in Operands._fields))
    distances = {n: distance(x, y.double().cpu()) for n, x, y in zip(names, *results, strict=True)}
    worst = max(distances, key=distances.__getitem__)
    good = distances[worst] <= TOLERANCES["bfloat16"]
    print(f"{'ok  ' if good else 'FAIL'} bfloat16 against float32 at H={heads} T={LENGTH} D={DIM} "
          f"worst {worst} {distances[worst]:.1e}", flush=True)  # fmt: skip
    return {"what": "whole", "heads": heads, "distances": distances, "ok": good}


def time_sequences(heads: int, processors: int, ceiling: dict[str, float]) -> list[dict[str, Any]]:
    """Forward and forward with backward: ours and the peers that are installed."""
    x = random_operands((1, LENGTH, heads, DIM, DIM), "bfloat16", "cuda")
    erase, write = torch.rand_like(x.a), torch.rand_like(x.z)
    k = torch.nn.functional.normalize(torch.randn_like(x.a), dim=-1)
    v, d_out = torch.randn_like(x.z), torch.randn_like(x.z)
    plan = launches.plan_of(x, processors=processors)
    d_last = torch.zeros_like(x.state)

    def ours() -> Any:
        a, z = prescaled(k, v, erase, write)
        return torch_launch.forward(plan, Operands(x.q, a, a, z, x.g, x.state))

    def ours_both() -> Any:
        a, z = prescaled(k, v, erase, write)
        given = Operands(x.q, a, a, z, x.g, x.state)
        return torch_launch.forward(plan, given), torch_launch.backward(plan, given, d_out, d_last)

    calls: dict[tuple[str, str], Callable[[], Any]] = {
        ("ours (torch launch)", "forward"): ours, ("ours (torch launch)", "both"): ours_both,
    }  # fmt: skip
    for name, forward in peers(x, k, v, erase, write).items():
        calls[name, "forward"] = forward

        def both(forward: Callable[..., Any] = forward) -> None:
            leaves = [t.detach().requires_grad_() for t in (x.q, k, v, x.g, erase, write)]
            forward(*leaves).backward(d_out)

        calls[name, "both"] = both
    rows = []
    for (name, which), call in calls.items():
        size, operations = model(heads, which == "both")
        floor = 1e3 * max(size / ceiling["bytes_per_s"], operations / ceiling["flops_per_s"])
        row = {"what": name, "pass": which, "heads": heads, "floor_ms": floor}
        try:
            row["ms"] = median_ms(call)
        except Exception as error:  # a peer's refusal is a row of the table
            row["error"] = f"{type(error).__name__}: {error}"[:200]
        rows.append(row)
        result = f"{row['ms']:9.3f} ms = {row['ms'] / floor:5.1f} x floor" if "ms" in row else row[
            "error"]  # fmt: skip
        print(f"{name:24} {which:8} H={heads:<3} T={LENGTH} D={DIM} {result}", flush=True)
    return rows


def peers(x: Operands, k, v, erase, write) -> dict[str, Callable[..., torch.Tensor]]:
    """Peers that compute the same with keys and values scaled beforehand: name -> output."""
    found: dict[str, Callable[..., torch.Tensor]] = {}
    given = (x.q, k, v, x.g, erase, write)
    ones = torch.ones(x.q.shape[:3], device="cuda", dtype=torch.bfloat16)
    if importlib.util.find_spec("fla"):

        def kda(q=None, *rest):
            from fla.ops.kda import chunk_kda

            q, k, v, g, erase, write = given if q is None else (q, *rest)
            a, z = prescaled(k, v, erase, write)
            return chunk_kda(q=q, k=a, v=z, g=g, beta=ones, scale=1.0, initial_state=x.state,
                             output_final_state=True)[0]  # fmt: skip

        def gdn2(q=None, *rest):
            from fla.ops.gdn2 import chunk_gdn2

            q, k, v, g, erase, write = given if q is None else (q, *rest)
            return chunk_gdn2(q=q, k=k, v=v, g=g, b=erase, w=write, scale=1.0,
                              initial_state=x.state, output_final_state=True)[0]  # fmt: skip

        found |= {"fla chunk_kda": kda, "fla chunk_gdn2": gdn2}
    if importlib.util.find_spec("flash_kda"):
        import flash_kda

        # Forward only, and with its own gate: the same work, other numbers.
        heads = x.q.shape[2]
        a_log, bias = torch.zeros(heads, device="cuda"), torch.zeros(heads, DIM, device="cuda")
        out = torch.empty_like(x.z)

        def flash(q=None, *rest):
            a, z = prescaled(k, v, erase, write)
            flash_kda.fwd(x.q if q is None else q, a, z, x.g.to(torch.bfloat16), 20 * ones, 1.0,
                          out, a_log, bias, -5.0)  # fmt: skip
            return out

        found["FlashKDA"] = flash
    return found


def decode(interpret: bool, ceiling: dict[str, float] | None) -> dict[str, Any]:
    """One token: checked against the recurrence, then bytes of the state over its time."""
    batch, heads = (1, 2) if interpret else (64, 128)
    device = "cpu" if interpret else "cuda"
    torch.manual_seed(1)
    front = (batch, heads)
    q, k, v = (torch.nn.functional.normalize(torch.randn(*front, DIM, device=device), dim=-1)
               for _ in range(3))  # fmt: skip
    g = -torch.rand(*front, DIM, device=device)
    erase, write = (torch.rand(*front, DIM, device=device) for _ in range(2))
    state = torch.randn(*front, DIM, DIM, device=device)

    def step() -> Any:
        return launches.step(torch_launch.launch, Rule(), 1.0, q, k, v, g, erase, write, state)

    few = slice(0, 1)
    exact = [t[few].double().cpu()[:, None] for t in (q, k, v, g, erase, write)]
    a, z = exact[4].sqrt() * exact[1], exact[5].sqrt() * exact[2]
    expected = recurrence(Operands(exact[0], a, a, z, exact[3], state[few].double().cpu()))
    out, new = step()
    distances = {"out": distance(out[few], expected[0][:, 0]),
                 "state": distance(new[few], expected[1])}  # fmt: skip
    row: dict[str, Any] = {"what": "decode", "batch": batch, "heads": heads, "dim": DIM}
    row |= {"distances": distances, "ok": max(distances.values()) < 1e-5}
    timing = ""
    if row["ok"] and ceiling:
        row["ms"] = median_ms(step)
        row["of_copy"] = 2 * state.numel() * 4 / row["ms"] * 1e3 / ceiling["bytes_per_s"]
        timing = f"{row['ms']:.3f} ms, {100 * row['of_copy']:.0f} % of the copy bandwidth"
    print(f"{'ok  ' if row['ok'] else 'FAIL'} one token, B={batch} H={heads} D={DIM} "
          f"worst {max(distances.values()):.1e} {timing}", flush=True)  # fmt: skip
    return row


def main() -> int:
    """Check, time, print; write JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=pathlib.Path, help="also write the rows here")
    parser.add_argument("--interpret", action="store_true", help="check on the CPU, time nothing")
    args = parser.parse_args()
    record: dict[str, Any] = {
        "date": datetime.date.today().isoformat(), "torch": torch.__version__,
        "triton": triton.__version__, "device": "CPU, Triton's interpreter",
    }  # fmt: skip
    if not args.interpret and not torch.cuda.is_available():
        print("no accelerator: torch sees no GPU (--interpret checks the kernels on the CPU)")
        return 1
    processors, ceiling = 4, None
    if not args.interpret:
        properties = torch.cuda.get_device_properties(0)
        processors = properties.multi_processor_count
        record["device"] = properties.name
        try:
            check_triton(triton.__version__, 10 * properties.major + properties.minor)
        except NotImplementedError as reason:
            print(f"note: {reason}\n      here results are compared, so it goes on")
    print(f"{record['device']}, torch {torch.__version__}, triton {triton.__version__}")
    record["checks"] = check_all("cpu" if args.interpret else "cuda", processors, args.interpret)
    good = all(row["ok"] for row in record["checks"])
    if not args.interpret:
        ceiling = record["ceilings"] = ceilings()
        print(f"copy {ceiling['bytes_per_s'] / 1e12:.2f} TB/s, bf16 matrix product "
              f"{ceiling['flops_per_s'] / 1e12:.0f} TFLOP/s")  # fmt: skip
    record["decode"] = decode(args.interpret, ceiling)
    timed = [row for row in record["checks"] if (row["dtype"], row["dim"]) == ("bfloat16", DIM)]
    if ceiling:
        whole = record["whole"] = [check_whole(heads, processors) for heads in HEADS]
        good &= all(row["ok"] for row in whole)
        if all(row["ok"] for row in (*timed, *whole)):
            record["times"] = [row for h in HEADS for row in time_sequences(h, processors, ceiling)]
        else:
            print(f"bfloat16 at D = {DIM} is wrong here: not timed")
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + "\n")
    return int(not (good and record["decode"]["ok"]))


if __name__ == "__main__":
    sys.exit(main())
