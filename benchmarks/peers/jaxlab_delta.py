"""Our side of `benchmarks/kernels.py`: what `gated_delta` chooses, and the scan."""

import contextlib
import ctypes
import dataclasses
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "kernels"))

import jax
import jax.numpy as jnp
import numpy as np
import turns
from jaxlab_kernels import gated_delta
from jaxlab_kernels.delta_rule import cases
from programs import Program, Programs


def main() -> None:
    """Serve programs."""
    keep_freed_memory()
    turns.serve(Programs(build), {"jax": jax.__version__})


def keep_freed_memory() -> None:
    """As in a long run: else the first touch of every output is timed, several ms per 10 MB."""
    never_map, never_trim = (-4, 0), (-1, 2**31 - 1)  # M_MMAP_MAX, M_TRIM_THRESHOLD
    with contextlib.suppress(AttributeError, OSError):  # no glibc
        for parameter, value in (never_map, never_trim):
            ctypes.CDLL(None).mallopt(parameter, value)


def build(
    form: str, which: str, member: str, size: tuple[int, int] | None, arguments: str | None = None
) -> Program:
    """A compiled program.

    Args:
        form: "ours", "scan", or an implementation of `gated_delta`.
        which: "forward" (out and state) or "both" (gradients for random cotangents).
        member: a name in `cases.MEMBERS`.
        size: head size and length with B = 1, H = 4; None for the case's own, which is small.
        arguments: where to write the arguments and the cotangents as .npz.
    """
    case = cases.MEMBERS[member]
    if size is not None:
        dim, length = size
        sizes = {"batch": 1, "length": length, "heads": 4, "value_heads": 4}
        case = dataclasses.replace(case, **sizes, key_dim=dim, value_dim=dim)
    given = cases.make(case, dtype=np.float32)
    given.pop("form")
    rng = np.random.default_rng(1)
    weights = tuple(
        rng.normal(size=given[name].shape).astype(np.float32) for name in ("v", "initial_state")
    )
    if arguments is not None:
        np.savez(arguments, **given, out_weight=weights[0], state_weight=weights[1])
    implementation = {"ours": None, "scan": "reference"}.get(form, form)

    def forward(arguments):
        return gated_delta(**arguments, implementation=implementation)

    def named(arguments):
        return dict(zip(("out", "state"), forward(arguments), strict=True))

    def gradients(arguments, weights):
        return jax.vjp(forward, arguments)[1](weights)[0]

    arrays = jax.tree.map(jnp.asarray, (given, weights))
    inputs = arrays if which == "both" else arrays[:1]
    compiled = jax.jit(gradients if which == "both" else named).lower(*inputs).compile()
    memory = compiled.memory_analysis()
    return Program(
        lambda: jax.block_until_ready(compiled(*inputs)),
        memory.temp_size_in_bytes / 1e6,
        (memory.argument_size_in_bytes + memory.output_size_in_bytes) / 1e6,
    )


if __name__ == "__main__":
    main()
