import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.data.tasks.modsum import ModSum
from jaxlab.data.tasks.types import Example
from jaxlab.losses import chunked_vocab
from jaxlab.models.decoder import Decoder, unembedding
from jaxlab.models.sizes import Sizes
from jaxlab.models.stacking import rescan
from jaxlab.rollouts import policy
from jaxlab.rollouts import text as text_lib
from jaxlab.rollouts.text import TextTask
from jaxlab.runtime.drawing import by_operations
from jaxlab.runtime.mesh import make_mesh
from jaxlab.sampling import SamplingConfig

PAD, EOS = 0, 1
PROMPTS = [[3, 4, 5], [6], [7, 8, 9, 10, 11]]
DECODER = Decoder(
    Sizes(
        vocab_size=18,
        hidden_size=16,
        intermediate_size=32,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        qk_norm=True,
        max_position=64,
    ).decoder()
)


@pytest.fixture(scope="module")
def params():
    return by_operations(DECODER.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]


@pytest.fixture(scope="module")
def rollout(params):
    sampling = SamplingConfig(
        max_new_tokens=6, temperature=0.8, stop_ids=(EOS, 2, 3), pad_id=PAD, num_samples=4
    )
    sample = policy.Policy(DECODER, sampling, make_mesh({"data": 1}), PAD)
    return sample(params, PROMPTS, jax.random.key(5))


def test_rows_are_left_padded_prompts_and_completions(rollout):
    response, mask, stopped = policy.to_host(rollout)
    rollout = jax.device_get(rollout)
    assert rollout.prompt_width == 16
    assert rollout.tokens.shape == (12, 16 + 6)
    assert stopped.any()
    assert not stopped.all()
    for row in range(12):
        prompt = PROMPTS[row // 4]
        width = len(prompt)
        tokens = rollout.tokens[row]
        assert rollout.lengths[row] == width
        assert tokens[: 16 - width].tolist() == [PAD] * (16 - width)
        assert tokens[16 - width : 16].tolist() == prompt
        assert tokens[16:].tolist() == response[row].tolist()
        count = mask[row].sum()
        assert mask[row, :count].all()
        ends = np.isin(response[row], (EOS, 2, 3))
        # The stop token counts, and nothing behind it.
        assert stopped[row] == ends[:count].any()
        assert ends[: count - 1].sum() == 0
        assert count == 6 if not stopped[row] else ends[count - 1]
        assert (response[row, count:] == PAD).all()
    assert len({tuple(r) for r in response[:4].tolist()}) > 1


@pytest.mark.parametrize("samples", [1, 2, 4])
def test_hidden_states_are_those_of_each_row_alone(params, rollout, samples):
    read = jax.jit(policy.response_hidden, static_argnums=(0, 3))
    hidden = np.asarray(read(DECODER, params, rollout, samples))
    assert hidden.shape == (12, 6, 16)
    rollout = jax.device_get(rollout)
    mask = rollout.mask
    plain = jax.jit(DECODER.apply, static_argnames="method")
    for row in (0, 5, 11):
        alone = np.asarray(PROMPTS[row // 4] + rollout.response[row].tolist())[None]
        expected = np.asarray(plain({"params": params}, alone[:, :-1], method="hidden"))[0, -6:]
        np.testing.assert_allclose(hidden[row][mask[row]], expected[mask[row]], atol=1e-5)


def test_prompts_that_are_read_once_get_the_gradient_of_all_their_samples(params, rollout):
    mask = np.asarray(rollout.mask)[..., None]
    weights = np.random.default_rng(1).normal(size=(12, 6, 16)).astype(np.float32) * mask
    # Embeddings of about 1: of those of 0.02 the first norm's gradients are thousands, which nearly
    # cancel in sums of hundreds of terms.
    params = params | {"embed": jax.tree.map(lambda x: 16 * x, params["embed"])}

    def loss(params, samples):
        return jnp.sum(weights * policy.response_hidden(DECODER, params, rollout, samples))

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    alone, shared = (gradient(params, n) for n in (1, 4))
    for got, want in zip(jax.tree.leaves(shared), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_hidden_states_of_completions_of_one_token(params, rollout):
    rollout = jax.device_get(rollout)
    short = policy.cropped(rollout._replace(mask=rollout.mask & (np.arange(6) < 1)), 1)
    assert short.response.shape == (12, 1)
    read = jax.jit(policy.response_hidden, static_argnums=(0, 3))
    alone, shared = (read(DECODER, params, short, n) for n in (1, 4))
    np.testing.assert_allclose(shared, alone, atol=1e-5)


def test_stacked_layers_read_every_row(params, rollout):
    config, stacked = rescan(DECODER.config, params)
    read = jax.jit(policy.response_hidden, static_argnums=(0, 3))
    hidden = read(Decoder(config), stacked, rollout, 4)
    expected = read(DECODER, params, rollout, 1)
    np.testing.assert_allclose(hidden, expected, atol=1e-5)


@pytest.mark.parametrize(("multiple", "width"), [(1, 4), (2, 4), (3, 6), (5, 5), (6, 6), (99, 6)])
def test_columns_behind_the_longest_completion_are_cut_off(rollout, multiple, width):
    rollout = jax.device_get(rollout)
    mask = np.arange(6) < np.array([4, 1, 2] * 4)[:, None]
    cut = policy.cropped(rollout._replace(mask=mask), multiple)
    assert cut.prompt_width == rollout.prompt_width
    for name in ("response", "mask", "logprobs"):
        assert getattr(cut, name).shape == (12, width)
    np.testing.assert_array_equal(cut.tokens, rollout.tokens[:, : 16 + width])
    np.testing.assert_array_equal(cut.mask, mask[:, :width])


def test_the_sampler_and_the_trainer_agree(params, rollout):
    hidden = jax.jit(policy.response_hidden, static_argnums=0)(DECODER, params, rollout)
    token_logp = jax.jit(chunked_vocab.token_logp)
    logp, _ = token_logp(hidden, unembedding(params), rollout.response, 0.8)
    difference = np.abs(np.asarray(logp) - np.asarray(rollout.logprobs))[np.asarray(rollout.mask)]
    assert difference.max() < 1e-4
    # At another temperature they would not.
    other, _ = token_logp(hidden, unembedding(params), rollout.response, 1.0)
    assert np.abs(np.asarray(other) - np.asarray(logp))[np.asarray(rollout.mask)].max() > 1e-3


def test_the_key_decides(params):
    sampling = SamplingConfig(max_new_tokens=4, stop_ids=(EOS,), num_samples=2)
    sample = policy.Policy(DECODER, sampling, make_mesh({"data": 1}), PAD)
    first, again, other = (
        policy.to_host(sample(params, PROMPTS[:2], jax.random.key(k)))[0] for k in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.fixture(scope="module")
def text():
    task = ModSum(modulus=11, addends=3)
    return TextTask(task, task.tokenizer(), chat=False, max_prompt=4, generated=True)


def test_text_of_prompts_targets_and_completions(text):
    example, ids = text.prompt(0, "train")
    assert text.tokenizer.decode(ids) == example.prompt
    target = text.target(example)
    assert target[-1] == text.tokenizer.eos_id
    response = np.array([[*target, 5, 5], [2] * (len(target) + 2)])
    mask = np.arange(len(target) + 2) < np.array([[len(target)], [3]])
    assert text.texts(response, mask) == [example.target, "= = ="]


def test_a_truncated_completion_gets_nothing(text):
    example, _ = text.prompt(0, "train")
    grades = text.grade([example] * 2, [example.target] * 2, np.array([True, False]))
    assert [grade.reward for grade in grades] == [1.0, 0.0]
    assert grades[0].solution is not None
    assert grades[1].solution is None


def test_a_prompt_that_is_too_long_is_named(text):
    with pytest.raises(ValueError, match=r"train example 0 has 4 tokens, more than"):
        TextTask(text.task, text.tokenizer, chat=False, max_prompt=3, generated=True)


class Uneven:
    """Prompts of one word and of five, in turn."""

    def num_examples(self, split):
        return 5

    def example(self, i, split):
        return Example(prompt=" ".join(["="] * (1 + 4 * (i % 2))), target=None, answer=str(i))


def test_prompts_that_are_too_long_can_be_dropped():
    tokenizer = ModSum().tokenizer()
    with pytest.raises(ValueError, match=r"train example 1 has 5 tokens.*and 1 more"):
        TextTask(Uneven(), tokenizer, chat=False, max_prompt=4)
    kept = TextTask(Uneven(), tokenizer, chat=False, max_prompt=4, long_prompts="drop")
    assert kept.num_examples("train") == kept.num_examples("test") == 3
    assert [kept.prompt(i, "train")[0].answer for i in range(3)] == ["0", "2", "4"]


class Rows:
    """A file's prompts: of one word, but for some of five."""

    def __init__(self, count, long):
        self.count, self.long = count, long

    def num_examples(self, split):
        return self.count

    def example(self, i, split):
        return Example(prompt=" ".join(["="] * (5 if i in self.long else 1)), target="", answer="")


class Made(Rows):
    def example(self, i, split):
        return Example(prompt="= " * (1 + i % 5), target=None, answer=str(i))


def _text(task, **options):
    return TextTask(task, ModSum().tokenizer(), **{"max_prompt": 4} | options)


def test_long_rows_far_behind_in_a_file_are_found(monkeypatch, caplog):
    monkeypatch.setattr(text_lib, "MAX_CHECKED", 200)
    monkeypatch.setattr(text_lib, "_ENCODED", 64)
    rows = Rows(500, {0, 300, 499})
    with pytest.raises(ValueError, match=r"train example 0 has 5 tokens.*and 2 more"):
        _text(rows)
    with pytest.raises(ValueError, match=r"train example 499 has 5 tokens.*and 0 more"):
        _text(Rows(500, {499}))
    kept = _text(rows, long_prompts="drop")
    assert "3 of 500 prompts of train have more tokens than data.max_prompt = 4 and are left" in (
        caplog.text
    )
    assert kept.num_examples("train") == 497
    assert all(len(kept.prompt(i, "train")[1]) == 1 for i in (0, 299, 300, 496))
    with pytest.raises(ValueError, match=r"every prompt of train has more tokens than data\.max"):
        _text(Rows(3, {0, 1, 2}), long_prompts="drop")


def test_long_prompts_among_generated_ones_are_replaced(monkeypatch, caplog):
    monkeypatch.setattr(text_lib, "MAX_CHECKED", 3)
    made = Made(16, ())
    replaced = _text(made, long_prompts="drop", max_prompt=3, generated=True)
    assert "left out" not in caplog.text  # the first three fit
    assert replaced.num_examples("train") == 16
    answers = [replaced.prompt(i, "train")[0].answer for i in range(16)]
    # Examples 3, 4, 8, 9, ... are too long: 16 numbers on is a prompt of another length.
    assert answers == [str(i if i % 5 < 3 else i + (32 if i % 5 == 3 else 16)) for i in range(16)]
    assert answers == [replaced.prompt(i, "train")[0].answer for i in range(16)]
    refused = _text(made, max_prompt=3, generated=True)
    with pytest.raises(text_lib.LongPromptError, match="train example 3 has 4 tokens"):
        refused.prompt(3, "train")
    monkeypatch.setattr(text_lib, "MAX_CHECKED", 1)
    few = _text(Made(10, ()), long_prompts="drop", max_prompt=1, generated=True)
    with pytest.raises(text_lib.LongPromptError, match="train example 4 has 5 tokens"):
        few.prompt(4, "train")


def test_training_prompts_leave_room_for_a_target():
    rows = Rows(9, {7})
    _text(rows, max_prompt=5, max_length=6)
    with pytest.raises(ValueError, match=r"example 7 has 5 tokens, more than max_length = 5 leav"):
        _text(rows, max_prompt=5, max_length=5)
    kept = _text(rows, max_prompt=5, max_length=5, long_prompts="drop")
    assert (kept.num_examples("train"), kept.num_examples("test")) == (8, 9)


def test_a_prompt_needs_a_token():
    class Empty(Rows):
        def example(self, i, split):
            return Example(prompt="= ="[: 3 * (i != 2)], target="", answer="")

    with pytest.raises(ValueError, match="train example 2 has no token"):
        _text(Empty(4, ()))
