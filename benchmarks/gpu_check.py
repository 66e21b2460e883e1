"""Compare this machine's accelerator with its CPU, and time it: decoder, sampling, losses, kernels.

    make gpu-check                      # PYTHON=... chooses the interpreter
    python benchmarks/gpu_check.py --json benchmarks/results/DATE-CHIP.json

Every part is computed on the accelerator and on the CPU of the same process, in float32 with the
highest matmul precision, and must agree before it is timed. `make gpu-check` goes on with
`delta_rule_gpu.py`, which takes the Triton kernels alone, at full size and beside their peers. Exit
code 1: something differs, or there is no accelerator.
"""

import argparse
import dataclasses
import datetime
import json
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxlab_kernels import gated_delta
from jaxlab_kernels.delta_rule import cases

from jaxlab.losses import chunked_vocab, distillation
from jaxlab.models import presets
from jaxlab.models.decoder import Decoder
from jaxlab.sampling import SamplingConfig, generate

# Largest |accelerator - CPU|, float32 against float32.
TOLERANCE = 1e-4


def parts() -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    """name -> (function of arrays, arguments)."""
    config = presets.decoder("small", vocab_size=512)
    decoder = Decoder(config)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 512, (8, 128)).astype(np.int32)
    params = decoder.init(jax.random.key(0), jnp.asarray(tokens))["params"]
    greedy = SamplingConfig(max_new_tokens=32, temperature=0.0)
    lengths = rng.integers(1, 129, 8).astype(np.int32)
    hidden = rng.normal(size=(2, 4, 64, 128)).astype(np.float32)
    tables = rng.normal(size=(2, 32_768, 128)).astype(np.float32) / 8
    targets = rng.integers(0, 32_768, (4, 64)).astype(np.int32)
    mask = np.ones((4, 64), bool)

    def logits(params: Any, tokens: jax.Array) -> jax.Array:
        return decoder.apply({"params": params}, tokens)

    def decode(params: Any, tokens: jax.Array, lengths: jax.Array) -> jax.Array:
        out = generate(decoder, params, tokens, lengths, jax.random.key(0), greedy)
        return out.tokens, out.logprobs

    def loss(student: jax.Array, table: jax.Array, teacher: jax.Array, other: jax.Array) -> Any:
        def value(student: jax.Array, table: jax.Array) -> jax.Array:
            return chunked_vocab.distill(
                distillation.Aopd(), student, table, teacher, other, targets, mask
            )[0]

        return jax.value_and_grad(value, argnums=(0, 1))(student, table)

    return {
        "decoder": (jax.jit(logits), (params, tokens)),
        "greedy decoding": (decode, (params, tokens, lengths)),
        "chunked AOPD": (jax.jit(loss), (hidden[0], tables[0], hidden[1], tables[1])),
    }


def gated_delta_part(implementation: str) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """FG2-GDN+ with all its gradients, heads of 128, an odd length."""
    case = dataclasses.replace(
        cases.MEMBERS["fg2_plus"], length=200, heads=4, value_heads=4, key_dim=128, value_dim=128
    )
    arguments = cases.make(case, "mixed", dtype=np.float32)
    form = arguments.pop("form")

    def total(arguments: dict[str, jax.Array]) -> jax.Array:
        out, state = gated_delta(**arguments, form=form, implementation=implementation)
        return jnp.mean(out**2) + jnp.mean(state**2), (out, state)

    return jax.jit(jax.grad(total, has_aux=True)), (arguments,)


def measure(call: Callable[..., Any], arguments: Any, device: jax.Device) -> tuple[Any, float]:
    """The result as NumPy arrays, and the median of five timed calls in seconds."""
    with jax.default_device(device):
        placed = jax.device_put(arguments, device)
        result = jax.block_until_ready(call(*placed))
        seconds = []
        for _ in range(5):
            begin = time.perf_counter()
            jax.block_until_ready(call(*placed))
            seconds.append(time.perf_counter() - begin)
    return jax.device_get(result), float(np.median(seconds))


def main() -> int:
    """Check, time, print; write JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=pathlib.Path, help="also write the table here")
    args = parser.parse_args()
    jax.config.update("jax_default_matmul_precision", "highest")
    device = jax.devices()[0]
    if device.platform == "cpu":
        print("no accelerator: jax sees CPUs only (a CUDA or TPU jaxlib is needed)")
        return 1
    host = jax.devices("cpu")[0]
    rows, failed = [], False
    both = {name: (call, call, arguments) for name, (call, arguments) in parts().items()}
    on_host, arguments = gated_delta_part("chunked")
    for implementation in ("chunked", "triton"):
        call, _ = gated_delta_part(implementation)
        both[f"gated delta, {implementation}"] = (call, on_host, arguments)
    for name, (call, on_host, arguments) in both.items():
        (theirs, cpu_seconds) = measure(on_host, arguments, host)
        try:
            (ours, seconds) = measure(call, arguments, device)
        except NotImplementedError as reason:
            print(f"     {name:20} not run: {reason}")
            continue
        error = max(
            float(np.max(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))))
            for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
        )
        good = error <= TOLERANCE
        failed |= not good
        rows.append({"part": name, "max_difference": error, "seconds": seconds})
        timing = (
            f"{seconds * 1e3:9.3f} ms, CPU {cpu_seconds * 1e3:9.3f} ms" if good else "not timed"
        )
        print(f"{'ok  ' if good else 'FAIL'} {name:20} largest difference {error:.2e}  {timing}")
    if args.json:
        record = {
            "date": datetime.date.today().isoformat(),
            "device": device.device_kind,
            "jax": jax.__version__,
            "rows": rows,
        }
        args.json.write_text(json.dumps(record, indent=1) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
