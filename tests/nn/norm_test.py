import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.nn.norm import RMSNorm, rms_norm


def test_hand_worked():
    # Mean square of (3, 4) is 12.5; with eps 3.5 the root is 4.
    actual = rms_norm(jnp.asarray([3.0, 4.0]), jnp.asarray([1.0, 2.0]), 3.5)
    np.testing.assert_allclose(actual, [0.75, 2.0], rtol=1e-6)


def test_zeros_have_finite_values_and_gradients():
    x, scale = jnp.zeros(4), jnp.ones(4)
    np.testing.assert_array_equal(rms_norm(x, scale, 1e-6), x)
    gradient = jax.grad(lambda x: rms_norm(x, scale, 1e-6).sum())(x)
    np.testing.assert_allclose(gradient, 1e3, rtol=1e-5)


def test_large_bfloat16_inputs_do_not_overflow():
    x = jnp.full(3, 1e18, jnp.bfloat16)
    actual = rms_norm(x, jnp.ones(3), 1e-6)
    assert actual.dtype == jnp.bfloat16
    np.testing.assert_array_equal(actual.astype(jnp.float32), 1.0)


def test_bfloat16_rounds_before_the_scale():
    """1.00390625 * x rounds twice: once after the division, once after the scale."""
    x = jnp.asarray([1.0, 3.0, 2.0], jnp.bfloat16)
    scale = jnp.asarray([1.1, 0.7, 1.3], jnp.float32)
    plain = np.array([1.0, 3.0, 2.0]) / np.sqrt(14 / 3 + 1e-6)
    expected = jnp.asarray(plain, jnp.bfloat16) * scale.astype(jnp.bfloat16)
    np.testing.assert_array_equal(rms_norm(x, scale, 1e-6), expected)


def test_module_starts_as_the_plain_norm():
    x = jnp.asarray([[1.0, -2.0], [0.5, 4.0]])
    module = RMSNorm(eps=1e-5)
    variables = module.init(jax.random.key(0), x)
    np.testing.assert_array_equal(variables["params"]["scale"], [1.0, 1.0])
    np.testing.assert_array_equal(module.apply(variables, x), rms_norm(x, jnp.ones(2), 1e-5))
