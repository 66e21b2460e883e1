"""Estimates for devices that are not there: bytes, FLOPs and messages against hand counts."""

import importlib.util
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxlab_kernels.attention import attention

from jaxlab.runtime import ahead, counting, hlo
from jaxlab.runtime.chips import CHIPS, Chip

# A loop of three steps around a product and messages over both axes of a mesh data 2 x model 4.
TEXT = """HloModule m

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %s = f32[] add(%a, %b)
}

%sliced (p: f32[10,8], i: s32[]) -> f32[8] {
  %p = f32[10,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %d = f32[1,8]{1,0} dynamic-slice(%p, %i, %i), dynamic_slice_sizes={1,8}
  ROOT %r = f32[8]{0} bitcast(%d)
}

%body (t: (s32[], f32[10,8], bf16[4,8])) -> (s32[], f32[10,8], bf16[4,8]) {
  %t = (s32[], f32[10,8]{1,0}, bf16[4,8]{1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %w = f32[10,8]{1,0} get-tuple-element(%t), index=1
  %x = bf16[4,8]{1,0} get-tuple-element(%t), index=2
  %row = f32[8]{0} fusion(%w, %i), kind=kLoop, calls=%sliced
  %g = f32[8,8]{1,0} all-gather(%row), replica_groups=[2,4]<=[8], dimensions={0}
  %y = bf16[4,8]{1,0} dot(%x, %g), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %z = bf16[4,8]{1,0} all-reduce(%y), replica_groups={{0,4},{1,5},{2,6},{3,7}}, to_apply=%add
  ROOT %o = (s32[], f32[10,8], bf16[4,8]) tuple(%i, %w, %z)
}

%cond (t: (s32[], f32[10,8], bf16[4,8])) -> pred[] {
  %t = (s32[], f32[10,8]{1,0}, bf16[4,8]{1,0}) parameter(0)
  ROOT %c = pred[] constant(true)
}

ENTRY %main (i: s32[], w: f32[10,8], x: bf16[4,8]) -> bf16[4,8] {
  %i = s32[] parameter(0)
  %w = f32[10,8]{1,0} parameter(1)
  %x = bf16[4,8]{1,0} parameter(2)
  %p = bf16[4,8]{1,0} collective-permute(%x), source_target_pairs={{0,1},{1,0}}
  %t = (s32[], f32[10,8], bf16[4,8]) tuple(%i, %w, %p)
  %l = (s32[], f32[10,8], bf16[4,8]) while(%t), condition=%cond, body=%body, \
backend_config={"known_trip_count":{"n":"3"}}
  ROOT %r = bf16[4,8]{1,0} get-tuple-element(%l), index=2
}
""".replace("\\\n", "")


def test_messages_are_counted_by_axis_as_often_as_loops_run():
    found = hlo.read(TEXT, {"data": 2, "model": 4})
    assert {(c.operation, c.axes): c[2:] for c in found.collectives} == {
        ("all-gather", "model"): (3, 3 * 256, 3 * 256 * 3 / 4),
        ("all-reduce", "data"): (3, 3 * 64, 3 * 64.0),
        ("collective-permute", "model"): (1, 64, 64.0),
    }
    # The row alone is read of what the fusion slices; then gather, product, reduction.
    assert found.bytes == 128 + 3 * ((32 + 32 + 4) + (32 + 256) + (64 + 256 + 64) + 128)
    assert found.matmul_bytes == 3 * (64 + 256 + 64)
    assert found.unknown_loops == 0


def test_a_loop_of_unknown_length_runs_as_often_as_one_says():
    text = TEXT.replace("known_trip_count", "other")
    found = hlo.read(text, {"data": 2, "model": 4}, trips=5)
    assert (found.unknown_loops, found.collectives[0].times) == (1, 5)


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ("replica_groups=[4,2]<=[2,4]T(1,0)", "data"),
        ("replica_groups=[1,8]<=[8]", "data+model"),
        ("replica_groups={}", "data+model"),
        ("replica_groups={{0,1,2,3},{4,5,6,7}}", "model"),
    ],
)
def test_forms_of_groups(groups, axes):
    assert hlo._axes(groups, {"data": 2, "model": 4})[1] == axes


def test_flops_count_loops_branches_and_shards():
    def f(x, w):
        def step(x, _):
            return jax.lax.cond(x[0, 0] > 0, lambda x: x @ w, lambda x: x, x), None

        x = jax.lax.scan(step, x, None, length=5)[0]
        return jax.lax.while_loop(
            lambda x: x[0, 0] < 1, lambda x: x @ w, jax.checkpoint(step)(x, 0)[0]
        )

    shapes = (jnp.zeros((3, 4)), jnp.zeros((4, 4)))
    jaxpr = jax.make_jaxpr(f)(*shapes)
    assert counting.matmul_flops(jaxpr, trips=7) == (5 + 1 + 7) * 2 * 3 * 4 * 4
    mesh = jax.sharding.AbstractMesh((4,), ("data",), (jax.sharding.AxisType.Auto,))
    rows = jax.sharding.PartitionSpec("data")
    shard = jax.shard_map(lambda x: x @ x.T, mesh=mesh, in_specs=rows, out_specs=rows)
    jaxpr = jax.make_jaxpr(shard)(jnp.zeros((8, 3)))
    assert counting.matmul_flops(jaxpr) == 4 * 2 * 2 * 3 * 2


def test_flops_of_a_loop_whose_bound_is_the_number_of_a_step():
    """As of causal attention by tiles: row n has n + 1 of them, in each of three layers."""

    def rows(x):
        def row(total, n):
            return jax.lax.fori_loop(2, n + 3, lambda _, y: y @ y, total), None

        return jax.lax.scan(row, x, jnp.arange(5), reverse=True)[0]

    def layers(x):
        return jax.lax.scan(lambda x, _: (jax.checkpoint(rows)(x), None), x, None, length=3)[0]

    jaxpr = jax.make_jaxpr(layers)(jnp.zeros((4, 4)))
    assert counting.count(jaxpr, trips=7) == (3 * (1 + 2 + 3 + 4 + 5) * 2 * 4**3, False)


def test_flops_of_causal_attention_and_its_derivative():
    """Two products of each tile that a row of tiles sees, and five backwards, in scanned layers."""
    size, tiles, width = 128, 8, 16
    shape = (1, size * tiles, 1, width)

    def loss(x):
        def layer(x, _):
            return attention(x, x, x, implementation="chunked"), None

        return jnp.sum(jax.lax.scan(layer, x, None, length=3)[0])

    jaxpr = jax.make_jaxpr(jax.grad(loss))(jnp.zeros(shape))
    tile = 2 * size * size * width
    assert counting.count(jaxpr) == (3 * 7 * tiles * (tiles + 1) // 2 * tile, False)


def test_loops_whose_length_is_data_are_told():
    def f(x):
        def inner(x):
            return jax.lax.while_loop(lambda x: x[0, 0] < 1, lambda x: x @ x, x)

        return jax.lax.while_loop(lambda x: x[0, 0] < 2, lambda x: inner(x) @ x, x)

    jaxpr = jax.make_jaxpr(f)(jnp.zeros((2, 2)))
    # What is within a decoding loop does not run once per token and token.
    assert counting.count(jaxpr, trips=7) == (7 * 2 * 2 * 2**3, True)
    plain = jax.make_jaxpr(lambda x: jax.lax.while_loop(lambda x: x[0, 0] < 1, lambda x: x @ x, x))
    assert counting.count(plain(jnp.zeros((2, 2))), trips=7) == (7 * 2 * 2**3, False)


@pytest.mark.parametrize(
    ("message", "size"),
    [
        ("(f32[8], f32[2]) all-reduce-start(%x, %y), to_apply=%add", 40),
        ("(f32[8], f32[64]) all-gather-start(%x), dimensions={0}", 256),
        ("((f32[8], f32[2]), (f32[64], f32[16])) all-gather-start(%x, %y)", 320),
        ("(f32[8], f32[8], u32[], u32[]) collective-permute-start(%x)", 32),
    ],
)
def test_messages_that_are_begun_count_what_they_bring(message, size):
    text = f"""HloModule m

ENTRY %main (x: f32[8], y: f32[2]) -> f32[8] {{
  %x = f32[8] parameter(0)
  %y = f32[2] parameter(1)
  %s = {message}, replica_groups={{}}
  ROOT %r = f32[8] negate(%x)
}}
"""
    [found] = hlo.read(text, {"data": 8}).collectives
    assert (found.times, found.bytes) == (1, size)


def _small(capacity, x=8):
    """A program of a product on one device, for a chip of this memory."""
    chip = Chip("made up", 1e3, 1e3, capacity, 1e3, "none")
    target = ahead.Topology("made_up:1", jax.devices()[:1], "cpu", chip)
    mesh = jax.sharding.Mesh(np.array(target.devices), ("data",))
    where = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32, sharding=where) for s in ((x, 16), (16, 4))]
    arguments = (ahead.Argument("batch", shapes[0]), ahead.Argument("params", {"w": shapes[1]}))
    held = (ahead.Argument("optimiser", {"m": shapes[1]}),)
    work = ahead.Work(
        "step", jax.jit(lambda x, p: x @ p["w"]), arguments, held,
        cures={"params": "A", "batch": "B", "temporaries": "C"}, notes=("odd",),
    )  # fmt: skip
    return ahead.compiled(work, target, mesh)[0]


def test_what_a_program_takes():
    report = _small(1e6)
    assert {kind: report.memory[kind] for kind in ("batch", "params", "optimiser", "outputs")} == {
        "batch": 8 * 16 * 4, "params": 16 * 4 * 4, "optimiser": 16 * 4 * 4, "outputs": 8 * 4 * 4,
    }  # fmt: skip
    assert report.flops == 2 * 8 * 16 * 4
    # At 1000 FLOPs and bytes a second; what a fake device moves are the product's operands.
    assert report.seconds["compute"] == 1.024
    assert report.fits
    assert report.json()["step_seconds"] == max(report.seconds.values())
    lines = list(report.lines())
    assert "params 256 B, optimiser 256 B" in lines[1]
    assert "note: odd" in lines[-2]


def test_what_does_not_fit_says_what_is_largest_and_what_helps():
    report = _small(1000)
    assert not report.fits
    assert report.problem() == (
        f"step does not fit: {ahead.size(report.total)} of 1000 B per chip on made_up:1. Largest: "
        "512 B batch float32[8, 16]; 256 B params/w float32[16, 4]; 256 B optimiser/m "
        "float32[16, 4]. Change batch: B; params: A"
    )


def test_a_compiler_that_refuses_is_one_line():
    work = ahead.Work("step", None, (), cures={"params": "A"})
    target = types.SimpleNamespace(name="v5p:4x4x4")
    error = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 110.2G of 95.7G hbm.\n"
    line = ahead._refused(work, target, {"params": 2**31}, [(2**31, "params/w", "f32[2]")], error)
    assert line == (
        "step does not fit on v5p:4x4x4: Used 110.2G of 95.7G hbm, of which params 2 GiB. Largest "
        "arguments: 2 GiB params/w f32[2]. Change params: A"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v9:2x2", "there is no 'v9'; there are v4, v5e, v5p"),
        ("cpu:x", "give a number of devices, such as cpu:8$"),
        ("cpu:0", "give a number of devices"),
        ("h100:2x2", "such as h100:8$"),
        ("v5e:2x", "such as v5e:8, or chips side by side"),
        ("cpu:4096", "4096 fake devices are wanted, but JAX runs with"),
    ],
)
def test_names_of_devices(name, message):
    jax.devices()
    with pytest.raises(ValueError, match=message):
        ahead.topology(name)


def test_a_tpu_wants_its_compiler(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'jaxlab\[tpu\]' \(v5p:64 takes fake"):
        ahead.topology("v5p:4x4x4")


def test_numbers_of_chips():
    """The shortest time in which each could read its memory once, in seconds; data sheets."""
    read = {name: chip.memory / chip.bandwidth for name, chip in CHIPS.items()}
    assert all(0.01 < seconds < 0.05 for seconds in read.values()), read
    assert CHIPS["v5p"].flops == 459e12
    # Half of the 900 and 1,200 GB/s that the sheet and the page have for both directions.
    assert (CHIPS["h100"].network, CHIPS["v5p"].network) == (450e9, 600e9)
