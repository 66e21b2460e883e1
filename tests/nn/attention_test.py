import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.nn.attention import Attention, KVCache, Span, cached_attention, causal_attention
from jaxlab.nn.rope import Rope


def arrays(heads, kv_heads, length=5, dim=4, batch=2, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(batch, length, n, dim) for n in (heads, kv_heads, kv_heads)]
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def reference(query, key, value, allowed):
    """Softmax attention in float64, one query at a time; allowed(b, t, s) says who sees whom."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    batch, length, heads, dim = query.shape
    group = heads // key.shape[2]
    out = np.zeros_like(query)
    for b in range(batch):
        for t in range(length):
            seen = [s for s in range(key.shape[1]) if allowed(b, t, s)]
            for h in range(heads):
                scores = key[b, seen, h // group] @ query[b, t, h] / np.sqrt(dim)
                weights = np.exp(scores - scores.max())
                out[b, t, h] = weights / weights.sum() @ value[b, seen, h // group]
    return out


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2), (3, 1)])
def test_causal_attention(heads, kv_heads):
    query, key, value = arrays(heads, kv_heads)
    actual = causal_attention(query, key, value)
    expected = reference(query, key, value, lambda b, t, s: s <= t)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_segments():
    query, key, value = arrays(4, 2)
    segments = np.array([[0, 0, 1, 1, 1], [1, 2, 2, 2, 1]])
    actual = causal_attention(query, key, value, jnp.asarray(segments))
    expected = reference(
        query, key, value, lambda b, t, s: s <= t and segments[b, t] == segments[b, s]
    )
    np.testing.assert_allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2), (3, 1)])
def test_cached_attention_reads_its_span_and_nothing_else(heads, kv_heads):
    query, key, value = arrays(heads, kv_heads, length=7)
    start, slot = [0, 3], 4
    expected = reference(
        query[:, slot : slot + 1], key, value, lambda b, _, s: start[b] <= s <= slot
    )
    # Finite garbage: an uninitialised slot counts for nothing however large it is.
    outside = (np.arange(7) > slot) | (np.arange(7) < np.array(start)[:, None])
    key = jnp.where(outside[:, :, None, None], 1e4, key)
    value = jnp.where(outside[:, :, None, None], -1e6, value)
    cache = KVCache(key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3))
    span = Span(jnp.asarray(slot), jnp.asarray(start))
    actual = cached_attention(query[:, slot : slot + 1], cache, span)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_scores_are_float32_whatever_the_inputs():
    """Equal bfloat16 scores near 300, where bfloat16 steps by 2, still tell keys apart."""
    query = jnp.full((1, 3, 1, 64), 6.0, jnp.bfloat16)
    key = jnp.full((1, 3, 1, 64), 6.0, jnp.bfloat16).at[0, 1, 0, 0].set(6.5)
    value = jnp.asarray([0.0, 1.0, 0.0], jnp.bfloat16).reshape(1, 3, 1, 1)
    value = jnp.broadcast_to(value, (1, 3, 1, 64))
    share = np.exp(3.0 / 8)
    expected = share / (share + 2)
    for actual in (
        causal_attention(query, key, value)[0, 2],
        cached_attention(
            query[:, 2:],
            KVCache(key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3)),
            Span(jnp.asarray(2), jnp.zeros(1, jnp.int32)),
        ),
    ):
        np.testing.assert_allclose(actual.astype(jnp.float32).ravel(), expected, rtol=2**-8)


def test_layer_parts():
    """Biases and QK-norm are there when asked, with one scale per head dimension."""
    x, positions = jnp.ones((1, 2, 6)), jnp.arange(2)[None]

    def shapes(**options):
        layer = Attention(6, num_heads=4, num_kv_heads=2, head_dim=8, rope=Rope(), **options)
        return jax.tree.map(
            jnp.shape, jax.eval_shape(layer.init, jax.random.key(0), x, positions)["params"]
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
