"""The off-loading engine against the same attention in memory, bit for bit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.config import build
from jaxlab.models.decoder import Decoder, DecoderConfig
from jaxlab.models.sizes import Sizes
from jaxlab.nn.attention import Attention
from jaxlab.nn.context import Context
from jaxlab.nn.layers import Layer
from jaxlab.nn.mla import MLA
from jaxlab.runtime.drawing import by_operations
from jaxlab.sampling import SamplingConfig, exchange, generate, offload, steps
from jaxlab.sampling.caches import OffloadAttention, TwoLevelAttention
from jaxlab.sampling.offload import Tables, place

SMALL = {"block": 2, "k_blocks": 5, "k_tokens": 5, "channels": 2, "min_len": 0, "recent_blocks": 1}
# Prompts of 25, 1 and 16 tokens, then 14 more; two key heads of 6 with values of 4.
WIDTH, NEW, LENGTHS = 25, 14, np.array([25, 1, 16])
# Twice the blocks of a step, so that some are evicted.
SLOTS = 10


def attention(off=True, **fields):
    if off:
        return OffloadAttention(**(SMALL | {"slots": SLOTS} | fields))
    return TwoLevelAttention(**(SMALL | fields))


@functools.partial(jax.jit, static_argnums=0)
def run(chosen, tokens):
    """Outputs [NEW, B, H, Dv] and selections of a layer, last cache and pool, first selection."""
    kind = chosen.kind(WIDTH + NEW, None, new=NEW)
    _, key, value = tokens
    start = jnp.asarray(WIDTH - LENGTHS, jnp.int32)
    segments = (jnp.arange(WIDTH)[None] >= start[:, None]).astype(jnp.int32)
    empty = kind.empty(3, key.shape[2], key.shape[3], value.shape[3], key.dtype)
    prompt = [x[:, :WIDTH] for x in tokens]
    _, cache = empty.prefill(*prompt, Context(segments, segments))
    begin, pools = cache.wanted, []
    if isinstance(chosen, OffloadAttention) and not chosen.waits:
        cache, pools = exchange.detached(cache)

    def step(carry, token):
        cache, pools, slot = carry
        new = [x[:, None] for x in token]
        y, cache = cache.append_and_attend(*new, Context(None, slot=slot, start=start))
        if pools:
            cache, *moves = exchange.planned(cache)
            cache, pools = exchange.moved(cache, pools, *moves)
        wanted = cache.wanted if cache.wanted is not None else jnp.zeros(())
        return (cache, pools, slot + 1), (y[:, 0], wanted)

    new = [jnp.moveaxis(x[:, WIDTH:], 1, 0) for x in tokens]
    (cache, pools, _), out = jax.lax.scan(step, (cache, pools, jnp.asarray(WIDTH)), new)
    return *out, cache, pools, begin


def tokens(kv_heads=2, dim=6, value_dim=4, dtype=np.float32):
    """Query, key and value of all tokens; selections change much from step to step."""
    rng = np.random.default_rng(0)
    sizes = ((4, dim), (kv_heads, dim), (kv_heads, value_dim))
    return [jnp.asarray(rng.normal(size=(3, WIDTH + NEW, *size)), dtype) for size in sizes]


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def counted(cache):
    return {name: int(np.sum(x)) for name, x in cache.counts._asdict().items()}


def test_off_loaded_is_in_memory_bit_for_bit():
    memory = run(attention(False, stale=True), tokens())
    moved = run(attention(), tokens())
    same(memory[:2], moved[:2])
    same(memory[2].index, moved[2].index)
    counts = counted(moved[2])
    assert counts["misses"] == counts["copied"] > 10
    assert counts["deferred"] == counts["late"] == 0
    # 39, 15 and 30 tokens; the prompts had filled 12, 0 and 8 blocks of 2; two key heads.
    assert counts["written"] == 2 * ((19 - 12) + (7 - 0) + (15 - 8))
    # What was written back is what memory holds.
    cache, (pool,) = moved[2:4]
    at = cache._record_of(jnp.broadcast_to(jnp.arange(7), (3, 2, 7)))
    both = np.concatenate([memory[2].key, memory[2].value], axis=-1)[:, :, :14]
    np.testing.assert_array_equal(np.asarray(pool)[np.asarray(at), 0], both.reshape(3, 2, 7, 2, 10))


def test_counts_are_those_of_a_plain_lru():
    _, wanted, cache, _, begin = run(attention(), tokens())
    hits = misses = 0
    for row, head in np.ndindex(3, 2):
        before = _ids(begin[row, head])
        held = dict.fromkeys(before, 0)  # block -> step that last wanted it
        for t in range(NEW):
            length, now = LENGTHS[row] + t + 1, _ids(wanted[t, row, head])
            if length % 2:
                _make_room(held, before)
                held[length // 2] = t
            absent = [block for block in now if block not in held]
            hits, misses = hits + len(now) - len(absent), misses + len(absent)
            for block in absent:
                _make_room(held, now + before)
                held[block] = t + 1
            held |= dict.fromkeys(now, t + 1)
            before = now
    assert (counted(cache)["hits"], counted(cache)["misses"]) == (hits, misses)


def _ids(blocks):
    return [int(i) for i in np.asarray(blocks) if i >= 0]


def _make_room(held, kept):
    if len(held) == SLOTS:
        del held[min((t, block) for block, t in held.items() if block not in kept)[1]]


def test_a_bound_defers_and_sync_waits():
    memory = run(attention(False, stale=True), tokens())
    for sync, bound in (("sync", 1), ("defer", 1)):
        y, wanted, cache, *_ = run(attention(max_miss=bound, miss_fallback=sync), tokens())
        counts = counted(cache)
        assert counts["copied"] + counts["late"] <= counts["misses"]
        if sync == "sync":
            same(memory[0], y)
            assert counts["late"] > 0 == counts["deferred"]
        else:
            assert counts["deferred"] > 0 == counts["late"]
            # What is selected does not depend on what was moved.
            same(memory[1], wanted)
            assert np.isfinite(y).all()
            assert np.abs(y - memory[0]).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"stale": False},
        {"resync_every": 3, "share": "layer", "max_miss": 1, "miss_fallback": "sync"},
    ],
)
def test_steps_that_wait_for_their_own_blocks(fields):
    in_memory = {name: x for name, x in fields.items() if "miss" not in name}
    memory = run(attention(False, **({"stale": True} | in_memory)), tokens())
    y, wanted, cache, *_ = run(attention(**fields), tokens())
    same(memory[0], y)
    if "share" in fields:
        same(memory[1], wanted)
        assert cache.records.shape[1:4:2] == (1, 2)  # one list, both key heads in a record
    assert counted(cache)["deferred"] == 0


@pytest.mark.slow
def test_one_latent_head_in_bfloat16():
    query, key, _ = tokens(1, 12, 8, jnp.bfloat16)
    latent = [query, key, key[..., :8]]
    same(*(run(attention(off, stale=True), latent)[0] for off in (False, True)))


def test_a_slot_is_taken_from_the_block_wanted_longest_ago():
    # Slots hold blocks 4, 0, none, 2, last wanted in steps 3, 1, 0, 2; block 0 is pinned.
    tables = Tables(*map(jnp.asarray, ([1, -1, 3, -1, 0, -1], [4, 0, -1, 2], [3, 1, 0, 2])))
    wanted, pinned = jnp.array([3, 4, 5, 1, -1]), jnp.array([0, -1])
    after, missing, placed = jax.jit(place)(tables, wanted, pinned, 3, jnp.asarray(7))
    assert missing.tolist() == [True, False, True, True, False]
    # The free slot, then that of block 2; all others are wanted or pinned.
    assert placed.tolist() == [True, False, True, False, False]
    assert after.block_of.tolist() == [4, 0, 3, 5]
    assert after.slot_of.tolist() == [1, -1, -1, 2, 0, 3]
    assert after.used.tolist() == [7, 1, 7, 7]


# Of one layer each, once stacked and once apart.
SIZES = Sizes(
    vocab_size=61, hidden_size=16, intermediate_size=24, num_layers=1, num_heads=2, num_kv_heads=1,
    max_position=64, scan_layers=True,
)  # fmt: skip
PROMPTS = np.random.default_rng(0).integers(0, 61, (2, WIDTH))


def generated(params, off=True, **fields):
    sampling = SamplingConfig(
        max_new_tokens=8, num_samples=2, prompt_multiple=1, attention=attention(off, **fields)
    )
    model, lengths = Decoder(SIZES.decoder()), LENGTHS[[0, 2]]
    return generate(model, params, PROMPTS, lengths, jax.random.key(1), sampling)


@pytest.fixture(scope="module")
def params():
    init = by_operations(Decoder(SIZES.decoder()).init)
    params = init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    # Logits that differ, so that a wrong key shows.
    return params | {"embed": jax.tree.map(lambda x: 6 * x, params["embed"])}


def pinned():
    return [x for x in jax.live_arrays() if x.sharding.memory_kind == "pinned_host"]


def test_generation_off_loaded_is_generation_in_memory(params):
    memory = generated(params, off=False, stale=True)
    inside = generated(params)
    same(memory[:6], inside[:6])
    summary = offload.summary(inside.offload)
    assert 0 < summary["hit_rate"] < 1
    # A record: a block of two tokens with key and value of 8 numbers each, in float32.
    assert summary["bytes_moved"] == 128 * np.sum(inside.offload.copied) > 0
    assert summary["late"] == summary["deferred"] == 0
    # Of each row 10 slots; three tables, of 16 blocks and twice 10 slots; bounds of 16 blocks of 8
    # channels; a byte for the two channels of each of 32 tokens, a scale of two bytes; channels.
    by_row = 10 * 128 + 4 * (16 + 10 + 10) + 2 * 16 * 8 * 4 + 32 * (1 + 2) + 2 * 4
    assert summary["resident_bytes"] == 4 * by_row
    # Two prompts of up to 13 blocks that samples share; four rows of up to 4 blocks each.
    assert summary["host_bytes"] == 128 * (2 * 13 + 4 * 4)


@pytest.mark.slow
def test_the_engine_by_the_host_moves_the_same_and_leaves_nothing_pinned(params, monkeypatch):
    inside, by_host = generated(params), generated(params, engine="hostloop")
    np.testing.assert_array_equal(inside.tokens, by_host.tokens)
    np.testing.assert_allclose(inside.logprobs, by_host.logprobs, atol=1e-5)
    same(inside.offload, by_host.offload)
    assert not pinned()

    def broken(*_):
        raise RuntimeError("on the way")

    monkeypatch.setattr(steps, "_copied", broken)
    with pytest.raises(RuntimeError, match="on the way") as caught:
        generated(params, engine="hostloop")
    assert caught.value.__traceback__ is not None  # which holds the frames, and they the state
    assert not pinned()


@pytest.mark.slow
def test_a_dense_layer_before_latent_ones_off_loads_as_it_decodes_in_memory():
    latent = MLA(num_heads=2, latent_dim=6, nope_dim=4, rope_dim=2, value_dim=3, query_rank=5)
    dense = Attention(num_heads=2, num_kv_heads=1, head_dim=4)
    stacks = ((1, (Layer(dense),)), (2, (Layer(latent),)))
    config = DecoderConfig(61, 16, stacks, max_position=64, scan_layers=True)
    params = by_operations(Decoder(config).init)(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    params = jax.tree.map(lambda x: 3 * x, params["params"])

    def run(off):
        fields = {"stale": True} | ({"slots": SLOTS} if off else {})
        sampling = SamplingConfig(
            max_new_tokens=8, prompt_multiple=1, attention=attention(off, **fields)
        )
        key = jax.random.key(1)
        return generate(Decoder(config), params, PROMPTS, LENGTHS[[0, 2]], key, sampling)

    memory, moved = run(False), run(True)
    same(memory[:6], moved[:6])
    # A latent record has two tokens of 8 numbers, and no values beside them.
    assert moved.offload.record_bytes[0].tolist() == [64, 64, 64]
    assert moved.offload.copied.sum() > 0


def test_what_the_engine_refuses(params):
    with pytest.raises(ValueError, match=r"slots is 9: a step reads up to 5 blocks .* at least 10"):
        generated(params, slots=9)
    with pytest.raises(ValueError, match=r"the model's layers are stacked.* set scan_layers=False"):
        generated(params, stale=False)
    for fields, message in (
        ({"min_len": 5}, "min_len is 5: an off-loaded cache has no dense step"),
        ({"max_miss": 0}, "max_miss is 0"),
        ({"engine": "hostloop", "resync_every": 2}, "engine is 'hostloop', which moves blocks"),
        ({"engine": "thread"}, "engine is 'thread'"),
        ({"miss_fallback": "wait"}, "miss_fallback is 'wait'"),
        ({"resync_every": -1}, "resync_every is -1"),
        ({"resync_every": 2, "stale": False}, "resync_every is 2, and without stale every step"),
        ({"calibration": "text"}, "calibration is 'text'"),
    ):
        with pytest.raises(ValueError, match=message):
            attention(**fields)
    section = {"max_new_tokens": 2, "attention": {"name": "offload", "slots": 300}}
    assert build(SamplingConfig, section).attention == OffloadAttention(slots=300)
    empty = attention().kind(9, None, new=3).empty(1, 1, 4, 4, jnp.float32)
    several = [jnp.zeros((1, 2, 1, 4))] * 3
    with pytest.raises(ValueError, match="reads one token at a time, not 2"):
        empty.append_and_attend(*several, Context(None))
    with pytest.raises(ValueError, match="calibration is 'checkpoint', and the model comes"):
        generated(params, calibration="checkpoint")
