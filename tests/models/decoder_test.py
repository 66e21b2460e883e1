"""The decoder against a float64 reference, and the ways of running it against each other."""

import dataclasses
import functools
import os
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.models import decoder as decoder_lib
from jaxlab.models import presets
from jaxlab.models.decoder import Decoder
from jaxlab.models.sizes import Sizes
from jaxlab.models.stacking import rescan, unscan
from jaxlab.sampling.caches import Dense

MESH_SCRIPT = pathlib.Path(__file__).with_name("decoder_mesh_script.py")

# Ways to the same numbers are compared: LLVM's optimisations leave them as they are, and are half
# of the time to compile.
UNOPTIMISED = {"xla_backend_optimization_level": 0}

# Every optional part at once, and sizes that no two axes share.
FULL = Sizes(
    vocab_size=19,
    hidden_size=12,
    intermediate_size=20,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=6,
    norm_eps=1e-3,
    qkv_bias=True,
    output_bias=True,
    mlp_bias=True,
    qk_norm=True,
)


def decoder(config):
    """The decoder of sizes, or of a config."""
    return Decoder(config.decoder() if isinstance(config, Sizes) else config)


def shapes_of(config):
    tokens = jnp.zeros((1, 1), jnp.int32)
    return jax.eval_shape(decoder(config).init, jax.random.key(0), tokens)["params"]


def random_params(config, seed=0):
    """Normal parameters of scale 0.3, norm scales around 1: nothing is trivially zero or one."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        value = 0.3 * rng.normal(size=leaf.shape)
        return jnp.asarray(value + ("scale" in str(path[-1])), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes_of(config))


def random_tokens(config, batch, length, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.integers(0, config.vocab_size, (batch, length)), jnp.int32)


@functools.cache
def compiled(config, method):
    apply = functools.partial(decoder(config).apply, method=method)
    return jax.jit(apply, compiler_options=UNOPTIMISED)


def apply(config, params, *args, method="__call__"):
    return compiled(config, method)({"params": params}, *args)


def reference_logits(config, params, tokens):
    """One row of tokens [T] -> logits [T, V], in float64, one position and one head at a time."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    length, dim = len(tokens), config.head_dim

    def norm(x, scale):
        return x / np.sqrt(np.mean(x**2) + config.norm_eps) * scale["scale"]

    def linear(x, layer):
        return x @ layer["kernel"] + layer.get("bias", 0.0)

    def heads(x, layer, count):
        return linear(x, layer).reshape(count, dim)

    def turn(head, position):
        """Multiply pair i, as a complex number, by exp(1j * position * theta^(-2i / D))."""
        pairs = head[: dim // 2] + 1j * head[dim // 2 :]
        pairs = pairs * np.exp(1j * position * config.rope.theta ** (-np.arange(0, dim, 2) / dim))
        return np.concatenate([pairs.real, pairs.imag])

    x = p["embed"]["embedding"][tokens]
    for layer in (p[f"layer_{i}"] for i in range(config.num_layers)):
        mixer, mlp = layer["mixer"], layer["mlp"]
        keys, values = [], []
        mixed = np.zeros_like(x)
        for t in range(length):
            h = norm(x[t], layer["mixer_norm"])
            query = heads(h, mixer["query"], config.num_heads)
            key = heads(h, mixer["key"], config.num_kv_heads)
            if config.qk_norm:
                query = np.stack([norm(head, mixer["query_norm"]) for head in query])
                key = np.stack([norm(head, mixer["key_norm"]) for head in key])
            keys.append([turn(head, t) for head in key])
            values.append(heads(h, mixer["value"], config.num_kv_heads))
            attended = []
            for i, head in enumerate(query):
                group = i // (config.num_heads // config.num_kv_heads)
                scores = np.array([turn(head, t) @ k[group] for k in keys]) / np.sqrt(dim)
                weights = np.exp(scores - scores.max())
                weights /= weights.sum()
                attended.append(sum(w * v[group] for w, v in zip(weights, values, strict=True)))
            mixed[t] = linear(np.concatenate(attended), mixer["output"])
        x = x + mixed
        for t in range(length):
            h = norm(x[t], layer["mlp_norm"])
            gate = linear(h, mlp["gate"])
            x[t] = x[t] + linear(gate / (1 + np.exp(-gate)) * linear(h, mlp["up"]), mlp["down"])
    table = p["embed" if config.tie_embeddings else "unembed"]["embedding"]
    return np.stack([norm(row, p["final_norm"]) for row in x]) @ table.T


@pytest.fixture(scope="module")
def full():
    return FULL, random_params(FULL)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "num_kv_heads": 4,
            "qk_norm": False,
            "qkv_bias": False,
            "output_bias": False,
            "mlp_bias": False,
            "tie_embeddings": True,
        },
    ],
)
def test_matches_the_float64_reference(changes):
    config = dataclasses.replace(FULL, **changes)
    params, tokens = random_params(config), random_tokens(config, 2, 7)
    logits = apply(config, params, tokens)
    assert logits.dtype == jnp.float32
    for row, expected in zip(logits, tokens, strict=True):
        reference = reference_logits(config, params, np.asarray(expected))
        assert np.abs(reference).max() > 1.0
        np.testing.assert_allclose(row, reference, atol=2e-5)


def test_the_future_changes_nothing(full):
    config, params = full
    tokens = random_tokens(config, 1, 8)
    logits = apply(config, params, tokens)
    for t in (1, 5, 7):
        changed = tokens.at[:, t:].set((tokens[:, t:] + 1) % config.vocab_size)
        other = apply(config, params, changed)
        np.testing.assert_array_equal(other[:, :t], logits[:, :t])
        assert np.abs(other[:, t:] - logits[:, t:]).min(axis=-1).max() > 0


def test_segments_do_not_see_each_other(full):
    """Two sequences packed into a row give what each gives alone."""
    config, params = full
    first, second = random_tokens(config, 1, 3, 1), random_tokens(config, 1, 5, 2)
    packed = jnp.concatenate([first, second], axis=1)
    positions = jnp.asarray([[0, 1, 2, 0, 1, 2, 3, 4]])
    segments = jnp.asarray([[1, 1, 1, 2, 2, 2, 2, 2]])
    logits = apply(config, params, packed, positions, segments)
    np.testing.assert_allclose(logits[:, :3], apply(config, params, first), atol=1e-5)
    np.testing.assert_allclose(logits[:, 3:], apply(config, params, second), atol=1e-5)
    changed = packed.at[:, :3].set((first + 1) % config.vocab_size)
    other = apply(config, params, changed, positions, segments)
    np.testing.assert_array_equal(other[:, 3:], logits[:, 3:])


def test_only_differences_of_positions_matter(full):
    config, params = full
    tokens = random_tokens(config, 1, 6)
    positions = jnp.arange(6)[None]
    logits = apply(config, params, tokens, positions)
    np.testing.assert_allclose(apply(config, params, tokens, positions + 50), logits, atol=1e-4)
    assert np.abs(apply(config, params, tokens, positions * 3) - logits).max() > 1e-2


class TestDecoding:
    LENGTHS = (6, 2, 1)

    @pytest.fixture
    def rows(self, full):
        """Unpadded rows of 4 more tokens than their prompts have, and their full logits."""
        config, params = full
        rows = [random_tokens(config, 1, 10, seed=n) for n in self.LENGTHS]
        # One program for all: what stands behind a token changes nothing, as tested above.
        logits = apply(config, params, jnp.concatenate(rows))
        lengths = [n + 4 for n in self.LENGTHS]
        return (
            [row[:, :n] for row, n in zip(rows, lengths, strict=True)],
            [full_logits[None, :n] for full_logits, n in zip(logits, lengths, strict=True)],
        )

    def left_padded(self, rows, garbage):
        width = max(self.LENGTHS)
        prompts = np.full((len(rows), width), garbage, np.int32)
        for i, (row, n) in enumerate(zip(rows, self.LENGTHS, strict=True)):
            prompts[i, width - n :] = row[0, :n]
        return jnp.asarray(prompts)

    def test_left_padding_equals_no_padding(self, full, rows):
        config, params = full
        rows, expected = rows
        prompts = self.left_padded(rows, garbage=3)
        width = prompts.shape[1]
        positions, segments = decoder_lib.left_padded(width, jnp.asarray(self.LENGTHS))
        np.testing.assert_array_equal(positions[1], [0, 0, 0, 0, 0, 1])
        np.testing.assert_array_equal(segments[1], [0, 0, 0, 0, 1, 1])
        logits = apply(config, params, prompts, positions, segments)
        assert np.isfinite(logits).all()
        for row, full_logits, n in zip(logits, expected, self.LENGTHS, strict=True):
            np.testing.assert_allclose(row[width - n :], full_logits[0, :n], atol=1e-5)

    def test_prefill_and_steps_equal_the_full_forward(self, full, rows):
        config, params = full
        rows, expected = rows
        model = decoder(config)
        variables = {"params": params}
        prefill = jax.jit(
            lambda prompts: model.apply(
                variables, prompts, jnp.asarray(self.LENGTHS), Dense(10), method="prefill"
            )
        )
        step = jax.jit(lambda tokens, cache: model.apply(variables, tokens, cache, method="step"))
        hidden, cache = prefill(self.left_padded(rows, garbage=0))
        assert cache.layers[0].key.shape == (3, config.num_kv_heads, 10, config.head_dim)
        other, _ = prefill(self.left_padded(rows, garbage=7))
        np.testing.assert_array_equal(hidden, other)
        for t in range(4):
            logits = apply(config, params, hidden, method="logits")
            for row, full_logits, n in zip(logits, expected, self.LENGTHS, strict=True):
                np.testing.assert_allclose(row, full_logits[0, n - 1 + t], atol=1e-5)
            tokens = [row[0, n + t] for row, n in zip(rows, self.LENGTHS, strict=True)]
            hidden, cache = step(jnp.stack(tokens), cache)

    def test_several_tokens_at_once_are_as_many_steps(self, full, rows):
        config, params = full
        rows, expected = rows
        model, variables = decoder(config), {"params": params}
        prompts, lengths = self.left_padded(rows, garbage=0), jnp.asarray(self.LENGTHS)
        prefill = jax.jit(
            lambda prompts: model.apply(variables, prompts, lengths, Dense(12), method="prefill")
        )
        _, cache = prefill(prompts)
        tokens = [row[0, n : n + 4] for row, n in zip(rows, self.LENGTHS, strict=True)]
        tokens = jnp.stack(tokens)
        extend = jax.jit(
            lambda tokens, cache: model.apply(variables, tokens, cache, method="extend")
        )
        first, cache = extend(tokens[:, :3], cache)
        assert int(cache.slot) == prompts.shape[1] + 3
        second, cache = extend(tokens[:, 3:], cache)
        logits = apply(config, params, jnp.concatenate([first, second], 1), method="logits")
        for row, full_logits, n in zip(logits, expected, self.LENGTHS, strict=True):
            np.testing.assert_allclose(row, full_logits[0, n:], atol=1e-5)

    def test_stacked_layers_decode_as_layers_apart_do(self, full, rows):
        """Prefill, repeated rows and a step equal those of layers apart."""
        config, params = full
        rows, _ = rows
        prompts, lengths = self.left_padded(rows, garbage=0), jnp.asarray(self.LENGTHS)
        tokens = jnp.stack([row[0, n] for row, n in zip(rows, self.LENGTHS, strict=True)])
        config = config.decoder()

        def run(config, params):
            model = Decoder(config)

            def twice(params):
                _, cache = model.apply(
                    {"params": params}, prompts, lengths, Dense(8), method="prefill"
                )
                cache = model.repeat(cache, 2)
                doubled = jnp.repeat(tokens, 2, axis=0)
                return model.apply({"params": params}, doubled, cache, method="step")[0]

            return jax.jit(twice, compiler_options=UNOPTIMISED)(params)

        apart, stacked = run(config, params), run(*rescan(config, params))
        np.testing.assert_allclose(stacked, apart, atol=1e-5)


class TestLayers:
    def loss_and_gradient(self, config, params, tokens):
        def loss(params):
            logits = decoder(config).apply({"params": params}, tokens)
            return jnp.mean(jax.nn.log_softmax(logits)[:, :, 0])

        return jax.jit(jax.value_and_grad(loss), compiler_options=UNOPTIMISED)(params)

    def test_scan_and_remat_change_neither_loss_nor_gradient(self, full):
        config, params = full
        tokens = random_tokens(config, 2, 5)
        loss, gradient = self.loss_and_gradient(config, params, tokens)
        assert max(jnp.abs(leaf).max() for leaf in jax.tree.leaves(gradient)) > 1e-2
        for scan, remat in ((False, True), (True, False)):
            one = dataclasses.replace(config, remat=remat)
            other, others = rescan(one.decoder(), params) if scan else (one, params)
            other_loss, others = self.loss_and_gradient(other, others, tokens)
            _, others = unscan(other if scan else other.decoder(), others)
            np.testing.assert_allclose(other_loss, loss, rtol=1e-6)
            jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), others, gradient)

    @pytest.mark.parametrize("scan", [False, True])
    def test_remat_holds_where_a_cache_is_read(self, full, scan):
        config, _ = full
        model = decoder(dataclasses.replace(config, remat=True, scan_layers=scan))
        params = decoder_lib.abstract_params(model.config)
        tokens = random_tokens(config, 2, 5)

        def loss(params):
            variables, lengths = {"params": params}, jnp.full(2, 5)
            _, cache = model.apply(variables, tokens, lengths, Dense(9), method="prefill")
            hidden, _ = model.apply(variables, tokens[:, :4], cache, method="extend")
            return jnp.sum(hidden)

        traced = str(jax.make_jaxpr(jax.grad(loss))(params))
        layers = 1 if scan else config.num_layers
        # Backwards, reading the prompt and going on are done again.
        assert traced.count("remat2[") == 2 * layers

    def test_rescan_and_unscan_are_inverse_and_match_init(self, full):
        config, params = full
        scanned, stacked = rescan(config.decoder(), params)
        assert scanned.scan_layers
        expected = jax.eval_shape(
            Decoder(scanned).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32)
        )["params"]
        assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(jnp.shape, expected)
        assert rescan(scanned, stacked) == (scanned, stacked)
        back_config, back = unscan(scanned, stacked)
        assert back_config == config.decoder()
        jax.tree.map(np.testing.assert_array_equal, back, params)


@dataclasses.dataclass(frozen=True)
class Doubling:
    """A mixer of its own: one file, that is all."""

    name: str = "doubling"

    def module(self, **shared):
        return DoublingLayer(parent=shared["parent"])


class DoublingLayer(nn.Module):
    @nn.compact
    def __call__(self, x, context):
        self.sow("aux", "load", jnp.mean(x))
        return 2 * x


@pytest.mark.parametrize("scan", [False, True])
def test_what_a_mixer_reports_arrives_layer_by_layer(full, scan):
    config, _ = full
    ((_, (layer,)),) = config.decoder().stacks
    mixer = dataclasses.replace(layer, mixer=Doubling())
    config = dataclasses.replace(
        config.decoder(), stacks=((1, (layer,)), (3, (mixer,))), scan_layers=scan
    )
    params, tokens = random_params(config), random_tokens(config, 1, 4)
    apply = jax.jit(functools.partial(Decoder(config).apply, mutable=["aux"]))
    _, reports = apply({"params": params}, tokens)
    loads = [np.ravel(load) for load in jax.tree.leaves(reports["aux"])]
    assert np.concatenate(loads).shape == (3,)
    assert len(set(np.concatenate(loads).tolist())) == 3


def test_bfloat16_compute_gives_float32_logits(full):
    config, params = full
    tokens = random_tokens(config, 2, 7)
    exact = apply(config, params, tokens)
    config = dataclasses.replace(config, dtype="bfloat16")
    rough = apply(config, params, tokens)
    assert rough.dtype == jnp.float32
    assert apply(config, params, tokens, method="hidden").dtype == jnp.bfloat16
    # Two layers of products with 8 bits of mantissa: a few times 2^-8.
    error = jnp.sqrt(jnp.mean((rough - exact) ** 2) / jnp.mean(exact**2))
    assert 1e-4 < error < 3e-2


def test_fresh_parameters():
    """float32 unless asked; embeddings tied or not."""
    params = shapes_of(presets.decoder("tiny"))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert "unembed" not in params
    assert decoder_lib.unembedding(params) is params["embed"]["embedding"]
    untied = shapes_of(FULL)
    assert decoder_lib.unembedding(untied) is untied["unembed"]["embedding"]
    half = shapes_of(dataclasses.replace(FULL, param_dtype="bfloat16"))
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_dim": None, "hidden_size": 13}, "hidden_size 13 .* num_heads 4: give head_dim"),
        ({"num_kv_heads": 3}, "num_heads 4 is no multiple of num_kv_heads 3"),
        ({"pattern": ("attention",) * 3}, "num_layers 2 is no multiple of the pattern's 3"),
    ],
)
def test_sizes_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(FULL, **changes)


def test_head_dim_follows_from_the_width():
    assert dataclasses.replace(FULL, head_dim=None, hidden_size=16).head_dim == 4


def test_eight_devices_give_the_logits_of_one(forks):
    """Automatic and explicit axes, and a hybrid, in one process with eight host devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    done = forks.run(MESH_SCRIPT, cwd=MESH_SCRIPT.parents[2], XLA_FLAGS=flags)
    assert done.returncode == 0, done.stderr[-3000:]
    names = ["auto", "explicit", "hybrid SHARDED", "hybrid DECODING", "hybrid ambient", "experts"]
    assert done.stdout.splitlines() == names


@pytest.mark.slow
def test_training_over_divided_experts_is_that_of_one_device(forks):
    """Losses, gradients' norms and balance of two steps of SFT and of distillation."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    done = forks.run(MESH_SCRIPT, "training", cwd=MESH_SCRIPT.parents[2], XLA_FLAGS=flags)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == ["student on experts", "opd on experts"]
