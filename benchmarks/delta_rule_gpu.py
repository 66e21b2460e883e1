"""The Triton kernels of the gated delta rule on this machine's GPU: check, then time beside peers.

    make gpu-check                                     # runs this too; PYTHON= chooses
    python benchmarks/delta_rule_gpu.py --json OUT.json
    python benchmarks/delta_rule_gpu.py --interpret    # no GPU: check through Triton's interpreter

Needs jax (of any kind), torch and triton: the kernels are launched on torch tensors. Where jax has
the GPU too, the operation is also timed as JAX calls it, through jax-triton and by XLA alone; fla
and flash_kda are timed where they are installed. Outputs, last states and every gradient are
compared with the recurrence in float64 on the CPU, at the block sizes that are then timed, and very
large calls with parts of them; what fails is not timed. Times are medians of CUDA events (of JAX,
wall times). The floor of a row is the larger of its bytes over the measured copy bandwidth and its
operations over the measured rate of a bfloat16 matrix product. Exit code 1: something of ours is
wrong. A goal that is missed is printed, and is no failure.
"""

import argparse
import datetime
import json
import os
import pathlib
import sys
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "kernels"))
sys.path.insert(0, str(ROOT))
if "--interpret" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported

try:
    import jax
    import torch
    import triton
except Exception as error:  # releases that do not fit one another fail in any way they like
    print(f"the Triton kernels by PyTorch: not run ({type(error).__name__}: {error})")
    sys.exit(0)

from jaxlab_kernels.delta_rule.triton_versions import check_triton  # noqa: E402
from jaxlab_kernels.dispatch import Refusal  # noqa: E402

from benchmarks.gpu import checks, decode, jax_times, peers, times  # noqa: E402
from benchmarks.gpu.operands import random_given  # noqa: E402

LENGTH, DIM = 8192, 128
HEADS = (64, 16)
DEVICE = "cuda"


def time_ours(heads: int, processors: int) -> list[dict[str, Any]]:
    """Rows of the kernels on torch tensors, and of the operation in JAX where it has the GPU."""
    given = random_given(LENGTH, heads, DIM, DEVICE)
    ours = times.ours(peers.fg2_plus(given.state), times.plan_for(given, processors))
    rows = times.time_form(times.OURS, ours, given, backward=True)
    rows = [{**row, "ok": "ms" in row} for row in rows]
    platform = jax_times.platform()
    if platform != "gpu":
        why = f"not run: jax runs on {platform}"
        return [*rows, {"what": "ours (jax)", "pass": "both", "ok": None, "reason": why}]
    for implementation in jax_times.IMPLEMENTATIONS:
        rows += jax_times.time_jax(implementation, given, ours)
    return rows


def time_peers(heads: int, processors: int) -> list[dict[str, Any]]:
    """Rows of the peers."""
    given = random_given(LENGTH, heads, DIM, DEVICE)
    plan = times.plan_for(given, processors)
    return [row for name in peers.PEERS for row in times.time_peer(name, given, plan)]


def time_all(processors: int, ceiling: dict[str, float]) -> list[dict[str, Any]]:
    """Times at every number of heads, and their ratios; what a peer breaks comes after ours."""
    rows: dict[int, list[dict[str, Any]]] = {heads: [] for heads in HEADS}
    for time_some in (time_ours, time_peers):
        for heads in HEADS:
            for row in time_some(heads, processors):
                floor = times.floor_ms(LENGTH, heads, DIM, row["pass"], ceiling)
                times.told(row, floor, f"H={heads:<3} T={LENGTH} D={DIM}")
                rows[heads].append({**row, "heads": heads, "floor_ms": floor})
    for heads in HEADS:
        for row in times.ratios(rows[heads]):
            times.told_ratio(row, f"H={heads}")
            rows[heads].append({**row, "heads": heads})
    return [row for heads in HEADS for row in rows[heads]]


def main(argv: list[str] | None = None) -> int:
    """Check, time, print; write JSON if asked, after every step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=pathlib.Path, help="also write the rows here")
    parser.add_argument("--interpret", action="store_true", help="check on the CPU, time nothing")
    args = parser.parse_args(argv)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # memory is PyTorch's as well
    record: dict[str, Any] = {
        "date": datetime.date.today().isoformat(), "torch": torch.__version__,
        "triton": triton.__version__, "jax": jax.__version__,
        "device": "CPU, Triton's interpreter",
    }  # fmt: skip

    def keep(name: str, value: Any) -> Any:
        record[name] = value
        if args.json:
            args.json.write_text(json.dumps(record, indent=1) + "\n")
        return value

    if args.interpret:
        rows = keep("checks", checks.check_all("cpu", 4, interpret=True))
        one = keep("decode", decode.run("cpu", None, 1, 2, DIM))
        return int(any(row["ok"] is False for row in (*rows, *one)))
    if not torch.cuda.is_available():
        print("no accelerator: torch sees no GPU (--interpret checks the kernels on the CPU)")
        return 1
    properties = torch.cuda.get_device_properties(0)
    processors = properties.multi_processor_count
    record["device"] = properties.name
    try:
        check_triton(triton.__version__, 10 * properties.major + properties.minor)
    except Refusal as reason:
        print(f"note: {reason}\n      here results are compared, so it goes on")
    print(f"{properties.name}, torch {torch.__version__}, triton {triton.__version__}, "
          f"jax {jax.__version__}")  # fmt: skip
    rows = list(keep("checks", checks.check_all(DEVICE, processors, interpret=False)))
    timed = [row for row in rows if (row["dtype"], row["dim"]) == ("bfloat16", DIM)]
    free = torch.cuda.mem_get_info()[0]
    rows += keep("limits", checks.check_limits(DEVICE, processors, free))
    ceiling = keep("ceilings", times.ceilings())
    print(f"copy {ceiling['bytes_per_s'] / 1e12:.2f} TB/s, bf16 matrix product "
          f"{ceiling['flops_per_s'] / 1e12:.0f} TFLOP/s")  # fmt: skip
    rows += keep("decode", decode.run(DEVICE, ceiling, 64, 128, DIM, properties.name))
    whole = [checks.check_whole(LENGTH, heads, DIM, processors, DEVICE) for heads in HEADS]
    rows += keep("whole", whole)
    if all(row["ok"] for row in (*timed, *whole)):
        rows += keep("times", time_all(processors, ceiling))
    else:
        print(f"bfloat16 at D = {DIM} is wrong here: not timed")
    return int(any(row.get("ok") is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
