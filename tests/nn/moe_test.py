"""Mixtures of experts against loops over tokens in float64."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.nn import experts as experts_lib
from jaxlab.nn.context import Context
from jaxlab.nn.experts import capacity, experts
from jaxlab.nn.moe import MoE
from jaxlab.nn.routing import Load, Router, balance, load, route
from jaxlab.runtime.drawing import by_operations

# Sums of at most 600 float32 products of numbers near 1.
TOLERANCE = 3e-5
TOKENS, TOP_K, EXPERTS, DIM, WIDTH = 150, 2, 4, 6, 10


def loop(x, ids, weights, gate, up, down, dy):
    """y, and the gradients of sum(y dy), one pair of a token and an expert at a time."""
    x, weights, gate, up, down, dy = (
        np.asarray(a, np.float64) for a in (x, weights, gate, up, down, dy)
    )
    y = np.zeros_like(x)
    grads = [np.zeros_like(a) for a in (x, weights, gate, up, down)]
    dx, dw, dgate, dup, ddown = grads
    for n, j in np.ndindex(ids.shape):
        e = ids[n, j]
        if not 0 <= e < len(gate):
            continue
        g, u = x[n] @ gate[e], x[n] @ up[e]
        s = 1 / (1 + np.exp(-g))
        h = g * s * u
        y[n] += weights[n, j] * h @ down[e]
        dw[n, j] = dy[n] @ (h @ down[e])
        dh = weights[n, j] * down[e] @ dy[n]
        dg, du = dh * u * s * (1 + g * (1 - s)), dh * g * s
        dx[n] += gate[e] @ dg + up[e] @ du
        dgate[e] += np.outer(x[n], dg)
        dup[e] += np.outer(x[n], du)
        ddown[e] += weights[n, j] * np.outer(h, dy[n])
    return y, grads


def _choices():
    rng = np.random.default_rng(0)
    each = np.stack([rng.permutation(EXPERTS)[:TOP_K] for _ in range(TOKENS)])
    heavy = np.where(rng.random((TOKENS, 1)) < 0.8, [[2, 0]], each)
    padded = np.where(rng.random((TOKENS, 1)) < 0.3, -1, each)
    return {
        "random": each,
        "a busy expert": heavy,
        # Tokens cannot choose an expert twice; the sums do not care.
        "all to one": np.full_like(each, 3),
        "no expert chosen": np.full_like(each, -1),
        "padding": padded,
        "others' experts": each + 2,
    }


CHOICES = _choices()


@pytest.fixture(scope="module")
def compiled():
    def run(implementation, *args):
        *inputs, dy = args
        x, ids, weights, *matrices = inputs

        def f(x, weights, *matrices):
            y = experts(x, ids, weights, *matrices, implementation=implementation)
            return jnp.sum(y * dy), y

        (_, y), grads = jax.value_and_grad(f, argnums=(0, 1, 2, 3, 4), has_aux=True)(
            x, weights, *matrices
        )
        return y, grads

    return jax.jit(run, static_argnums=0)


def _arrays(tokens=TOKENS, top_k=TOP_K, seed=0):
    rng = np.random.default_rng(seed)
    shapes = ((tokens, DIM), (EXPERTS, DIM, WIDTH), (EXPERTS, DIM, WIDTH), (EXPERTS, WIDTH, DIM))
    x, gate, up, down = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    weights = rng.random((tokens, top_k)).astype(np.float32)
    return x, weights, gate, up, down, rng.normal(size=(tokens, DIM)).astype(np.float32)


@pytest.mark.parametrize("implementation", ["padded", "ragged"])
@pytest.mark.parametrize("name", CHOICES)
def test_equals_a_loop_over_tokens_with_gradients(compiled, name, implementation):
    x, weights, gate, up, down, dy = _arrays()
    ids = CHOICES[name]
    expected, grads = loop(x, ids, weights, gate, up, down, dy)
    y, ours = compiled(implementation, x, ids.astype(np.int32), weights, gate, up, down, dy)
    np.testing.assert_allclose(y, expected, atol=TOLERANCE, rtol=TOLERANCE)
    for one, other in zip(ours, grads, strict=True):
        scale = max(1.0, np.abs(other).max())
        np.testing.assert_allclose(one, other, atol=TOLERANCE * scale, rtol=TOLERANCE)


def test_the_cases_fill_and_exceed_the_capacity():
    """Otherwise nothing above would have seen the tiles."""
    room = capacity(TOKENS, TOP_K, EXPERTS)
    assert 75 < room < 150
    largest = {name: np.bincount(ids[ids >= 0].ravel(), minlength=1).max(initial=0)
               for name, ids in CHOICES.items()}  # fmt: skip
    assert largest["random"] <= room < largest["a busy expert"]
    # Two tiles and a part of a third.
    assert largest["all to one"] == 300 > room + experts_lib._TILE


@pytest.mark.parametrize(("tokens", "top_k"), [(1, 1), (1, 3)])
def test_one_token_reads_no_buffer(compiled, tokens, top_k):
    assert capacity(tokens, top_k, EXPERTS) == 0
    x, weights, gate, up, down, dy = _arrays(tokens, top_k)
    ids = np.arange(3)[:top_k].reshape(1, -1)
    expected, grads = loop(x, ids, weights, gate, up, down, dy)
    y, ours = compiled("padded", x, ids.astype(np.int32), weights, gate, up, down, dy)
    np.testing.assert_allclose(y, expected, atol=TOLERANCE, rtol=TOLERANCE)
    for one, other in zip(ours, grads, strict=True):
        np.testing.assert_allclose(one, other, atol=TOLERANCE, rtol=TOLERANCE)


def test_capacity_by_hand():
    assert capacity(1024, 4, 64) == 80  # 64 + 2 * sqrt(60)
    assert capacity(1024, 4, 8) == 544  # 512 + 2 * 16
    assert capacity(3, 2, 4) == 6  # never more than there are
    assert capacity(3, 1, 4) == 0
    assert capacity(8, 3, 2) == 16  # an expert may be chosen twice: 12 and no deviation, in eights


class TestRouting:
    LOGITS = np.log([[4.0, 3.0, 2.0, 1.0]]).astype(np.float32)

    def test_softmax_by_hand(self):
        routed = route(self.LOGITS, None, Router(4, 2, normalise=False))
        np.testing.assert_array_equal(routed.ids, [[0, 1]])
        np.testing.assert_allclose(routed.weights, [[0.4, 0.3]], rtol=1e-6)
        np.testing.assert_allclose(routed.share, [[0.4, 0.3, 0.2, 0.1]], rtol=1e-6)
        routed = route(self.LOGITS, None, Router(4, 2, scale=2.5))
        np.testing.assert_allclose(routed.weights, [[2.5 * 4 / 7, 2.5 * 3 / 7]], rtol=1e-6)

    def test_sigmoid_with_a_correction_by_hand(self):
        """The correction chooses and does not weigh: scores are 4/5, 3/4, 2/3, 1/2."""
        router = Router(4, 2, score="sigmoid", correction=True, normalise=False)
        correction = jnp.array([-1.0, 0.0, 0.0, 0.3])
        routed = route(self.LOGITS, correction, router)
        np.testing.assert_array_equal(routed.ids, [[3, 1]])
        np.testing.assert_allclose(routed.weights, [[0.5, 0.75]], rtol=1e-6)
        assert not np.any(
            jax.grad(lambda c: route(self.LOGITS, c, router).weights.sum())(correction)
        )

    def test_groups_by_hand(self):
        """Scores 4/5, 3/4 | 2/3, 1/2 | 8/9, 1/10: the sums 1.55, 1.17 and 0.99 choose the group."""
        scores = np.array([4 / 5, 3 / 4, 2 / 3, 1 / 2, 8 / 9, 1 / 10], np.float32)
        logits = np.log(scores / (1 - scores))[None]
        options = {"score": "sigmoid", "normalise": False, "groups": 3}
        routed = route(logits, None, Router(6, 2, top_groups=1, **options))
        np.testing.assert_array_equal(routed.ids, [[0, 1]])
        routed = route(logits, None, Router(6, 3, top_groups=2, **options))
        np.testing.assert_array_equal(routed.ids, [[0, 1, 2]])
        routed = route(logits, None, Router(6, 2, top_groups=3, **options))
        np.testing.assert_array_equal(routed.ids, [[4, 0]])

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"top_k": 5}, "top_k 5 is above num_experts 4"),
            ({"groups": 3}, "num_experts 4 is no multiple of groups 3"),
            ({"groups": 4, "top_groups": 2}, "groups 4 leaves 1 expert in each"),
            ({"groups": 2, "top_groups": 3}, "top_groups 3 of groups 2 has 6 experts"),
            ({"groups": 2, "top_groups": 1, "top_k": 3}, "has 2 experts to choose top_k 3 from"),
            ({"num_experts": 0}, "num_experts must be at least 1"),
            ({"scale": 0.0}, "scale must be above 0"),
        ],
    )
    def test_routers_that_cannot_be(self, options, message):
        with pytest.raises(ValueError, match=message):
            Router(**{"num_experts": 4, "top_k": 2} | options)


class TestBalance:
    def test_by_hand(self):
        """Three tokens, one of them padding; the others choose expert 0 and one of 1 and 2."""
        routed = route(
            np.log([[0.5, 0.3, 0.1, 0.1], [0.4, 0.1, 0.3, 0.2], [0.1, 0.1, 0.1, 0.7]]),
            None,
            Router(4, 2),
        )
        one = load(routed, jnp.array([True, True, False]))
        np.testing.assert_array_equal(one.pairs, [2, 1, 1, 0])
        np.testing.assert_allclose(one.share, [0.9, 0.4, 0.4, 0.3], rtol=1e-5)
        found = balance([{"layer_0": {"mlp": {"load": (one,)}}}])
        # 4/2 * (1 * 0.45 + 1/2 * 0.2 + 1/2 * 0.2)
        assert found.loss == pytest.approx(1.3, rel=1e-5)
        assert found.load_max == 2.0
        assert found.unused == 0.25

    def test_calls_of_one_pass_add_up_and_stacked_layers_are_layers(self):
        rng = np.random.default_rng(0)
        parts = [Load(jnp.full(2, 5.0), rng.random((2, 3)), rng.random((2, 3))) for _ in range(2)]
        stacked = balance([{"stack_0": {"load": (part,)}} for part in parts])
        total = jax.tree.map(jnp.add, *parts)
        apart = balance(
            [{f"layer_{i}": {"load": (jax.tree.map(lambda x, i=i: x[i], total),)} for i in (0, 1)}]
        )
        for one, other in zip(stacked, apart, strict=True):
            assert one == pytest.approx(float(other), rel=1e-6)

    def test_an_even_load_has_loss_one_and_models_without_experts_have_none(self):
        even = Load(jnp.array(6.0), jnp.full(3, 4.0), jnp.full(3, 2.0))
        assert balance([{"load": (even,)}]).loss == pytest.approx(1.0)
        assert balance([{}]) is None
        assert balance([]) is None


class TestLayer:
    CONFIG = MoE(8, Router(4, 2, score="sigmoid", correction=True, scale=1.5), shared_size=6)

    def _layer(self, config=CONFIG):
        return config.module(model_dim=6, dtype="float32", param_dtype="bfloat16")

    def test_parameters_are_one_leaf_for_all_experts(self):
        layer = self._layer()
        shapes = jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, 1, 6)))["params"]
        assert shapes["experts"]["gate"]["kernel"].shape == (4, 6, 8)
        assert shapes["experts"]["down"]["kernel"].shape == (4, 8, 6)
        assert shapes["shared"]["up"]["kernel"].shape == (6, 6)
        # Rounded, it would move choices.
        assert shapes["router"]["correction_bias"].dtype == jnp.float32
        assert shapes["router"]["kernel"].dtype == jnp.bfloat16
        plain = self._layer(dataclasses.replace(self.CONFIG, shared_size=0))
        shapes = jax.eval_shape(plain.init, jax.random.key(0), jnp.zeros((1, 1, 6)))["params"]
        assert shapes.keys() == {"experts", "router"}

    def test_padding_reads_the_shared_experts_alone_and_counts_nothing(self):
        layer = self._layer()
        x = jax.random.normal(jax.random.key(1), (2, 5, 6))
        variables = by_operations(layer.init)(jax.random.key(0), x)
        segments = jnp.array([[0, 0, 1, 1, 2], [1, 1, 1, 1, 1]])
        context = Context(jnp.zeros((2, 5), jnp.int32), segments)
        params = {"params": variables["params"]}
        apply = jax.jit(functools.partial(layer.apply, mutable=["aux"]))
        y, sown = apply(params, x, context)
        whole, _ = apply(params, x)
        kept = np.asarray(segments > 0)
        np.testing.assert_allclose(y[kept], whole[kept], atol=1e-6)
        assert np.abs(y - whole)[~kept].min(axis=-1).max() > 1e-3
        (one,) = sown["aux"]["load"]
        assert one.tokens == 8
        assert one.pairs.sum() == 16
