import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxlab.models.decoder import Decoder
from jaxlab.models.sizes import Sizes
from jaxlab.runtime.drawing import by_operations, drawn
from jaxlab.runtime.mesh import make_mesh

KEY = jax.random.key(3)


def initialiser(layers=2, **changes):
    sizes = {"hidden_size": 12, "intermediate_size": 20, "num_heads": 2, "num_kv_heads": 1}
    sizes = Sizes(vocab_size=17, num_layers=layers, **sizes | changes)
    return lambda key: Decoder(sizes.decoder()).init(key, jnp.zeros((1, 1), jnp.int32))["params"]


def everywhere(init, mesh):
    one = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda _: one, jax.eval_shape(init, KEY))


@pytest.mark.parametrize("changes", [{}, {"scan_layers": True, "qkv_bias": True}])
def test_the_numbers_are_those_of_one_program(changes):
    mesh, init = make_mesh({"data": 1}), initialiser(**changes)
    shardings = everywhere(init, mesh)
    draw, whole = drawn(init, mesh, shardings), jax.jit(init, out_shardings=shardings)
    for key in (KEY, jax.random.key(4)):
        actual, expected = draw(key), whole(key)
        jax.tree.map(np.testing.assert_array_equal, actual, expected)
        for one, other in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
            assert (one.sharding, one.committed) == (other.sharding, other.committed)
            assert one.aval == other.aval
    # What is given away to the first step is nobody else's.
    leaves = jax.tree.leaves(actual)
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


def test_a_deeper_model_compiles_nothing():
    compiled = []

    def listen(name, _, **about):
        if name.endswith("backend_compile_duration"):
            compiled.append(about)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for layers in (1, 3):
            compiled.clear()
            by_operations(initialiser(layers, hidden_size=16))(KEY)
            assert bool(compiled) == (layers == 1), compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_what_parameters_do_not_depend_on_is_left_out():
    def init(key):
        jax.pure_callback(pytest.fail, jax.ShapeDtypeStruct((), jnp.float32), 0.0)
        return {"kernel": jax.random.normal(key, (2,))}

    (kernel,) = by_operations(init)(KEY).values()
    np.testing.assert_array_equal(kernel, jax.random.normal(KEY, (2,)))
