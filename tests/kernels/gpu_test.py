"""What can be said of the GPU implementation without Triton: plans, refusals, lowering."""

import functools
import os

import jax
import jax.numpy as jnp
import pytest
from jaxlab_kernels import gated_delta, gated_delta_step
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


def test_a_cpu_says_why_by_name():
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


@pytest.mark.skipif(os.environ["TRITON_INTERPRET"] == "1", reason="needs TRITON_INTERPRET=0")
def test_lowering_for_cuda_without_a_gpu(monkeypatch):
    """Forward and backward through jax-triton and Triton's compiler to a GPU program."""
    pytest.importorskip(
        "jax_triton", reason="needs jax-triton and a CUDA jaxlib", exc_type=ImportError
    )
    launch = functools.partial(gpu.jax_launch, compute_capability=90)
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
