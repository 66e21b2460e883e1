"""Decoders with gated-delta layers: their parts together, and the ways of running them."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxlab_kernels.delta_rule import api
from ml_collections import ConfigDict

from jaxlab import config as config_lib
from jaxlab.models import decoder as decoder_lib
from jaxlab.models import presets
from jaxlab.models.decoder import Decoder, DecoderConfig
from jaxlab.models.sizes import Sizes
from jaxlab.models.stacking import rescan, unscan
from jaxlab.nn.context import Context
from jaxlab.nn.delta import DeltaCache, GatedDelta
from jaxlab.nn.delta_config import DeltaConfig
from jaxlab.nn.norm import rms_norm
from jaxlab.runtime.drawing import by_operations
from jaxlab.sampling import SamplingConfig, generate
from jaxlab.sampling.caches import Dense
from jaxlab.trainers import optim

# Ways to the same numbers are compared: LLVM's optimisations leave them as they are, and are half
# of the time to compile. Rows of one shape share a program.
UNOPTIMISED = {"xla_backend_optimization_level": 0}
HYBRID = Sizes(
    vocab_size=19,
    hidden_size=12,
    intermediate_size=20,
    num_layers=4,
    num_heads=2,
    num_kv_heads=1,
    head_dim=6,
    pattern=("delta", "attention"),
    delta=DeltaConfig(rule="fg2_plus", head_dim=4, num_heads=2, expand_value=1.5),
    # Not 1e-6: a head that reads next to nothing would be scaled up with its rounding errors.
    norm_eps=1e-2,
    max_position=64,
)
LINEAR = dataclasses.replace(
    HYBRID,
    num_layers=2,
    num_heads=0,
    num_kv_heads=0,
    head_dim=None,
    intermediate_size=0,
    pattern=("delta",),
    tie_embeddings=True,
)
NOPE = dataclasses.replace(HYBRID, rope=None, delta=DeltaConfig(rule="gdn", head_dim=6))
both = pytest.mark.parametrize("config", [HYBRID, LINEAR], ids=["hybrid", "linear"])


def decoder(config):
    """The decoder of sizes, or of a config."""
    return Decoder(config.decoder() if isinstance(config, Sizes) else config)


@functools.cache
def random_params(config):
    """Normal parameters of scale 0.3, norm scales around 1."""
    shapes = jax.eval_shape(decoder(config).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        value = 0.3 * rng.normal(size=leaf.shape)
        return jnp.asarray(value + ("scale" in str(path[-1])), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes["params"])


def random_tokens(config, batch, length, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.integers(0, config.vocab_size, (batch, length)), jnp.int32)


@functools.cache
def compiled(config, method="__call__"):
    apply = functools.partial(decoder(config).apply, method=method)
    static = 3 if method == "prefill" else ()
    return jax.jit(apply, static_argnums=static, compiler_options=UNOPTIMISED)


def forward(config, params, *args):
    return compiled(config)({"params": params}, *args)


def test_a_linear_model_without_mlp_is_its_parts():
    params, tokens = random_params(LINEAR), random_tokens(LINEAR, 1, 8)
    mixer = GatedDelta(LINEAR.delta, LINEAR.hidden_size, LINEAR.norm_eps)
    table = params["embed"]["embedding"]
    x = table[tokens]
    for layer in (params["layer_0"], params["layer_1"]):
        assert layer.keys() == {"mixer", "mixer_norm"}
        normed = rms_norm(x, layer["mixer_norm"]["scale"], LINEAR.norm_eps)
        x = x + jax.jit(mixer.apply)({"params": layer["mixer"]}, normed, Context(tokens))
    expected = rms_norm(x, params["final_norm"]["scale"], LINEAR.norm_eps) @ table.T
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(forward(LINEAR, params, tokens), expected, atol=1e-5)


def test_a_hybrid_has_layers_of_both_kinds():
    params = random_params(HYBRID)
    kinds = ["decay" in params[f"layer_{i}"]["mixer"] for i in range(4)]
    assert kinds == [True, False, True, False]
    tokens = random_tokens(HYBRID, 1, 8)
    logits = forward(HYBRID, params, tokens)
    other = forward(HYBRID, params, tokens.at[:, 5:].set((tokens[:, 5:] + 1) % 19))
    np.testing.assert_array_equal(other[:, :5], logits[:, :5])
    assert np.abs(other[:, 5:] - logits[:, 5:]).min(axis=-1).max() > 0


def test_without_rope_positions_do_not_matter():
    tokens = random_tokens(NOPE, 1, 8)
    for config, same in ((NOPE, True), (HYBRID, False)):
        params = random_params(config)
        logits = forward(config, params, tokens, jnp.arange(8)[None])
        moved = forward(config, params, tokens, 3 * jnp.arange(8)[None])
        assert (np.abs(moved - logits).max() < 1e-6) == same


@both
def test_packed_rows_are_each_alone(config):
    params = random_params(config)
    tokens = random_tokens(config, 1, 8)
    positions = jnp.asarray([[0, 1, 2, 0, 1, 2, 3, 4]])
    packed = forward(config, params, tokens, positions, jnp.asarray([[1, 1, 1, 2, 2, 2, 2, 2]]))
    np.testing.assert_allclose(packed[:, :3], forward(config, params, tokens)[:, :3], atol=1e-5)
    second = forward(config, params, jnp.roll(tokens, -3, axis=1))[:, :5]
    np.testing.assert_allclose(packed[:, 3:], second, atol=1e-5)


@pytest.mark.parametrize("config", [HYBRID, LINEAR, NOPE], ids=["hybrid", "linear", "nope"])
def test_prefill_and_steps_equal_the_whole_row(config):
    """Ragged prompts of 6, 2 and 1 tokens in left-padded rows, then four steps."""
    params, lengths = random_params(config), (6, 2, 1)
    rows = random_tokens(config, 3, 11)
    expected = forward(config, params, rows)
    prompts = np.full((3, 6), 7, np.int32)
    for i, n in enumerate(lengths):
        prompts[i, 6 - n :] = rows[i, :n]
    variables = {"params": params}
    hidden, cache = compiled(config, "prefill")(variables, prompts, jnp.asarray(lengths), Dense(10))
    for t in range(4):
        logits = compiled(config, "logits")(variables, hidden)
        for i, n in enumerate(lengths):
            np.testing.assert_allclose(logits[i], expected[i, n - 1 + t], atol=1e-5)
        tokens = jnp.stack([rows[i, n + t] for i, n in enumerate(lengths)])
        hidden, cache = compiled(config, "step")(variables, tokens, cache)


def test_completions_behind_a_shared_prompt_have_the_gradients_of_whole_rows():
    """A prompt of 4 and one of 2 tokens, read once, then three completions of 3 tokens each."""
    config = dataclasses.replace(HYBRID, num_layers=2)
    params, lengths = random_params(config), jnp.asarray([4, 2])
    prompts, seen = random_tokens(config, 2, 4), random_tokens(config, 6, 3, seed=1)
    model = decoder(config)

    def shared(params):
        last, cache = model.apply({"params": params}, prompts, lengths, Dense(7), method="prefill")
        cache = model.repeat(cache, 3)
        hidden, _ = model.apply({"params": params}, seen, cache, method="extend")
        return jnp.concatenate([jnp.repeat(last, 3, axis=0)[:, None], hidden], axis=1)

    def whole(params):
        rows = jnp.concatenate([jnp.repeat(prompts, 3, axis=0), seen], axis=1)
        positions, ids = decoder_lib.left_padded(7, jnp.repeat(lengths, 3) + 3)
        return model.apply({"params": params}, rows, positions, ids, method="hidden")[:, -4:]

    weights = np.random.default_rng(2).normal(size=(6, 4, config.hidden_size))

    def run(hidden):
        def loss(params):
            y = hidden(params)
            return jnp.mean(weights * y), y

        return jax.jit(jax.grad(loss, has_aux=True), compiler_options=UNOPTIMISED)(params)

    (expected, y), (actual, other) = run(whole), run(shared)
    np.testing.assert_allclose(other, y, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), expected, actual)
    assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(actual["layer_0"])) > 1e-6


@both
def test_greedy_completions_are_the_argmax_of_the_whole_row(config):
    params, lengths = random_params(config), np.asarray([5, 1, 3])
    prompts = np.asarray(random_tokens(config, 3, 5, seed=4))
    sampling = SamplingConfig(max_new_tokens=6, temperature=0.0, num_samples=2)
    out = generate(decoder(config), params, prompts, lengths, jax.random.key(0), sampling)
    rows = np.zeros((3, 11), np.int32)
    for i, n in enumerate(lengths):
        rows[i, :n] = prompts[i, :n]
    for t in range(6):
        logits = np.asarray(forward(config, params, rows))
        rows[range(3), lengths + t] = logits[range(3), lengths + t - 1].argmax(-1)
    expected = np.stack([rows[i, n : n + 6] for i, n in enumerate(lengths)])
    np.testing.assert_array_equal(out.tokens, np.repeat(expected, 2, axis=0))
    if config is LINEAR:
        return
    scanned, stacked = rescan(config.decoder(), params)
    again = generate(Decoder(scanned), stacked, prompts, lengths, jax.random.key(0), sampling)
    np.testing.assert_array_equal(again.tokens, out.tokens)


def test_a_bfloat16_cache_leaves_states_in_float32():
    params, prompts = random_params(HYBRID), random_tokens(HYBRID, 3, 6)
    _, cache = compiled(HYBRID, "prefill")(
        {"params": params}, prompts, jnp.asarray([6, 2, 1]), Dense(10, "bfloat16")
    )
    stored = decoder(HYBRID).repeat(cache, 3)
    delta, attention = stored.layers[:2]
    assert isinstance(delta, DeltaCache)
    assert {leaf.dtype for leaf in delta} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in attention} == {jnp.dtype("bfloat16")}
    for leaf, repeated in zip(cache.layers[0], delta, strict=True):
        np.testing.assert_array_equal(repeated, np.repeat(leaf, 3, axis=0))


class TestLayers:
    def loss_and_gradient(self, config, params, tokens):
        segment_ids = jnp.asarray([[1, 1, 1, 2, 2, 2], [1, 1, 1, 1, 0, 0]])

        def loss(params):
            logits = decoder(config).apply({"params": params}, tokens, None, segment_ids)
            return jnp.mean(jax.nn.log_softmax(logits)[:, :, 0])

        return jax.jit(jax.value_and_grad(loss), compiler_options=UNOPTIMISED)(params)

    @both
    def test_scan_and_remat_change_neither_loss_nor_gradient(self, config, monkeypatch):
        if config is HYBRID:
            # Gradients by chunks, as of rows of more tokens: they are rounded less than those of
            # the recurrence, which a layer that is computed again rounds otherwise.
            monkeypatch.setattr(api, "FEW", 0)
        params, tokens = random_params(config), random_tokens(config, 2, 6)
        loss, gradient = self.loss_and_gradient(config, params, tokens)
        # Layers apart with remat alone are a test of decoder_test.py.
        other, others = rescan(dataclasses.replace(config, remat=True).decoder(), params)
        other_loss, others = self.loss_and_gradient(other, others, tokens)
        _, others = unscan(other, others)
        np.testing.assert_allclose(other_loss, loss, rtol=1e-6)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), others, gradient)
        # And by each leaf's own size, or a small gradient would not be held to anything.
        error = jax.tree.map(lambda x, y: np.abs(x - y).max() / np.abs(y).max(), others, gradient)
        assert max(jax.tree.leaves(error)) < 2e-5, error
        # One gradient for every leaf, none of them lost on the way.
        assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient)) > 1e-7

    @both
    def test_rescan_and_unscan_are_inverse_and_match_init(self, config):
        params = random_params(config)
        scanned, stacked = rescan(config.decoder(), params)
        init = functools.partial(Decoder(scanned).init, jax.random.key(0))
        expected = jax.eval_shape(init, jnp.zeros((1, 1), jnp.int32))["params"]
        assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(jnp.shape, expected)
        back_config, back = unscan(scanned, stacked)
        assert back_config == config.decoder()
        jax.tree.map(np.testing.assert_array_equal, back, params)

    def test_scanned_logits_are_those_of_layers_apart(self):
        params, tokens = random_params(HYBRID), random_tokens(HYBRID, 1, 8)
        scanned, stacked = rescan(HYBRID.decoder(), params)
        expected = forward(HYBRID, params, tokens)
        np.testing.assert_allclose(forward(scanned, stacked, tokens), expected, atol=2e-6)


@both
def test_bfloat16_compute_gives_float32_logits(config):
    params, tokens = random_params(config), random_tokens(config, 1, 8)
    exact = forward(config, params, tokens)
    config = dataclasses.replace(config, dtype="bfloat16")
    rough = forward(config, params, tokens)
    assert rough.dtype == jnp.float32
    # Two to four layers of products with 8 bits of mantissa: a few times 2^-8.
    error = jnp.sqrt(jnp.mean((rough - exact) ** 2) / jnp.mean(exact**2))
    assert 1e-4 < error < 4e-2


class TestConfig:
    @pytest.mark.parametrize("name", presets.DECODERS)
    def test_every_preset_survives_json(self, name, tmp_path):
        config = presets.decoder(name)
        config_lib.save_json(config, tmp_path / "decoder.json")
        fields = config_lib.load_json(tmp_path / "decoder.json")
        assert config_lib.build(DecoderConfig, fields) == config

    def test_a_config_dict_names_the_rule(self):
        sizes = {
            "vocab_size": 7,
            "hidden_size": 128,
            "intermediate_size": 0,
            "num_layers": 2,
            "pattern": ("delta",),
            "delta": {"rule": "fg2_plus", "head_dim": 64, "expand_value": 2},
            "rope": None,
        }
        config = config_lib.build(Sizes, ConfigDict(sizes))
        assert config.delta == DeltaConfig(rule="fg2_plus", head_dim=64, expand_value=2.0)
        assert (config.rope, config.head_dim) == (None, None)
        for key, value, message in (
            ("head_din", 3, r"delta\.head_din is not a known key; did you mean 'head_dim'"),
            ("rule", "fg3", r"delta\.rule: expected one of 'delta_net', .* got 'fg3'"),
            ("write", "same", r"config\.delta: delta\.expand_value is 2\.0"),
        ):
            bad = json.loads(json.dumps(sizes))
            bad["delta"][key] = value
            with pytest.raises(config_lib.ConfigError, match=message):
                config_lib.build(Sizes, bad)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"delta": None}, "has delta layers, but delta is not given: give for example"),
            ({"pattern": ("attention",)}, "delta is given, but the pattern .* or drop delta"),
            ({"num_heads": 0}, "num_heads is 0 and num_kv_heads 1: attention layers need"),
            ({"pattern": ()}, "num_layers 4 is no multiple of the pattern's 0"),
            ({"delta": DeltaConfig(head_dim=8)}, "hidden_size 12 is no multiple of .*head_dim 8"),
        ],
    )
    def test_parts_that_do_not_fit(self, changes, message):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(HYBRID, **changes)

    def test_another_width_of_a_preset_without_attention(self):
        heads = {"num_heads": 0, "num_kv_heads": 0, "head_dim": None}
        linear = presets.sizes("fg2-tiny", pattern=("delta",), **heads)
        assert linear.head_dim is None
        assert presets.sizes("fg2-tiny", hidden_size=64).head_dim == 32


def test_a_decoder_learns_to_recall():
    """One delta layer learns "key value ... key" -> value, which takes a memory of all pairs."""
    delta, steps = DeltaConfig(rule="fg2", head_dim=16), 250
    config = dataclasses.replace(LINEAR, vocab_size=16, hidden_size=32, num_layers=1, delta=delta)
    recipe = optim.Optim(learning_rate=1e-2, schedule="cosine", warmup_steps=20)
    optimizer = optim.make(recipe, steps)
    model = decoder(config)

    def batch(key, size):
        """Three pairs of a key 0..7 and a value 8..15, then one of the keys again."""
        keys, values, asked = jax.random.split(key, 3)
        order = jnp.argsort(jax.random.uniform(keys, (size, 8)), axis=1)[:, :3]
        values = jax.random.randint(values, (size, 3), 8, 16)
        asked = jax.random.randint(asked, (size, 1), 0, 3)
        pairs = jnp.stack([order, values], axis=2).reshape(size, 6)
        query = jnp.take_along_axis(order, asked, axis=1)
        target = jnp.take_along_axis(values, asked, axis=1)
        return jnp.concatenate([pairs, query], axis=1), target[:, 0]

    def loss_and_hits(params, key, size):
        tokens, target = batch(key, size)
        logits = model.apply({"params": params}, tokens)[:, -1]
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, target).mean()
        return loss, jnp.mean(logits.argmax(-1) == target)

    @jax.jit
    def train(params):
        def step(carry, key):
            params, state = carry
            (loss, _), grads = jax.value_and_grad(loss_and_hits, has_aux=True)(params, key, 32)
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), loss

        carry = (params, optimizer.init(params))
        (params, _), losses = jax.lax.scan(step, carry, jax.random.split(jax.random.key(1), steps))
        return losses, loss_and_hits(params, jax.random.key(2), 512)[1]

    losses, hits = train(
        by_operations(model.init)(jax.random.key(0), jnp.zeros((1, 7), jnp.int32))["params"]
    )
    assert losses[0] > 2.5
    # Who knows the three values in sight, but not which is the key's: 1/3 right, a loss of ln 3.
    assert losses[-20:].mean() < 0.1
    assert hits > 0.95
