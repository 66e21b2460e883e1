"""Two-level attention: XLA against the float64 reference and against dense attention."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxlab_kernels import attention_step
from jaxlab_kernels.two_level import (
    IndexConfig,
    append_index,
    build_index,
    cases,
    decode,
    select,
    select_blocks,
    select_tokens,
    truncate_index,
)  # fmt: skip

SMALL = cases.SMALL
build = jax.jit(build_index, static_argnums=3)


@functools.partial(jax.jit, static_argnames=("config", "scale"))
def everything(arguments, config, scale=None):
    """Output, stats, blocks and tokens of a call, its index built on the way."""
    given = {n: x for n, x in arguments.items() if n != "channels"}
    key, length = given["key"], given["length"]
    index = build_index(key, length, arguments["channels"], config)
    out, stats = decode(**given, index=index, config=config, scale=scale, stats=True)
    blocks = select_blocks(given["query"], index, length, config, scale=scale)
    tokens = select_tokens(given["query"], index, blocks, length, config, scale=scale)
    return out, stats, blocks, tokens, index


def dense(arguments, scale=None):
    """Softmax attention by NumPy in float64; zeros for rows without tokens."""
    q, k, v = (np.asarray(arguments[n], np.float64) for n in ("query", "key", "value"))
    out = np.zeros((*q.shape[:2], v.shape[-1]))
    for b, h in np.ndindex(*q.shape[:2]):
        n, kv = arguments["length"][b], h // (q.shape[1] // k.shape[1])
        if n:
            w = (scale or q.shape[2] ** -0.5) * k[b, kv, :n] @ q[b, h]
            w = np.exp(w - w.max())
            out[b, h] = w / w.sum() @ v[b, kv, :n]
    return out


@pytest.mark.parametrize("name", cases.CASES)
def test_the_xla_form_is_the_reference(name):
    case = cases.CASES[name]
    arguments = cases.make(case)
    # Keys behind the length, such as rejected drafts, take no part.
    for b, n in enumerate(case.lengths):
        arguments["key"][b, :, n:] = np.nan
        arguments["value"][b, :, n:] = np.nan
    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        out, stats, blocks, tokens, index = everything(arguments, case.config, case.scale)
        given = [arguments[n] for n in ("query", "key", "value")]
        want, _ = decode(*given, index, arguments["length"], case.config, scale=case.scale,
                         implementation="reference")  # fmt: skip
    np.testing.assert_allclose(out, want, atol=1e-13)
    assert not np.asarray(out)[np.array(case.lengths) == 0].any()
    for b, n in enumerate(case.lengths):
        full = -(-n // case.config.block)
        forced = {*range(min(case.config.sink_blocks, full))}
        forced |= {*range(max(full - max(case.config.recent_blocks, 1), 0), full)}
        for h in range(case.kv_heads):
            chosen = [i for i in np.asarray(blocks)[b, h] if i >= 0]
            picked = [i for i in np.asarray(tokens)[b, h] if i >= 0]
            assert chosen == sorted({*chosen})
            assert forced <= {*chosen} <= {*range(full)}
            assert len(chosen) == min(full, case.config.candidates(case.slots))
            assert len(picked) == len({*picked})
            assert {i // case.config.block for i in picked} <= {*chosen}
            assert len(picked) == min(case.config.k_tokens,
                                      sum(min(4, n - 4 * i) for i in chosen))  # fmt: skip
            assert not n or n - 1 in picked
    if name == "covers_the_rows":
        np.testing.assert_allclose(out, dense(arguments, case.scale), atol=1e-13)
        np.testing.assert_array_equal(stats.mass, 1)
    if name == "shared_by_layer":
        np.testing.assert_array_equal(blocks[:, 0], blocks[:, 1])
    np.testing.assert_array_equal(np.isnan(index.upper).any(), False)


def test_bounds_hold_for_every_key_and_are_reached_by_single_ones():
    score = jax.jit(select.score_blocks, static_argnums=(3, 4))
    config = dataclasses.replace(SMALL, block=1, channels=8)
    arguments = cases.make(cases.Case(lengths=(9,), slots=9, config=config), dtype=np.float32)
    key, query = arguments["key"], arguments["query"].reshape(1, 2, 3, 8)
    products = np.einsum("bkgd,bksd->bkgs", query, key)
    for block, compare in ((1, np.testing.assert_allclose), (4, None)):
        config = dataclasses.replace(config, block=block, head_reduce="max")
        index = build(key, arguments["length"], arguments["channels"], config)
        valid = np.ones((1, 1, config.blocks(9)), bool)
        bounds = score(query, index, valid, config, 1.0)
        if compare:
            compare(bounds, products.max(2), rtol=1e-5)
        else:
            assert (np.repeat(bounds, block, 2)[..., :9] >= products.max(2) - 1e-5).all()


def test_codes_by_hand():
    # Largest magnitude 7: scale 1, and ties of rounding go to the even number.
    key = np.zeros((1, 1, 3, 4), np.float32)
    key[0, 0, 0] = [7.0, -2.5, 1.5, 100.0]
    key[0, 0, 2] = [np.nan, 1, 1, 1]
    config = dataclasses.replace(SMALL, channels=3)
    index = build(key, np.array([3]), np.array([[0, 1, 2]]), config)
    # Channels 0 and 2 share byte 0, channel 1 stands beside nothing, which is code 0.
    assert index.codes[0, 0, 0, 0].tolist() == [(7 + 8) | ((2 + 8) << 4), (-2 + 8) | (8 << 4)]
    assert index.scale[0, 0, 0, :2].tolist() == [1.0, 0.0]
    assert np.isnan(np.float32(index.scale[0, 0, 0, 2]))
    wide = build(key, np.array([3]), np.array([[0, 1, 2]]),
                       dataclasses.replace(config, index_bits=8))  # fmt: skip
    scale = np.float32(jnp.bfloat16(7 / 127))
    assert (
        wide.codes[0, 0, 0, 0].tolist()
        == np.round(np.array([7, -2.5, 1.5], np.float32) / scale).clip(-127, 127).tolist()
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_appending_and_taking_back_equal_a_rebuild(dtype):
    case = cases.Case(lengths=(11, 0, 3), slots=14)
    arguments = cases.make(case, dtype=np.float32)
    key, channels = jnp.asarray(arguments["key"], dtype), arguments["channels"]
    append = jax.jit(lambda index, n: append_index(index, key, n, channels, SMALL))
    truncate = jax.jit(lambda index, n: truncate_index(index, key, n, SMALL))

    def rebuilt(length):
        return build(key, length, channels, SMALL)

    def same(a, b):
        jax.tree.map(np.testing.assert_array_equal, a, b)

    index, length = rebuilt(np.array([2, 0, 0])), np.array([2, 0, 0])
    for step in range(12):
        length = np.minimum(
            length + np.array([1, 0, step > 5]), 14
        )  # a row of none, one that waits
        index = append(index, length)
        same(index, rebuilt(length))
    assert length.tolist() == [14, 0, 6]
    same(append(index, length), index)  # a row that has stopped
    for back in ([13, 0, 5], [12, 0, 4], [5, 0, 1], [0, 0, 0]):
        same(truncate(index, np.array(back)), rebuilt(np.array(back)))


def test_short_batches_take_the_dense_path_bit_for_bit():
    config = dataclasses.replace(SMALL, min_len=20)
    arguments = cases.make(cases.Case(), dtype=np.float32)
    three = [arguments[n] for n in ("query", "key", "value")]

    @jax.jit
    def run(query, key, value, length):
        index = build_index(key, length, arguments["channels"], config)
        return decode(query, key, value, index, length, config, stats=True)

    @jax.jit
    def step(query, key, value, length):
        first, last = jnp.zeros(4, jnp.int32), length[:, None] - 1
        return attention_step(query[:, None], key, value, first=first, last=last)[:, 0]

    short = np.array([19, 7, 1, 0], np.int32)
    out, stats = run(*three, short)
    np.testing.assert_array_equal(out[:3], step(*three, short)[:3])
    np.testing.assert_array_equal(out[3], 0)
    # Two key heads, keys of 8 and values of 5 numbers of 4 bytes.
    np.testing.assert_array_equal(stats.bytes, 2 * (8 + 5) * 4 * short)
    np.testing.assert_array_equal(stats.mass, 1)
    long = np.array([20, 7, 1, 0], np.int32)
    out, stats = run(*three, long)
    assert np.abs(out[0] - step(*three, long)[0]).max() > 1e-3
    np.testing.assert_allclose(out[1:3], step(*three, long)[1:3], atol=0.5)
    # Of row 0: five pairs of bounds, 16 labels of 2 + 2 bytes, six tokens; per key head.
    assert stats.bytes[0] == 2 * (5 * 2 * 8 * 4 + 16 * 4 + 6 * (8 + 5) * 4)
    assert (stats.mass[0] < 1).all()
    everything = dataclasses.replace(SMALL, k_blocks=10**9, k_tokens=10**9)
    index = build(arguments["key"], long, arguments["channels"], everything)
    with pytest.raises(ValueError, match="'refrence' is not one of reference, xla"):
        decode(*three, index, long, everything, implementation="refrence")
    out, none = decode(*three, index, long, everything)
    assert none is None
    np.testing.assert_array_equal(out[:3], step(*three, long)[:3])


def test_candidates_of_an_earlier_step():
    """The stale variant adds the forced blocks; this step's own candidates change nothing."""
    arguments = cases.make(cases.Case(lengths=(33, 0, 3, 21)), dtype=np.float32)
    query, key, value, length, channels = arguments.values()
    index = build(key, length, channels, SMALL)
    run = jax.jit(lambda blocks: decode(query, key, value, index, length, SMALL, blocks=blocks,
                                        stats=True))  # fmt: skip
    now = select_blocks(query, index, length, SMALL)
    out, stats = run(now)
    np.testing.assert_array_equal(out, decode(query, key, value, index, length, SMALL)[0])
    np.testing.assert_array_equal(stats.overlap, [[1, 1], [0, 0], [1, 1], [1, 1]])
    # One block that is not there, one twice, one of the forced ones: only the forced are left.
    odd = np.broadcast_to(np.array([99, 0, 0, -1], np.int32), now.shape)
    out, stats = run(odd)
    window = dataclasses.replace(SMALL, k_blocks=0)
    np.testing.assert_array_equal(out, decode(query, key, value, index, length, window)[0])
    np.testing.assert_array_equal(stats.overlap[0], [0.25, 0.25])


def test_a_needle_is_found_by_tokens_and_lost_among_blocks():
    """Structured keys: needles lie apart, one a block, so that blocks of a budget hold few."""
    rng = np.random.default_rng(0)
    slots, dim, needles = 1024, 32, 24
    key = 0.3 * rng.normal(size=(1, 1, slots, dim))
    query = np.zeros((1, 4, dim))
    query[..., :4] = 4 * np.sign(rng.normal(size=4)) + 0.1 * rng.normal(size=(1, 4, 4))
    places = rng.choice(slots // 16, needles, replace=False) * 16 + rng.integers(0, 16, needles)
    key[0, 0, places, :4] += 3 * np.sign(query[0, 0, :4])
    value = rng.normal(size=(1, 1, slots, dim))
    arguments = {"query": query, "key": key, "value": value, "length": np.array([slots]),
                 "channels": np.arange(8)[None]}  # fmt: skip
    arguments = {n: np.float32(x) if x.dtype == np.float64 else np.int32(x)
                 for n, x in arguments.items()}  # fmt: skip
    config = IndexConfig(block=16, k_blocks=32, k_tokens=64, channels=8, min_len=0)
    out, stats, _, tokens, _ = everything(arguments, config)
    assert {*places} <= {*np.asarray(tokens)[0, 0].tolist()}
    assert stats.mass.min() > 0.98
    np.testing.assert_allclose(out, dense(arguments), atol=0.05)
    blocks_alone = dataclasses.replace(config, k_blocks=4)  # of the same 64 tokens
    assert everything(arguments, blocks_alone)[1].mass.max() <= 0.8


def test_a_nan_key_shows_in_the_output():
    arguments = cases.make(cases.Case(lengths=(37, 12, 9, 30)), dtype=np.float32)
    arguments["key"][0, 1, 18, 2] = np.nan
    out, *_ = everything(arguments, SMALL)
    assert np.isnan(out[0, 3:]).all()
    assert np.isfinite(out[0, :3]).all()
    assert np.isfinite(out[1:]).all()


ONE = cases.make(cases.Case(), dtype=np.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"length": np.array([1, -2, 3, 4])}, r"length\[1\] is -2.0; expected 0 <= length <= 38"),
        ({"length": np.array([1, 2, 3, 39])}, r"length\[3\] is 39.0"),
        ({"length": np.array([1, 2, 3])}, r"length has shape \(3,\); expected \[B\] = \[4\]"),
        ({"length": np.ones(4)}, "length has dtype float64; expected integers"),
        ({"channels": np.full((2, 4), 8)}, r"channels\[0, 0\] is 8.0; expected 0 <= channels <= 7"),
        ({"channels": np.zeros((8, 4), int)}, r"channels has shape \(8, 4\).*of another model"),
        ({"query": ONE["query"][:, :5]}, "query has 5 heads; expected a multiple of the 2 heads"),
        ({"query": ONE["query"][..., :4]}, r"query has shape \(4, 6, 4\)"),
        ({"key": ONE["key"][0]}, r"key has shape \(2, 38, 8\)"),
        ({"value": ONE["value"][:, :, :9]}, r"value has shape \(4, 2, 9, 5\)"),
        ({"config": dataclasses.replace(SMALL, block=8)}, r"index has codes .*= config.block = 8"),
        ({"config": dataclasses.replace(SMALL, index_bits=8)}, "index has codes .* of uint8"),
        ({"config": dataclasses.replace(SMALL, channels=3)}, "index holds 4 channels"),
        ({"blocks": np.zeros((4, 3, 2), int)}, r"blocks has shape \(4, 3, 2\)"),
        ({"implementation": "triton"}, "'triton' is not one of reference, xla"),
    ],
)  # fmt: skip
def test_errors_name_the_argument(changes, message):
    arguments = ONE | changes
    channels, config = arguments.pop("channels"), arguments.pop("config", SMALL)

    def call():
        index = build_index(arguments["key"], arguments["length"], channels, SMALL)
        decode(**arguments, index=index, config=config)

    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("field", "number"),
    [("block", 0), ("k_tokens", 0), ("channels", 2.0), ("index_bits", 3), ("share", "row"),
     ("head_reduce", "mean"), ("block_score", "mean"), ("skip_layers", (-1,))],
)  # fmt: skip
def test_a_config_names_the_field(field, number):
    with pytest.raises(ValueError, match=rf"^{field} is .*: expected"):
        IndexConfig(**{field: number})
    assert hash(IndexConfig(skip_layers=[1])) == hash(IndexConfig(skip_layers=(1,)))
