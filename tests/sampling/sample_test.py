"""The sampler against float64 references: which tokens, how often, with which log-probability."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.sampling import SamplingConfig, sample
from jaxlab.sampling.sample import _invert_cdf

LARGEST = 2**32 - 1


def draw(logits, bits=None, seed=0, **options):
    logits = jnp.atleast_2d(jnp.asarray(logits, jnp.float32))
    if bits is None:
        bits = jax.random.bits(jax.random.key(seed), (logits.shape[0], 2), jnp.uint32)
    config = SamplingConfig(max_new_tokens=1, **options)
    return jax.jit(sample, static_argnums=2)(logits, bits, config)


def reference(logits, temperature=1.0, top_k=None, top_p=None, min_p=None):
    """(untruncated, truncated) probabilities of one row, in float64, by sorting."""

    def softmax(scores):
        weights = np.exp(scores - scores.max())
        return weights / weights.sum()

    scores = np.asarray(logits, np.float64) / temperature
    full = softmax(scores)
    if top_k is not None:
        scores = np.where(scores >= np.sort(scores)[-top_k], scores, -np.inf)
    if top_p is not None:
        probs = softmax(scores)
        order = np.argsort(-probs, kind="stable")
        before = np.cumsum(probs[order]) - probs[order]
        scores[order[before >= top_p]] = -np.inf
    if min_p is not None:
        probs = softmax(scores)
        scores = np.where(probs >= min_p * probs.max(), scores, -np.inf)
    return full, softmax(scores)


OPTIONS = [
    {},
    {"temperature": 0.5},
    {"temperature": 2.0},
    {"top_k": 5},
    {"top_p": 0.8},
    {"min_p": 0.1},
    {"temperature": 1.7, "top_k": 12, "top_p": 0.9, "min_p": 0.05},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_frequencies_and_logprobs_are_those_of_the_distribution(options):
    import scipy.stats  # two seconds

    logits = np.random.default_rng(3).normal(size=37)
    count = 40_000
    drawn = draw(np.tile(logits, (count, 1)), **options)
    tokens = np.asarray(drawn.tokens)
    full, truncated = reference(logits, **options)

    kept = truncated > 0
    observed = np.bincount(tokens, minlength=37)
    assert observed[~kept].sum() == 0
    assert kept.sum() > 3
    test = scipy.stats.chisquare(observed[kept], truncated[kept] * count)
    assert test.pvalue > 1e-3
    np.testing.assert_allclose(drawn.logprobs, np.log(full[tokens]), atol=2e-6)
    np.testing.assert_allclose(drawn.sampling_logprobs, np.log(truncated[tokens]), atol=2e-6)


@pytest.mark.parametrize("options", OPTIONS[3:], ids=str)
def test_truncation_keeps_exactly_the_reference_set_in_a_large_vocabulary(options):
    logits = np.random.default_rng(5).normal(size=1000) * 3
    _, truncated = reference(logits, **options)
    drawn = draw(np.tile(logits, (5_000, 1)), **options)
    seen = np.unique(drawn.tokens)
    assert truncated[seen].min() > 0
    likely = np.flatnonzero(truncated > 8e-3)  # 5,000 draws miss one with probability e**-40
    assert likely.size > 3
    assert set(likely) <= set(seen)


def test_filters_combine_in_the_order_of_transformers():
    # After top-k 2 the renormalised probabilities are 4/7 and 3/7: top-p 0.5 keeps one token.
    # In the other order top-p 0.5 would keep two (0.4 < 0.5), and then top-k 2 both.
    logits = np.log([0.4, 0.3, 0.2, 0.1])
    tokens = draw(np.tile(logits, (500, 1)), top_k=2, top_p=0.5).tokens
    assert set(np.asarray(tokens)) == {0}
    tokens = draw(np.tile(logits, (500, 1)), top_p=0.5).tokens
    assert set(np.asarray(tokens)) == {0, 1}


@pytest.mark.parametrize("options", [{"top_k": 2}, {"top_p": 0.5}, {"min_p": 0.9}], ids=str)
def test_tokens_that_tie_with_the_last_kept_are_kept(options):
    logits = np.log([0.35, 0.32, 0.32, 0.01])
    drawn = draw(np.tile(logits, (500, 1)), **options)
    assert set(np.asarray(drawn.tokens)) == {0, 1, 2}


def test_top_k_beyond_the_vocabulary_keeps_all():
    logits = np.random.default_rng(0).normal(size=(50, 9))
    np.testing.assert_array_equal(draw(logits, top_k=99).tokens, draw(logits).tokens)


def test_minus_infinity_is_never_drawn():
    logits = np.full((3000, 21), -np.inf)
    logits[:, [4, 17]] = [0.0, -1.0]
    for options in ({}, {"top_k": 5}, {"top_p": 0.999}, {"min_p": 0.0}):
        drawn = draw(logits, **options)
        assert set(np.asarray(drawn.tokens)) == {4, 17}
        assert np.isfinite(drawn.logprobs).all()


@pytest.mark.parametrize("word", [0, 1, LARGEST - 1, LARGEST])
def test_extreme_random_words_never_choose_a_zero_weight(word):
    rng = np.random.default_rng(0)
    weights = np.where(rng.random((400, 300)) < 0.3, rng.random((400, 300)), 0).astype(np.float32)
    weights[:, 150] = 1e-30
    bits = jnp.full(400, word, jnp.uint32)
    index = np.asarray(_invert_cdf(jnp.asarray(weights), bits))
    assert (np.take_along_axis(weights, index[:, None], 1) > 0).all()


def test_rounding_in_the_cumulative_sum_never_chooses_a_zero_weight():
    rng = np.random.default_rng(1)
    weights = rng.random((2000, 257)).astype(np.float32) * (rng.random((2000, 257)) < 0.05)
    cumulative = np.asarray(jnp.cumsum(jnp.asarray(weights), axis=1))
    # Aim each row at one of its own partial sums, where a last bit decides.
    goal = cumulative[np.arange(2000), rng.integers(0, 257, 2000)] / cumulative[:, -1]
    words = np.clip(goal.astype(np.float64) * 2**32, 0, LARGEST).astype(np.uint32)
    index = np.asarray(_invert_cdf(jnp.asarray(weights), jnp.asarray(words)))
    assert (np.take_along_axis(weights, index[:, None], 1) > 0).all()


def test_tokens_rarer_than_one_uniform_resolves_are_drawn_in_proportion():
    # Blocks are {0, 1} and {2, 3}. Token 2 has probability 2**-30: inside its block 2**-20.
    logits = np.log([1.0, 1e-45, 2.0**-30, 2.0**-10])
    words = np.arange(2**14, dtype=np.uint32)
    bits = np.stack([np.full_like(words, LARGEST), words], axis=1)
    tokens = np.asarray(draw(np.tile(logits, (2**14, 1)), jnp.asarray(bits)).tokens)
    assert set(tokens) == {2, 3}
    # These words are the first 2**-18 of the unit interval: token 2 holds a quarter of it.
    assert (tokens == 2).mean() == pytest.approx(0.25, abs=1e-3)


def test_greedy_takes_the_first_maximum_with_its_logprob():
    logits = np.random.default_rng(2).normal(size=(6, 70)).astype(np.float32)
    logits[0, [9, 40]] = 5.0
    drawn = draw(logits, temperature=0.0)
    np.testing.assert_array_equal(drawn.tokens, logits.argmax(1))
    assert drawn.tokens[0] == 9
    log_softmax = jax.nn.log_softmax(logits)
    np.testing.assert_allclose(drawn.logprobs, log_softmax.max(1), atol=1e-6)
    np.testing.assert_array_equal(drawn.sampling_logprobs, np.zeros(6))


@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}, *OPTIONS[3:]], ids=str)
def test_a_row_without_a_distribution_gives_token_0_and_nan(options):
    logits = np.random.default_rng(2).normal(size=(4, 40)).astype(np.float32)
    logits[0, 5], logits[1, 6], logits[2] = np.nan, np.inf, -np.inf
    drawn = draw(logits, **options)
    np.testing.assert_array_equal(drawn.tokens[:3], [0, 0, 0])
    assert np.isnan(drawn.logprobs[:3]).all()
    assert np.isnan(drawn.sampling_logprobs[:3]).all()
    assert np.isfinite(drawn.logprobs[3])


@pytest.mark.parametrize("vocab", [1, 2, 3, 17, 1023])
def test_any_vocabulary_size(vocab):
    drawn = draw(np.zeros((600, vocab)))
    assert drawn.tokens.min() >= 0
    assert drawn.tokens.max() < vocab
    np.testing.assert_allclose(drawn.logprobs, -np.log(vocab), atol=1e-6)


def test_large_logits_do_not_overflow():
    drawn = draw(np.asarray([[1e4, 1e4 - 1.0, -1e4]]), temperature=0.5)
    expected = -np.log1p(np.exp(-2.0)) - 2.0 * float(drawn.tokens[0])
    np.testing.assert_allclose(drawn.logprobs, [expected], atol=1e-6)
