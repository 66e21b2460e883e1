"""What tests of checkpoint directories share: parameters that are all different, and equality."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.interop.names import flatten
from jaxlab.models.decoder import abstract_params


def random_params(config):
    """Parameters of a decoder none of which is trivially zero or one."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        centre = 1.0 if path[-1].key == "scale" else 0.0
        return jnp.asarray(centre + 0.4 * rng.normal(size=leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, abstract_params(config))


def contents(path):
    """Bytes of a directory's files by name."""
    return {file.name: file.read_bytes() for file in path.iterdir()}


def assert_same(actual, expected):
    """The same parameters of the same types, to the last bit."""
    actual, expected = flatten(actual), flatten(expected)
    assert actual.keys() == expected.keys()
    for path, value in expected.items():
        assert actual[path].dtype == value.dtype, path
        np.testing.assert_array_equal(actual[path], value, err_msg=path)
