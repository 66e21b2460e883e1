import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.data.tasks.types import Example, Grade
from jaxlab.evals import loop
from jaxlab.models.decoder import Decoder
from jaxlab.models.sizes import Sizes
from jaxlab.rollouts.text import TextTask
from jaxlab.runtime.drawing import by_operations
from jaxlab.runtime.mesh import make_mesh
from jaxlab.sampling.caches import TwoLevelAttention

DECODER = Decoder(
    Sizes(
        vocab_size=8,
        hidden_size=16,
        intermediate_size=32,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        max_position=16,
    ).decoder()
)


class Digits:
    """Texts are digits, which are token ids; 0 ends. Right is what contains the answer."""

    eos_ids = (0,)
    pad_id = 0
    vocab_size = 8

    def num_examples(self, split):
        return 5

    def example(self, i, split):
        return Example(prompt="123"[: 1 + i % 3], target=None, answer=str(i + 2))

    def grade_batch(self, examples, texts):
        return [
            Grade(1.0, solution=text) if example.answer in text else Grade(0.0)
            for example, text in zip(examples, texts, strict=True)
        ]

    def encode_prompt(self, text):
        return [int(character) for character in text]

    def encode_prompts(self, texts):
        return [self.encode_prompt(text) for text in texts]

    def decode_batch(self, rows):
        return ["".join(map(str, ids)) for ids in rows]


TEXT = TextTask(Digits(), Digits(), chat=False, max_prompt=4)
MESH = make_mesh({"data": 1}, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def params():
    params = by_operations(DECODER.init)(jax.random.key(1), jnp.zeros((1, 1), jnp.int32))["params"]
    # Sharper, so that samples differ from prompt to prompt.
    return jax.tree.map(lambda x: 2.0 * x, params)


def _evaluate(params, **options):
    config = loop.Eval(**{"prompts": 5, "samples": 2, "max_new_tokens": 5} | options)
    return loop.Evaluator(DECODER, TEXT, config, MESH)(params, jax.random.key(0))


def test_the_batch_size_changes_nothing_for_greedy_sampling(params):
    whole, samples = _evaluate(params, temperature=0.0, batch=5)
    # Two and two and one, filled up; and more than there are.
    for batch in (2, 64):
        scores, rows = _evaluate(params, temperature=0.0, batch=batch)
        assert rows == samples
        assert scores == pytest.approx(whole, rel=1e-5)


def test_scores_are_those_of_the_completions(params):
    scores, rows = _evaluate(params, samples=1, save_samples=5)
    assert [row["prompt"] for row in rows] == ["1", "12", "123", "1", "12"]
    ended = [row["completion"].endswith("0") for row in rows]
    expected = [
        float(end and row["answer"] in row["completion"])
        for row, end in zip(rows, ended, strict=True)
    ]
    assert [row["reward"] for row in rows] == expected
    assert scores["avg@1"] == scores["pass@1"] == pytest.approx(np.mean(expected))
    assert scores["truncated_share"] == pytest.approx(1 - np.mean(ended))
    lengths = [len(row["completion"]) for row in rows]
    assert scores["response_length"] == pytest.approx(np.mean(lengths))


def test_a_uniform_policy(params):
    """Its entropy; and that pass counts prompts, avg completions."""
    flat = jax.tree.map(jnp.zeros_like, params)
    scores, rows = _evaluate(flat, samples=32, max_new_tokens=12, save_samples=2)
    assert len(rows) == 2
    assert 0 < scores["avg@32"] < scores["pass@32"] <= 1
    assert scores["distinct@32"] > 1
    assert scores["entropy"] == pytest.approx(np.log(8), rel=1e-5)


def test_a_completion_that_would_not_fit_is_refused():
    with pytest.raises(ValueError, match="prompt of 3 tokens and a completion of 14 exceed"):
        loop.Evaluator(DECODER, TEXT, loop.Eval(max_new_tokens=14), MESH)


@pytest.mark.parametrize("name", ["prompts", "samples", "max_new_tokens", "batch"])
def test_counts_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, not 0"):
        loop.Eval(**{name: 0})


def test_attention_that_does_not_suit_the_layers_ends_at_once():
    config = loop.Eval(max_new_tokens=5, attention=TwoLevelAttention(channels=9))
    with pytest.raises(ValueError, match=r"^eval.attention: channels is 9, and keys have 8"):
        loop.Evaluator(DECODER, TEXT, config, MESH)
