"""Block-sparse attention in its forms against the float64 reference: outputs and every gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxlab_kernels import attention
from jaxlab_kernels.block_sparse import IDS, api, block_sparse, cases, grouped, layout, routing

ARRAYS = ("q", "k", "v")
COVERAGE = (1, 2, 3, 6, 40)
# Tiles of 8 rows, so that a block's queries fill several; two chosen blocks per pass.
SMALL = grouped.XLA._replace(tile=8)


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch):
    monkeypatch.setitem(
        api.IMPLEMENTATIONS, "xla", functools.partial(grouped.grouped, kernels=SMALL)
    )
    monkeypatch.setattr(grouped, "SLOTS", 2)
    monkeypatch.setattr(routing, "ROWS", 16)


@functools.cache
def program(implementation, block, scale, coverage=COVERAGE):
    """Jitted (gradients of a weighted sum of the output, output and aux): one for many budgets."""

    def loss(arrays, weights, rest):
        out, aux = block_sparse(
            **arrays, **rest, block_size=block, scale=scale, coverage_at=coverage,
            implementation=implementation,
        )  # fmt: skip
        wide = out.astype(jnp.promote_types(out.dtype, jnp.float32))
        return jnp.sum(wide * weights), (out, aux)

    return jax.jit(jax.grad(loss, has_aux=True))


def evaluate(implementation, arguments, dtype):
    """(output, aux, gradients) as float64 NumPy."""
    arrays = {name: arguments[name] for name in ARRAYS}
    rest = {name: arguments[name] for name in ("budget", "segment_ids") if name in arguments}
    shape = (*arrays["q"].shape[:3], arrays["v"].shape[-1])
    weights = np.random.default_rng(7).integers(-8, 9, size=shape) / 4
    # A budget of each key head, so that all are of one program.
    batch, heads = arrays["k"].shape[0], arrays["k"].shape[2]
    budget = np.asarray(rest["budget"])
    budget = budget[:, None] if budget.ndim == 1 else budget
    rest["budget"] = np.ascontiguousarray(np.broadcast_to(budget, (batch, heads)))
    with jax.enable_x64(dtype == np.float64):
        arrays = jax.tree.map(lambda x: jnp.asarray(x, dtype), arrays)
        run = program(implementation, arguments["block_size"], arguments["scale"])
        gradients, (out, aux) = run(arrays, weights, rest)
        result = (out, aux, gradients)
        return jax.tree.map(lambda x: np.asarray(x, np.float64), result)


def distance(actual, expected):
    assert np.isfinite(actual).all()
    norm = np.linalg.norm(expected)
    return np.linalg.norm(actual - expected) / (norm if norm > 1e-12 else 1.0)


def agree(actual, expected, tolerance):
    for got, want in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert distance(got, want) < tolerance


@functools.cache
def exact(case):
    return evaluate("reference", cases.make(cases.CASES[case]), np.float64)


SLOW = ("blocks_of_one",)


@pytest.mark.parametrize(
    "case", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in cases.CASES]
)
def test_the_xla_form_agrees_with_the_float64_reference(case):
    actual = evaluate("xla", cases.make(cases.CASES[case]), np.float64)
    agree(actual, exact(case), 1e-7)  # coverage leaves the operation as float32
    agree((actual[0], actual[2]), (exact(case)[0], exact(case)[2]), 1e-12)


@pytest.mark.parametrize(("case", "tolerance"), [("packed", 3e-6), ("sharp", 2e-4)])
def test_float32_is_as_near_as_its_rounding(case, tolerance):
    result = evaluate("xla", cases.make(cases.CASES[case]), np.float32)
    agree(result, exact(case), tolerance)


def test_bfloat16_is_as_near_as_its_rounding():
    arguments = cases.make(cases.CASES["packed"])
    rounded = {
        name: np.asarray(jnp.asarray(arguments[name], jnp.bfloat16), np.float64) for name in ARRAYS
    }
    expected = evaluate("reference", arguments | rounded, np.float64)
    agree(evaluate("xla", arguments, jnp.bfloat16), expected, 0.02)


@pytest.mark.parametrize("case", ["all_blocks", "more_than_all"])
def test_a_budget_of_all_blocks_is_dense_attention(case):
    arguments = cases.make(cases.CASES[case], dtype=np.float32)
    out, aux, _ = evaluate("xla", arguments, np.float32)
    dense = attention(*[arguments[name] for name in ARRAYS], implementation="reference")
    np.testing.assert_allclose(out, dense, atol=2e-6)
    np.testing.assert_array_equal(aux.coverage[..., -1], 1)


def test_the_count_of_blocks_is_that_of_counting():
    # 37 tokens in blocks of 4: nine of four tokens and one of one; 4 heads, 2 rows.
    for case, budget in (("own_block_alone", 1), ("grouped", 3), ("all_blocks", 10)):
        expected = 8 * sum(min(t // 4 + 1, budget) for t in range(37))
        assert exact(case)[1].blocks == expected
    # Segments of 9, 1 and 20 tokens, and padding: each begins its own blocks.
    tokens = [t // 4 + 1 for length in (9, 1, 20) for t in range(length)]
    assert exact("packed")[1].blocks == 8 * sum(min(n, 3) for n in tokens)


def test_coverage_is_the_mass_of_the_best():
    coverage = exact("grouped")[1].coverage
    arguments = cases.make(cases.CASES["grouped"])
    for head in range(2):
        found = np.zeros(5)
        for t in range(37):
            for group in (0, 1):
                past = arguments["k"][1, : t // 4 * 4, head].reshape(-1, 4, 8).mean(1)
                if not len(past):
                    found += 1
                    continue
                mass = np.exp(past @ arguments["q"][1, t, 2 * head + group] / 8**0.5)
                mass = np.sort(mass / mass.sum())[::-1]
                found += [mass[: k - 1].sum() for k in COVERAGE]
        np.testing.assert_allclose(coverage[1, head], found / 74, rtol=1e-6)
    assert (np.diff(coverage, axis=-1) >= 0).all()


def test_padding_may_hold_anything_and_gives_zeros():
    arguments = cases.make(cases.CASES["packed"], dtype=np.float32)
    padding = arguments["segment_ids"] == 0
    poisoned = {n: np.where(padding[..., None, None], np.nan, arguments[n]) for n in ARRAYS}
    clean = evaluate("xla", arguments, np.float32)
    dirty = evaluate("xla", arguments | poisoned, np.float32)
    jax.tree.map(np.testing.assert_array_equal, dirty, clean)
    assert not clean[0][padding].any()
    assert all(not gradient[padding].any() for gradient in clean[2].values())


def test_a_document_attends_alike_wherever_it_is_packed():
    arguments = cases.make(cases.CASES["packed"], dtype=np.float32)
    before = evaluate("xla", arguments, np.float32)
    # The segments of 9, 1 and 20 tokens in another order, with padding in front.
    order = np.concatenate([np.arange(30, 37), np.arange(10, 30), np.arange(9), np.arange(9, 10)])
    moved = {name: arguments[name][:, order] for name in (*ARRAYS, "segment_ids")}
    run = program("xla", 4, None)
    weights = np.random.default_rng(7).integers(-8, 9, size=before[0].shape) / 4
    rest = {"segment_ids": moved["segment_ids"], "budget": np.full((2, 2), 3, np.int32)}
    arrays = {name: moved[name] for name in ARRAYS}
    gradients, (out, aux) = run(arrays, weights[:, order], rest)
    np.testing.assert_allclose(out, before[0][:, order], atol=1e-6)
    np.testing.assert_allclose(aux.coverage, before[1].coverage, atol=1e-6)
    for name in ARRAYS:
        np.testing.assert_allclose(gradients[name], before[2][name][:, order], atol=2e-6)


def test_no_token_sees_a_later_one():
    arguments = cases.make(cases.CASES["grouped"], dtype=np.float32)
    changed = {name: arguments[name].copy() for name in ARRAYS}
    for name in ARRAYS:
        changed[name][:, 22:] += 1.0
    before = evaluate("xla", arguments, np.float32)[0]
    after = evaluate("xla", arguments | changed, np.float32)[0]
    np.testing.assert_array_equal(before[:, :22], after[:, :22])
    assert not np.array_equal(before[:, 22:], after[:, 22:])


def test_of_equal_blocks_the_first_is_chosen():
    arguments = cases.make(cases.CASES["grouped"], dtype=np.float32)
    arguments["k"][:] = 1.0
    arguments["v"][:] = (np.arange(37) // 4)[:, None, None]
    for form in ("xla", "reference"):
        out = evaluate(form, arguments, np.float32)[0]
        # Blocks 0 and 1 of four tokens, and the own one, 9, of which there is one token.
        np.testing.assert_allclose(out[:, 36], (4 * 0 + 4 * 1 + 1 * 9) / 9, rtol=1e-6)


def test_the_best_are_found_among_ties_signs_and_infinities():
    rng = np.random.default_rng(0)
    values = np.array([-np.inf, -2.0, -1e-30, -0.0, 0.0, 1e-30, 0.5, np.inf], np.float32)
    scores = rng.choice(values, (21, 300))
    seen = rng.random((21, 300)) < 0.7
    wanted = rng.integers(0, 22, 300) % (seen.sum(0) + 1)
    chosen = np.asarray(jax.jit(routing.best)(scores, seen, wanted.astype(np.int32)))
    for row in range(300):
        order = sorted((-s, i) for i, s in enumerate(scores[:, row]) if seen[i, row])
        assert {i for _, i in order[: wanted[row]]} == set(np.flatnonzero(chosen[:, row]))


def test_bits_are_taken_out_in_order():
    rng = np.random.default_rng(1)
    chosen = rng.random((70, 40)) < 0.2
    bits = routing._packed(jnp.asarray(chosen))
    found = []
    while bits.any():
        ids, bits = routing.take_lowest(bits, 3, 70)
        found.append(ids)
    ids = np.concatenate(found, axis=1)
    for row in range(40):
        assert [n for n in ids[row] if n < 70] == np.flatnonzero(chosen[:, row]).tolist()


def test_the_layout_holds_each_pair_once_in_as_many_tiles_as_are_needed():
    rng = np.random.default_rng(2)
    ids = np.sort(np.argsort(rng.random((50, 9)), axis=1)[:, :3], axis=1).astype(np.int32)
    ids[rng.random((50, 3)) < 0.3] = 9
    found = layout.by_block(jnp.asarray(ids), 9, 8)
    places = np.flatnonzero(found.real)
    pairs = sorted(zip(found.rows[places].tolist(), found.block[places // 8].tolist(), strict=True))
    assert pairs == sorted((row, n) for row in range(50) for n in ids[row].tolist() if n < 9)
    tiles = sum(-(-np.sum(ids == n) // 8) for n in range(9))
    assert int(found.tiles[0]) == tiles
    assert places.max() < 8 * tiles
    none = layout.by_block(jnp.full((50, 3), 9), 9, 8)
    assert (int(none.tiles[0]), bool(none.real.any())) == (0, False)


def test_another_budget_is_no_other_program_and_less_work(monkeypatch):
    counted = []

    def forward(scale, query, key, value, found):
        jax.debug.callback(lambda n: counted.append(int(n[0])), found.tiles)
        return grouped.XLA.forward(scale, query, key, value, found)

    kernels = SMALL._replace(forward=forward)
    monkeypatch.setitem(
        api.IMPLEMENTATIONS, "xla", functools.partial(grouped.grouped, kernels=kernels)
    )
    q, k, v = (jnp.asarray(cases.make(cases.Case())[name], jnp.float32) for name in ARRAYS)
    run = jax.jit(functools.partial(block_sparse, block_size=4, implementation="xla"))
    tiles, blocks = [], []
    for budget in (1, 2, 4, 8):
        counted.clear()
        blocks.append(float(run(q, k, v, jnp.int32(budget))[1].blocks))
        jax.effects_barrier()
        tiles.append(sum(counted))
    assert run._cache_size() == 1
    assert tiles[0] == 0
    # Chosen pairs in tiles of 8 rows, of which each block of each pass may have one unfilled.
    own = blocks[0]
    for n, pairs in zip(tiles[1:], blocks[1:], strict=True):
        assert (pairs - own) / 8 <= n <= (pairs - own) / 8 + 4 * 9 * 4
    assert tiles == sorted(tiles)


def test_a_rematerialised_layer_keeps_its_choices():
    """The policy saves the bits, so that the backward pass does not route again."""
    arguments = cases.make(cases.Case(batch=1), dtype=np.float32)
    arrays = [jnp.asarray(arguments[name]) for name in ARRAYS]

    def loss(q, k, v):
        out = block_sparse(q * 1.0, k, v, 3, block_size=4, implementation="xla")[0]
        return jnp.sum(jnp.sin(out))

    policy = jax.checkpoint_policies.save_only_these_names(IDS)

    def routings(function):
        text = str(jax.make_jaxpr(jax.grad(function, (0, 1, 2)))(*arrays))
        return text.count("bitcast_convert_type")

    assert routings(loss) == 1
    assert routings(jax.checkpoint(loss, policy=policy)) == 1
    assert routings(jax.checkpoint(loss)) == 2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"q": np.zeros((2, 4, 3))}, r"q has shape \(2, 4, 3\); expected \[B, T, H, D\]"),
        ({"k": np.zeros((2, 5, 2, 8))}, r"k has shape \(2, 5, 2, 8\)"),
        ({"v": np.zeros((2, 4, 1, 8))}, r"v has shape \(2, 4, 1, 8\)"),
        ({"q": np.zeros((2, 4, 3, 8))}, "q has 3 heads .* multiple of the 2 heads"),
        ({"q": np.zeros((2, 4, 4, 8), int)}, "q has dtype int"),
        ({"segment_ids": np.zeros((2, 3), int)}, r"segment_ids has shape \(2, 3\)"),
        ({"segment_ids": np.zeros((2, 4))}, "segment_ids has dtype float"),
        ({"budget": 0}, "budget is 0: expected at least 1"),
        ({"budget": np.array([3, -1])}, "budget is -1"),
        ({"budget": 2.0}, "budget has dtype float32"),
        (
            {"budget": np.ones(3, int)},
            r"budget has shape \(3,\); expected \(\), \[B\] or \[B, KV\]",
        ),
        ({"block_size": 0}, "block_size is 0"),
        ({"coverage_at": (0,)}, r"coverage_at \(0,\): expected whole numbers from 1"),
    ],
)
def test_bad_arguments_are_named(changed, message):
    arguments = cases.make(cases.Case(length=4), dtype=np.float32)
    with pytest.raises(ValueError, match=message):
        block_sparse(**arguments | changed)


def test_a_traced_budget_below_one_is_one():
    x = jnp.ones((1, 9, 2, 8))
    run = jax.jit(lambda budget: block_sparse(x, x, x, budget, block_size=4)[1].blocks)
    assert run(jnp.int32(0)) == run(jnp.int32(1)) == 18


def test_nothing_in_nothing_out():
    x = jnp.zeros((0, 4, 2, 8))
    out, aux = block_sparse(x, x, x[..., :3], 2, coverage_at=(1, 2))
    assert out.shape == (0, 4, 2, 3)
    assert aux.coverage.shape == (0, 2, 2)
    assert aux.blocks == 0
