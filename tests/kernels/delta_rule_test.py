import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import jaxlab_kernels
import numpy as np
import pytest
from jaxlab_kernels import gated_delta, gated_delta_from_logits
from jaxlab_kernels.delta_rule import cases
from jaxlab_kernels.delta_rule.chunked import _decay_weights

FORMS = ("chunked", "reference")  # "recurrent" is the second, and with gradients the first
# Fewer levels compile faster; float32 runs at the default size.
SMALL_CHUNK = 8
# Float64 compares formulas, which optimisations leave as they are, and they are most of the time to
# compile. Float32 runs as it does for users: with the defaults of what conftest.py turns off.
UNOPTIMISED = {"xla_backend_optimization_level": 0}
OPTIMISED = {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
    "xla_cpu_use_fusion_emitters": True,
    "xla_cpu_opt_preset": "CPU_OPT_PRESET_DEFAULT",
}
FLOATS = ("q", "k", "v", "log_decay", "erase", "write", "initial_state")


@pytest.fixture(autouse=True)
def _same_ranks():
    with jax.numpy_rank_promotion("raise"):
        yield


def truth(form="symmetric", scale=None, segment_ids=None, *, q, k, v, log_decay, erase, write=None,
          initial_state=None):  # fmt: skip
    """The recurrence of section 1 in NumPy, float64: explicit loops, explicit matrices."""
    q, k, v, log_decay, erase = (np.asarray(x, np.float64) for x in (q, k, v, log_decay, erase))
    write = erase if write is None else np.asarray(write, np.float64)
    (B, T, H, K), (HV, V) = q.shape, v.shape[2:]
    wide = [x if x.ndim == 4 else np.repeat(x[..., None], n, -1)
            for x, n in ((log_decay, K), (erase, K), (write, V))]  # fmt: skip
    scale = K**-0.5 if scale is None else scale
    out, last = np.zeros(v.shape), np.zeros((B, HV, K, V))
    for n, h in itertools.product(range(B), range(HV)):
        S = np.zeros((K, V)) if initial_state is None else np.array(initial_state[n, h], np.float64)
        segment = None
        for t in range(T):
            if segment_ids is not None:
                if segment_ids[n, t] == 0:
                    continue
                S = np.zeros((K, V)) if segment not in (None, segment_ids[n, t]) else S
                segment = segment_ids[n, t]
            g, e, w = (x[n, t, h] for x in wide)
            key, query = k[n, t, h * H // HV], q[n, t, h * H // HV]
            S = np.diag(np.exp(g)) @ S
            if form == "symmetric":
                kt = np.sqrt(e) * key
                S = (np.eye(K) - np.outer(kt, kt)) @ S + np.outer(kt, np.sqrt(w) * v[n, t, h])
            elif form == "left":
                S = (np.eye(K) - np.outer(e * key, key)) @ S + np.outer(e * key, v[n, t, h])
            else:
                S = (np.eye(K) - np.outer(key, e * key)) @ S + np.outer(key, w * v[n, t, h])
            out[n, t, h] = scale * S.T @ query
        last[n, h] = S
    return out, last


def cast(arguments, dtype):
    return {name: np.asarray(x, dtype) if name in FLOATS else x for name, x in arguments.items()}


def with_gradients(
    implementation, form, chunk_size=None, function=gated_delta, dtype=np.float64, optimised=None
):
    """Jitted: arguments, weights -> ((out, state), gradients of their weighted sum).

    `optimised` is the default of all but float64. What is compiled for users is 4 times as long in
    coming, and is so once for all tests about rounding.
    """
    optimised = dtype != np.float64 if optimised is None else optimised
    return _with_gradients(implementation, form, chunk_size, function, optimised)


@functools.cache
def _with_gradients(implementation, form, chunk_size, function, optimised):

    def loss(floats, rest, weights):
        result = function(
            **floats, **rest, form=form, implementation=implementation, chunk_size=chunk_size
        )
        return sum(
            jnp.vdot(w, x.astype(w.dtype)) for w, x in zip(weights, result, strict=True)
        ), result

    def run(arguments, weights):
        floats = {name: x for name, x in arguments.items() if jnp.issubdtype(x.dtype, jnp.floating)}
        rest = {name: x for name, x in arguments.items() if name not in floats}
        (_, result), gradients = jax.value_and_grad(loss, has_aux=True)(floats, rest, weights)
        return result, gradients

    return jax.jit(run, compiler_options=OPTIMISED if optimised else UNOPTIMISED)


def weights_of(arguments, seed=7):
    """Of the output and the state; bfloat16 holds them exactly."""
    rng = np.random.default_rng(seed)
    return [rng.integers(-8, 9, size=arguments[name].shape) / 4 for name in ("v", "initial_state")]


def run(implementation, arguments, dtype=np.float64, chunk_size=None, optimised=None):
    """((out, state), gradients) as float64 NumPy arrays; dtype of the arguments."""
    arguments = dict(arguments)
    form = arguments.pop("form")
    with jax.enable_x64(True):
        weights = [w.astype(jnp.promote_types(dtype, np.float32)) for w in weights_of(arguments)]
        call = with_gradients(implementation, form, chunk_size, dtype=dtype, optimised=optimised)
        result = call(cast(arguments, dtype), weights)
        return jax.tree.map(lambda x: np.asarray(x, np.float64), result)


def distance(actual, expected):
    """Relative Euclidean distance; absolute where the expected is 0 to float32."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert np.isfinite(actual).all()
    norm = np.linalg.norm(expected)
    return np.linalg.norm(actual - expected) / (norm if norm > 1e-30 else 1.0)


def assert_close(actual, expected, tolerance):
    distances = jax.tree.map(distance, actual, expected)
    assert max(jax.tree.leaves(distances)) <= tolerance, distances


# ------------------------------------------------------------------ the definition, in float64


@pytest.mark.parametrize("implementation", FORMS)
@pytest.mark.parametrize("name", cases.MEMBERS)
def test_every_member_equals_numpy(name, implementation):
    arguments = cases.make(cases.MEMBERS[name])
    result, _ = run(implementation, arguments, chunk_size=SMALL_CHUNK)
    assert_close(result, truth(**arguments), 3e-14)


def test_one_hand_worked_token():
    # k = e1, S = [[2], [0]] decays to [[1], [0]]; sqrt(0.25) e1 reads 0.5 against 0.5 * 6;
    # the difference 2.5 goes back along 0.5 e1.
    out, state = jax.jit(functools.partial(gated_delta, scale=1.0))(
        np.array([[[[3.0, 0.0]]]]), np.array([[[[1.0, 0.0]]]]), np.array([[[[6.0]]]]),
        np.log(np.array([[[[0.5, 1.0]]]])), np.full((1, 1, 1, 2), 0.25),
        np.full((1, 1, 1, 1), 0.25), initial_state=np.array([[[[2.0], [0.0]]]]),
    )  # fmt: skip
    np.testing.assert_allclose(state, [[[[2.25], [0.0]]]], rtol=1e-6)
    np.testing.assert_allclose(out, [[[[6.75]]]], rtol=1e-6)


def test_finite_differences():
    """Every gradient of the reference, along a random direction, by central differences."""
    for name in ("kda", "fg2_plus", "left", "gdn2"):
        case = cases.MEMBERS[name]
        arguments = cases.make(case)
        _, gradients = run("reference", arguments, chunk_size=SMALL_CHUNK)
        weights = weights_of(arguments)
        rng = np.random.default_rng(3)
        for argument in gradients:
            direction = rng.normal(size=arguments[argument].shape)
            ends = [
                sum(np.vdot(w, x) for w, x in zip(weights, truth(
                    **{**arguments, argument: arguments[argument] + sign * 1e-6 * direction}
                ), strict=True))
                for sign in (1, -1)
            ]  # fmt: skip
            slope = (ends[0] - ends[1]) / 2e-6
            np.testing.assert_allclose(
                np.vdot(gradients[argument], direction), slope, rtol=2e-7, err_msg=argument
            )


# ------------------------------------------------------------------ section 2's table, N1 to N7

TABLE = [("mild", "inside"), ("mixed", "inside"), ("-20", "inside"), ("-200", "inside"),
         ("zero", "inside"), ("mild", "closed"), ("mild", "one"), ("zero", "near_two")]  # fmt: skip


@pytest.mark.parametrize(("decays", "gates"), TABLE)
@pytest.mark.parametrize("name", cases.MEMBERS)
@pytest.mark.parametrize("implementation", [x for x in FORMS if x != "reference"])
def test_float64_equals_the_reference_with_all_gradients(implementation, name, decays, gates):
    """N3: no gradient is NaN where a decay underflows; the rest of the table to rounding."""
    arguments = cases.make(cases.MEMBERS[name], decays, gates)
    actual = run(implementation, arguments, chunk_size=SMALL_CHUNK)
    assert_close(actual, run("reference", arguments, chunk_size=SMALL_CHUNK), 3e-13)


@pytest.mark.parametrize(("decays", "gates"), TABLE)
@pytest.mark.parametrize("name", ["gdn", "fg2_plus"])
@pytest.mark.parametrize("implementation", FORMS)
def test_float32_stays_within_the_table(implementation, name, decays, gates):
    """N2: exponents that are differences of sums lose 20 times this, and a decay's gradient."""
    arguments = cases.make(cases.MEMBERS[name], decays, gates)
    rounded = {key: x.astype(np.float32) if key in FLOATS else x for key, x in arguments.items()}
    expected = run("reference", rounded, chunk_size=SMALL_CHUNK)
    result, gradients = run(implementation, rounded, np.float32, optimised=name == "fg2_plus")
    # At -200 the true gradient of the decay is of the order of 1e-87.
    # Without decay and with edits that nearly reflect, the triangular solve amplifies: 4e-6.
    # With closed gates all that is left of the state is e^-20 of it, and an exponent of -20 has
    # an error of 20 * 2^-24.
    special = {"near_two": (4e-6, 4e-6), "closed": (20 * 2.0**-24, 20 * 2.0**-24)}
    forward, backward = special.get(gates, (5e-7, 1e-6))
    assert_close(result, expected[0], forward)
    assert_close(gradients, expected[1], backward)


@pytest.mark.parametrize("implementation", FORMS)
def test_no_exponential_of_a_positive_number(implementation, monkeypatch):
    """N1: forwards and backwards, whatever the decays."""
    largest = []
    exp = jnp.exp

    def recorded(x):
        jax.debug.callback(lambda top: largest.append(float(top)), jnp.max(x))
        return exp(x)

    monkeypatch.setattr(jnp, "exp", recorded)
    case = cases.Case(batch=1, length=21, heads=1, value_heads=1, write="channel")
    arguments = cases.make(case, "mixed", dtype=np.float32)
    form = arguments.pop("form")

    @jax.jit
    def both(arguments):
        def call(arguments):
            return gated_delta(**arguments, form=form, implementation=implementation, chunk_size=8)

        result, pull = jax.vjp(call, arguments)
        return call(arguments), pull(result)

    jax.block_until_ready(both(arguments))
    jax.effects_barrier()
    # A scan's body is called once per chunk or token; every call counts.
    assert len(largest) >= (6 if implementation == "chunked" else 2)
    assert max(largest) <= 0.0


@functools.cache
def forward_only(implementation, form, chunk_size):
    def run(arguments):
        return gated_delta(
            **arguments, form=form, implementation=implementation, chunk_size=chunk_size
        )

    return jax.jit(run)


def results(implementation, arguments, chunk_size=None, dtype=np.float32):
    """(out, state) of arguments rounded to float32, computed in dtype."""
    arguments = dict(arguments)
    form = arguments.pop("form")
    rounded = {key: x.astype(np.float32) for key, x in arguments.items()}
    with jax.enable_x64(True):
        result = forward_only(implementation, form, chunk_size)(cast(rounded, dtype))
        return jax.tree.map(lambda x: np.asarray(x, np.float64), result)


LONG = cases.Case(batch=1, length=130, heads=1, value_heads=1, write="channel")


@pytest.mark.parametrize("implementation", FORMS)
def test_identical_keys_do_not_blow_up(implementation):
    """N4: an inverse by powers of a 64-block has an error of 8e19 here, and NaN near 2."""
    for gates, tolerance in (("one", 2e-6), ("near_two", 1e-4)):
        arguments = cases.make(LONG, "zero", gates)
        arguments["k"] = np.broadcast_to(arguments["k"][:, :1], arguments["k"].shape)
        assert_close(results(implementation, arguments, 64),
                     results("reference", arguments, dtype=np.float64), tolerance)  # fmt: skip


@pytest.mark.parametrize("decay", [-3.0, -5.0])
@pytest.mark.parametrize("implementation", FORMS)
def test_chunks_of_64_at_the_safe_gates_lower_bound(implementation, decay):
    """N6: with one anchor in the middle of 64 tokens -5 was NaN throughout, and -3 wrong by 7.5e-2.

    The decay between the chunk's ends is e^-192 or e^-320: a factor e^+x cannot stand for it.
    """
    arguments = cases.make(LONG)
    arguments["log_decay"] = np.full_like(arguments["log_decay"], decay)
    expected = results("reference", arguments, dtype=np.float64)
    assert_close(results(implementation, arguments, 64), expected, 5e-7)


@pytest.mark.parametrize("implementation", FORMS)
def test_future_gates_do_not_touch_the_past(implementation):
    """N5, bit for bit, at a cut inside a chunk."""
    arguments = cases.make(cases.MEMBERS["fg2_plus"], dtype=np.float32)
    (before, _), _ = run(implementation, arguments, np.float32)
    cut = 37
    for name in ("log_decay", "erase", "write", "k", "v"):
        changed = {**arguments, name: arguments[name].copy()}
        changed[name][:, cut:] = -300.0 if name == "log_decay" else 0.3
        (after, _), _ = run(implementation, changed, np.float32)
        np.testing.assert_array_equal(after[:, :cut], before[:, :cut], err_msg=name)
        assert not np.array_equal(after, before)


@pytest.mark.parametrize("implementation", FORMS)
def test_bfloat16(implementation):
    """N7: the error is that of rounding the inputs and what is returned.

    It is 1000 times what optimisations add in between, which float32 measures.
    """
    arguments = cases.make(cases.MEMBERS["fg2_plus"], "mixed")
    rounded = {
        key: x.astype(jnp.bfloat16).astype(np.float64) if key in FLOATS else x
        for key, x in arguments.items()
    }
    expected = run("reference", rounded, chunk_size=SMALL_CHUNK)
    actual = run(implementation, rounded, jnp.bfloat16, optimised=False)
    assert distance(actual[0][1], expected[0][1]) <= 1e-6
    assert distance(actual[0][0], expected[0][0]) <= 2e-3
    assert_close(actual[1], expected[1], 2e-3)


# ------------------------------------------------------------------ lengths and packing


@pytest.mark.parametrize("implementation", FORMS)
@pytest.mark.parametrize("length", [0, 1, 16])
def test_lengths(implementation, length):
    arguments = cases.make(cases.Case(batch=1, length=length, write="channel"))
    chunk_size = SMALL_CHUNK if length > SMALL_CHUNK else None
    result, gradients = run(implementation, arguments, chunk_size=chunk_size)
    assert_close(result, truth(**arguments), 3e-14)
    if length == 0:
        np.testing.assert_array_equal(gradients["initial_state"], weights_of(arguments)[1])


SEGMENTS = np.array([
    [5] * 3 + [2] * 1 + [9] * 29 + [0] * 4 + [9] * 6 + [1] * 33 + [0] * 7,
    [0] * 2 + [1] * 62 + [2] * 1 + [3] * 18,
])  # fmt: skip


@pytest.mark.parametrize("implementation", FORMS)
def test_packed_rows_equal_separate_sequences(implementation):
    """With NaN in the padding; the first segment of a row begins with the initial state."""
    arguments = cases.make(cases.MEMBERS["fg2_plus"])
    clean = truth(**arguments, segment_ids=SEGMENTS)
    poisoned = {
        key: np.where((SEGMENTS == 0).reshape(2, 83, *[1] * (x.ndim - 2)), np.nan, x)
        if key in FLOATS and key != "initial_state" else x
        for key, x in arguments.items()
    }  # fmt: skip
    (out, state), gradients = run(
        implementation, {**poisoned, "segment_ids": SEGMENTS}, chunk_size=SMALL_CHUNK
    )
    assert_close((out, state), clean, 3e-14)
    assert not out[SEGMENTS == 0].any()
    for key, gradient in gradients.items():
        assert np.isfinite(gradient).all(), key
        if key != "initial_state":
            assert not gradient[SEGMENTS == 0].any(), key

    rows, begin, stop = 0, 4, 43
    tokens = [t for t in range(begin, stop) if SEGMENTS[rows, t]]
    alone = {
        key: x[rows : rows + 1, tokens] if key in FLOATS and key != "initial_state" else x
        for key, x in arguments.items()
    } | {"initial_state": np.zeros_like(arguments["initial_state"][:1])}
    weights = weights_of(arguments)
    with jax.enable_x64(True):
        form = alone.pop("form")
        separate, expected = with_gradients("reference", form)(
            cast(alone, np.float64),
            [weights[0][rows : rows + 1, tokens], np.zeros((1, *state.shape[1:]))],
        )
    assert_close(out[rows : rows + 1, tokens], separate[0], 3e-14)
    for key in gradients:
        if key != "initial_state":
            assert_close(gradients[key][rows : rows + 1, tokens], expected[key], 1e-13)


PACKED_IN_CHUNKS = (("gdn", True), ("fg2_plus", False))


@pytest.mark.parametrize(
    ("name", "logits"),
    [("gdn", True), ("fg2_plus", False), ("fg2_plus", True), ("left", False), ("gdn2", True)],
)
def test_a_state_before_and_after_every_segment(name, logits):
    """Against a call per segment, gradients as well; some places stay empty.

    What stands between is any implementation: chunks with a decay per head and one per channel.
    """
    implementation = "chunked" if (name, logits) in PACKED_IN_CHUNKS else "reference"
    count = 6
    arguments = cases.make(dataclasses.replace(cases.MEMBERS[name], key_dim=4))
    form = arguments.pop("form")
    rng = np.random.default_rng(2)
    arguments["initial_state"] = rng.normal(size=(2, count, *arguments["initial_state"].shape[1:]))
    operation, gates = gated_delta, {}
    if logits:
        operation, gates = gated_delta_from_logits, {"gate_scale": 2.0}
        for gate in {"erase", "write"} & set(arguments):
            arguments[f"{gate}_logits"] = rng.normal(size=arguments.pop(gate).shape)
    weights = [rng.normal(size=arguments[key].shape) for key in ("v", "initial_state")]

    def total(result):
        return sum(jnp.vdot(w, x) for w, x in zip(weights, result, strict=True)), result

    def packed(arguments):
        return total(operation(**arguments, **gates, form=form, segment_ids=jnp.asarray(SEGMENTS),
                               chunk_size=SMALL_CHUNK, implementation=implementation))  # fmt: skip

    # Every segment is a row of its own, padded to the longest.
    pieces = []
    for row, ids in enumerate(SEGMENTS):
        tokens = np.flatnonzero(ids)
        cuts = np.flatnonzero(np.diff(ids[tokens])) + 1
        pieces += [(row, n, part) for n, part in enumerate(np.split(tokens, cuts))]
    rows, places = (np.array([piece[i] for piece in pieces]) for i in (0, 1))
    is_token = np.arange(max(len(part) for *_, part in pieces)) < np.array(
        [[len(part)] for *_, part in pieces]
    )
    at = np.zeros(is_token.shape, int)
    at[is_token] = np.concatenate([part for *_, part in pieces])

    def separate(arguments):
        given = {key: x[rows[:, None], at] for key, x in arguments.items()
                 if key != "initial_state"}  # fmt: skip
        start = arguments["initial_state"][rows, places]
        o, last = operation(
            **given, **gates, form=form, initial_state=start, segment_ids=is_token.astype(int),
            implementation="reference",
        )  # fmt: skip
        out = jnp.zeros_like(arguments["v"])
        out = out.at[rows[:, None], at].add(jnp.where(is_token[..., None, None], o, 0))
        return total((out, arguments["initial_state"].at[rows, places].set(last)))

    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        (slopes, result), (expected_slopes, expected) = (
            jax.jit(jax.grad(loss, has_aux=True), compiler_options=UNOPTIMISED)(arguments)
            for loss in (packed, separate)
        )
    assert_close(result, expected, 1e-12)
    assert_close(slopes, expected_slopes, 1e-11)


def test_more_segments_than_states():
    arguments = cases.make(cases.MEMBERS["kda"], dtype=np.float32)
    arguments["initial_state"] = np.stack([arguments["initial_state"]] * 3, axis=1)
    form = arguments.pop("form")
    call = functools.partial(gated_delta, form=form, implementation="reference")
    out, _ = jax.jit(call)(**arguments, segment_ids=SEGMENTS)
    order = np.array([[0] * 3 + [1] + [2] * 39 + [3] * 40, [0] * 64 + [1] + [2] * 18])
    order[1, 2:64], order[1, 64], order[1, 65:] = 0, 1, 2
    np.testing.assert_array_equal(np.isnan(out).all((2, 3)), order >= 3)
    with pytest.raises(ValueError, match=r"initial_state has shape .*expected \[B, HV, Dk, Dv\] "):
        call(**arguments)


def test_recurrent_is_the_scan_until_a_gradient_is_taken():
    """Bit for bit, and so as fast; the gradient comes from chunks."""
    arguments = cases.make(cases.MEMBERS["fg2_plus"], dtype=np.float32)
    form = arguments.pop("form")

    def forward(arguments, implementation):
        return gated_delta(**arguments, form=form, implementation=implementation)

    results = [jax.jit(forward, static_argnums=1)(arguments, x) for x in ("recurrent", "reference")]
    jax.tree.map(np.testing.assert_array_equal, *results)
    arguments = cases.make(cases.MEMBERS["fg2_plus"])
    result, gradients = run("recurrent", arguments, chunk_size=SMALL_CHUNK)
    assert_close(result, truth(**arguments), 3e-14)
    _, expected = run("chunked", arguments, chunk_size=SMALL_CHUNK)
    assert_close(gradients, expected, 3e-13)


@pytest.mark.parametrize("size", [1, 2, 8, 32])
def test_weights_are_the_same_by_products_and_by_sums(size):
    """Decays are multiplied where no gradient is taken, their logarithms added where one is."""
    rng = np.random.default_rng(0)
    log_decay = np.where(rng.uniform(size=(1, 2, size, 3)) < 0.1, -20.0, -rng.uniform(size=(3,)))
    with jax.enable_x64(True):
        by_products = jax.jit(_decay_weights)(log_decay)
        by_sums = jax.jit(lambda x: jax.vjp(_decay_weights, x)[0])(log_decay)
    for x, y in zip(by_products, by_sums, strict=True):
        assert x.shape == y.shape
        np.testing.assert_allclose(x, y, rtol=1e-12)
    *_, prefix, suffix = by_products
    i, m = np.indices((size, size))
    np.testing.assert_allclose(prefix, np.exp((m <= i) @ log_decay), rtol=1e-12)
    np.testing.assert_allclose(suffix, np.exp((m > i) @ log_decay), rtol=1e-12)


# ------------------------------------------------------------------ the entry with logits


@pytest.mark.parametrize("implementation", FORMS)
def test_logits_equal_their_sigmoids(implementation):
    gate_scale = 2.0
    arguments = cases.make(cases.MEMBERS["fg2_plus"])
    logits = {name: np.log(arguments[name] / (1 - arguments[name])) for name in ("erase", "write")}
    with jax.enable_x64(True):
        weights = weights_of(arguments)
        form = arguments.pop("form")
        floats = cast({**arguments, "erase": gate_scale * arguments["erase"],
                       "write": gate_scale * arguments["write"]}, np.float64)  # fmt: skip
        expected, slopes = with_gradients(implementation, form, SMALL_CHUNK)(floats, weights)

        def scaled_from_logits(erase, write, q, k, **rest):
            return gated_delta_from_logits(
                3.0 * q, 0.1 * k, erase_logits=erase, write_logits=write,
                gate_scale=gate_scale, norm_eps=1e-24, **rest,
            )  # fmt: skip

        floats |= cast(logits, np.float64)
        result, gradients = with_gradients(implementation, form, SMALL_CHUNK, scaled_from_logits)(
            {
                **floats,
                "erase": logits["erase"],
                "write": logits["write"],
            },
            weights,
        )
        slopes, gradients = jax.tree.map(np.asarray, (slopes, gradients))
    assert_close(result, expected, 1e-13)
    for name in ("erase", "write"):
        gate = arguments[name]
        assert_close(gradients[name], slopes[name] * gate_scale * gate * (1 - gate), 1e-12)
    along_k = np.sum(gradients["k"] * arguments["k"], -1)
    np.testing.assert_allclose(along_k, 0.0, atol=1e-12)


def from_logits(erase, write=None, **rest):
    return gated_delta_from_logits(erase_logits=erase, write_logits=write, **rest)


@pytest.mark.parametrize("implementation", FORMS)
@pytest.mark.parametrize("name", ["kda", "fg2_plus"])
def test_saturated_logits_have_exact_gradients(implementation, name):
    """At logits of -60 and -200, where the sigmoid of float32 is 1e-26 and 0."""
    arguments = cases.make(cases.MEMBERS[name])
    form = arguments.pop("form")
    rng = np.random.default_rng(5)
    for gate in {"erase", "write"} & set(arguments):
        arguments[gate] = rng.choice([-200.0, -60.0, 0.5, 60.0, 200.0], arguments[gate].shape)
    arguments = {key: x.astype(np.float32) for key, x in arguments.items()}
    gradients = {}
    with jax.enable_x64(True):
        for dtype, form_of in ((np.float32, implementation), (np.float64, "reference")):
            weights = [w.astype(dtype) for w in weights_of(arguments)]
            # Of the logits' own formulas, which both forms share; of chunks by the table above.
            optimised = (dtype, name, implementation) == (np.float32, "fg2_plus", "reference")
            run_logits = with_gradients(form_of, form, SMALL_CHUNK, from_logits, dtype, optimised)
            gradients[dtype] = run_logits(cast(arguments, dtype), weights)[1]
    assert_close(gradients[np.float32], gradients[np.float64], 2e-6)
    small = np.abs(gradients[np.float64]["erase"][arguments["erase"] == -60.0])
    assert (small > 0).any()


# ------------------------------------------------------------------ names


def test_names_are_calls_of_the_one_operation():
    names = {"delta_net": ("beta",), "gdn": ("log_decay", "beta"), "kda": ("log_decay", "beta"),
             "fg2": ("log_decay", "beta"), "fg2_plus": ("log_decay", "erase", "write")}  # fmt: skip
    for name, gates in names.items():
        arguments = cases.make(cases.MEMBERS[name], dtype=np.float32)
        form = arguments.pop("form")
        if name == "delta_net":
            del arguments["log_decay"]
        ordered = ["q", "k", "v", *("erase" if gate == "beta" else gate for gate in gates)]

        def named(arguments, name=name, ordered=ordered):
            rest = {"initial_state": arguments["initial_state"]}
            return getattr(jaxlab_kernels, name)(*(arguments[x] for x in ordered), **rest)

        def plain(arguments, name=name, form=form):
            if name == "delta_net":
                arguments = arguments | {"log_decay": jnp.zeros_like(arguments["erase"])}
            return gated_delta(**arguments, form=form)

        programs = [str(jax.make_jaxpr(call)(arguments)) for call in (named, plain)]
        assert programs[0] == programs[1]
    x = np.zeros((1, 2, 1, 4), np.float32)
    with pytest.raises(ValueError, match=r"kda: beta has shape .*expected \[B, T, HV\]"):
        jaxlab_kernels.kda(x, x, x, x, x)


def test_reductions():
    """Equal gates make FG2+ into KDA, equal decays KDA into GDN, no decay GDN into DeltaNet."""
    case = cases.MEMBERS["fg2_plus"]
    arguments = cases.make(case, dtype=np.float32)
    q, k, v = (arguments[key] for key in ("q", "k", "v"))
    beta, decay = arguments["erase"][..., 0], arguments["log_decay"][..., 0]

    def wide(x, width):
        return np.repeat(x[..., None], width, -1)

    keys = functools.partial(wide, width=case.key_dim)
    fg2_plus, kda, gdn, delta_net = (
        jax.jit(getattr(jaxlab_kernels, name)) for name in ("fg2_plus", "kda", "gdn", "delta_net")
    )
    # The platform's own choice; a GPU's is Triton, which takes float32 as three TF32 products.
    bound = 5e-7 if jax.default_backend() == "cpu" else 2e-5
    of_channels = kda(q, k, v, keys(decay), beta)
    plus = fg2_plus(q, k, v, keys(decay), keys(beta), wide(beta, case.value_dim))
    assert_close(plus, of_channels, bound)
    assert_close(of_channels, gdn(q, k, v, decay, beta), bound)
    assert_close(gdn(q, k, v, 0 * decay, beta), delta_net(q, k, v, beta), bound)
