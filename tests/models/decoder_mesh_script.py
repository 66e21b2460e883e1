"""Run by decoder_test: the decoder on a mesh of eight host devices, against one device."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxlab.models import presets
from jaxlab.models.decoder import Decoder

CONFIG = presets.decoder("tiny", num_heads=8, num_kv_heads=4, scan_layers=True)
# Megatron's split over "model", and FSDP's over "data".
RULES = [
    (r"embedding$", P("model", "data")),
    (r"(query|key|value|gate|up)/kernel$", P(None, "data", "model")),
    (r"(output|down)/kernel$", P(None, "model", "data")),
    (r".*", P()),
]


def shardings(params, mesh):
    def place(path, _):
        name = "/".join(str(key.key) for key in path)
        spec = next(spec for pattern, spec in RULES if re.search(pattern, name))
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(place, params)


def main():
    assert jax.device_count() == 8
    model = Decoder(CONFIG)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, CONFIG.vocab_size, (4, 6)))
    params = jax.jit(model.init)(jax.random.key(0), tokens)["params"]
    expected = np.asarray(jax.jit(model.apply)({"params": params}, tokens))

    def check(name, kind, apply):
        mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(kind, kind))
        placed = jax.device_put(params, shardings(params, mesh))
        rows = jax.device_put(tokens, NamedSharding(mesh, P("data")))
        with jax.set_mesh(mesh):
            actual = np.asarray(jax.jit(apply)({"params": placed}, rows))
        np.testing.assert_allclose(actual, expected, atol=1e-5)
        print(name)

    check("auto", AxisType.Auto, model.apply)
    # Explicit axes want every gather and every contraction over a split axis annotated; auto_axes
    # hands the model to the partitioner.
    automatic = jax.sharding.auto_axes(model.apply, out_sharding=P("data"))
    check("explicit", AxisType.Explicit, automatic)


if __name__ == "__main__":
    main()
