import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.models.decoder import Decoder
from jaxlab.models.sizes import Sizes
from jaxlab.rollouts.batcher import Batcher
from jaxlab.runtime.drawing import by_operations
from jaxlab.runtime.mesh import make_mesh
from jaxlab.sampling import SamplingConfig, generate

DECODER = Decoder(
    Sizes(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        max_position=64,
    ).decoder()
)
MESH = make_mesh({"data": 1}, devices=jax.devices()[:1])
SAMPLING = SamplingConfig(max_new_tokens=6, stop_ids=(0,), prompt_multiple=8)
GREEDY = SamplingConfig(max_new_tokens=6, temperature=0.0, stop_ids=(0,), prompt_multiple=8)
PROMPTS = [list(range(1, 2 + i % 13)) for i in range(20)]


@pytest.fixture(scope="module")
def params():
    params = by_operations(DECODER.init)(jax.random.key(1), jnp.zeros((1, 1), jnp.int32))["params"]
    return jax.tree.map(lambda x: 2.0 * x, params)


@pytest.fixture
def batcher(params):
    made = []

    def make(**options):
        made.append(Batcher(DECODER, params, MESH, 0, **{"rows": 4, **options}))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("sampling", [SAMPLING, GREEDY], ids=["sampled", "greedy"])
def test_neighbours_order_and_concurrency_change_nothing(batcher, sampling):
    one = batcher()
    alone = [one.submit(p, sampling, i).result() for i, p in enumerate(PROMPTS)]
    order = np.random.default_rng(0).permutation(len(PROMPTS))
    futures = {int(i): one.submit(PROMPTS[i], sampling, int(i)) for i in order}
    together = [futures[i].result() for i in range(len(PROMPTS))]
    assert together == alone  # log-probabilities to the last bit
    assert len({tuple(reply.tokens) for reply in alone}) > 5


def test_a_reply_is_what_generate_gives(batcher, params):
    reply = batcher().submit([3, 4, 5], SAMPLING, 7).result()
    tokens = np.array([[3, 4, 5]])
    keys = jax.vmap(jax.random.key)(np.array([7], np.uint32))
    out = generate(DECODER, params, tokens, np.array([3]), keys, SAMPLING)
    length = int(out.lengths[0])
    assert reply.tokens == out.tokens[0, :length].tolist()
    np.testing.assert_allclose(reply.logprobs, out.logprobs[0, :length], rtol=1e-5)
    assert reply.stopped == bool(out.stopped[0])


def test_seeds_differ_and_repeat(batcher):
    one = batcher()
    first, again, other = (one.submit([3, 4], SAMPLING, seed).result() for seed in (1, 1, 2))
    assert first == again != other


def test_a_group_reads_its_prompt_once_and_gives_what_single_requests_give(batcher):
    one = batcher(rows=8, padding="power_of_two")
    prompt, seeds = [3, 4, 5, 6, 7], [11, 12, 13, 14]
    replies = one.submit_group(prompt, SAMPLING, seeds).result()
    assert one.prefilled == 5
    singles = [one.submit(prompt, SAMPLING, seed).result() for seed in seeds]
    assert one.prefilled == 5 + 4 * 5
    assert [reply.tokens for reply in replies] == [reply.tokens for reply in singles]
    for ours, theirs in zip(replies, singles, strict=True):
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, rtol=1e-5)
    assert len({tuple(reply.tokens) for reply in replies}) > 1
    # Two prompts of four rows fill a batch of eight; three groups are a full batch and half of one.
    groups = [one.submit_group(prompt[:n], SAMPLING, seeds) for n in (3, 4, 5)]
    assert [len(group.result()) for group in groups] == [4, 4, 4]
    assert groups[2].result() == replies
    assert one.prefilled == 25 + 3 + 4 + 5
    # More samples than a batch has rows are one batch of their own.
    assert len(one.submit_group(prompt, SAMPLING, range(11)).result()) == 11
    with pytest.raises(ValueError, match="at least one seed"):
        one.submit_group(prompt, SAMPLING, [])


def test_full_batches_start_at_once_and_others_after_a_moment(batcher, monkeypatch):
    one = batcher(patience_s=0.3)
    sizes = []
    decode = one._decode
    monkeypatch.setattr(one, "_decode", lambda batch: sizes.append(len(batch)) or decode(batch))
    one.submit([1], SAMPLING, 0).result()  # compiled
    start = time.monotonic()
    futures = [one.submit([1], SAMPLING, i) for i in range(9)]
    for future in futures:
        future.result()
    assert sizes == [1, 4, 4, 1]
    assert 0.3 <= time.monotonic() - start < 3


def test_the_next_batch_starts_before_replies_are_handed_out(batcher, monkeypatch):
    """So that callers work on replies while the next batch is decoded."""
    one = batcher(patience_s=0.3)
    one.submit([1], SAMPLING, 0).result()  # compiled
    decode, answered = one._decode, []

    def noting(batch):
        answered.append(sum(future.done() for future in futures))
        return decode(batch)

    monkeypatch.setattr(one, "_decode", noting)
    futures = []
    futures += [one.submit([1], SAMPLING, i) for i in range(13)]
    for future in futures:
        future.result()
    # At the second start nobody has a reply yet; before the last, which is not full, all have.
    assert answered == [0, 0, 4, 12]


def test_other_shapes_go_into_other_batches(batcher, monkeypatch):
    one = batcher(patience_s=0.2)
    shapes = []
    decode = one._decode
    monkeypatch.setattr(
        one, "_decode", lambda batch: shapes.append({r.shape for r in batch}) or decode(batch)
    )
    futures = [one.submit([1] * n, SAMPLING, 0) for n in (1, 9, 2, 10)]
    replies = [future.result() for future in futures]
    assert len(replies) == 4
    assert [len(found) for found in shapes] == [1, 1]
    assert shapes[0] != shapes[1]


def test_power_of_two_padding_agrees(batcher):
    full, fitted = batcher(), batcher(padding="power_of_two", rows=6)
    for n in (1, 3):
        prompts = PROMPTS[:n]
        a = [full.submit(p, GREEDY, 0) for p in prompts]
        b = [fitted.submit(p, GREEDY, 0) for p in prompts]
        for x, y in zip(a, b, strict=True):
            assert x.result().tokens == y.result().tokens
            np.testing.assert_allclose(x.result().logprobs, y.result().logprobs, rtol=1e-4)


def test_an_error_reaches_its_callers_and_the_thread_goes_on(batcher, monkeypatch):
    one = batcher()
    decode = one._decode

    def failing(batch):
        raise MemoryError("too much")

    monkeypatch.setattr(one, "_decode", failing)
    with pytest.raises(MemoryError, match="too much"):
        one.submit([1], SAMPLING, 0).result()
    monkeypatch.setattr(one, "_decode", decode)
    assert one.submit([1], SAMPLING, 0).result().tokens


@pytest.mark.parametrize("place", ["_gather", "_decode", "_finish"])
@pytest.mark.parametrize("error", [SystemExit("gone"), ZeroDivisionError("gone")])
def test_a_thread_that_dies_fails_all_that_waits_and_what_comes_later(
    batcher, monkeypatch, place, error
):
    one = batcher(patience_s=0.2)
    if place == "_decode" and isinstance(error, Exception):
        pytest.skip("that reaches its callers alone")
    others = [one.submit([1] * n, SAMPLING, 0) for n in (2, 20)]  # of two shapes

    def failing(*_):
        raise error

    monkeypatch.setattr(one, place, failing)
    waiting = [*others, one.submit([1], SAMPLING, 0)]
    for future in waiting:
        with pytest.raises(RuntimeError, match=f"thread failed with {type(error).__name__}: gone"):
            future.result(timeout=60)
    with pytest.raises(RuntimeError, match="the batcher's thread failed with"):
        one.submit([1], SAMPLING, 0)
    one.close()


def test_what_cannot_be_a_shape_fails_where_it_is_asked(batcher):
    one = batcher()
    with pytest.raises(TypeError, match="unhashable"):
        one.submit([1], SamplingConfig(max_new_tokens=2, pad_id=[3]), 0)
    assert one.submit([1], SAMPLING, 0).result(timeout=60).tokens


def test_refusals(batcher):
    one = batcher()
    with pytest.raises(ValueError, match="at most 64"):
        one.submit([1] * 59, SAMPLING, 0)
    with pytest.raises(ValueError, match="not empty"):
        one.submit([], SAMPLING, 0)
    with pytest.raises(ValueError, match="num_samples must be 1"):
        one.submit([1], SamplingConfig(max_new_tokens=2, num_samples=2), 0)
    with pytest.raises(ValueError, match="rows must be at least 1"):
        batcher(rows=0)


def test_close_cancels_what_waits_and_ends_the_thread(batcher):
    one = batcher(patience_s=30.0)
    waiting = one.submit([1], SAMPLING, 0)
    one.close()
    assert waiting.cancelled()
    assert not any(t.name == "batcher" and t is one._thread for t in threading.enumerate())
    with pytest.raises(RuntimeError, match="closed"):
        one.submit([1], SAMPLING, 0)


def test_a_cancelled_request_does_not_disturb_its_batch(batcher):
    one = batcher(patience_s=0.2)
    gone, kept = one.submit([1], SAMPLING, 0), one.submit([2], SAMPLING, 0)
    gone.cancel()
    assert kept.result().tokens
