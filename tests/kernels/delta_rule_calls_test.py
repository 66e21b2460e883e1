"""What the gated delta rule refuses, what it chooses, and what its programs consist of."""

import functools
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import jaxlab_kernels
import numpy as np
import pytest
from jaxlab_kernels import dispatch, gated_delta, gated_delta_from_logits, gated_delta_step
from jaxlab_kernels.delta_rule import api, cases, ring, ring_step


@pytest.fixture(autouse=True)
def _same_ranks():
    with jax.numpy_rank_promotion("raise"):
        yield


def zeros(**shapes):
    base = {"q": (1, 3, 2, 4), "k": (1, 3, 2, 4), "v": (1, 3, 4, 5), "log_decay": (1, 3, 4),
            "erase": (1, 3, 4), "write": (1, 3, 4)} | shapes  # fmt: skip
    return {name: jnp.zeros(shape) for name, shape in base.items() if shape is not None}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"q": (1, 3, 4)}, r"q has shape \(1, 3, 4\); expected \[B, T, H, Dk\]"),
        ({"k": (1, 3, 2, 5)}, r"k has shape \(1, 3, 2, 5\); expected"),
        ({"v": (1, 3, 3, 5)}, r"v has 3 heads .*expected a multiple of the 2 heads"),
        ({"v": (1, 2, 4, 5)}, r"v has shape \(1, 2, 4, 5\); expected \[B, T, HV, Dv\]"),
        ({"log_decay": (1, 3, 4, 5)}, r"log_decay has shape \(1, 3, 4, 5\); expected \[B, T, HV\]"),
        ({"erase": (1, 3, 2)}, r"erase has shape \(1, 3, 2\); expected"),
        ({"write": (1, 3, 4, 4)}, r"write has shape .*expected .*\[B, T, HV, Dv\] \(1, 3, 4, 5\)"),
        ({"erase": (1, 3, 4, 4), "write": None}, r"erase has shape .*Dk = Dv was expected"),
        ({"initial_state": (1, 2, 4, 5)}, r"initial_state has shape \(1, 2, 4, 5\); expected .*"),
        ({"q": (1, 3, 2, 0), "k": (1, 3, 2, 0)}, r"q has shape \(1, 3, 2, 0\); expected Dk > 0"),
        ({"q": (1, 3, 0, 4), "k": (1, 3, 0, 4)}, r"expected a multiple of the 0 heads"),
    ],
)
def test_wrong_shapes_are_named(shapes, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda x: gated_delta(**x), zeros(**shapes))


def test_wrong_choices_are_named():
    with pytest.raises(ValueError, match="form='right' is not one of symmetric, left, gdn2"):
        gated_delta(**zeros(), form="right")
    with pytest.raises(ValueError, match=r"write has shape .*form='left' has one gate"):
        gated_delta(**zeros(), form="left")
    with pytest.raises(ValueError, match="implementation='cuda' is not one of"):
        gated_delta(**zeros(), implementation="cuda")
    with pytest.raises(ValueError, match="chunk_size=48 is not a power of two"):
        gated_delta(**zeros(), chunk_size=48)
    with pytest.raises(ValueError, match="segment_ids has dtype float32; expected integers"):
        gated_delta(**zeros(), segment_ids=jnp.zeros((1, 3)))
    with pytest.raises(ValueError, match="k has dtype int32; expected a floating dtype"):
        gated_delta(**zeros() | {"k": jnp.zeros((1, 3, 2, 4), jnp.int32)})
    x = zeros()
    with pytest.raises(ValueError, match="gate_scale=3"):
        gated_delta_from_logits(x["q"], x["k"], x["v"], x["log_decay"], x["erase"], gate_scale=3.0)
    with pytest.raises(ValueError, match=r"chunk_size=2.0 is not a power of two"):
        gated_delta(**zeros(), chunk_size=2.0)
    states = jnp.zeros((1, 0, 4, 4, 5))
    with pytest.raises(ValueError, match=r"initial_state has shape .*expected N > 0"):
        gated_delta(**zeros(), initial_state=states, segment_ids=jnp.ones((1, 3), int))


def test_gates_are_named_as_the_caller_names_them():
    x = zeros()
    qkv, decay, beta = (x["q"], x["k"], x["v"]), x["log_decay"], x["erase"]
    with pytest.raises(ValueError, match=r"erase_logits has shape \(1, 3, 2\); expected"):
        gated_delta_from_logits(*qkv, decay, beta[..., :2])
    with pytest.raises(ValueError, match="write_logits has dtype int32"):
        gated_delta_from_logits(*qkv, decay, beta, beta.astype(int))
    with pytest.raises(ValueError, match="delta_net: beta has dtype int32"):
        jaxlab_kernels.delta_net(*qkv, beta.astype(int))
    with pytest.raises(ValueError, match=r"gdn: beta has shape .*\[B, T, HV\] \(1, 3, 4\)"):
        jaxlab_kernels.gdn(*qkv, decay, beta[:, :2])
    with pytest.raises(TypeError, match=r"gdn\(\) takes no write"):
        jaxlab_kernels.gdn(*qkv, decay, beta, write=beta)


def test_the_scale_is_a_number():
    x = zeros()
    half = jnp.float32(0.5)
    jax.eval_shape(lambda x: gated_delta(**x, scale=half), x)
    with pytest.raises(ValueError, match="scale is traced"):
        jax.jit(lambda scale: gated_delta(**x, scale=scale))(0.5)
    # States of segments are read as outputs are, at whatever scale.
    states = jnp.arange(40.0).reshape(1, 1, 2, 4, 5)
    x = zeros(v=(1, 3, 2, 5), log_decay=(1, 3, 2), erase=(1, 3, 2), write=None)
    ids = jnp.ones((1, 3), int)
    read = functools.partial(gated_delta, scale=0.0)
    out, after = jax.jit(read)(**x, initial_state=states, segment_ids=ids)
    np.testing.assert_array_equal(out, 0)
    np.testing.assert_array_equal(after, states)


@pytest.mark.parametrize("implementation", ["chunked", "recurrent", "reference"])
@pytest.mark.parametrize("name", ["q", "v"])
def test_nothing_in_nothing_out(implementation, name):
    """No rows; no channels of values."""
    x = zeros()
    x = {n: a[:0] for n, a in x.items()} if name == "q" else x | {"v": x["v"][..., :0]}

    def loss(x):
        out, state = gated_delta(**x, implementation=implementation)
        return jnp.sum(out) + jnp.sum(state)

    gradients = jax.jit(jax.grad(loss))(x)
    assert {n: g.shape for n, g in gradients.items()} == {n: a.shape for n, a in x.items()}


def test_debug_names_the_first_bad_value(monkeypatch):
    arguments = zeros()
    arguments["log_decay"] = arguments["log_decay"].at[0, 1, 2].set(0.5).at[0, 2, 0].set(1.0)
    gated_delta(**arguments)
    monkeypatch.setenv("JAXLAB_DEBUG", "1")
    message = r"log_decay\[0, 1, 2\] is 0.5; expected -inf <= log_decay <= 0.0"
    with pytest.raises(ValueError, match=message):
        gated_delta(**arguments)

    @jax.jit
    def traced(x):
        return gated_delta(**x, implementation="reference")

    def run_traced():
        jax.block_until_ready(traced(arguments))
        jax.effects_barrier()

    with pytest.raises(Exception, match=message):
        run_traced()
    arguments = zeros()
    with pytest.raises(ValueError, match=r"erase\[0, 0, 3\] is -0.25; expected 0.0 <= erase <= 2"):
        gated_delta(**arguments | {"erase": arguments["erase"].at[0, 0, 3].set(-0.25)})
    nan = arguments | {"v": arguments["v"].at[0, 2, 1, 4].set(jnp.nan)}
    with pytest.raises(ValueError, match=r"v\[0, 2, 1, 4\] is nan"):
        gated_delta(**nan)
    gated_delta(**nan, segment_ids=jnp.array([[1, 1, 0]]))
    state = jnp.zeros((1, 4, 4, 5)).at[0, 3, 2, 1].set(jnp.nan)
    with pytest.raises(ValueError, match=r"state\[0, 3, 2, 1\] is nan"):
        gated_delta_step(**{name: x[:, 0] for name, x in zeros().items()}, state=state)
    wrong = {name: x[:, 2] for name, x in nan.items()}
    with pytest.raises(ValueError, match=r"v\[0, 1, 4\] is nan"):
        ring_step(**wrong, ring=ring(jnp.zeros_like(state), 2))


def test_sizes_choose_the_implementation(monkeypatch, on_a_cpu):
    called = []
    for name in list(api.IMPLEMENTATIONS):
        record = functools.partial(lambda name, *args, **options: called.append(name), name)
        monkeypatch.setitem(api.IMPLEMENTATIONS, name, record)
    sizes = {(64, 80): "chunked", (64, 64): "recurrent", (64, 513): "chunked",
             (64, 511): "recurrent", (128, 48): "chunked", (128, 32): "recurrent",
             (128, 41): "chunked", (128, 40): "recurrent", (32, 400): "recurrent",
             (32, 32): "reference", (32, 33): "recurrent", (64, 32): "recurrent"}  # fmt: skip
    for dim, length in sizes:
        x = jnp.zeros((1, length, 1, dim))
        gated_delta(x, x, x, x, x)
    assert called == list(sizes.values())


def test_dispatch_reports_every_reason():
    def refuse(reason):
        def implementation(*args, **options):
            raise dispatch.Refusal(reason)

        return implementation

    table = {"a": refuse("only even lengths"), "b": refuse("needs a GPU"), "c": lambda x: x + 1}
    platform = jax.default_backend()
    assert dispatch.call("op", table, {platform: ("a", "c")}, None, 1) == 2
    with pytest.raises(NotImplementedError, match=r"op: .*a: only even lengths; b: needs a GPU"):
        dispatch.call("op", table, {platform: ("a", "b")}, None, 1)
    with pytest.raises(NotImplementedError, match="op: nothing takes this call; a: only even"):
        dispatch.call("op", table, {platform: ("c",)}, "a", 1)


def test_the_platform_is_that_of_new_arrays(monkeypatch):
    table = {"plain": lambda x: x, "fast": lambda x: -x}
    order = {"cpu": ("plain",), "gpu": ("fast",)}
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert dispatch.call("op", table, order, None, 1) == -1
    with jax.default_device(jax.devices("cpu")[0]):
        assert dispatch.call("op", table, order, None, 1) == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "METAL")
    assert dispatch.call("op", table, order, None, 1) == 1


@pytest.mark.parametrize("implementation", ["triton", "pallas"])
def test_kernels_refuse_to_be_divided(implementation):
    x = zeros(v=(1, 3, 4, 8), q=(1, 3, 2, 8), k=(1, 3, 2, 8))
    mesh = jax.sharding.AbstractMesh((2,), ("data",), (jax.sharding.AxisType.Auto,))
    with jax.sharding.use_abstract_mesh(mesh):
        with pytest.raises(NotImplementedError, match=r"over the mesh .*call in jax.shard_map"):
            gated_delta(**x, implementation=implementation)
        if implementation == "triton":
            step = {name: a[:, 0] for name, a in x.items()} | {"state": jnp.zeros((1, 4, 8, 8))}
            with pytest.raises(NotImplementedError, match=r"call in jax.shard_map"):
                gated_delta_step(**step, implementation="triton")


def test_the_kernels_import_neither_flax_nor_jaxlab():
    root = pathlib.Path(jaxlab_kernels.__file__).parent
    for path in root.rglob("*.py"):
        found = re.findall(r"^\s*(?:import|from) (flax|optax|jaxlab)\b", path.read_text(), re.M)
        assert not found, path


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_the_chunked_form_lowers_for(platform):
    def loss(arguments):
        out, state = gated_delta(**arguments, implementation="chunked")
        return jnp.sum(out) + jnp.sum(state)

    arguments = cases.make(cases.MEMBERS["fg2_plus"], dtype=np.float32)
    arguments.pop("form")
    jax.jit(jax.grad(loss)).trace(arguments).lower(lowering_platforms=(platform,))


def test_on_explicit_meshes():
    """Sharded over batch and heads on eight devices: equal to one device, gradients as well."""
    script = pathlib.Path(__file__).with_name("delta_rule_mesh_script.py")
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def test_independent_calls_do_not_wait_for_each_other():
    """Four in one program, with gradients: as many solves of LAPACK at once lock its threads.

    A process and a deadline of its own, so that a hang is a failure here and no suite that stands.
    """
    script = pathlib.Path(__file__).with_name("independent_calls_script.py")
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-4000:]


def test_no_implementation_solves_by_lapack():
    """What jaxlib 0.10.2 calls for it waits on threads that may all be waiting."""
    arguments = cases.make(cases.MEMBERS["fg2_plus"], dtype=np.float32)
    form = arguments.pop("form")

    def total(arguments):
        out, _ = gated_delta(**arguments, form=form, implementation="chunked")
        return jnp.sum(out)

    lowered = jax.jit(jax.grad(total)).lower(arguments).as_text()
    assert "while" in lowered
    assert "triangular_solve" not in lowered
    assert "lapack" not in lowered
