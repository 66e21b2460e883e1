"""Run by tpu_test.py: compiles forwards and backwards for the chip named, without having one.

Prints one JSON object: "Dk Dv dtype" -> the program's temporary bytes.
"""

import json
import os
import pathlib
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TPU_SKIP_MDS_QUERY"] = "1"

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "kernels"))

from jaxlab_kernels import gated_delta

TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
# Head sizes; the widest that the kernel takes.
SIZES = ((64, 64), (128, 128), (128, 256), (256, 256))
LENGTH = 256


def loss(arguments):
    out, state = gated_delta(**arguments, implementation="pallas")
    return jnp.sum(out.astype(jnp.float32)) + jnp.sum(state)


def main(chip: str) -> None:
    """Compiles every size and dtype for a chip."""
    device = topologies.get_topology_desc(TOPOLOGIES[chip], "tpu").devices[0]
    temporary = {}
    for key_dim, value_dim in SIZES:
        for dtype in ("float32", "bfloat16"):
            shapes = {"q": (2, key_dim), "k": (2, key_dim), "v": (4, value_dim),
                      "log_decay": (4, key_dim), "erase": (4, key_dim),
                      "write": (4, value_dim)}  # fmt: skip
            arguments = {
                name: jax.ShapeDtypeStruct(
                    (1, LENGTH, *shape), dtype, sharding=SingleDeviceSharding(device)
                )
                for name, shape in shapes.items()
            }
            gradient = jax.jit(jax.value_and_grad(loss)).trace(arguments)
            compiled = gradient.lower(lowering_platforms=("tpu",)).compile()
            temporary[f"{key_dim} {value_dim} {dtype}"] = (
                compiled.memory_analysis().temp_size_in_bytes
            )
    print(json.dumps(temporary))


if __name__ == "__main__":
    main(sys.argv[1])
