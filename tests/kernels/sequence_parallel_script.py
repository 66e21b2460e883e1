"""Run by sequence_parallel_test.py: sequences cut into shards on eight devices, against one."""

import dataclasses
import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "kernels"))
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")

from jaxlab_kernels import gated_delta, gated_delta_from_logits  # noqa: E402
from jaxlab_kernels.delta_rule import cases  # noqa: E402
from jaxlab_kernels.delta_rule.sequence_parallel import tokens_before  # noqa: E402

# A token's own segment, one that spans several shards, padding on both sides of a border, padding
# that fills shards, an id that returns, and a row that begins with padding.
SEGMENTS = np.array([
    [5] * 3 + [2] * 1 + [9] * 20 + [0] * 2 + [9] * 4 + [1] * 11 + [3] * 7,
    [0] * 14 + [1] * 10 + [4] * 6 + [0] * 6 + [4] * 5 + [2] * 4 + [0] * 3,
])  # fmt: skip
LENGTH = SEGMENTS.shape[1]


def weighted(result, weights):
    return sum(jnp.vdot(w, x.astype(w.dtype)) for w, x in zip(weights, result, strict=True))


def with_gradients(function, floats, weights):
    """((out, state), gradients of their weighted sum)."""

    def loss(floats):
        result = function(floats)
        return weighted(result, weights), result

    (_, result), gradients = jax.value_and_grad(loss, has_aux=True)(floats)
    return result, gradients


def sharded(function, arguments, shards, check_vma=True):
    """function under `jax.shard_map` with every [B, T, ...] cut into shards along T."""
    devices = jax.devices()[:shards]
    mesh = jax.make_mesh((shards,), ("sequence",), (AxisType.Auto,), devices=devices)
    specs = {name: P() if name == "initial_state" else P(None, "sequence") for name in arguments}
    return jax.shard_map(
        function, mesh=mesh, in_specs=(specs,), out_specs=(P(None, "sequence"), P()),
        check_vma=check_vma,
    )  # fmt: skip


def compare(name, arguments, counts, tolerance, operation=gated_delta, check_vma=True, **options):
    """One device against as many shards as each of `counts`."""
    form = arguments.pop("form")
    ids = {key: arguments.pop(key) for key in ("segment_ids",) if key in arguments}
    dtype = arguments["v"].dtype
    rng = np.random.default_rng(7)
    batch, _, value_heads, value_dim = arguments["v"].shape
    state_shape = batch, value_heads, arguments["k"].shape[3], value_dim
    shapes = arguments["v"].shape, state_shape
    weights = [jnp.asarray(rng.integers(-8, 9, size=shape) / 4, dtype) for shape in shapes]

    # Formulas are compared: LLVM's optimisations are half of the time to compile them.
    unoptimised = {"xla_backend_optimization_level": 0}

    @functools.partial(jax.jit, static_argnums=0, compiler_options=unoptimised)
    def run(shards, floats):
        axis_name = None if shards == 1 else "sequence"

        def call(arguments):
            return operation(**arguments, form=form, axis_name=axis_name, **options)

        if shards == 1:
            return with_gradients(lambda floats: call(floats | ids), floats, weights)
        mapped = sharded(call, floats | ids, shards, check_vma)
        return with_gradients(lambda floats: mapped(floats | ids), floats, weights)

    floats = {key: jnp.asarray(x) for key, x in arguments.items()}
    expected = run(1, floats)

    def check(shards, path, a, e):
        a, e = np.asarray(a, np.float64), np.asarray(e, np.float64)
        assert np.isfinite(a).all()
        assert a.shape == e.shape
        distance = np.linalg.norm(a - e) / max(np.linalg.norm(e), 1e-30)
        assert distance <= tolerance, (name, shards, jax.tree_util.keystr(path), distance)

    for shards in counts:
        actual = run(shards, floats)
        jax.tree.map_with_path(functools.partial(check, shards), actual, expected)
        print(name, shards, "equal", flush=True)


def make(name, dtype=np.float64, decays="mild", **changes):
    case = dataclasses.replace(cases.MEMBERS[name], length=LENGTH, **changes)
    return cases.make(case, decays, dtype=dtype)


def convolution_tokens():
    """What precedes a shard, of one device's array padded in front."""
    x = np.arange(2 * 24 * 3.0).reshape(2, 24, 3)

    def before(arguments):
        x = tokens_before(arguments["x"], 3, "sequence")
        return x, jax.lax.psum(x, "sequence")

    blocks, _ = sharded(before, {"x": x}, 8)({"x": x})
    padded = np.pad(x, [(0, 0), (3, 0), (0, 0)])
    expected = [padded[:, start : start + 3] for start in range(0, 24, 3)]
    np.testing.assert_array_equal(blocks, np.concatenate(expected, axis=1))


def main() -> None:
    """Compares outputs, last states and all gradients."""
    # A float64 sum of some hundred terms of size 1: 1e-15 times the root of their number, and the
    # gradient of a decay is a difference of such sums.
    close = 1e-13
    # All forms and shapes of gates; DeltaNet is GDN's program, KDA and FG2 come below.
    for name in ("gdn", "fg2_plus", "separate_scalars", "left", "gdn2"):
        compare(name, make(name), [4], close, implementation="reference")
    compare("fg2_plus", make("fg2_plus"), (3, 8), close, chunk_size=4,
            implementation="chunked")  # fmt: skip
    for name in ("kda", "fg2_plus"):
        compare(f"{name}, packed", make(name) | {"segment_ids": SEGMENTS}, [8], close,
                implementation="reference")  # fmt: skip
    no_state = make("fg2")
    del no_state["initial_state"]
    compare("fg2, no initial state", no_state, [4], close, implementation="reference")
    compare("gdn, strong decays", make("gdn", decays="mixed"), [4], close,
            implementation="reference", check_vma=False)  # fmt: skip
    logits = make("fg2_plus")
    logits = {("erase_logits" if key == "erase" else "write_logits" if key == "write" else key): x
              for key, x in logits.items()}  # fmt: skip
    compare("logits", logits, [4], close, gated_delta_from_logits, implementation="reference")
    compare("float32", make("kda", np.float32), [4], 2e-6, chunk_size=4, implementation="chunked")
    # The output and the gradients are rounded to 8 bits at the end, on one device as on four.
    compare("bfloat16", make("kda", jnp.bfloat16), [4], 2.0**-8, implementation="reference")
    convolution_tokens()


if __name__ == "__main__":
    main()
