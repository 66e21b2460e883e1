"""Run by delta_rule_calls_test.py: in shard_map and not, on a mesh of explicit axes."""

import os
import pathlib
import sys

# Formulas are compared: LLVM's optimisations are half of the time to compile them.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "kernels"))
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)

from jaxlab_kernels import gated_delta  # noqa: E402
from jaxlab_kernels.delta_rule import cases  # noqa: E402

CASE = cases.Case(length=5, heads=4, value_heads=4, write="channel")


def loss(arguments, implementation):
    out, state = gated_delta(**arguments, chunk_size=4, implementation=implementation)
    return jnp.sum(out**2) + jnp.sum(state**2)


def close(expected, actual):
    np.testing.assert_allclose(expected, actual, atol=1e-6)


def main() -> None:
    """Compares gradients with and without the mesh."""
    arguments = cases.make(CASE, dtype=np.float32)
    arguments.pop("form")
    arguments.pop("initial_state")
    mesh = jax.make_mesh((2, 4), ("data", "model"), (AxisType.Explicit,) * 2)
    spec = P("data", None, "model", None)
    for implementation in ("chunked", "reference"):
        gradient = jax.grad(loss)
        expected = jax.jit(gradient, static_argnums=1)(arguments, implementation)

        def local(arguments, implementation=implementation, gradient=gradient):
            return gradient(arguments, implementation)

        with jax.set_mesh(mesh):
            sharded = jax.device_put(arguments, NamedSharding(mesh, spec))
            mapped = jax.shard_map(local, in_specs=(spec,), out_specs=spec)
            for way in (mapped, local):
                jax.tree.map(close, expected, jax.jit(way)(sharded))


if __name__ == "__main__":
    main()
