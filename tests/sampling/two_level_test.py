"""Generation through the two-level cache, against the dense one."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxlab import overrides
from jaxlab.config import build
from jaxlab.evals.loop import Eval
from jaxlab.models.decoder import Decoder
from jaxlab.models.sizes import Sizes
from jaxlab.nn.context import Context
from jaxlab.nn.delta import DeltaCache
from jaxlab.runtime.drawing import by_operations
from jaxlab.sampling import SamplingConfig, generate
from jaxlab.sampling.caches import OffloadAttention, TwoLevel, TwoLevelAttention
from jaxlab.sampling.caches.reading import done, reading
from jaxlab.sampling.caches.two_level import calibrate

CONFIG = Sizes(
    vocab_size=61, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=4, num_kv_heads=2,
    max_position=64, scan_layers=True,
).decoder()  # fmt: skip
PROMPTS = np.random.default_rng(0).integers(0, 61, (3, 9))
LENGTHS = np.asarray([9, 1, 6])
# 16 tokens: more than any row has, fewer than the cache has slots.
COVERING = TwoLevelAttention(block=4, k_blocks=4, k_tokens=16, channels=2, min_len=0)
DENSE = SamplingConfig(max_new_tokens=6, temperature=0.0, num_samples=2)


@pytest.fixture(scope="module")
def params():
    params = by_operations(Decoder(CONFIG).init)(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    return jax.tree.map(lambda x: x * 4 if x.shape[0] == 61 else x, params["params"])


def test_budgets_that_cover_the_rows_are_dense_attention(params):
    def run(sampling):
        return generate(Decoder(CONFIG), params, PROMPTS, LENGTHS, jax.random.key(1), sampling)

    dense, covered = run(DENSE), run(dataclasses.replace(DENSE, attention=COVERING))
    np.testing.assert_array_equal(covered.tokens, dense.tokens)
    np.testing.assert_allclose(covered.logprobs, dense.logprobs, atol=2e-5)
    binding = dataclasses.replace(COVERING, k_tokens=1)
    out = run(dataclasses.replace(DENSE, attention=binding))
    assert np.isfinite(out.logprobs).all()
    # Of one token too few attend to the past for the same log-probabilities.
    assert np.abs(out.logprobs - dense.logprobs).max() > 1e-2


def test_tokens_read_together_are_tokens_read_in_turn():
    rng = np.random.default_rng(0)
    config = dataclasses.replace(COVERING, k_blocks=3, k_tokens=5)
    width, start = 6, jnp.array([0, 4])
    segment_ids = (jnp.arange(width)[None] >= start[:, None]).astype(jnp.int32)

    def tokens(count):
        shapes = ((2, count, 4, 8), (2, count, 2, 8), (2, count, 2, 5))
        return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]

    empty = TwoLevel(20, config).empty(2, 2, 8, 5, jnp.float32)
    prompt, new = tokens(width), tokens(3)
    _, cache = jax.jit(lambda c: c.prefill(*prompt, Context(segment_ids, segment_ids)))(empty)
    # The second row's two tokens stand in its first slots.
    np.testing.assert_array_equal(cache.key[1, :, :2], prompt[1][1, 4:].transpose(1, 0, 2))

    @jax.jit
    def extend(cache, new, slot):
        return cache.append_and_attend(*new, Context(slot + start[:, None], slot=slot, start=start))

    together, whole = extend(cache, new, width)
    for i in range(3):
        one, cache = extend(cache, [x[:, i : i + 1] for x in new], width + i)
        np.testing.assert_allclose(one[:, 0], together[:, i], atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, cache, whole)
    np.testing.assert_array_equal(cache.key[1, :, 4], new[1][1, 2])


def test_a_prompt_read_in_chunks_is_the_prompt_read_whole():
    rng = np.random.default_rng(0)
    config = dataclasses.replace(COVERING, k_blocks=3, k_tokens=5, stale=True)
    kind = config.kind(20, None, calibrated=True)
    lengths = np.asarray([11, 1, 6])
    start = jnp.asarray(11 - lengths)
    segment_ids = (jnp.arange(11)[None] >= start[:, None]).astype(jnp.int32)
    shapes = ((3, 11, 4, 8), (3, 11, 2, 8), (3, 11, 2, 5))
    prompt = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]

    @jax.jit
    def both():
        empty = kind.empty(3, 2, 8, 5, jnp.float32)
        whole = empty.prefill(*prompt, Context(segment_ids, segment_ids))
        cache, parts = reading(empty), []
        for begin, end in ((0, 3), (3, 7), (7, 11)):
            context = Context(None, slot=jnp.asarray(begin), start=start)
            y, cache = cache.append_and_attend(*[x[:, begin:end] for x in prompt], context)
            parts.append(y)
        return whole, (jnp.concatenate(parts, axis=1), done(cache))

    (y, whole), (in_chunks, cache) = both()
    seen = np.asarray(segment_ids, bool)
    np.testing.assert_allclose(in_chunks[seen], y[seen], atol=1e-6)
    for row, n in enumerate(lengths):
        np.testing.assert_array_equal(cache.key[row, :, :n], whole.key[row, :, :n])
    jax.tree.map(np.testing.assert_array_equal, cache.index, whole.index)
    np.testing.assert_array_equal(cache.wanted, whole.wanted)


@pytest.mark.slow
def test_generation_from_prompts_in_chunks(params):
    # Nine columns as chunks of 1, 4 and 4.
    once = dataclasses.replace(DENSE, prompt_multiple=1)
    chunked = dataclasses.replace(once, prefill_chunk=4)
    one, other = (
        generate(Decoder(CONFIG), params, PROMPTS, LENGTHS, jax.random.key(1), sampling)
        for sampling in (once, chunked)
    )
    np.testing.assert_array_equal(one.tokens, other.tokens)
    np.testing.assert_allclose(one.logprobs, other.logprobs, atol=2e-5)
    for attention, message in (
        (COVERING, "before a prompt's own channels are known: use calibration='checkpoint'"),
        (OffloadAttention(channels=2), "OffloadCache reads prompts whole"),
    ):
        sampling = dataclasses.replace(chunked, attention=attention)
        with pytest.raises(ValueError, match=message):
            generate(Decoder(CONFIG), params, PROMPTS, LENGTHS, jax.random.key(1), sampling)


def test_a_layer_that_reads_no_chunks_is_named():
    with pytest.raises(ValueError, match="prefill_chunk: DeltaCache reads prompts whole"):
        reading([DeltaCache(*4 * [jnp.zeros((1, 2))])])


def test_a_cache_too_short_to_be_sparse_says_so():
    prompt = [jnp.zeros((1, 4, 2, 8))] * 3

    def prefill(slots):
        config = dataclasses.replace(COVERING, min_len=20)
        empty = TwoLevel(slots, config).empty(1, 2, 8, 8, jnp.float32)
        jax.eval_shape(lambda: empty.prefill(*prompt, Context(jnp.arange(4)[None]))[0])

    with pytest.warns(UserWarning, match="stays dense: the cache has 19 slots and min_len is 20"):
        prefill(19)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prefill(20)


def test_channels_by_hand():
    # |q k| summed over two query heads: channels weigh 3 + 1, 2 + 2 * 5, 0 on the one real token.
    query = jnp.array([[[[9.0, 9, 9], [9, 9, 9]], [[3, -2, 0], [1, 10, 0]]]])
    key = jnp.array([[[[9.0, 0, 9]], [[1, -1, 8]]]])
    counts = jnp.array([[False, True]])
    assert calibrate(query, key, counts, 2).tolist() == [[[1, 0]]]


def test_the_option_by_its_name_and_what_it_refuses(params):
    section = {"max_new_tokens": 2, "attention": {"name": "two_level", "k_tokens": 9}}
    assert build(SamplingConfig, section).attention == TwoLevelAttention(k_tokens=9)
    held = ConfigDict({})
    _, changes = overrides.split(
        ["--config.attention.name=two_level", "--config.attention.block=8"]
    )
    overrides.apply(held, changes, Eval)
    chosen = build(Eval, held).sampling().attention
    assert chosen == TwoLevelAttention(block=8)
    assert chosen != TwoLevelAttention(block=16)
    for changes, message in (
        ({"channels": 5}, "channels is 5, and keys have 4"),
        ({"skip_layers": (0,)}, r"skip_layers is \(0,\)"),
    ):
        attention = dataclasses.replace(COVERING, **changes)
        sampling = SamplingConfig(max_new_tokens=2, attention=attention)
        with pytest.raises(ValueError, match=message):
            generate(Decoder(CONFIG), params, PROMPTS, LENGTHS, jax.random.key(0), sampling)
