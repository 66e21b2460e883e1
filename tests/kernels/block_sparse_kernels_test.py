"""Block-sparse attention's tiles for TPUs and GPUs without either: interpreted and compiled."""

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
from jaxlab_kernels.block_sparse import api, block_sparse, cases, gpu, grouped, layout, tpu
from jaxlab_kernels.dispatch import Refusal

NUMBER, SIZE, TILE, DIM, VALUE_DIM = 5, 16, 16, 16, 32


@functools.cache
def operands(dtype):
    """(query rows, d_out, log_sum, inner, key, value, layout) of choices that leave block 3 out."""
    rng = np.random.default_rng(0)
    ids = np.sort(np.argsort(rng.random((40, NUMBER)), axis=1)[:, :2], axis=1)
    ids = np.where((ids == 3) | (rng.random((40, 2)) < 0.2), NUMBER, ids).astype(np.int32)
    found = layout.by_block(jnp.asarray(ids), NUMBER, TILE)
    shapes = {"query": (40, DIM), "d_out": (40, VALUE_DIM), "key": (NUMBER, SIZE, DIM),
              "value": (NUMBER, SIZE, VALUE_DIM)}  # fmt: skip
    given = {name: jnp.asarray(rng.normal(size=shape), dtype) for name, shape in shapes.items()}
    rows = found.rows
    log_sum = jnp.where(found.real, 2 + jnp.asarray(rng.random(40), jnp.float32)[rows], jnp.inf)
    inner = jnp.asarray(rng.normal(size=40), jnp.float32)[rows]
    return (given["query"][rows], given["d_out"][rows], log_sum, inner, given["key"],
            given["value"], found)  # fmt: skip


def check(kernels, dtype="float32"):
    """Both passes against XLA's tiles, at the places that hold a row.

    With 16 bits weights and their gradients have 8 bits, which Triton's interpreter cuts off where
    XLA rounds: 2^-7 apart at most.
    """
    tolerance = 2e-6 if dtype == "float32" else 2**-7
    query, d_out, log_sum, inner, key, value, found = operands(dtype)
    real = np.asarray(found.real)

    def agree(actual, expected, places):
        for got, want in zip(actual, expected, strict=True):
            got, want = np.asarray(got)[places], np.asarray(want)[places]
            assert np.linalg.norm(got - want) < tolerance * np.linalg.norm(want)

    expected = grouped.XLA.forward(0.3, query, key, value, found)
    agree(kernels.forward(0.3, query, key, value, found), expected, real)
    arguments = (0.3, query, d_out, log_sum, inner, key, value, found)
    expected, actual = grouped.XLA.backward(*arguments), kernels.backward(*arguments)
    agree(actual[:1], expected[:1], real)
    agree(actual[1:], expected[1:], slice(None))
    assert not np.asarray(actual[1])[3].any()


def test_pallas_tiles_agree_by_the_interpreter(on_a_cpu):
    check(tpu.kernels(True, TILE))


def test_pallas_runs_whole_calls_by_the_interpreter(on_a_cpu, monkeypatch):
    case = cases.Case(batch=1, length=70, block=16, dim=8, packed=(40, 24, 6))
    arguments = cases.make(case, dtype=np.float32)
    interpreted = functools.partial(tpu.pallas, interpret=True, tile=16)
    monkeypatch.setitem(api.IMPLEMENTATIONS, "pallas", interpreted)

    def result(form):
        def loss(q, k, v):
            out, _ = block_sparse(**arguments | {"q": q, "k": k, "v": v}, implementation=form)
            return jnp.sum(jnp.sin(out)), out

        arrays = [arguments[name] for name in "qkv"]
        return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(*arrays)

    expected, actual = result("reference"), result("pallas")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), actual, expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pallas_lowers_for_a_tpu(dtype):
    def loss(q, k, v, budget):
        out, _ = block_sparse(q, k, v, budget, block_size=128, implementation="pallas")
        return jnp.sum(out.astype(jnp.float32))

    x = jax.ShapeDtypeStruct((1, 1024, 2, 128), dtype)
    traced = jax.jit(jax.grad(loss, (0, 1, 2))).trace(x, x, x, jax.ShapeDtypeStruct((), "int32"))
    assert traced.lower(lowering_platforms=("tpu",)).as_text().count("tpu_custom_call") >= 2


def test_refusals_say_why(on_a_cpu):
    x = jnp.zeros((1, 64, 2, 16))
    for form in ("pallas", "triton"):
        with pytest.raises(Refusal, match=f"{form}: block_size=24; .* multiples of 16"):
            block_sparse(x, x, x, 2, block_size=24, implementation=form)
        wide = jnp.zeros((1, 64, 1, 320))
        with pytest.raises(Refusal, match=f"{form}: head sizes 320 and 320"):
            block_sparse(wide, wide, wide, 2, block_size=16, implementation=form)
    with pytest.raises(Refusal, match="triton: needs an NVIDIA GPU; jax runs on cpu"):
        block_sparse(x, x, x, 2, block_size=16, implementation="triton")
    with pytest.raises(Refusal, match="triton: float32, bfloat16 and float32"):
        block_sparse(x, x.astype(jnp.bfloat16), x, 2, block_size=16, implementation="triton")


@pytest.mark.interop
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_triton_tiles_agree_by_the_interpreter(dtype):
    pytest.importorskip("triton")
    torch = pytest.importorskip("torch")
    if os.environ["TRITON_INTERPRET"] != "1":
        pytest.skip("TRITON_INTERPRET=0")

    def to_torch(x):
        x = np.asarray(x)
        if x.dtype == jnp.bfloat16:
            return torch.from_numpy(x.view(np.uint16).copy()).view(torch.bfloat16)
        return torch.from_numpy(x.copy())

    def launch(kernel, grid, arguments, outputs, **meta):
        meta["PRECISION"] = "ieee"  # the interpreter multiplies the bits of bfloat16 as integers
        given = [x if isinstance(x, int) else to_torch(x) for x in arguments]
        # What a kernel leaves unwritten and another reads shows as NaN.
        results = [torch.full(s, float("nan"), dtype=getattr(torch, d)) for s, d in outputs]
        kernel[(grid,)](*given, *results, **meta)
        return [x.numpy() for x in results]

    check(gpu.kernels(launch), dtype)


@pytest.mark.interop
@pytest.mark.parametrize("capability", [80, 90, 100])
def test_triton_kernels_compile_and_fit_the_chip(capability):
    pytest.importorskip("triton")
    script = pathlib.Path(__file__).with_name("triton_compile_script.py")
    done = subprocess.run(
        [sys.executable, str(script), str(capability), "block_sparse"],
        env={**os.environ, "TRITON_INTERPRET": "0"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads(done.stdout)
    names = {"forward", "query_gradients", "block_gradients"}
    assert {row["kernel"] for row in rows} == names
    shared = {80: 163, 90: 227, 100: 227}[capability] * 1024
    for row in rows:
        assert row["shared"] <= shared, row
        assert row["narrow"] == [], row
        if row["dtype"] == "bfloat16" and capability >= 90:
            assert row["spilled"] <= 8, row
