"""Generation against the model's own full forward pass, and what the contract promises."""

import dataclasses
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.models import presets
from jaxlab.models.decoder import Decoder
from jaxlab.models.sizes import Sizes
from jaxlab.models.stacking import rescan
from jaxlab.runtime.drawing import by_operations
from jaxlab.sampling import SamplingConfig, decode, generate

CONFIG = Sizes(
    vocab_size=61,
    hidden_size=16,
    intermediate_size=24,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    qk_norm=True,
    max_position=64,
).decoder()
MODEL = Decoder(CONFIG)
PROMPTS = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (3, 7))
LENGTHS = np.asarray([7, 1, 4])
SAMPLED = SamplingConfig(max_new_tokens=6)


@pytest.fixture(scope="module")
def params():
    # Large embeddings, so that the next token's distribution is far from uniform.
    params = by_operations(MODEL.init)(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    return jax.tree.map(lambda x: x * 4 if x.shape[0] == CONFIG.vocab_size else x, params)


@jax.jit
def forward(params, tokens):
    return MODEL.apply({"params": params}, tokens)


def forward_logprobs(params, out, temperature=1.0):
    """log softmax [N, V] before each completion token of each row: no left padding, no cache."""
    rows = np.zeros((3, 16), np.int32)
    for row, length in enumerate(LENGTHS):
        rows[row, :length] = PROMPTS[row, :length]
        rows[row, length : length + 6] = out.tokens[row]
    logprobs = np.asarray(jax.nn.log_softmax(forward(params, rows) / temperature))
    return np.stack([logprobs[row, n - 1 : n + 5] for row, n in enumerate(LENGTHS)])


def of_tokens(logprobs, out):
    return np.take_along_axis(logprobs, np.asarray(out.tokens)[..., None], axis=2)[..., 0]


@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0])
def test_logprobs_are_those_of_the_full_forward(params, temperature):
    sampling = dataclasses.replace(SAMPLED, temperature=temperature)
    out = generate(MODEL, params, PROMPTS, LENGTHS, jax.random.key(1), sampling)
    expected = forward_logprobs(params, out, temperature or 1.0)
    np.testing.assert_allclose(out.logprobs, of_tokens(expected, out), atol=1e-4)
    if temperature == 0:
        np.testing.assert_array_equal(out.tokens, expected.argmax(2))
        np.testing.assert_array_equal(out.sampling_logprobs, np.zeros((3, 6)))
    else:
        np.testing.assert_array_equal(out.sampling_logprobs, out.logprobs)


def test_a_bfloat16_cache_moves_logprobs_by_its_rounding_only(params):
    sampling = dataclasses.replace(SAMPLED, cache_dtype="bfloat16")
    out = generate(MODEL, params, PROMPTS, LENGTHS, jax.random.key(1), sampling)
    gap = np.abs(out.logprobs - of_tokens(forward_logprobs(params, out), out)).max()
    assert 1e-5 < gap < 0.03


def test_stop_tokens_end_rows_and_the_loop(params):
    greedy = dataclasses.replace(SAMPLED, temperature=0.0)
    free = generate(MODEL, params, PROMPTS, LENGTHS, jax.random.key(0), greedy)
    tokens = np.asarray(free.tokens)
    assert not free.stopped.any()
    assert free.steps == 6
    np.testing.assert_array_equal(free.lengths, [6, 6, 6])

    stops = (int(tokens[0, 2]), int(tokens[1, 3]), int(tokens[2, 1]))
    sampling = dataclasses.replace(greedy, stop_ids=stops, pad_id=60)
    out = generate(MODEL, params, PROMPTS, LENGTHS, jax.random.key(0), sampling)
    lengths = [1 + next(i for i, x in enumerate(row) if x in stops) for row in tokens]
    np.testing.assert_array_equal(out.lengths, lengths)
    assert out.stopped.all()
    assert out.steps == max(lengths) < 6
    for row, length in enumerate(lengths):
        np.testing.assert_array_equal(out.tokens[row, :length], tokens[row, :length])
        assert (out.tokens[row, length:] == 60).all()
        np.testing.assert_allclose(
            out.logprobs[row, :length], free.logprobs[row, :length], atol=1e-6
        )
        assert (out.logprobs[row, length:] == 0).all()


def test_one_row_may_stop_while_another_is_cut_off(params):
    greedy = dataclasses.replace(SAMPLED, temperature=0.0)
    tokens = np.asarray(generate(MODEL, params, PROMPTS, LENGTHS, jax.random.key(0), greedy).tokens)
    stop = next(int(x) for x in tokens[0] if x not in tokens[1])
    sampling = dataclasses.replace(greedy, stop_ids=(stop,))
    out = generate(MODEL, params, PROMPTS, LENGTHS, jax.random.key(0), sampling)
    assert out.stopped[0]
    assert not out.stopped[1]
    assert out.lengths[1] == out.steps == 6


def test_a_row_does_not_depend_on_its_batch_its_padding_or_the_budget(params):
    keys = jax.random.split(jax.random.key(3), 3)
    together = generate(MODEL, params, PROMPTS, LENGTHS, keys, SAMPLED).tokens
    order = np.asarray([2, 0, 1])
    shuffled = generate(MODEL, params, PROMPTS[order], LENGTHS[order], keys[order], SAMPLED)
    np.testing.assert_array_equal(shuffled.tokens, np.asarray(together)[order])

    wider = np.pad(PROMPTS, ((0, 0), (0, 20)), constant_values=-1)
    longer = dataclasses.replace(SAMPLED, max_new_tokens=9)
    for row in range(3):
        only = slice(row, row + 1)
        alone = generate(MODEL, params, wider[only], LENGTHS[only], keys[only], longer)
        np.testing.assert_array_equal(alone.tokens[0, :6], together[row])


def test_one_key_stands_for_its_folds(params):
    key = jax.random.key(5)
    keys = jnp.stack([jax.random.fold_in(key, row) for row in range(3)])
    one = generate(MODEL, params, PROMPTS, LENGTHS, key, SAMPLED).tokens
    np.testing.assert_array_equal(
        one, generate(MODEL, params, PROMPTS, LENGTHS, keys, SAMPLED).tokens
    )
    raw = jax.random.key_data(keys)
    np.testing.assert_array_equal(
        one, generate(MODEL, params, PROMPTS, LENGTHS, raw, SAMPLED).tokens
    )
    other = generate(MODEL, params, PROMPTS, LENGTHS, jax.random.key(6), SAMPLED).tokens
    assert (one != other).any()


def test_num_samples_equals_repeated_prompts(params):
    keys = jax.random.split(jax.random.key(7), 3)
    several = dataclasses.replace(SAMPLED, num_samples=2)
    out = generate(MODEL, params, PROMPTS, LENGTHS, keys, several)
    assert out.tokens.shape == (6, 6)
    own = jnp.stack([jax.random.fold_in(k, j) for k in keys for j in range(2)])
    repeated = generate(
        MODEL, params, PROMPTS.repeat(2, 0), LENGTHS.repeat(2), own[:, None], SAMPLED
    )
    np.testing.assert_array_equal(out.tokens, repeated.tokens)
    np.testing.assert_allclose(out.logprobs, repeated.logprobs, atol=1e-5)
    assert (out.tokens[0::2] != out.tokens[1::2]).any(axis=1).all()
    matrix = generate(MODEL, params, PROMPTS, LENGTHS, own.reshape(3, 2), several)
    np.testing.assert_array_equal(out.tokens, matrix.tokens)


def test_prompt_lengths_and_params_within_a_bucket_share_one_program(params):
    generate(MODEL, params, PROMPTS, LENGTHS, jax.random.key(0), SAMPLED)
    before = decode._generate._cache_size()
    for width in (3, 5, 16):
        scaled = jax.tree.map(lambda x, w=width: x * (1 + w / 100), params)
        prompts, lengths = np.ones((3, width), np.int64), np.full(3, width)
        key, sampling = jax.random.key(width), SamplingConfig(max_new_tokens=6)
        generate(Decoder(CONFIG), scaled, prompts, lengths, key, sampling)
    assert decode._generate._cache_size() == before
    generate(MODEL, params, np.ones((3, 17), int), np.full(3, 17), jax.random.key(0), SAMPLED)
    assert decode._generate._cache_size() == before + 1


def test_scanned_layers_give_the_same_tokens(params):
    config, stacked = rescan(CONFIG, params)
    expected = generate(MODEL, params, PROMPTS, LENGTHS, jax.random.key(1), SAMPLED)
    out = generate(Decoder(config), stacked, PROMPTS, LENGTHS, jax.random.key(1), SAMPLED)
    np.testing.assert_array_equal(out.tokens, expected.tokens)


def test_nan_parameters_neither_hang_nor_hide(params):
    broken = jax.tree.map(lambda x: x * jnp.nan, params)
    out = generate(MODEL, broken, PROMPTS, LENGTHS, jax.random.key(1), SAMPLED)
    np.testing.assert_array_equal(out.tokens, np.zeros((3, 6)))
    assert np.isnan(out.logprobs).all()


def test_what_stands_behind_a_prompt_is_ignored(params):
    poisoned = np.where(np.arange(7) < LENGTHS[:, None], PROMPTS, -100)
    expected = generate(MODEL, params, PROMPTS, LENGTHS, jax.random.key(1), SAMPLED)
    for prompts in (poisoned, jnp.asarray(poisoned)):
        out = generate(MODEL, params, prompts, jnp.asarray(LENGTHS), jax.random.key(1), SAMPLED)
        np.testing.assert_array_equal(out.tokens, expected.tokens)
        np.testing.assert_array_equal(out.logprobs, expected.logprobs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": PROMPTS[0]}, r"prompts \(7,\)"),
        ({"prompt_lengths": LENGTHS[:2]}, "prompt_lengths"),
        ({"prompts": PROMPTS * 1.0}, "float64"),
        ({"prompt_lengths": np.asarray([7, 0, 4])}, r"prompt_lengths\[1\] is 0"),
        ({"prompt_lengths": jnp.asarray([7, 1, 8])}, r"prompt_lengths\[2\] is 8"),
        ({"prompts": np.where(PROMPTS < 30, 61, PROMPTS)}, "is 61: ids must be"),
        ({"sampling": SamplingConfig(58)}, "7 tokens and max_new_tokens 58 .* max_position 64"),
        ({"sampling": SamplingConfig(4, stop_ids=(61,))}, "vocabulary of 61"),
        ({"sampling": SamplingConfig(4, vocab_size=50, stop_ids=(50,))}, "vocabulary of 50"),
        ({"sampling": SamplingConfig(4, vocab_size=62)}, "vocab_size is 62, .* table has 61"),
        ({"key": jax.random.split(jax.random.key(0), 2)}, r"keys have shape \(2,\)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_input_is_named(params, changes, message):
    arguments = {
        "prompts": PROMPTS,
        "prompt_lengths": LENGTHS,
        "key": jax.random.key(0),
        "sampling": SAMPLED,
    }
    with pytest.raises(ValueError, match=message):
        generate(MODEL, params, **(arguments | changes))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_beyond_the_vocabulary_are_as_if_they_were_not_there(params, temperature):
    words = 50
    padded = jax.tree.map(
        lambda x: x.at[words:].set(np.nan) if x.shape[0] == CONFIG.vocab_size else x, params
    )
    prompts = PROMPTS % words
    sampling = SamplingConfig(max_new_tokens=6, temperature=temperature, vocab_size=words)
    out = generate(MODEL, padded, prompts, LENGTHS, jax.random.key(1), sampling)
    cut = jax.tree.map(lambda x: x[:words] if x.shape[0] == CONFIG.vocab_size else x, params)
    smaller = Decoder(dataclasses.replace(CONFIG, vocab_size=words))
    wanted = generate(smaller, cut, prompts, LENGTHS, jax.random.key(1), sampling)
    np.testing.assert_array_equal(out.tokens, wanted.tokens)
    np.testing.assert_allclose(out.logprobs, wanted.logprobs, rtol=1e-5, atol=1e-6)


def test_stacked_layers_are_decoded_without_a_copy_of_the_parameters():
    model = Decoder(presets.decoder("small", num_layers=16, vocab_size=64, scan_layers=True))
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    inputs = (jnp.ones((1, 4), jnp.int32), jnp.ones(1, jnp.int32), jax.random.key(0)[None, None])
    lowered = decode._generate.lower(model, SamplingConfig(max_new_tokens=4), params, *inputs)
    compiled = lowered.compile({"xla_backend_optimization_level": 0})
    assert compiled.memory_analysis().temp_size_in_bytes < size / 4


def test_a_batch_sharded_over_data_gives_the_same_tokens():
    program = """
        import jax, jax.numpy as jnp, numpy as np
        from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
        from jaxlab.models.decoder import Decoder
        from jaxlab.models.sizes import Sizes
        from jaxlab.rollouts.policy import Policy
        from jaxlab.runtime import decode_devices
        from jaxlab.runtime.drawing import by_operations
        from jaxlab.runtime.mesh import make_mesh
        from jaxlab.sampling import SamplingConfig, generate

        decode_devices.start(8)
        sizes = Sizes(vocab_size=61, hidden_size=16, intermediate_size=24, num_layers=1,
                      num_heads=4, num_kv_heads=2, max_position=64)
        model = Decoder(sizes.decoder())
        init = by_operations(model.init)
        params = init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
        prompts = np.random.default_rng(0).integers(0, 61, (8, 7))
        lengths = np.arange(8) % 7 + 1
        sampling = SamplingConfig(max_new_tokens=5, num_samples=2, top_p=0.9, stop_ids=(3,))
        one = generate(model, params, prompts, lengths, jax.random.key(1), sampling)

        mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
        with jax.set_mesh(mesh):
            rows = NamedSharding(mesh, P("data"))
            split = generate(
                model, jax.device_put(params, NamedSharding(mesh, P())),
                jax.device_put(prompts, rows), jax.device_put(lengths, rows),
                jax.random.key(1), sampling)
        assert len(split.tokens.sharding.device_set) == 8
        assert not split.tokens.sharding.is_fully_replicated

        def check(out, expected):
            np.testing.assert_array_equal(out.tokens, expected.tokens)
            np.testing.assert_array_equal(out.stopped, expected.stopped)
            np.testing.assert_array_equal(out.lengths, expected.lengths)
            np.testing.assert_allclose(out.logprobs, expected.logprobs, atol=1e-5)

        check(split, one)
        alone = generate(model, params, prompts, lengths, jax.random.key(1), sampling, mesh)
        check(alone, one)
        assert len(alone.tokens.sharding.device_set) == 8
        assert alone.steps == one.steps

        # Training stays on one device; a policy on it decodes on as many as its rows allow.
        home = make_mesh({"data": -1})
        assert home.size == 1
        assert decode_devices.mesh_for(home, params, 3, 2).size == 6
        assert decode_devices.mesh_for(home, params, 1, 3).size == 3
        assert decode_devices.mesh_for(home, params, 1, 1) is None
        texts = [row[:length].tolist() for row, length in zip(prompts, lengths)]
        three = Policy(model, sampling, home, 0)(params, texts[:3], jax.random.key(1))
        assert three.response.sharding.device_set == set(home.devices.flat)
        np.testing.assert_array_equal(three.response, one.tokens[:6])
        np.testing.assert_array_equal(three.stopped, one.stopped[:6])
        np.testing.assert_array_equal(three.tokens[4], np.concatenate(
            [np.zeros(13, int), texts[2], one.tokens[4]]))
    """
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
