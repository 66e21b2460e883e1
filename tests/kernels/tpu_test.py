"""The TPU kernels by Pallas' interpreter against the float64 recurrence, and lowered for a TPU."""

import dataclasses
import functools
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from jaxlab_kernels import gated_delta
from jaxlab_kernels.delta_rule import api, cases, tpu

FLOATS = ("q", "k", "v", "log_decay", "erase", "write", "initial_state")
# What is interpreted is not what a TPU runs; optimising it is half of the time to compile.
UNOPTIMISED = {"xla_backend_optimization_level": 0}
LENGTH = 37  # three chunks of 16, the last one ragged


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch, request):
    if "on_a_tpu" not in request.node.name:
        interpreted = functools.partial(tpu.pallas, interpret=True)
        monkeypatch.setitem(api.IMPLEMENTATIONS, "pallas", interpreted)


def make(name, decays="mild", gates="inside", **sizes):
    """A member with head sizes that the kernels take."""
    case = dataclasses.replace(
        cases.MEMBERS[name], **{"batch": 1, "length": LENGTH, "key_dim": 8,
                                "value_dim": 8 if name == "fg2" else 16} | sizes
    )  # fmt: skip
    return cases.make(case, decays, gates)


def rounded(arguments, dtype=np.float32):
    return {name: x.astype(dtype) if name in FLOATS else x for name, x in arguments.items()}


@functools.cache
def program(implementation, form, chunk_size):
    def value(floats, rest, weights):
        def call(floats):
            return gated_delta(**floats, **rest, form=form, implementation=implementation,
                               chunk_size=chunk_size)  # fmt: skip

        result, pull = jax.vjp(call, floats)
        weights = tuple(w.astype(x.dtype) for w, x in zip(weights, result, strict=True))
        return result, pull(weights)[0]

    return jax.jit(value, compiler_options=UNOPTIMISED)


def run(implementation, arguments, dtype=np.float32, chunk_size=16):
    """((out, state), gradients of a weighted sum), in float64 NumPy."""
    arguments = dict(arguments)
    form = arguments.pop("form")
    rng = np.random.default_rng(7)
    weights = [rng.integers(-8, 9, size=arguments[name].shape) / 4 for name in FLOATS[2:7:4]]
    with jax.enable_x64(dtype == np.float64):
        floats = {n: jnp.asarray(x, dtype) for n, x in arguments.items() if n in FLOATS}
        rest = {n: jnp.asarray(x) for n, x in arguments.items() if n not in FLOATS}
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


@pytest.mark.parametrize("name", cases.MEMBERS)
def test_every_member_equals_the_reference(name):
    arguments = rounded(make(name))
    result, gradients = run("pallas", arguments)
    expected = run("reference", arguments, np.float64)
    assert_close(result, expected[0], 5e-7)
    assert_close(gradients, expected[1], 1e-6)


TABLE = [("mixed", "inside"), ("-20", "inside"), ("-200", "inside"), ("zero", "inside"),
         ("mild", "closed"), ("mild", "one"), ("zero", "near_two")]  # fmt: skip


@pytest.mark.parametrize(("decays", "gates"), TABLE)
def test_hard_decays_and_gates(decays, gates):
    """The bounds of delta_rule_test.py, with its reasons."""
    arguments = rounded(make("fg2_plus", decays, gates))
    special = {"near_two": (4e-6, 4e-6), "closed": (20 * 2.0**-24, 20 * 2.0**-24)}
    forward, backward = special.get(gates, (5e-7, 1e-6))
    result, gradients = run("pallas", arguments)
    expected = run("reference", arguments, np.float64)
    assert_close(result, expected[0], forward)
    assert_close(gradients, expected[1], backward)


def test_identical_keys_do_not_blow_up():
    """An inverse of the 64-block by powers has an error of 8e19 here."""
    for gates, tolerance in (("one", 2e-6), ("near_two", 1e-4)):
        arguments = make("kda", "zero", gates, length=130, heads=1, value_heads=1)
        arguments["k"] = np.broadcast_to(arguments["k"][:, :1], arguments["k"].shape)
        arguments = rounded(arguments)
        expected = run("reference", arguments, np.float64)
        assert_close(run("pallas", arguments, chunk_size=64)[0], expected[0], tolerance)


def test_future_gates_do_not_touch_the_past():
    arguments = rounded(make("fg2_plus"))
    (before, _), _ = run("pallas", arguments)
    cut = 21
    for name in ("log_decay", "erase", "write", "k", "v"):
        changed = {**arguments, name: arguments[name].copy()}
        changed[name][:, cut:] = -300.0 if name == "log_decay" else 0.3
        (after, _), _ = run("pallas", changed)
        np.testing.assert_array_equal(after[:, :cut], before[:, :cut], err_msg=name)
        assert not np.array_equal(after, before)


def test_bfloat16():
    """The error is that of rounding the inputs and what is returned."""
    arguments = make("fg2_plus", "mixed")
    coarse = {
        name: np.asarray(jnp.asarray(x, jnp.bfloat16), np.float64) if name in FLOATS else x
        for name, x in arguments.items()
    }
    (out, state), gradients = run("pallas", coarse, jnp.bfloat16)
    expected = run("reference", coarse, np.float64)
    assert distance(state, expected[0][1]) <= 1e-6
    assert distance(out, expected[0][0]) <= 2e-3
    assert_close(gradients, expected[1], 2e-3)


def test_packed_rows():
    """Starts inside chunks, at their border, and padding that holds NaN."""
    ids = np.array([[0] * 2 + [5] * 3 + [2] * 11 + [9] * 10 + [0] * 4 + [9] * 3 + [1] + [4] * 3])
    arguments = rounded(make("fg2_plus"))
    for name in ("q", "k", "v", "log_decay", "erase", "write"):
        arguments[name][ids == 0] = np.nan
    arguments["segment_ids"] = ids
    actual = run("pallas", arguments)
    expected = run("reference", arguments, np.float64)
    assert_close(actual[0], expected[0], 5e-7)
    assert_close(actual[1], expected[1], 1e-6)


def test_refusals_name_the_reason():
    def refused(match, arguments, chunk_size=None):
        with pytest.raises(NotImplementedError, match=match):
            run("pallas", arguments, arguments["v"].dtype, chunk_size)

    arguments = rounded(make("fg2_plus"))
    refused("pallas: float64", make("fg2_plus"))
    refused(
        "head sizes 8 and 12; the kernels take multiples of 8", rounded(make("kda", value_dim=12))
    )
    refused("head sizes 8 and 264", rounded(make("kda", value_dim=264)))
    refused(r"chunk_size=8; the kernels take \(16, 32, 64, 128\)", arguments, 8)


def structures(dim=128, dtype=jnp.float32, length=200):
    """Arguments of a call of FG2-GDN+ with more heads of values than of keys, without values."""
    shapes = {"q": (2, dim), "k": (2, dim), "v": (4, dim), "log_decay": (4, dim),
              "erase": (4, dim), "write": (4, dim)}  # fmt: skip
    return {name: jax.ShapeDtypeStruct((1, length, *x), dtype) for name, x in shapes.items()}


def loss(arguments, chunk_size=None):
    out, state = gated_delta(**arguments, implementation="pallas", chunk_size=chunk_size)
    return jnp.sum(out.astype(jnp.float32)) + jnp.sum(state)


@pytest.mark.parametrize("chunk_size", tpu.CHUNKS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_lowers_as_it_runs_on_a_tpu(dtype, chunk_size):
    gradient = jax.jit(jax.grad(functools.partial(loss, chunk_size=chunk_size)))
    lowered = gradient.trace(structures(64, dtype)).lower(lowering_platforms=("tpu",))
    assert "tpu_custom_call" in lowered.as_text()


def test_on_a_tpu_meshes_need_shard_map():
    mesh = jax.sharding.AbstractMesh((2,), ("data",), (AxisType.Auto,))
    with jax.sharding.use_abstract_mesh(mesh):
        with pytest.raises(NotImplementedError, match=r"the mesh \{'data': 2\}; call in jax.shard"):
            jax.eval_shape(loss, structures())
        local = jax.shard_map(
            lambda x: jax.lax.psum(loss(x), "data"),
            in_specs=(P(None, None, "data"),),
            out_specs=P(),
        )
        lowered = jax.jit(local).trace(structures()).lower(lowering_platforms=("tpu",))
    assert "tpu_custom_call" in lowered.as_text()


@pytest.mark.parametrize("chip", ["v5e", "v5p", "v6e"])
def test_compiles_without_having_one_on_a_tpu(chip):
    """Mosaic and XLA for the chip, where its compiler is installed (the tpu extra)."""
    pytest.importorskip("libtpu")
    script = pathlib.Path(__file__).with_name("tpu_compile_script.py")
    done = subprocess.run([sys.executable, str(script), chip], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert len(json.loads(done.stdout.splitlines()[-1])) == 8
