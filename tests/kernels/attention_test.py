"""Attention in all its forms against the float64 reference: outputs and every gradient."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxlab_kernels import attention, attention_step
from jaxlab_kernels.attention import api, cases, chunked, splash, step
from jaxlab_kernels.dispatch import Refusal

ARRAYS = ("query", "key", "value")
# Blocks of 8 tokens, so that short rows have several; the last one ragged.
STEP = jax.jit(attention_step)
WHOLE = jax.jit(functools.partial(attention, implementation="whole"))
BLOCKS = functools.partial(chunked.chunked, block=8)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setitem(api.IMPLEMENTATIONS, "chunked", BLOCKS)


def evaluate(implementation, arguments, dtype):
    """(output, gradients of a weighted sum of it), as float64 NumPy."""
    arrays = {name: arguments[name] for name in ARRAYS}
    rest = {name: x for name, x in arguments.items() if name not in ARRAYS}
    shape = (*arrays["query"].shape[:3], arrays["value"].shape[-1])
    weights = np.random.default_rng(7).integers(-8, 9, size=shape) / 4

    def loss(arrays):
        out = attention(**arrays, **rest, implementation=implementation)
        return jnp.sum(out.astype(jnp.promote_types(out.dtype, jnp.float32)) * weights), out

    with jax.enable_x64(dtype == np.float64):
        arrays = jax.tree.map(lambda x: jnp.asarray(x, dtype), arrays)
        gradients, out = jax.jit(
            jax.grad(loss, has_aux=True), compiler_options={"xla_backend_optimization_level": 0}
        )(arrays)
        return jax.tree.map(lambda x: np.asarray(x, np.float64), (out, gradients))


def distance(actual, expected):
    assert np.isfinite(actual).all()
    norm = np.linalg.norm(expected)
    return np.linalg.norm(actual - expected) / (norm if norm > 1e-12 else 1.0)


@functools.cache
def exact(case):
    return evaluate("reference", cases.make(cases.CASES[case]), np.float64)


@pytest.mark.parametrize("case", cases.CASES)
@pytest.mark.parametrize("implementation", ["whole", "chunked"])
def test_forms_agree_with_the_float64_reference(implementation, case):
    result = evaluate(implementation, cases.make(cases.CASES[case]), np.float64)
    for actual, expected in zip(jax.tree.leaves(result), jax.tree.leaves(exact(case)), strict=True):
        assert distance(actual, expected) < 1e-12


@pytest.mark.parametrize(("case", "tolerance"), [("packed", 3e-6), ("sharp", 2e-4)])
@pytest.mark.parametrize("implementation", ["whole", "chunked"])
def test_float32_is_as_near_as_its_rounding(implementation, case, tolerance):
    result = evaluate(implementation, cases.make(cases.CASES[case]), np.float32)
    for actual, expected in zip(jax.tree.leaves(result), jax.tree.leaves(exact(case)), strict=True):
        assert distance(actual, expected) < tolerance


@pytest.mark.parametrize("implementation", ["whole", "chunked"])
def test_bfloat16_is_as_near_as_its_rounding(implementation):
    arguments = cases.make(cases.CASES["packed"])
    rounded = jax.tree.map(
        lambda x: np.asarray(jnp.asarray(x, jnp.bfloat16), np.float64),
        {name: arguments[name] for name in ARRAYS},
    )
    expected = evaluate("reference", arguments | rounded, np.float64)
    actual = evaluate(implementation, arguments, jnp.bfloat16)
    for got, want in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert distance(got, want) < 0.02


@pytest.mark.parametrize("implementation", ["whole", "chunked"])
def test_padding_may_hold_anything_and_gives_zeros(implementation):
    arguments = cases.make(cases.CASES["packed"], dtype=np.float32)
    padding = arguments["segment_ids"] == 0
    poisoned = {n: np.where(padding[..., None, None], np.nan, arguments[n]) for n in ARRAYS}
    clean = evaluate(implementation, arguments, np.float32)
    dirty = evaluate(implementation, arguments | poisoned, np.float32)
    jax.tree.map(np.testing.assert_array_equal, dirty, clean)
    assert not clean[0][padding].any()
    assert all(not gradient[padding].any() for gradient in clean[1].values())


@pytest.mark.parametrize("implementation", ["whole", "chunked"])
def test_a_token_sees_no_later_one_and_no_other_segment(implementation):
    arguments = cases.make(cases.CASES["packed"], dtype=np.float32)
    changed = {name: arguments[name].copy() for name in ARRAYS}
    for name in ARRAYS:
        changed[name][:, 20:] += 1.0  # within the third segment, which begins at 10
    before = evaluate(implementation, arguments, np.float32)[0]
    after = evaluate(implementation, arguments | changed, np.float32)[0]
    np.testing.assert_array_equal(before[:, :20], after[:, :20])
    changed = {name: arguments[name].copy() for name in ARRAYS}
    for name in ARRAYS:
        changed[name][:, :10] += 1.0
    after = evaluate(implementation, arguments | changed, np.float32)[0]
    np.testing.assert_array_equal(before[:, 10:], after[:, 10:])


def test_memory_of_chunks_grows_with_the_length():
    def temporaries(length):
        shape = jax.ShapeDtypeStruct((1, length, 2, 16), jnp.float32)

        def loss(query, key, value):
            return attention(query, key, value, implementation="long").sum()

        compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*[shape] * 3).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    api.IMPLEMENTATIONS["long"] = chunked.chunked
    try:
        short, long = temporaries(2048), temporaries(8192)
    finally:
        del api.IMPLEMENTATIONS["long"]
    assert long < 4.5 * short
    assert long < 2 * 8192 * 8192 * 4 / 8  # two heads' scores, of which not an eighth is held


def test_long_sequences_are_read_in_chunks_on_every_platform():
    for order in api.preferences(api.SHORT + 1).values():
        assert "whole" not in order
        assert "reference" not in order


def test_a_step_is_the_last_rows_of_the_whole():
    arguments = cases.make(cases.CASES["narrow_values"], dtype=np.float32)
    query, key, value = (jnp.asarray(arguments[name]) for name in ARRAYS)
    expected = WHOLE(query, key, value)[:, -3:]
    slots = [
        jnp.pad(x.transpose(0, 2, 1, 3), ((0, 0), (0, 0), (0, 5), (0, 0))) for x in (key, value)
    ]
    length = query.shape[1]
    last = jnp.arange(length - 3, length)
    for form in (last, jnp.broadcast_to(last, (2, 3))):
        actual = STEP(query[:, -3:], *slots, first=jnp.zeros(2, jnp.int32), last=form)
        np.testing.assert_allclose(actual, expected, atol=2e-6)


def test_many_new_tokens_are_read_in_blocks_with_the_same_gradients(monkeypatch):
    arguments = cases.make(cases.CASES["narrow_values"], dtype=np.float32)
    query, key, value = (jnp.asarray(arguments[name]) for name in ARRAYS)
    length = query.shape[1]
    first, last = jnp.asarray([0, 3]), jnp.arange(7, length)

    def loss(query, key, value):
        slots = [x.transpose(0, 2, 1, 3) for x in (key, value)]
        out = attention_step(query[:, 7:], *slots, first=first, last=last)
        return jnp.sum(jnp.sin(out)), out

    results = []
    for block in (length, 8):
        monkeypatch.setattr(step, "BLOCK", block)
        run = jax.jit(lambda *x: jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(*x))
        results.append(run(query, key, value))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), *results)


def test_rows_of_a_step_may_have_lengths_of_their_own():
    arguments = cases.make(cases.Case(length=9), dtype=np.float32)
    query, key, value = (jnp.asarray(arguments[name]) for name in ARRAYS)
    slots = [x.transpose(0, 2, 1, 3) for x in (key, value)]
    ends, starts = jnp.array([4, 8]), jnp.array([0, 3])
    token = jnp.stack([query[0, 4], query[1, 8]])[:, None]
    actual = STEP(token, *slots, first=starts, last=ends[:, None])
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        part = [x[row : row + 1, start : end + 1] for x in (query, key, value)]
        expected = WHOLE(*part)[0, -1]
        np.testing.assert_allclose(actual[row, 0], expected, atol=2e-6)


def test_splash_agrees_by_pallas_interpreter_and_lowers_for_a_tpu(on_a_cpu):
    case = dataclasses.replace(
        cases.CASES["packed"], batch=1, heads=2, kv_heads=1, dim=64, value_dim=64
    )
    arguments = cases.make(case, dtype=np.float32)
    given = [jnp.asarray(arguments[name]) for name in (*ARRAYS, "segment_ids")]
    expected = attention(**arguments, implementation="reference")
    actual = splash.splash(*given, scale=64**-0.5, interpret=True)
    real = arguments["segment_ids"][0] > 0
    np.testing.assert_allclose(actual[:, real], expected[:, real], atol=2e-5)

    def loss(query, key, value, ids):
        out = attention(query, key, value, segment_ids=ids, implementation="splash")
        return out.astype(jnp.float32).sum()

    x = jax.ShapeDtypeStruct((2, 300, 2, 128), jnp.bfloat16)
    ids = jax.ShapeDtypeStruct((2, 300), jnp.int32)
    lowered = (
        jax.jit(jax.grad(loss, (0, 1, 2))).trace(x, x, x, ids).lower(lowering_platforms=("tpu",))
    )
    assert lowered.as_text().count("tpu_custom_call") >= 3


def test_refusals_say_why(on_a_cpu):
    x = jnp.zeros((1, 4, 2, 16), jnp.bfloat16)
    with pytest.raises(Refusal, match="cudnn: needs an NVIDIA GPU; jax runs on cpu"):
        attention(x, x, x, implementation="cudnn")
    with pytest.raises(Refusal, match="cudnn: segment_ids; "):
        attention(x, x, x, segment_ids=jnp.ones((1, 4), jnp.int32), implementation="cudnn")
    with pytest.raises(Refusal, match="cudnn: float32; cuDNN takes bfloat16"):
        attention(*[x.astype(jnp.float32)] * 3, implementation="cudnn")
    with pytest.raises(Refusal, match="splash: head size 16"):
        attention(x, x, x, implementation="splash")
    with pytest.raises(Refusal, match="splash: values of 8 beside keys of 16"):
        attention(x, x, x[..., :8], implementation="splash")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"query": np.zeros((2, 4, 3))}, r"query has shape \(2, 4, 3\); expected \[B, T, H, D\]"),
        ({"key": np.zeros((2, 5, 2, 8))}, r"key has shape \(2, 5, 2, 8\)"),
        ({"value": np.zeros((2, 4, 1, 8))}, r"value has shape \(2, 4, 1, 8\)"),
        ({"query": np.zeros((2, 4, 3, 8))}, "query has 3 heads .* multiple of the 2 heads"),
        ({"query": np.zeros((2, 4, 4, 8), int)}, "query has dtype int"),
        ({"segment_ids": np.zeros((2, 3), int)}, r"segment_ids has shape \(2, 3\)"),
        ({"segment_ids": np.zeros((2, 4))}, "segment_ids has dtype float"),
    ],
)
def test_bad_arguments_are_named(changed, message):
    arguments = cases.make(cases.Case(length=4), dtype=np.float32)
    arguments = {name: x for name, x in (arguments | changed).items() if name != "scale"}
    with pytest.raises(ValueError, match=message):
        attention(**{name: jnp.asarray(x) for name, x in arguments.items()})


def test_nothing_in_nothing_out():
    x = jnp.zeros((0, 4, 2, 8))
    assert attention(x, x, x[..., :3]).shape == (0, 4, 2, 3)


def test_explicit_meshes_and_shard_map_take_the_chunks(on_a_cpu):
    mesh = jax.make_mesh((1,), ("data",), (jax.sharding.AxisType.Explicit,))
    x = jnp.ones((2, 20, 2, 8))
    with jax.set_mesh(mesh):
        put = jax.device_put(x, jax.P("data"))
        call = jax.jit(lambda x: attention(x, x, x, implementation="chunked"))
        inside = jax.shard_map(call, in_specs=jax.P("data"), out_specs=jax.P("data"))
        np.testing.assert_allclose(call(put), x, atol=1e-6)
        np.testing.assert_allclose(jax.jit(jax.grad(lambda x: inside(x).sum()))(put).shape, x.shape)
