"""What can be said of the GPU implementation without Triton: plans, refusals, lowering."""

import functools
import os
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxlab_kernels import gated_delta, gated_delta_step
from jaxlab_kernels.common import triton
from jaxlab_kernels.delta_rule import api, gpu, launches
from jaxlab_kernels.delta_rule.triton_versions import check_triton


def plan(dim, heads, dtype="bfloat16", processors=132, per_head=False, **options):
    x = jax.ShapeDtypeStruct((1, 8192, heads, dim), dtype)
    g = jax.ShapeDtypeStruct(x.shape[:3] if per_head else x.shape, "float32")
    state = jax.ShapeDtypeStruct((1, heads, dim, dim), "float32")
    given = launches.Operands(x, x, x, x, g, state)
    return launches.plan_of(given, processors=processors, **options)


def test_few_heads_split_the_state_to_fill_the_chip():
    # 128 x 64 channels are whole with 132 heads; 64 heads take halves or less, 4 heads the least.
    assert [plan(128, heads).value_block for heads in (132, 66, 64, 4)] == [64, 64, 32, 16]
    assert plan(128, 64).fused_outputs  # 64 x 4 programs
    assert not plan(128, 16).fused_outputs  # 16 x 8 = 128 programs on 132 processors
    assert plan(64, 8, per_head=True).head_decay


def test_plans_refuse_what_the_kernels_do_not_take():
    with pytest.raises(NotImplementedError, match="head sizes 48 and 48; the kernels take 16, 32"):
        plan(48, 1)
    with pytest.raises(NotImplementedError, match="chunks of 128 tokens; the kernels take 16, 32"):
        plan(64, 1, chunk=128)
    with pytest.raises(NotImplementedError, match="float64; the kernels take float32, bfloat16"):
        plan(64, 1, dtype="float64")


@pytest.mark.parametrize(
    ("version", "capability", "bad"),
    [("3.3.1", 90, False), ("3.4.0", 90, True), ("3.6.0", 90, True), ("3.7.0", 90, True),
     ("3.7.1", 90, False), ("3.9.0", 90, False), ("3.6.0", 80, False), ("3.6.0", 100, False),
     ("3.7.1+git1234", 90, False), ("3.10.0", 90, False), ("3.5", 90, True)],
)  # fmt: skip
def test_known_bad_compilers_are_refused(monkeypatch, version, capability, bad):
    monkeypatch.delenv("JAXLAB_TRITON_UNCHECKED", raising=False)
    if not bad:
        check_triton(version, capability)
        return
    with pytest.raises(NotImplementedError, match=r"miscompiles .* on Hopper.*triton>=3\.7\.1"):
        check_triton(version, capability)
    check_triton(version, capability, unchecked=True)
    monkeypatch.setenv("JAXLAB_TRITON_UNCHECKED", "1")
    check_triton(version, capability)
    with pytest.raises(NotImplementedError):
        check_triton(version, capability, unchecked=False)


def test_a_cpu_says_why_by_name(on_a_cpu):
    x = jnp.zeros((1, 3, 1, 16))
    reason = "triton: needs an NVIDIA GPU; jax runs on cpu"
    with pytest.raises(NotImplementedError, match=reason):
        gated_delta(x, x, x, x, x, implementation="triton")
    state = jnp.zeros((1, 1, 16, 16))
    with pytest.raises(NotImplementedError, match=reason):
        gated_delta_step(*[x[:, 0]] * 5, state=state, implementation="triton")
    wide = jnp.zeros((1, 3, 1, 512))
    with pytest.raises(NotImplementedError, match="head sizes 512 and 16; the kernels take up to"):
        gated_delta(wide, wide, x, x[..., 0], x[..., 0], implementation="triton")
    with jax.enable_x64(True), pytest.raises(NotImplementedError, match="float64"):
        gated_delta(x.astype(jnp.float64), x, x, x, x, implementation="triton")


# ------------------------------------------------------------------ a GPU that is made up


@pytest.fixture(name="made_up_gpu")
def _made_up_gpu(monkeypatch):
    """A device as `gpu_launch` asks after it, and Triton where there is none; returns the rest.

    Called with the source of a module jax_triton, it puts that module on the path.
    """
    platform = types.SimpleNamespace(platform_version="cuda 13000")
    device = types.SimpleNamespace(platform="gpu", compute_capability="9.0", client=platform)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda: [device])
    triton._launch_fault.cache_clear()
    modules = {"triton": {"__version__": "3.9.0"},
               "jaxlab_kernels.common.triton_probe": {"copy": None}}  # fmt: skip
    for name, attributes in modules.items():
        module = types.ModuleType(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)

    def install(tmp_path, source):
        (tmp_path / "jax_triton.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        # Set first, so that what is imported meanwhile goes again.
        monkeypatch.setitem(sys.modules, "jax_triton", None)
        del sys.modules["jax_triton"]

    yield install
    triton._launch_fault.cache_clear()


MISFITS = {
    "import jax\njax.core.no_such_name": "jax-triton fails at import: AttributeError: .*no_such",
    "raise ImportError('no CUDA jaxlib')": r"needs jax-triton \(pip install jax-triton\): no CUDA",
    "raise RuntimeError('two\\n  lines')": "jax-triton fails at import: RuntimeError: two lines",
    "def triton_call(*x, **y):\n    raise TypeError('no pass')":
        "jax-triton compiles no kernel here: TypeError: no pass",
}  # fmt: skip


@pytest.mark.parametrize("source", MISFITS)
def test_a_jax_triton_that_does_not_fit_leaves_the_chunks(made_up_gpu, tmp_path, source):
    made_up_gpu(tmp_path, source)
    x = jnp.full((1, 3, 1, 16), 0.1)
    with pytest.raises(NotImplementedError, match=f"triton: {MISFITS[source]}"):
        gated_delta(x, x, x, -x, x, implementation="triton")
    chosen = gated_delta(x, x, x, -x, x)
    for actual, expected in zip(
        chosen, gated_delta(x, x, x, -x, x, implementation="chunked"), strict=True
    ):
        np.testing.assert_array_equal(actual, expected)
    token = [x[:, 0]] * 5
    out, _ = gated_delta_step(*token, state=jnp.zeros((1, 1, 16, 16)))
    assert out.shape == (1, 1, 16)


def test_a_jax_triton_that_fits_is_taken_also_inside_shard_map(made_up_gpu, tmp_path, monkeypatch):
    """Asked once per process, and not within the caller's trace."""
    source = "import jax.numpy as jnp\ncalls = []\n"
    source += "def triton_call(*arrays, kernel, grid, out_shape, **meta):\n"
    source += "    calls.append((kernel, grid))\n"
    source += "    return [jnp.zeros(x.shape, x.dtype) for x in out_shape]\n"
    made_up_gpu(tmp_path, source)
    name = "jaxlab_kernels.delta_rule.triton_forward"
    module = types.ModuleType(name)
    kernels = ("pair_products", "solve", "scan_outputs", "outputs", "scan_states")
    vars(module).update({kernel: kernel for kernel in kernels})
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delattr("jaxlab_kernels.delta_rule.triton_forward", raising=False)
    mesh = jax.make_mesh((1,), ("heads",), axis_types=(jax.sharding.AxisType.Auto,))
    run = functools.partial(gated_delta, implementation="triton")
    tokens, state = jax.P(None, None, "heads"), jax.P(None, "heads")
    sharded = jax.shard_map(run, mesh=mesh, in_specs=(tokens,) * 5, out_specs=(tokens, state),
                            check_vma=False)  # fmt: skip
    x = jnp.ones((1, 3, 1, 16))
    for _ in range(2):
        jax.jit(lambda *x: sharded(*x)).lower(x, x, x, x, x)
    import jax_triton

    # The copy once, then pairs, solve, states and outputs twice; every grid has one axis.
    assert len(jax_triton.calls) == 1 + 2 * 4
    assert all(len(grid) == 1 for _, grid in jax_triton.calls)


@pytest.mark.skipif(os.environ["TRITON_INTERPRET"] == "1", reason="needs TRITON_INTERPRET=0")
def test_lowering_for_cuda_without_a_gpu(monkeypatch):
    """Forward and backward through jax-triton and Triton's compiler to a GPU program."""
    pytest.importorskip(
        "jax_triton", reason="needs jax-triton and a CUDA jaxlib", exc_type=ImportError
    )
    launch = functools.partial(triton.jax_launch, compute_capability=90)
    monkeypatch.setitem(
        api.IMPLEMENTATIONS, "lowered", functools.partial(gpu.triton, launch=launch)
    )

    def loss(arguments):
        out, state = gated_delta(**arguments, implementation="lowered")
        return jnp.sum(out.astype(jnp.float32) ** 2) + jnp.sum(state)

    x = jax.ShapeDtypeStruct((1, 200, 4, 64), jnp.bfloat16)
    arguments = dict.fromkeys(("q", "k", "v", "erase", "write"), x)
    arguments["log_decay"] = jax.ShapeDtypeStruct(x.shape, jnp.float32)
    lowered = jax.jit(jax.grad(loss)).trace(arguments).lower(lowering_platforms=("cuda",))
    # Forwards pairs, solve, states and outputs; backwards the first three again and three more.
    assert lowered.as_text().count("triton_kernel_call") == 10
