"""The gated-delta layer against a float64 recurrence written out here, for every named rule."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.nn.context import Context
from jaxlab.nn.delta import NORM_EPS, GatedDelta
from jaxlab.nn.delta_config import RULES, DeltaConfig
from jaxlab.nn.gates import LogDecay

WIDTH, LENGTH, EPS = 6, 6, 1e-3

# Every rule as it is named, with heads of 4 channels; then each switch away from its default.
CASES = {rule: DeltaConfig(rule=rule, head_dim=4, num_heads=2) for rule in RULES} | {
    "grouped": DeltaConfig(
        rule="fg2_plus", head_dim=4, num_heads=2, num_value_heads=4, expand_value=1.5
    ),
    "grouped_gdn": DeltaConfig(
        rule="gdn", head_dim=4, num_heads=1, num_value_heads=2, expand_value=2.0
    ),
    "low_rank": DeltaConfig(
        rule="fg2_plus", head_dim=4, num_heads=2, decay_rank=3, erase_rank=2, write_rank=1,
        output_gate_rank=5,
    ),
    "full_rank": DeltaConfig(
        rule="fg2", head_dim=4, num_heads=2, decay_rank=0, output_gate_rank=0,
        decay_lower_bound=-5.0,
    ),
    "negative_gdn2": DeltaConfig(rule="gdn2", head_dim=4, num_heads=2, negative_eigenvalues=True),
    "no_conv": DeltaConfig(
        rule="fg2", head_dim=4, num_heads=2, conv_size=0, negative_eigenvalues=True
    ),
    "wide_conv": DeltaConfig(rule="delta_net", head_dim=4, num_heads=2, conv_size=9),
    "mixed": DeltaConfig(
        rule="gdn2", head_dim=4, num_heads=2, decay="head", erase="head", write="same",
        output_gate="swish", output_gate_rank=2,
    ),
}  # fmt: skip


@functools.cache
def layer(config, **options):
    return GatedDelta(config, WIDTH, norm_eps=EPS, **options)


@functools.cache
def random_params(config, seed=0):
    """Normal parameters of scale 0.5: nothing is trivially zero or one."""
    x, positions = inputs(2)
    shapes = jax.eval_shape(layer(config).init, jax.random.key(0), x, Context(positions))["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: (0.5 * rng.normal(size=x.shape)).astype(x.dtype), shapes)


def inputs(length=LENGTH, batch=2, seed=1):
    x = np.random.default_rng(seed).normal(size=(batch, length, WIDTH))
    return x.astype(np.float32), np.tile(np.arange(length, dtype=np.int32), (batch, 1))


@functools.cache
def compiled(config, method="__call__"):
    apply = functools.partial(layer(config).apply, method=method)
    return jax.jit(apply)


def forward(config, params, x, segment_ids=None):
    positions = np.zeros(x.shape[:2], np.int32)
    return compiled(config)({"params": params}, x, Context(positions, segment_ids))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def project(x, p):
    if "reduce" in p:
        return project(project(x, p["reduce"]), p["expand"])
    return x @ p["kernel"] + p.get("bias", 0.0)


def convolved(raw, p, t, ids):
    """silu of the causal convolution at t of the rows raw [T, C] of t's own segment."""
    if "taps" not in p:
        return raw[t] * sigmoid(raw[t])
    y = p["taps"][-1] * raw[t]
    for back in range(1, len(p["taps"])):
        if t - back < 0 or ids[t - back] not in (0, ids[t]):
            break
        if ids[t - back]:
            y = y + p["taps"][-1 - back] * raw[t - back]
    return y * sigmoid(y)


def reference(config, params, x, ids=None):
    """One row [T, d] -> [T, d], in the order in which the papers write it."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    x, s = np.asarray(x, np.float64), config.switches
    heads, value_heads, key_dim, value_dim = config.sizes(x.shape[1])
    ids = np.ones(len(x), int) if ids is None else ids
    out, states, before = np.zeros_like(x), None, None
    double = 2.0 if config.negative_eigenvalues else 1.0
    raw = {name: x @ p[name]["kernel"] for name in ("query", "key", "value")}
    for t in range(len(x)):
        if ids[t] == 0:
            continue
        if ids[t] != before:
            states, before = np.zeros((value_heads, key_dim, value_dim)), ids[t]
        query, key, value = (
            convolved(raw[name], p.get(f"{name}_conv", {}), t, ids).reshape(count, -1)
            for name, count in (("query", heads), ("key", heads), ("value", value_heads))
        )
        erase = double * sigmoid(project(x[t], p["erase"])).reshape(value_heads, -1)
        if s.write == "same":
            write = erase / double if s.form == "gdn2" else erase
        else:
            write = sigmoid(project(x[t], p["write"])).reshape(value_heads, -1)
            write = write if s.form == "gdn2" else double * write
        log_decay = np.zeros((value_heads, 1))
        if s.decay != "none":
            f = project(x[t], p["decay"]["project"]).reshape(value_heads, -1)
            f = f + p["decay"]["dt_bias"].reshape(value_heads, -1)
            rate = np.exp(p["decay"]["A_log"])[:, None]
            if config.decay_lower_bound is None:
                log_decay = -rate * np.log1p(np.exp(f))
            else:
                log_decay = config.decay_lower_bound * sigmoid(rate * f)
        read = []
        for i in range(value_heads):
            j = i // (value_heads // heads)
            q = query[j] / np.sqrt(query[j] @ query[j] + NORM_EPS)
            k = key[j] / np.sqrt(key[j] @ key[j] + NORM_EPS)
            state = np.exp(log_decay[i])[:, None] * states[i]
            if s.form == "symmetric":
                a = b = np.sqrt(erase[i]) * k
                z = np.sqrt(write[i]) * value[i]
            elif s.form == "left":
                a, b, z = k, erase[i] * k, value[i]
            else:
                a, b, z = erase[i] * k, k, write[i] * value[i]
            states[i] = state - np.outer(b, a @ state) + np.outer(b, z)
            y = states[i].T @ q / np.sqrt(key_dim)
            read.append(y / np.sqrt(np.mean(y**2) + EPS) * p["output_norm"]["scale"])
        y = np.concatenate(read)
        if s.output_gate != "none":
            gate = project(x[t], p["gate"])
            y = y * sigmoid(gate) * (gate if s.output_gate == "swish" else 1.0)
        out[t] = y @ p["output"]["kernel"]
    return out


# The plain rules of these have their turn in rows of several segments.
PACKED = ("fg2_plus", "gdn", "delta_net", "wide_conv", "no_conv")


@pytest.mark.parametrize("name", [name for name in CASES if name not in PACKED[:3]])
def test_output_and_gradients_are_those_of_the_recurrence(name):
    config = CASES[name]
    tree = (random_params(config), inputs()[0])
    rng = np.random.default_rng(3)
    weights = rng.normal(size=(2, LENGTH, WIDTH))

    def loss(tree):
        y = forward(config, *tree)
        return jnp.sum(weights * y), y

    def reference_rows(tree):
        return np.stack([reference(config, tree[0], row) for row in tree[1]])

    (_, y), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(tree)
    expected = reference_rows(tree)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(y, expected, atol=3e-6)

    # Along a random direction of each parameter, and of x: central differences of the reference.
    gradients, structure = jax.tree.flatten(jax.tree.map(np.asarray, gradient))
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]
    for i, slopes in enumerate(gradients):
        assert np.isfinite(slopes).all()
        direction = rng.normal(size=slopes.shape)

        def moved(step, i=i, direction=direction):
            changed = [*leaves[:i], leaves[i] + step * direction, *leaves[i + 1 :]]
            return np.sum(weights * reference_rows(jax.tree.unflatten(structure, changed)))

        slope = (moved(1e-5) - moved(-1e-5)) / 2e-5
        # float32: some 100 roundings of 6e-8, of the largest terms of the sum.
        assert abs(np.sum(slopes * direction) - slope) < 1e-5 * np.sum(np.abs(slopes * direction))


def test_a_long_row_goes_by_chunks():
    """40 tokens with states of 64 x 64 numbers are computed by chunks, and backwards too."""
    config = DeltaConfig(rule="fg2_plus", head_dim=64, num_heads=1)
    params, (x, _) = random_params(config), inputs(40, batch=1)
    expected = reference(config, params, x[0])
    np.testing.assert_allclose(forward(config, params, x)[0], expected, atol=2e-5)


SEGMENTS = np.array([[0, 0, 1, 1, 1, 2, 2, 2, 2, 0, 2, 3], [4, 1, 1, 0, 0, 1, 2, 1, 1, 1, 1, 0]])


@pytest.mark.parametrize("name", PACKED)
def test_segments_and_padding(name):
    """Packed rows are the reference's; what stands in padding reaches nothing, not even slopes."""
    config = CASES[name]
    params, (x, _) = random_params(config), inputs(SEGMENTS.shape[1])

    @jax.jit
    def gradient(params, x):
        def loss(params, x):
            y = forward(config, params, x, SEGMENTS)
            return jnp.sum(y**2), y

        return jax.grad(loss, has_aux=True)(params, x)

    slopes, actual = gradient(params, x)
    rows = zip(x, SEGMENTS, strict=True)
    expected = np.stack([reference(config, params, row, row_ids) for row, row_ids in rows])
    np.testing.assert_allclose(actual, expected, atol=3e-6)
    np.testing.assert_array_equal(np.asarray(actual)[SEGMENTS == 0], 0)
    poisoned = np.where(SEGMENTS[..., None] == 0, np.float32(np.nan), x)
    jax.tree.map(np.testing.assert_array_equal, gradient(params, poisoned), (slopes, actual))


@pytest.mark.parametrize("name", [*RULES, "grouped", "no_conv", "wide_conv", "negative_gdn2"])
def test_prefill_and_steps_equal_the_whole_row(name):
    """Left-padded rows of 5, 2 and 1 tokens, padding poisoned; two steps, then three tokens."""
    # Several tokens at once are the operation with a state, whose rules delta_rule_test compares.
    counts = (1, 1, 3) if name in ("fg2_plus", "left", "gdn2", "no_conv", "wide_conv") else (1, 1)
    config, lengths, steps = CASES[name], (5, 2, 1), sum(counts)
    params = random_params(config)
    rows, _ = inputs(max(lengths) + steps, batch=3)
    expected = np.stack([reference(config, params, row) for row in rows])
    width = max(lengths)
    prompt = np.full((3, width, WIDTH), np.nan, np.float32)
    for i, (row, n) in enumerate(zip(rows, lengths, strict=True)):
        prompt[i, width - n :] = row[:n]
    ids = (~np.isnan(prompt[..., 0])).astype(np.int32)
    variables, nowhere = {"params": params}, np.zeros((3, width), np.int32)
    y, cache = compiled(config, "prefill")(
        variables, prompt, Context(nowhere, ids), layer(config).empty_cache(3, None)
    )
    taps = max(config.conv_size - 1, 0)
    heads, value_heads, key_dim, value_dim = config.sizes(WIDTH)
    assert cache.key.shape == (3, taps, heads * key_dim)
    assert cache.state.shape == (3, value_heads, key_dim, value_dim)
    actual, t = [np.asarray(y)[:, -1:]], 0
    for count in counts:
        x = np.stack([row[n + t : n + t + count] for row, n in zip(rows, lengths, strict=True)])
        y, cache = compiled(config, "extend")(variables, x, Context(nowhere[:, :count]), cache)
        actual.append(np.asarray(y))
        t += count
    for i, n in enumerate(lengths):
        y = np.concatenate([part[i] for part in actual])
        np.testing.assert_allclose(y, expected[i, n - 1 : n + steps], atol=3e-6)


def test_bfloat16_keeps_gates_and_state_in_float32():
    config = CASES["fg2_plus"]
    params, (x, positions) = random_params(config), inputs(20)
    rough = GatedDelta(config, WIDTH, EPS, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    ids = np.ones(positions.shape, np.int32)
    prefill = jax.jit(functools.partial(rough.apply, method="prefill"))
    y, cache = prefill({"params": params}, x, Context(positions, ids), None)
    assert (y.dtype, cache.key.dtype, cache.state.dtype) == (
        jnp.bfloat16, jnp.bfloat16, jnp.float32
    )  # fmt: skip
    exact, y = np.asarray(forward(config, params, x)), np.asarray(y, np.float32)
    # Three products one after the other, each with 8 bits of mantissa: a few times 2^-8.
    error = np.sqrt(np.mean((y - exact) ** 2) / np.mean(exact**2))
    assert 1e-4 < error < 2e-2

    fresh = jax.eval_shape(rough.init, jax.random.key(0), x, Context(positions))["params"]
    float32 = {
        "/".join(key.key for key in path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(fresh)
        if leaf.dtype == jnp.float32
    }
    assert float32 == {"decay/A_log", "decay/dt_bias"}


def test_fresh_decays():
    """A in (1, 16), and softplus(dt_bias) in (0.001, 0.1); with a lower bound A is 1."""
    x = np.zeros((1, 1, WIDTH), np.float32)
    decay = LogDecay(heads=50, channels=4).init(jax.random.key(0), x)["params"]
    rates, steps = np.exp(decay["A_log"]), np.log1p(np.exp(np.float64(decay["dt_bias"])))
    assert 1 < rates.min() < 3 < 14 < rates.max() < 16
    assert 0.99e-3 < steps.min() < 1.2e-3 < 0.08 < steps.max() < 0.1001
    np.testing.assert_allclose(np.median(np.log(steps)), np.log(0.01), atol=0.5)
    bounded = LogDecay(heads=50, channels=4, lower_bound=-5.0).init(jax.random.key(0), x)
    np.testing.assert_array_equal(bounded["params"]["A_log"], 0)


def test_a_given_switch_replaces_the_rules():
    named = DeltaConfig(rule="kda")
    assert named.switches == ("symmetric", "channel", "head", "same", "sigmoid")
    assert dataclasses.replace(named, decay="head").switches.decay == "head"
    # The name alone changes what was not given.
    assert dataclasses.replace(named, rule="fg2_plus").switches == RULES["fg2_plus"]
    assert DeltaConfig().switches == RULES["fg2"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rule": "fg3"}, "rule 'fg3' is none of delta_net, .*, gdn2"),
        ({"head_dim": 0}, r"delta\.head_dim is 0: it must be at least 1"),
        ({"num_heads": 0}, r"delta\.num_heads is 0"),
        ({"conv_size": -1}, r"delta\.conv_size is -1: it must be at least 0"),
        ({"head_dim": 5, "expand_value": 1.5}, r"1\.5 times delta\.head_dim 5 is 7\.5: .* whole"),
        ({"rule": "left", "write": "head"}, "write is 'head', .* 'left' has one gate: set write"),
        ({"expand_value": 2.0}, r"expand_value is 2\.0, .* 128 channels .* 256.*: set it to 1, or"),
        ({"rule": "delta_net", "decay_lower_bound": -5.0}, "but decay is 'none': drop it"),
        ({"decay_lower_bound": 5.0}, r"decay_lower_bound is 5\.0: log decays are negative"),
        ({"rule": "gdn", "decay_rank": 8}, "decay_rank is 8, but decay is 'head'"),
        ({"rule": "kda", "erase_rank": 8}, "erase_rank is 8, but erase is 'head'"),
        ({"write_rank": 8}, "write_rank is 8, but write is 'same'"),
        ({"rule": "delta_net", "output_gate_rank": 8}, "output_gate_rank is 8, .* 'none': drop it"),
    ],
)  # fmt: skip
def test_switches_that_contradict_each_other(fields, message):
    with pytest.raises(ValueError, match=message):
        DeltaConfig(**fields)


def test_sizes_that_do_not_come_out_even():
    with pytest.raises(ValueError, match=r"hidden_size 100 is no multiple of delta\.head_dim 64"):
        DeltaConfig(head_dim=64).sizes(100)
    with pytest.raises(ValueError, match="num_value_heads 3 is no multiple of the 2 heads"):
        DeltaConfig(head_dim=64, num_value_heads=3).sizes(128)
    assert DeltaConfig(head_dim=64, num_heads=3).sizes(100) == (3, 3, 64, 64)
