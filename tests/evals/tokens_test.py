import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.data.tasks.mqar import Mqar
from jaxlab.data.tasks.palindrome import Palindrome
from jaxlab.data.tasks.tokens import Generated, TokenBatch
from jaxlab.evals.tokens import TokenEval, TokenEvaluator, label
from jaxlab.models.decoder import Decoder
from jaxlab.models.sizes import Sizes
from jaxlab.runtime.drawing import by_operations
from jaxlab.runtime.mesh import make_mesh

VOCAB = 8


class Fixed:
    """A source of given rows; `per_byte` makes it a text."""

    def __init__(self, batch, per_byte=None, vocab_size=VOCAB):
        self._batch, self._per_byte, self.vocab_size = batch, per_byte, vocab_size
        self.length = batch.tokens.shape[1]

    def num_examples(self, split):
        return {"test": len(self._batch.tokens)}[split]

    def batch(self, ids, split):
        assert split == "test"
        return jax.tree.map(lambda x: x[ids], self._batch)

    def tokens_per_byte(self, split):
        return self._per_byte


@pytest.fixture(scope="module")
def model():
    config = Sizes(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=32,
        num_layers=1,
        num_heads=2,
        num_kv_heads=2,
        max_position=64,
    ).decoder()
    decoder = Decoder(config)
    init = by_operations(decoder.init)
    return decoder, init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]


def _uniform(params):
    return params | {
        "unembed": {"embedding": np.zeros(params["unembed"]["embedding"].shape, np.float32)}
    }


def _rows(count, length, seed=0):
    rng = np.random.default_rng(seed)
    tokens, targets = rng.integers(VOCAB, size=(2, count, length)).astype(np.int32)
    return TokenBatch(tokens, targets, rng.random((count, length)) < 0.5)


def _evaluate(model, sources, **settings):
    decoder, params = model
    evaluator = TokenEvaluator(decoder, sources, TokenEval(**settings), make_mesh({"data": -1}))
    return evaluator(params)


def test_a_uniform_model_has_the_perplexity_of_its_vocabulary(model):
    decoder, params = model
    scores = _evaluate((decoder, _uniform(params)), {"": Fixed(_rows(10, 12), per_byte=0.5)})
    # The rounding of ln 8 in float32, at every target alike.
    assert scores["perplexity"] == pytest.approx(VOCAB, rel=1e-6)
    # Three bits for a token, half a token for a byte.
    assert scores["bits_per_byte"] == pytest.approx(1.5, rel=1e-6)
    assert scores["entropy"] == pytest.approx(np.log(VOCAB), rel=1e-6)
    assert "sequence_accuracy" not in scores


@functools.partial(jax.jit, static_argnums=0)
def _logits(decoder, params, tokens):
    return decoder.apply({"params": params}, tokens)


def _reference(model, batch):
    """Negative log-likelihoods and hits, a plain loop over float64."""
    logits = np.asarray(_logits(*model, batch.tokens), np.float64)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nll = -np.take_along_axis(logp, batch.targets[..., None], -1)[..., 0]
    return nll, logits.argmax(-1) == batch.targets


@pytest.mark.parametrize("batch_size", [3, 64])
def test_scores_are_those_of_a_plain_loop(model, batch_size):
    batch = _rows(10, 12)
    nll, hit = _reference(model, batch)
    scores = _evaluate(model, {"": Fixed(batch)}, batch=batch_size)
    assert scores["loss"] == pytest.approx(nll[batch.mask].mean(), rel=1e-6)
    assert scores["accuracy"] == pytest.approx(hit[batch.mask].mean())
    whole = [hit[b][batch.mask[b]].all() for b in range(10)]
    assert scores["sequence_accuracy"] == pytest.approx(np.mean(whole))


def test_only_the_first_examples_count(model):
    batch = _rows(10, 12)
    few = jax.tree.map(lambda x: x[:6], batch)
    assert _evaluate(model, {"": Fixed(batch)}, examples=6, batch=4) == _evaluate(
        model, {"": Fixed(few)}, batch=4
    )


def test_settings_and_positions(model):
    short, long = _rows(10, 8), _rows(10, 32, seed=1)
    sources = {"": Fixed(short), "length=32": Fixed(long)}
    scores = _evaluate(model, sources, by_position=True)
    nll, hit = _reference(model, long)
    assert scores["loss@length=32"] == pytest.approx(nll[long.mask].mean(), rel=1e-6)
    begin = 0
    # From an eighth of the trained length on, doubling.
    for end in (1, 2, 4, 8, 16, 32):
        part = (slice(None), slice(begin, end))
        expected = nll[part][long.mask[part]].mean()
        assert scores[f"loss@position={end}"] == pytest.approx(expected, rel=1e-6)
        expected = hit[part][long.mask[part]].mean()
        assert scores[f"accuracy@position={end}"] == pytest.approx(expected)
        begin = end
    assert {name for name in scores if "@position" in name} == {
        f"{score}@position={2**n}" for score in ("loss", "accuracy") for n in range(6)
    }


def test_positions_without_targets_are_left_out(model):
    task = Generated(Palindrome(vocab_size=VOCAB, length=16))
    scores = _evaluate(model, {"": task}, examples=4, by_position=True)
    assert [name for name in scores if name.startswith("loss@position")] == ["loss@position=16"]


def test_segments_do_not_see_each_other(model):
    batch = _rows(4, 12)
    mask = np.ones_like(batch.mask)
    segments = np.repeat([[1] * 5 + [2] * 7], 4, 0).astype(np.int32)
    whole = _evaluate(model, {"": Fixed(batch._replace(mask=mask, segment_ids=segments))})
    parts = [
        _reference(model, TokenBatch(batch.tokens[:, s], batch.targets[:, s], mask[:, s]))[0]
        for s in (slice(0, 5), slice(5, 12))
    ]
    assert whole["loss"] == pytest.approx(np.concatenate(parts, 1).mean(), rel=1e-5)


def test_the_name_of_a_setting():
    assert label({"num_pairs": 8, "depth": 0.5}) == "num_pairs=8,depth=0.5"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"examples": 0}, "examples must be at least 1"),
        ({"settings": ({},)}, "change something"),
        ({"settings": ({"length": 8}, {"length": 8})}, "settings must differ"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        TokenEval(**settings)


def test_mqar_rows_are_the_same_at_every_evaluation(model):
    source = Generated(Mqar(vocab_size=VOCAB, length=8, num_pairs=2))
    assert _evaluate(model, {"": source}, examples=5) == _evaluate(model, {"": source}, examples=5)
