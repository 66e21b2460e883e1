import jax
import jax.numpy as jnp
import numpy as np
from jaxlab_kernels import attention, attention_step

from jaxlab.nn.attention import Attention
from jaxlab.nn.context import Context


def test_scores_are_float32_whatever_the_inputs():
    """Equal bfloat16 scores near 300, where bfloat16 steps by 2, still tell keys apart."""
    query = jnp.full((1, 3, 1, 64), 6.0, jnp.bfloat16)
    key = jnp.full((1, 3, 1, 64), 6.0, jnp.bfloat16).at[0, 1, 0, 0].set(6.5)
    value = jnp.asarray([0.0, 1.0, 0.0], jnp.bfloat16).reshape(1, 3, 1, 1)
    value = jnp.broadcast_to(value, (1, 3, 1, 64))
    share = np.exp(3.0 / 8)
    expected = share / (share + 2)
    for actual in (
        attention(query, key, value)[0, 2],
        attention_step(
            query[:, 2:],
            key.transpose(0, 2, 1, 3),
            value.transpose(0, 2, 1, 3),
            first=jnp.zeros(1, jnp.int32),
            last=jnp.asarray([2]),
        ),
    ):
        np.testing.assert_allclose(actual.astype(jnp.float32).ravel(), expected, rtol=2**-8)


def test_layer_parts():
    """Biases and QK-norm are there when asked, with one scale per head dimension."""
    x, context = jnp.ones((1, 2, 6)), Context(jnp.arange(2)[None])

    def shapes(**options):
        options = Attention(num_heads=4, num_kv_heads=2, head_dim=8, **options)
        layer = options.module(model_dim=6)
        return jax.tree.map(
            jnp.shape, jax.eval_shape(layer.init, jax.random.key(0), x, context)["params"]
        )

    plain = {
        "query": {"kernel": (6, 32)},
        "key": {"kernel": (6, 16)},
        "value": {"kernel": (6, 16)},
        "output": {"kernel": (32, 6)},
    }
    assert shapes() == plain
    full = shapes(qkv_bias=True, output_bias=True, qk_norm=True)
    assert full["value"] == {"kernel": (6, 16), "bias": (16,)}
    assert full["output"] == {"kernel": (32, 6), "bias": (6,)}
    assert full["query_norm"] == full["key_norm"] == {"scale": (8,)}
