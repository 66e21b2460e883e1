"""Run by hf_test in two processes: load onto a mesh across both, and save from it.

Arguments: this process's number, the coordinator's address, the checkpoint, where to save.
"""

import sys

import jax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxlab.interop import hf


def main():
    number, address, source, out = sys.argv[1:]
    jax.distributed.initialize(address, num_processes=2, process_id=int(number))
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)

    def place(path, shape):
        spec = P(*[None] * (len(shape) - 2), "data", "model") if len(shape) > 1 else P("data")
        return NamedSharding(mesh, spec if path != "final_norm/scale" else P())

    config, params = hf.load(source, sharding=place)
    kernel = params["layer_0"]["mlp"]["up"]["kernel"]
    assert not kernel.is_fully_addressable
    assert kernel.addressable_shards[0].data.shape == (16, 32)
    # Each host reads its own rows, and all of what lies on every device.
    assert hf._own((32, 64), kernel.sharding) == (
        slice(16 * int(number), 16 * int(number) + 16),
        slice(0, 64),
    )
    assert hf._own((7,), place("final_norm/scale", (7,))) == (slice(0, 7),)
    hf.save(out, config, params)


if __name__ == "__main__":
    main()
