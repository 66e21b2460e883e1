"""The Triton kernels against the float64 recurrence: by Triton's interpreter, or on a GPU.

On CPUs the whole of `gpu.triton` runs, but for its launches, which go to the interpreter on CPU
tensors by a callback. With TRITON_INTERPRET=0 (`make gpu-check`) all of it runs, on the GPU.
"""

import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxlab_kernels import gated_delta, gated_delta_step
from jaxlab_kernels.common.triton import gpu_launch
from jaxlab_kernels.delta_rule import api, cases, gpu, step
from jaxlab_kernels.delta_rule.rule import Rule
from jaxlab_kernels.dispatch import Refusal

pytest.importorskip("triton")
INTERPRETED = os.environ["TRITON_INTERPRET"] == "1"
torch = pytest.importorskip("torch") if INTERPRETED else None

pytestmark = pytest.mark.interop

CHUNK = 32
# A GPU multiplies float32 as three TF32 products, of which each leaves 2^-22 out, four times
# float32's own rounding; they are a handful deep. `benchmarks/delta_rule_gpu.py`: 2e-5, not 5e-7.
TF32X3 = 1 if INTERPRETED else 40


@pytest.fixture(autouse=True)
def _runs_here():
    if not INTERPRETED:
        try:
            gpu_launch()
        except Refusal as reason:
            pytest.skip(f"TRITON_INTERPRET=0: {reason}")


FLOATS = ("q", "k", "v", "log_decay", "erase", "write", "initial_state")


def to_torch(x):
    x = np.array(x)
    if x.dtype == jnp.bfloat16:
        return torch.from_numpy(x.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(x)


def to_numpy(x):
    if x.dtype == torch.bfloat16:
        return x.view(torch.uint16).numpy().view(jnp.bfloat16)
    return x.numpy()


def launch(kernel, grid, arguments, outputs, **meta):
    """`launches.Launch` for JAX arrays on a CPU."""
    if "PRECISION" in meta:
        meta["PRECISION"] = "ieee"  # the interpreter multiplies the bits of bfloat16 as integers

    def run(*arrays):
        waiting = iter(arrays)
        arguments_ = [x if isinstance(x, int) else to_torch(next(waiting)) for x in arguments]
        # What a kernel leaves unwritten and another reads shows as NaN.
        results = [torch.full(s, float("nan"), dtype=getattr(torch, d)) for s, d in outputs]
        kernel[(grid,)](*arguments_, *results, **meta)
        return [to_numpy(x) for x in results]

    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in outputs]
    return jax.pure_callback(run, shapes, *[x for x in arguments if not isinstance(x, int)])


LAUNCH = launch if INTERPRETED else None  # None: the GPU's own


def implementation(monkeypatch, **options):
    name = f"triton {options}"
    call = functools.partial(gpu.triton, launch=LAUNCH, **options)
    monkeypatch.setitem(api.IMPLEMENTATIONS, name, call)
    return name


def sized(name, length=70, **sizes):
    """A member with two heads and head sizes of which one is padded."""
    case = cases.MEMBERS[name]
    value_dim = 16 if name == "fg2" else 12
    return dataclasses.replace(
        case, **{"batch": 1, "length": length, "key_dim": 16, "value_dim": value_dim} | sizes
    )


def weights_of(arguments):
    rng = np.random.default_rng(7)
    return [rng.integers(-8, 9, size=arguments[name].shape) / 4 for name in ("v", "initial_state")]


@functools.cache
def program(implementation, form, chunk_size):
    """Jitted: arguments, the rest, weights -> ((out, state), gradients of a weighted sum)."""

    def value(floats, rest, weights):
        result, pull = jax.vjp(
            lambda floats: gated_delta(
                **floats, **rest, form=form, implementation=implementation, chunk_size=chunk_size
            ),
            floats,
        )
        weights = tuple(w.astype(x.dtype) for w, x in zip(weights, result, strict=True))
        return result, pull(weights)[0]

    return jax.jit(value)


def run(implementation, arguments, dtype, chunk_size=None):
    """((out, state), gradients) of a weighted sum, as float64 NumPy arrays."""
    arguments = dict(arguments)
    form = arguments.pop("form")
    with jax.enable_x64(True):
        floats = {n: jnp.asarray(x, dtype) for n, x in arguments.items() if n in FLOATS}
        rest = {n: jnp.asarray(x) for n, x in arguments.items() if n not in FLOATS}
        weights = [jnp.asarray(w) for w in weights_of(arguments)]
        result = program(implementation, form, chunk_size)(floats, rest, weights)
        return jax.tree.map(lambda x: np.asarray(x, np.float64), result)


def distance(actual, expected):
    """Relative Euclidean distance; absolute where the expected is 0 to float32."""
    assert np.isfinite(actual).all()
    norm = np.linalg.norm(expected)
    return np.linalg.norm(actual - expected) / (norm if norm > 1e-30 else 1.0)


def assert_close(actual, expected, tolerance):
    distances = jax.tree.map(distance, actual, expected)
    assert max(jax.tree.leaves(distances)) <= tolerance, distances


def rounded(arguments, dtype):
    return {
        n: np.asarray(jnp.asarray(x, dtype), np.float64) if n in FLOATS else x
        for n, x in arguments.items()
    }


def compare(monkeypatch, arguments, tolerance, dtype=np.float32, chunk_size=CHUNK, **options):
    arguments = rounded(arguments, dtype)
    name = implementation(monkeypatch, **options)
    actual = run(name, arguments, dtype, chunk_size)
    tolerance *= TF32X3 if dtype == np.float32 else 1
    assert_close(actual, run("reference", arguments, np.float64), tolerance)


# ------------------------------------------------------------------ every rule, every gradient


@pytest.mark.parametrize("name", ["gdn", "kda", "fg2", "fg2_plus", "left", "gdn2"])
def test_every_rule_with_all_gradients(monkeypatch, name):
    compare(monkeypatch, cases.make(sized(name), "mixed"), 5e-7)


@pytest.mark.parametrize(
    ("decays", "gates", "tolerance"),
    [
        ("-20", "inside", 5e-7), ("-200", "inside", 5e-7), ("zero", "inside", 5e-7),
        # As for the XLA chunks: all that is left is e^-20 of the state, 20 * 2^-24.
        ("-20", "closed", 20 * 2.0**-24), ("mild", "one", 1e-6),
        # Edits that nearly reflect: the solve amplifies.
        ("zero", "near_two", 4e-6),
    ],
)  # fmt: skip
def test_extreme_decays_and_gates(monkeypatch, decays, gates, tolerance):
    compare(monkeypatch, cases.make(sized("fg2_plus"), decays, gates), tolerance)


@pytest.mark.parametrize("length", [1, 16, 65])
def test_lengths_and_the_default_chunk(monkeypatch, length):
    arguments = cases.make(sized("fg2_plus", length), "mixed")
    compare(monkeypatch, arguments, 5e-7, chunk_size=None)


def test_no_tokens(monkeypatch):
    name = implementation(monkeypatch)
    (out, state), gradients = run(name, cases.make(sized("kda", 0)), np.float32)
    assert out.shape == (1, 0, 2, 12)
    np.testing.assert_array_equal(gradients["initial_state"], weights_of(
        cases.make(sized("kda", 0)))[1])  # fmt: skip
    assert state.shape == (1, 2, 16, 12)


@pytest.mark.parametrize("chunk_size", [16, 64])
@pytest.mark.parametrize("processors", [1, 1000])
def test_fused_and_separate_outputs_and_blocks_of_the_state(monkeypatch, processors, chunk_size):
    """With one processor outputs are fused and the state is whole; with many it is split."""
    case = sized("kda", key_dim=32, value_dim=32)
    compare(monkeypatch, cases.make(case), 5e-7, processors=processors, chunk_size=chunk_size)


def test_several_blocks_of_channels(monkeypatch):
    """Head sizes above the kernels' blocks of 32 and 64 channels, and unequal."""
    case = sized("gdn2", 33, heads=1, value_heads=1, key_dim=64, value_dim=128)
    compare(monkeypatch, cases.make(case, "mixed"), 5e-7)
    case = sized("gdn", 33, heads=1, value_heads=1, key_dim=128, value_dim=16)
    compare(monkeypatch, cases.make(case, "mixed"), 5e-7)


def test_batches_of_vmap(monkeypatch):
    name = implementation(monkeypatch)
    form = "symmetric"

    def gradient(arguments):
        def total(arguments):
            return sum(jnp.sum(x**2) for x in gated_delta(**arguments, implementation=name))

        return jax.grad(total)(arguments)

    rows = [cases.make(sized("fg2_plus", 20), seed=seed, dtype=np.float32) for seed in (0, 1)]
    assert all(row.pop("form") == form for row in rows)
    together = jax.vmap(gradient)(jax.tree.map(lambda *x: jnp.stack(x), *rows))
    for n, row in enumerate(rows):
        alone = gradient(jax.tree.map(jnp.asarray, row))
        jax.tree.map(lambda x, y, n=n: np.testing.assert_allclose(
            x[n], y, rtol=TF32X3 * 2e-5, atol=TF32X3 * 1e-6), together, alone)  # fmt: skip


def test_identical_keys_do_not_blow_up(monkeypatch):
    """N4: an inverse by powers of a 64-block has an error of 8e19 here, and NaN near 2."""
    for gates, tolerance in (("one", 2e-6), ("near_two", 1e-4)):
        arguments = cases.make(sized("fg2_plus", 100), "zero", gates)
        arguments["k"] = np.broadcast_to(arguments["k"][:, :1], arguments["k"].shape)
        arguments = rounded(arguments, np.float32)
        name = implementation(monkeypatch)
        actual = run(name, arguments, np.float32, chunk_size=64)
        expected = run("chunked", arguments, np.float64, 16)
        assert_close(actual[0], expected[0], TF32X3 * tolerance)


@pytest.mark.parametrize("name", ["gdn", "fg2_plus"])
def test_future_gates_do_not_touch_the_past(monkeypatch, name):
    """N5, bit for bit, at a cut inside a chunk."""
    arguments = cases.make(sized(name), dtype=np.float32)
    chosen = implementation(monkeypatch)
    form = arguments.pop("form")

    @jax.jit
    def outputs(arguments):
        return gated_delta(**arguments, form=form, implementation=chosen, chunk_size=CHUNK)[0]

    before = np.asarray(outputs(arguments))
    cut = 37
    for changed in {"log_decay", "erase", "write", "k", "v"} & set(arguments):
        other = {**arguments, changed: arguments[changed].copy()}
        other[changed][:, cut:] = -300.0 if changed == "log_decay" else 0.3
        after = np.asarray(outputs(other))
        np.testing.assert_array_equal(after[:, :cut], before[:, :cut], err_msg=changed)
        assert not np.array_equal(after, before)


def test_packed_rows(monkeypatch):
    """Resets inside chunks and at their borders, segments of one token, padding anywhere."""
    segments = [5] * 3 + [2] + [9] * 28 + [4] * 5 + [0] * 4 + [4] * 2 + [1] * 20 + [3] + [0] * 6
    arguments = cases.make(sized("fg2_plus"))
    arguments["segment_ids"] = np.array([segments])
    for name in FLOATS[:-1]:
        arguments[name][:, np.array(segments) == 0] = np.nan
    compare(monkeypatch, arguments, 5e-7)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # 2^-11 is half a last place of float16. The interpreter rounds bfloat16 towards 0: up to a
    # whole one, 2^-7, and always to the same side, in each of a chain of products.
    [(jnp.float16, 2 * 2.0**-11), (jnp.bfloat16, 4 * 2.0**-7)],
)
def test_16_bits(monkeypatch, dtype, tolerance):
    compare(monkeypatch, cases.make(sized("fg2_plus", value_dim=16), "mixed"), tolerance, dtype)


# ------------------------------------------------------------------ one token


@pytest.mark.parametrize("name", ["delta_net", "gdn", "kda", "fg2", "fg2_plus", "separate_scalars",
                                  "left", "gdn2"])  # fmt: skip
@pytest.mark.parametrize("logits", [False, True])
def test_a_step(monkeypatch, name, logits):
    arguments = cases.make(sized(name, 1, key_dim=12, value_dim=12 if name == "fg2" else 40))
    form, state = arguments.pop("form"), arguments.pop("initial_state")
    token = {n: x[:, 0] for n, x in arguments.items()}
    rule = Rule(form)
    if logits:
        rule = Rule(form, logits=True, gate_scale=2.0, norm_eps=1e-6)
        for gate in {"erase", "write"} & set(token):
            token[gate] = np.random.default_rng(1).choice([-60.0, 0.5, 60.0], token[gate].shape)
    call = functools.partial(gpu.triton_step, plain=step.STEPS["xla"], launch=LAUNCH)
    monkeypatch.setitem(step.STEPS, "interpreted", call)

    def total(arrays, implementation):
        out, new = gated_delta_step(
            **arrays[0], state=arrays[1], rule=rule, implementation=implementation
        )
        return jnp.sum(out) + jnp.sum(new**2), (out, new)

    gradient = jax.grad(total, has_aux=True)
    with jax.enable_x64(True):
        arrays = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (token, state))
        actual = gradient(arrays, "interpreted")
        expected = gradient(jax.tree.map(lambda x: x.astype(jnp.float64), arrays), "xla")
        for tolerance, *pair in zip((1e-6, 5e-7), actual, expected, strict=True):
            assert_close(*jax.tree.map(np.asarray, pair), tolerance)


# ------------------------------------------------------------------ without JAX, without a GPU


@pytest.mark.skipif(not INTERPRETED, reason="needs TRITON_INTERPRET=1")
def test_the_gpu_check_under_the_interpreter(tmp_path):
    """The launches on torch tensors, and that the check itself reports and writes."""
    script = pathlib.Path(__file__).parents[2] / "benchmarks" / "delta_rule_gpu.py"
    rows = tmp_path / "rows.json"
    done = subprocess.run(
        [sys.executable, str(script), "--interpret", "--json", str(rows)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    record = json.loads(rows.read_text())
    assert {(row["head_decay"], row["fused_outputs"]) for row in record["checks"]} == {
        (head_decay, fused) for head_decay in (False, True) for fused in (False, True)
    }
    assert all(row["ok"] for row in record["checks"])
    assert set(record["checks"][0]["distances"]) == {
        "out", "last", "d_q", "d_a", "d_b", "d_z", "d_g", "d_state"
    }  # fmt: skip
    assert "times" not in record
