import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.nn.linear import Embedding, Linear, unembed
from jaxlab.nn.mlp import SwiGLU


class TestLinear:
    def test_hand_worked(self):
        params = {"kernel": jnp.asarray([[1.0, 0.0, 2.0], [0.0, -1.0, 1.0]]), "bias": jnp.ones(3)}
        x = jnp.asarray([[[1.0, 2.0]], [[3.0, 4.0]]])
        actual = Linear(3, use_bias=True).apply({"params": params}, x)
        np.testing.assert_array_equal(actual, [[[2.0, -1.0, 5.0]], [[4.0, -3.0, 11.0]]])

    def test_any_number_of_leading_axes(self):
        layer = Linear(2)
        params = {"params": {"kernel": jnp.asarray([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])}}
        x = jnp.arange(24.0).reshape(2, 2, 2, 3)
        expected = np.asarray(x) @ np.asarray(params["params"]["kernel"])
        np.testing.assert_allclose(layer.apply(params, x), expected)
        np.testing.assert_allclose(layer.apply(params, x[0, 0, 0]), expected[0, 0, 0])

    def test_initial_scale(self):
        """The kernel's standard deviation is init_scale / sqrt(in); biases are zero."""
        layer = Linear(400, use_bias=True, init_scale=0.5)
        params = layer.init(jax.random.key(0), jnp.ones((1, 100)))["params"]
        assert abs(params["kernel"].std() - 0.05) < 1e-3
        np.testing.assert_array_equal(params["bias"], 0.0)

    def test_compute_and_storage_dtypes(self):
        layer = Linear(3, use_bias=True, dtype=jnp.bfloat16)
        params = layer.init(jax.random.key(0), jnp.ones((1, 2)))
        assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
        assert layer.apply(params, jnp.ones((1, 2))).dtype == jnp.bfloat16


class TestEmbedding:
    TABLE = jnp.asarray([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])

    def test_rows_and_logits(self):
        table = Embedding(3, 2)
        params = {"params": {"embedding": self.TABLE}}
        rows = table.apply(params, jnp.asarray([[2, 0]]))
        np.testing.assert_array_equal(rows, [[[3.0, 3.0], [1.0, 0.0]]])
        logits = table.apply(params, jnp.asarray([[1.0, 2.0]]), method="logits")
        np.testing.assert_array_equal(logits, [[1.0, 4.0, 9.0]])

    def test_logits_sum_in_float32(self):
        """256 ones and a half: bfloat16 sums would stop at 256."""
        hidden = jnp.ones((1, 257), jnp.bfloat16)
        table = jnp.ones((1, 257)).at[0, 0].set(0.5)
        logits = unembed(hidden, table, jnp.bfloat16)
        assert logits.dtype == jnp.float32
        np.testing.assert_array_equal(logits, [[256.5]])


def test_swiglu_hand_worked():
    """down(silu(gate) * up) with one hidden unit: silu(2) * 3 = 5.2847822."""
    params = {
        "gate": {"kernel": jnp.asarray([[2.0]])},
        "up": {"kernel": jnp.asarray([[3.0]])},
        "down": {"kernel": jnp.asarray([[1.0]])},
    }
    actual = SwiGLU(1).module(model_dim=1).apply({"params": params}, jnp.ones((1, 1, 1)))
    np.testing.assert_allclose(actual.ravel(), [6.0 / (1.0 + np.exp(-2.0))], rtol=1e-6)


def test_swiglu_biases():
    shapes = jax.eval_shape(
        SwiGLU(5, use_bias=True).module(model_dim=3).init, jax.random.key(0), jnp.ones((1, 3))
    )
    assert jax.tree.map(jnp.shape, shapes["params"]) == {
        "gate": {"kernel": (3, 5), "bias": (5,)},
        "up": {"kernel": (3, 5), "bias": (5,)},
        "down": {"kernel": (5, 3), "bias": (3,)},
    }
