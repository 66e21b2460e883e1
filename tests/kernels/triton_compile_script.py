"""Run by triton_compile_test.py: compiles every kernel for a chip that need not be here.

    python tests/kernels/triton_compile_script.py 90 all

The second word chooses the calls: few or all of the gated delta rule, or block_sparse.

Prints a JSON list: kernel, sizes, shared memory, bytes of registers spilled per thread, and what is
computed of the program's number in 32 bits.
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Any, NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "kernels"))

import triton
from jaxlab_kernels.delta_rule import launches
from jaxlab_kernels.delta_rule.rule import Rule
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

POINTERS = {"int32": "*i32", "float32": "*fp32", "bfloat16": "*bf16", "float16": "*fp16"}
# Fused outputs and, with few heads, separate ones; both kinds of decay. Then other sizes.
FEW = (
    {"dim": 128, "dtype": "bfloat16", "heads": 64},
    {"dim": 64, "dtype": "bfloat16", "heads": 16, "head_decay": True},
)
ALL = (
    *FEW,
    {"dim": 128, "dtype": "bfloat16", "heads": 16},
    {"dim": 128, "dtype": "float32", "heads": 64},
    {"dim": 64, "dtype": "float32", "heads": 16, "head_decay": True},
    {"dim": 256, "dtype": "bfloat16", "heads": 8},
)


class Array(NamedTuple):
    """A shape and a dtype's name."""

    shape: tuple[int, ...]
    dtype: str


def stack_bytes(cubin: bytes) -> int:
    """Bytes of local memory per thread: what does not fit into registers."""
    program = pathlib.Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([program, "-res-usage", file.name], capture_output=True, text=True)
    return max(int(x) for x in re.findall(r"STACK:(\d+)", text.stdout))


def narrow(ttir: str) -> list[str]:
    """Lines that multiply or add a number of the order of the programs' in 32 bits.

    Offsets begin with the program's number. Divided it still grows with the call, until it is
    widened; a remainder does not.
    """
    found, large = [], set()
    for line in ttir.splitlines():
        match = re.match(r"\s*(%\w+) = ([\w.]+) ?([^:]*)", line)
        if not match:
            continue
        result, operation, rest = match.groups()
        operands = re.findall(r"%\w+", rest)
        if operation == "tt.get_program_id" or (
            operation == "arith.divsi" and operands[0] in large
        ):
            large.add(result)
        elif operation in ("arith.muli", "arith.addi", "tt.splat") and large & set(operands):
            found.append(line.strip())
    return found


def compiler(capability: int, size: dict[str, Any], rows: list[dict[str, Any]]) -> launches.Launch:
    """A launch that compiles instead of running."""
    done = set()

    def launch(kernel, grid, arguments, outputs, **meta):
        results = [Array(*spec) for spec in outputs]
        options = {name: meta.pop(name) for name in ("num_warps", "num_stages")}
        signature, aligned = {}, {}
        arrays = zip(kernel.arg_names, [*arguments, *results], strict=False)
        for index, (name, x) in enumerate(arrays):
            signature[name] = "i32" if isinstance(x, int) else POINTERS[x.dtype]
            if not isinstance(x, int):
                aligned[(index,)] = [["tt.divisibility", 16]]
        constants = {(kernel.arg_names.index(name),): x for name, x in meta.items()}
        source = ASTSource(kernel, signature | dict.fromkeys(meta, "constexpr"), constants, aligned)
        if kernel in done:
            return results
        done.add(kernel)
        target = GPUTarget("cuda", capability, 32)
        compiled = triton.compile(source, target=target, options=options)
        rows.append({
            "kernel": kernel.__name__, **size, "shared": compiled.metadata.shared,
            "spilled": stack_bytes(compiled.asm["cubin"]), "narrow": narrow(compiled.asm["ttir"]),
        })  # fmt: skip
        return results

    return launch


def block_sparse(capability: int) -> list[dict[str, Any]]:
    """The kernels of block-sparse attention."""
    from jaxlab_kernels.block_sparse import gpu
    from jaxlab_kernels.block_sparse.layout import Layout

    rows: list[dict[str, Any]] = []
    gpu._scalar = lambda x: Array((1,), "float32")
    for dtype, dim in (("bfloat16", 128), ("float32", 64)):
        launch = compiler(capability, {"dim": dim, "dtype": dtype}, rows)
        made = gpu.kernels(launch)
        tiles = 4096
        places = (tiles * made.tile,)
        query, key = Array((*places, dim), dtype), Array((64, 256, dim), dtype)
        sums, numbers = Array(places, "float32"), Array((tiles,), "int32")
        layout = Layout(numbers, numbers, numbers, Array((64,), "int32"))
        made.forward(1.0, query, key, key, layout)
        made.backward(1.0, query, query, sums, sums, key, key, layout)
    return rows


def main() -> None:
    """Compiles forward, backward and one step of every call."""
    capability, rows = int(sys.argv[1]), []
    if sys.argv[2] == "block_sparse":
        print(json.dumps(block_sparse(capability)))
        return
    for size in {"few": FEW, "all": ALL}[sys.argv[2]]:
        dim, dtype, heads = size["dim"], size["dtype"], size["heads"]
        x, state = Array((1, 8192, heads, dim), dtype), Array((1, heads, dim, dim), "float32")
        g = Array(x.shape[:3] if size.get("head_decay") else x.shape, "float32")
        operands = launches.Operands(x, x, x, x, g, state)
        launch = compiler(capability, size, rows)
        plan = launches.plan_of(operands, processors=132)
        launches.forward(launch, plan, operands)
        launches.backward(launch, plan, operands, x, state)
    x, gate = Array((64, 128, 128), "bfloat16"), Array((64, 128, 128), "float32")
    state = Array((64, 128, 128, 128), "float32")
    rule = Rule(logits=True, norm_eps=1e-6)
    launch = compiler(capability, {"dim": 128}, rows)
    launches.step(launch, rule, 1.0, x, x, x, gate, gate, gate, state)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
