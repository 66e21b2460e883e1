"""Comparing and timing of `delta_rule_gpu.py` without a GPU: peers that are made up, and fla's own.

Our kernels run through Triton's interpreter, in float32.
"""

import json
import math
import os
import pathlib
import subprocess
import sys
import types

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
if os.environ["TRITON_INTERPRET"] != "1":
    pytest.skip("needs TRITON_INTERPRET=1", allow_module_level=True)

from benchmarks import delta_rule_gpu  # noqa: E402
from benchmarks.gpu import checks, decode, jax_times, peers, times  # noqa: E402
from benchmarks.gpu.operands import random_given  # noqa: E402

pytestmark = pytest.mark.interop

ROOT = pathlib.Path(__file__).parents[2]
# KDA and GDN-2 by their recurrences; `SIGN` turns a gradient round.
FLA = """
import torch
from jaxlab_kernels.delta_rule.launches import Operands
from benchmarks.gpu.operands import recurrence

class Turned(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, d):
        return SIGN * d

def chunk_kda(q, k, v, g, beta, scale, initial_state, output_final_state, safe_gate=False):
    assert scale == 1.0 and output_final_state
    if safe_gate:
        raise RuntimeError("Triton Error [CUDA]:\\n out of resources")
    return in_float32(Turned.apply(q), k, beta[..., None] * k, v, g, initial_state)

def chunk_gdn2(q, k, v, g, b, w, scale, initial_state, output_final_state):
    return in_float32(q, b * k, k, w * v, g, initial_state)

def in_float32(*operands):
    out, last = recurrence(Operands(*(x.float() for x in operands)))
    return out.to(operands[0].dtype), last
"""


@pytest.fixture(name="install")
def _install(tmp_path, monkeypatch):
    """install(fla's sign, source of flash_kda)."""

    def install(sign=1, flash="raise ImportError('libcudart.so.12: cannot open')"):
        ops = tmp_path / "fla" / "ops"
        ops.mkdir(parents=True)
        for folder in (ops.parent, ops):
            (folder / "__init__.py").touch()
        for name in ("kda", "gdn2"):
            (ops / f"{name}.py").write_text(FLA.replace("SIGN", str(sign)))
        (tmp_path / "flash_kda.py").write_text(flash)
        monkeypatch.syspath_prepend(tmp_path)
        # Set first, so that what is imported meanwhile goes again.
        for name in ("fla", "fla.ops", "fla.ops.kda", "fla.ops.gdn2", "flash_kda"):
            monkeypatch.setitem(sys.modules, name, None)
            del sys.modules[name]

    return install


@pytest.fixture(name="given", scope="module")
def _given():
    return random_given(20, 2, 16, "cpu", "float32")


@pytest.fixture(name="plan", scope="module")
def _plan(given):
    return times.plan_for(given, processors=1)


def timed(name, given, plan):
    """Rows of a peer by pass; a time of 2 ms."""

    def timer(call):
        call()
        return 2.0

    return {row["pass"]: row for row in times.time_peer(name, given, plan, timer)}


def test_peers_are_compared_and_one_that_is_broken_takes_no_other_with_it(install, given, plan):
    install()
    rows = {name: timed(name, given, plan) for name in peers.PEERS}
    for name in ("fla chunk_kda", "fla chunk_gdn2"):
        assert [rows[name][which]["ms"] for which in ("forward", "both")] == [2.0, 2.0], rows[name]
        # Outputs and six gradients agree to float32.
        assert rows[name]["both"]["parity"] < 2e-6
    safe_gate, flash = rows["fla chunk_kda, safe gate"]["both"], rows["FlashKDA"]["forward"]
    assert safe_gate["reason"] == "refuses: RuntimeError: Triton Error [CUDA]: out of resources"
    assert flash["reason"] == "refuses: ImportError: libcudart.so.12: cannot open"
    every = [{"what": times.OURS, "pass": "both", "ms": 2.4}, *(r["both"] for r in rows.values())]
    assert times.ratios(every) == [
        {"ours": times.OURS, "peer": "fla chunk_kda", "pass": "both", "ratio": 1.2, "goal": 1.25,
         "met": True},
        {"ours": times.OURS, "peer": "fla chunk_gdn2", "pass": "both", "ratio": 1.2},
    ]  # fmt: skip
    every[0]["ms"] = 2.6
    assert not times.ratios(every)[0]["met"]


def test_a_peer_with_another_gradient_is_not_timed(install, given, plan):
    install(sign=-1)
    rows = timed("fla chunk_kda", given, plan)
    assert all("ms" not in row for row in rows.values())
    assert rows["both"]["reason"].startswith(
        "differs from ours on the same arguments: worst d_q 2.0e+00"
    )


def test_a_forward_of_other_conventions_is_compared_too(install, given, plan):
    """FlashKDA's own norms and gate, as flash-linear-attention calls it."""
    install(flash=(
        "import torch\n"
        "from torch.nn.functional import normalize\n"
        "from jaxlab_kernels.delta_rule.launches import Operands\n"
        "from benchmarks.gpu.operands import recurrence\n"
        "def fwd(q, k, v, g, beta, scale, out, *, A_log, dt_bias, lower_bound, initial_state,\n"
        "        final_state, cu_seqlens):\n"
        "    q, k = normalize(q, dim=-1), normalize(k, dim=-1)\n"
        "    g = lower_bound * torch.sigmoid(A_log.exp()[:, None] * (g + dt_bias))\n"
        "    state = torch.zeros(*q.shape[::2], q.shape[-1], v.shape[-1])\n"
        "    b = torch.sigmoid(beta)[..., None] * k\n"
        "    out.copy_(recurrence(Operands(q, k, b, v, g, state))[0])\n"
    ))  # fmt: skip
    rows = timed("FlashKDA", given, plan)
    assert rows["forward"]["ms"] == 2.0, rows
    assert rows["forward"]["parity"] < 2e-6
    assert rows["both"]["reason"] == "it has no gradients"


def test_what_is_absent_or_out_of_range_says_so(install, given, plan, monkeypatch):
    monkeypatch.setitem(sys.modules, "flash_kda", None)
    assert "flash_kda" in timed("FlashKDA", given, plan)["both"]["reason"]
    install()
    steep = given._replace(g=given.g - 7)
    reason = timed("fla chunk_kda, safe gate", steep, plan)["both"]["reason"]
    assert "safe_gate=True takes [-5, 0]" in reason


def test_jax_is_compared_on_the_same_arguments(given, plan):
    ours = times.ours(peers.fg2_plus(given.state), plan)
    rows = jax_times.time_jax("chunked", given, ours, lambda call: float(len(call()) > 0))
    assert [(row["ok"], row["ms"]) for row in rows] == [(True, 1.0)] * 2, rows
    assert rows[1]["parity"] < 2e-6
    rows = jax_times.time_jax("triton", given, ours)
    assert [row["ok"] for row in rows] == [None, None]
    assert "needs an NVIDIA GPU" in rows[0]["reason"]
    wrong = times.ours(peers.fg2_plus(2 * given.state), plan)
    rows = jax_times.time_jax("chunked", given, wrong)
    assert [row["ok"] for row in rows] == [False, False]
    assert "ms" not in rows[0]


def test_jax_decodes_the_same():
    x = decode.arguments(1, 2, 16, "cpu")
    assert max(jax_times.check_step("xla", x, decode.step).values()) < 1e-6
    assert jax_times.step_ms("xla", x) > 0


def test_large_calls_are_compared_with_their_heads_by_themselves(monkeypatch):
    sizes = {"small": (1, 20, 3, 16)}
    (row,) = checks.check_limits("cpu", 1, 1 << 40, sizes)
    assert row["ok"], row
    assert set(row["distances"]) == set(checks.NAMES)
    (row,) = checks.check_limits("cpu", 1, 12 * 2 * 20 * 3 * 16, sizes)
    assert row["ok"], row
    assert set(row["distances"]) == {"out", "last"}
    (row,) = checks.check_limits("cpu", 1, 1000, sizes)
    assert row["ok"] is None
    # As if an offset had wrapped round: the last head reads where the first one lies.
    forward = checks.torch_launch.forward

    def wrapped(plan, x):
        out, last = forward(plan, x)
        if plan.heads == 3:
            out[:, :, -1] = out[:, :, 0]
        return out, last

    monkeypatch.setattr(checks.torch_launch, "forward", wrapped)
    (row,) = checks.check_limits("cpu", 1, 12 * 2 * 20 * 3 * 16, sizes)
    assert not row["ok"]
    programs, elements = checks.LIMITS["programs"], checks.LIMITS["elements"]
    assert programs[2] * -(-programs[1] // 64) > 65535
    assert math.prod(elements) > 1 << 31


@pytest.fixture(name="on_a_made_up_gpu")
def _on_a_made_up_gpu(monkeypatch, tmp_path):
    """Runs delta_rule_gpu.py whole, small, with the CPU as its GPU: (exit code, what it wrote)."""
    properties = types.SimpleNamespace(
        name="NVIDIA H200", major=9, minor=0, multi_processor_count=2
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1 << 20, 1 << 20))
    monkeypatch.setattr(times, "ceilings", lambda: {"bytes_per_s": 4e12, "flops_per_s": 7e14})
    monkeypatch.setattr(times.triton.testing, "do_bench", lambda call, **_: (call(), 2.0)[1])
    for name, value in {"LENGTH": 20, "DIM": 16, "HEADS": (2,), "DEVICE": "cpu"}.items():
        monkeypatch.setattr(delta_rule_gpu, name, value)
    run_decode = decode.run
    monkeypatch.setattr(decode, "run", lambda device, ceiling, batch, heads, *rest: run_decode(
        device, ceiling, 1, 2, *rest))  # fmt: skip
    plain = {"dtype": "bfloat16", "dim": 16}
    monkeypatch.setattr(checks, "check_all", lambda *_, **__: [checks.judged(
        plain, 1.0, lambda: {"out": 0.0})])  # fmt: skip
    # The interpreter cuts bits off where a GPU rounds.
    monkeypatch.setitem(checks.TOLERANCES, "bfloat16", 0.1)
    monkeypatch.setattr(times, "PARITY", 0.1)

    def run():
        path = tmp_path / "written.json"
        code = delta_rule_gpu.main(["--json", str(path)])
        return code, json.loads(path.read_text())

    return run


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_the_whole_of_it(install, on_a_made_up_gpu, monkeypatch, capsys, platform):
    install()
    monkeypatch.setattr(jax_times, "platform", lambda: platform)
    monkeypatch.setattr(jax_times, "PARITY", 0.1)
    code, written = on_a_made_up_gpu()
    lines = capsys.readouterr().out
    assert code == 0, lines
    rows = {(row["what"], row["pass"]): row for row in written["times"] if "what" in row}
    by_jax = {"cpu": ["ours (jax)"], "gpu": ["ours (jax, chunked)", "ours (jax, triton)"]}[platform]
    assert {what for what, _ in rows} == {times.OURS, *peers.PEERS, *by_jax}
    assert all("ms" in row or "reason" in row for row in rows.values())
    ours = [row for row in written["times"] if row.get("ours") == times.OURS and "met" in row]
    assert [(row["ratio"], row["met"]) for row in ours] == [(1, True)] * 2
    assert not written["decode"][0]["met"]
    assert "% of the data sheet's, goal 55 %: MISSED" in lines
    assert all(row["ok"] is None for row in written["limits"])
    assert all(row["ok"] for row in written["whole"])
    if platform == "cpu":
        assert rows["ours (jax)", "both"]["reason"] == "not run: jax runs on cpu"
        return
    assert "needs an NVIDIA GPU" in rows["ours (jax, triton)", "both"]["reason"]
    assert rows["ours (jax, chunked)", "both"]["ms"] > 0
    assert [(row["what"], row["ok"]) for row in written["decode"][1:]] == [
        ("decode (jax, triton)", None), ("decode (jax, xla)", True)]  # fmt: skip


def test_what_fails_on_the_way(install, on_a_made_up_gpu, monkeypatch, capsys):
    """A kernel that does not compile is a failed row; the rest is checked and written."""
    install()

    def fails(*_, **__):
        raise RuntimeError("PassManager::run failed")

    monkeypatch.setattr(checks.launches, "backward", fails)
    code, written = on_a_made_up_gpu()
    assert code == 1
    assert [row["reason"] for row in written["whole"]] == ["RuntimeError: PassManager::run failed"]
    assert [row["ok"] for row in written["decode"]] == [True]
    assert "times" not in written
    assert "bfloat16 at D = 16 is wrong here: not timed" in capsys.readouterr().out


def test_flash_linear_attention_takes_these_calls():
    """Its own functions' signatures, where JAXLAB_FLA_PYTHON names an interpreter that has it."""
    python = os.environ.get("JAXLAB_FLA_PYTHON")
    if not python:
        pytest.skip("set JAXLAB_FLA_PYTHON to an interpreter with flash-linear-attention")
    program = """
import inspect, types
import fla.ops.kda, fla.ops.gdn2, torch
from benchmarks.gpu import peers

class Bound(Exception):
    pass

def binding(function):
    signature = inspect.signature(function)
    def call(*args, **options):
        bound = signature.bind(*args, **options)
        assert not {"kwargs"} & set(bound.arguments), bound.arguments["kwargs"]
        raise Bound
    return call

fla.ops.kda.chunk_kda = binding(fla.ops.kda.chunk_kda)
fla.ops.gdn2.chunk_gdn2 = binding(fla.ops.gdn2.chunk_gdn2)
x = -torch.rand(1, 3, 2, 8)
given = types.SimpleNamespace(q=x, g=x, state=torch.zeros(1, 2, 8, 8))
for name in ("fla chunk_kda", "fla chunk_kda, safe gate", "fla chunk_gdn2"):
    try:
        peers.PEERS[name](given).forward(x, x, x, x, -x, -x)
    except Bound:
        print(name)
"""
    done = subprocess.run(
        [python, "-W", "ignore", "-c", program], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert len(done.stdout.splitlines()) == 3, done.stdout + done.stderr[-2000:]
