"""Multi-head latent attention: full and absorbed form, and both against NumPy in float64."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.nn.context import Context
from jaxlab.nn.mla import MLA
from jaxlab.nn.rope import Rope
from jaxlab.sampling.caches import Dense, TwoLevel, TwoLevelAttention

YARN = Rope(rule="yarn", factor=4.0, original_max_position=8, mscale=1.0, mscale_all_dim=0.7)
CONFIG = MLA(
    num_heads=3, latent_dim=10, nope_dim=4, rope_dim=6, value_dim=5, query_rank=8, rope=YARN,
    bias=True,
)  # fmt: skip
CASES = {
    "yarn, reduced queries, biases": CONFIG,
    "one query projection, half-split": dataclasses.replace(
        CONFIG, query_rank=None, interleaved=False, bias=False, rope=Rope()
    ),
}
DIM, WIDTH = 12, 9
# Sums of 12 to 30 float32 products of numbers near 1.
TOLERANCE = 1e-5
# Every token of the cache.
COVERING = TwoLevelAttention(block=4, k_blocks=4, k_tokens=16, channels=2, min_len=0)


def _layer(config):
    return config.module(model_dim=DIM)


def _params(config):
    x = jnp.zeros((1, 2, DIM))
    shapes = jax.eval_shape(_layer(config).init, jax.random.key(0), x, Context(jnp.zeros((1, 2))))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: 0.5 * rng.normal(size=leaf.shape).astype("f"), shapes)


def _numpy(config, params, x, positions):
    """One row, head by head, as DeepSeek-V2's paper writes it."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["params"])
    x = np.asarray(x, np.float64)

    def linear(name, x):
        return x @ p[name]["kernel"] + p[name].get("bias", 0.0)

    def norm(name, x):
        return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6) * p[name]["scale"]

    half = config.rope_dim // 2
    frequency = config.rope.theta ** (-np.arange(half) * 2 / config.rope_dim)
    factor = 1.0
    if config.rope.rule == "yarn":

        def turns(rotations):
            length = 8 / (rotations * 2 * math.pi)
            return config.rope_dim * math.log(length) / (2 * math.log(config.rope.theta))

        low, high = max(math.floor(turns(32.0)), 0), min(math.ceil(turns(1.0)), config.rope_dim - 1)
        ramp = np.clip((np.arange(half) - low) / ((high - low) or 1e-3), 0, 1)
        frequency = frequency / 4 * ramp + frequency * (1 - ramp)
        factor = (0.1 * math.log(4) + 1) / (0.1 * 0.7 * math.log(4) + 1)

    def turn(x):
        first, second = (
            (x[:, 0::2], x[:, 1::2]) if config.interleaved else (x[:, :half], x[:, half:])
        )
        z = (first + 1j * second) * np.exp(1j * positions[:, None] * frequency) * factor
        return np.concatenate([z.real, z.imag], 1)

    query = (
        linear("query", x)
        if config.query_rank is None
        else linear("query_expand", norm("query_norm", linear("query_reduce", x)))
    )
    latent = linear("latent_reduce", x)
    key_turned = turn(latent[:, config.latent_dim :])
    read = linear("latent_expand", norm("latent_norm", latent[:, : config.latent_dim]))
    scale = 1 / math.sqrt(config.nope_dim + config.rope_dim)
    if config.rope.rule == "yarn":
        scale *= (0.1 * 0.7 * math.log(4) + 1) ** 2
    outs = []
    for q, kv in zip(np.split(query, 3, 1), np.split(read, 3, 1), strict=True):
        n = config.nope_dim
        scores = scale * (q[:, :n] @ kv[:, :n].T + turn(q[:, n:]) @ key_turned.T)
        scores = np.where(np.tri(len(x)) > 0, scores, -np.inf)
        weights = np.exp(scores - scores.max(1, keepdims=True))
        outs.append(weights / weights.sum(1, keepdims=True) @ kv[:, n:])
    return linear("output", np.concatenate(outs, 1))


@pytest.mark.parametrize("name", CASES)
def test_full_form_absorbed_form_and_numpy_agree(name):
    config = CASES[name]
    layer, params = _layer(config), _params(config)
    x = jax.random.normal(jax.random.key(1), (2, WIDTH, DIM))
    positions = jnp.arange(WIDTH) + jnp.array([[0], [3]])

    @jax.jit
    def both(params, x):
        whole = layer.apply(params, x, Context(positions))
        start = jnp.zeros(2, jnp.int32)
        cache = layer.empty_cache(2, Dense(WIDTH))
        # One token into an empty cache, then the others in two pieces: all by the absorbed form.
        pieces = []
        for first, last in ((0, 1), (1, 4), (4, WIDTH)):
            context = Context(positions[:, first:last], slot=jnp.asarray(first), start=start)
            y, cache = layer.apply(params, x[:, first:last], context, cache, method="extend")
            pieces.append(y)
        return whole, jnp.concatenate(pieces, axis=1), cache

    whole, absorbed, cache = both(params, x)
    np.testing.assert_allclose(absorbed, whole, atol=TOLERANCE, rtol=TOLERANCE)
    for row in range(2):
        expected = _numpy(config, params, x[row], np.asarray(positions[row]))
        np.testing.assert_allclose(whole[row], expected, atol=TOLERANCE, rtol=TOLERANCE)
    # One head of the latent and the rotary key, stored once.
    assert cache.key.shape == (2, 1, WIDTH, 16)
    assert cache.value.size == 0


@pytest.mark.parametrize("kind", [Dense(16), TwoLevel(16, COVERING)], ids=["dense", "two_level"])
def test_left_padded_prompts_and_steps_are_the_whole_row(kind):
    layer, params = _layer(CONFIG), _params(CONFIG)
    x = jax.random.normal(jax.random.key(2), (2, WIDTH, DIM))
    width, start = 6, jnp.array([0, 4])
    segments = (jnp.arange(WIDTH) >= start[:, None]).astype(jnp.int32)
    positions = jnp.maximum(jnp.arange(WIDTH) - start[:, None], 0)

    @jax.jit
    def both(params, x):
        whole = layer.apply(params, x, Context(positions, segments))
        context = Context(positions[:, :width], segments[:, :width])
        cache = layer.empty_cache(2, kind)
        y, cache = layer.apply(params, x[:, :width], context, cache, method="prefill")
        context = Context(positions[:, width:], slot=jnp.asarray(width), start=start)
        z, _ = layer.apply(params, x[:, width:], context, cache, method="extend")
        return whole, jnp.concatenate([y, z], axis=1)

    whole, parts = both(params, x)
    kept = np.asarray(segments > 0)
    np.testing.assert_allclose(parts[kept], whole[kept], atol=TOLERANCE, rtol=TOLERANCE)


def test_the_scale_is_that_of_the_width_before_absorption():
    glm = MLA(num_heads=20, latent_dim=512, nope_dim=192, rope_dim=64, value_dim=256)
    assert glm.scale == 1 / 16
    # DeepSeek-V3: factor 40, mscale_all_dim 1, so (0.1 ln 40 + 1)^2 = 1.8739 over sqrt(192).
    rope = Rope(
        rule="yarn", factor=40.0, original_max_position=4096, mscale=1.0, mscale_all_dim=1.0
    )
    deepseek = MLA(
        num_heads=128, latent_dim=512, nope_dim=128, rope_dim=64, value_dim=128, rope=rope
    )
    assert deepseek.scale == pytest.approx(0.13523377, rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_dim": 5}, "rope_dim must be even for rotary embeddings, not 5"),
        ({"latent_dim": 0}, "latent_dim must be at least 1"),
        ({"query_rank": 0}, "query_rank must be at least 1"),
    ],
)
def test_sizes_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)
