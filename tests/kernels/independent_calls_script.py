"""Run by delta_rule_calls_test.py: calls that do not wait for each other, in one program."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "kernels"))

from jaxlab_kernels import gated_delta
from jaxlab_kernels.delta_rule import cases

CALLS, TIMES = 4, 20


def loss(arguments):
    results = [gated_delta(**x, implementation="chunked") for x in arguments]
    return sum(jnp.sum(out**2) + jnp.sum(state**2) for out, state in results)


def main() -> None:
    """Every time the same numbers."""
    # Batches large enough for LAPACK to share out; with its solves the first call hung.
    sizes = {"heads": 4, "value_heads": 4, "key_dim": 32, "value_dim": 32}
    case = cases.Case(batch=16, length=16, erase="head", **sizes)
    arguments = [cases.make(case, seed=n, dtype=np.float32) for n in range(CALLS)]
    for x in arguments:
        x.pop("form")
    run = jax.jit(jax.value_and_grad(loss))
    first = run(arguments)
    for _ in range(TIMES):
        again = run(arguments)
    jax.tree.map(np.testing.assert_array_equal, again, first)


if __name__ == "__main__":
    main()
