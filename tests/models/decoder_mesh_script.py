"""Run by decoder_test: decoders on a mesh of eight host devices, against one device.

With the argument "training" it trains experts on two devices instead.
"""

import functools
import pathlib
import re
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from configs import common, moe_modsum
from jaxlab import train
from jaxlab.models import presets
from jaxlab.models.decoder import Decoder
from jaxlab.nn.context import Context
from jaxlab.nn.delta_config import DeltaConfig
from jaxlab.nn.moe import MoE
from jaxlab.nn.routing import Router, balance
from jaxlab.runtime.drawing import by_operations
from jaxlab.runtime.mesh import make_mesh
from jaxlab.runtime.sharding import ambient, infer
from jaxlab.sampling import SamplingConfig, generate
from jaxlab.trainers import distill, sft

CONFIG = presets.decoder("tiny", num_heads=8, num_kv_heads=4, scan_layers=True)
# Megatron's split over "model", and FSDP's over "data".
RULES = [
    (r"embedding$", P("model", "data")),
    (r"(query|key|value|gate|up)/kernel$", P(None, "data", "model")),
    (r"(output|down)/kernel$", P(None, "model", "data")),
    (r".*", P()),
]


def shardings(params, mesh):
    def place(path, _):
        name = "/".join(str(key.key) for key in path)
        spec = next(spec for pattern, spec in RULES if re.search(pattern, name))
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(place, params)


def main():
    assert jax.device_count() == 8
    model = Decoder(CONFIG)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, CONFIG.vocab_size, (4, 6)))
    params = by_operations(model.init)(jax.random.key(0), tokens)["params"]
    expected = np.asarray(jax.jit(model.apply)({"params": params}, tokens))

    def check(name, kind, apply):
        mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(kind, kind))
        placed = jax.device_put(params, shardings(params, mesh))
        rows = jax.device_put(tokens, NamedSharding(mesh, P("data")))
        with jax.set_mesh(mesh):
            actual = np.asarray(jax.jit(apply)({"params": placed}, rows))
        np.testing.assert_allclose(actual, expected, atol=1e-5)
        print(name)

    check("auto", AxisType.Auto, model.apply)
    # Explicit axes want every gather and every contraction over a split axis annotated; auto_axes
    # hands the model to the partitioner.
    automatic = jax.sharding.auto_axes(model.apply, out_sharding=P("data"))
    check("explicit", AxisType.Explicit, automatic)
    check_hybrid()
    check_experts()


def check_training():
    """Two steps of SFT, and of distillation of and into experts, by the tiny study's config.

    Where experts are divided over two devices, losses and balance are those of one device.
    """
    stages = moe_modsum.get_config("tiny").stages
    model = moe_modsum.experts(layers=1)
    model.sizes.first_dense = 0
    stages.student.batch_size = 8
    stages.student.model = stages.opd.student = model
    stages.opd.teacher = moe_modsum.experts(layers=1)
    # Others than the student's, or there would be nothing to learn.
    stages.opd.teacher.sizes.update({"first_dense": 0, "moe": {"shared_size": 0}})
    for name, trainer in {"student": sft, "opd": distill}.items():
        stage, found = stages[name], []
        assert stage.train.balance_loss
        for shape in ({"data": 1}, {"data": 1, "expert": 2}):
            count = len(shape)
            trainer.make_mesh = functools.partial(make_mesh, devices=jax.devices()[:count])
            stage.mesh.shape = shape
            with tempfile.TemporaryDirectory() as folder:
                run = trainer.program(train.settings(stage.to_dict()), pathlib.Path(folder))
            state, metrics = run.init(), []
            kernel = state.params["layer_0"]["mlp"]["experts"]["down"]["kernel"]
            assert kernel.sharding.shard_shape(kernel.shape)[0] == 8 // count
            for index in range(2):
                output = run.step(state, index)
                state = output.state
                metrics.append(jax.device_get(output.metrics))
            found.append(metrics)
        for one, two in zip(*found, strict=True):
            for key in ("loss", "router_balance", "router_load_max", "grad_norm"):
                np.testing.assert_allclose(two[key], one[key], rtol=1e-4, err_msg=f"{name} {key}")
        print(f"{name} on experts")


def check_experts():
    """Experts by the rules of the configs on 2, 4 and 8 devices of the axis "expert"."""
    router = Router(8, 3, score="sigmoid", correction=True, groups=4, top_groups=2)
    layer = MoE(12, router, shared_size=8).module(model_dim=16)
    x = jax.random.normal(jax.random.key(0), (4, 12, 16))
    context = Context(x[..., 0], jnp.asarray(np.repeat([[1, 2, 0]], 4, 0).repeat([5, 4, 3], 1)))
    params = {"mlp": by_operations(layer.init)(jax.random.key(0), x)["params"]}

    def loss(params, x):
        y, sown = layer.apply({"params": params["mlp"]}, x, context, mutable=["aux"])
        found = balance([sown["aux"]])
        return jnp.mean(y**2) + 0.1 * found.loss, (y, found)

    gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    expected = jax.jit(gradients)(params, x)
    for shape in ({"data": 4, "expert": 2}, {"model": 2, "expert": 4}, {"expert": 8}):
        mesh = jax.make_mesh(
            tuple(shape.values()), tuple(shape), axis_types=(AxisType.Auto,) * len(shape)
        )
        rows = jax.device_put(x, NamedSharding(mesh, P("data") if "data" in shape else P()))
        placed = jax.device_put(params, infer(params, common.SHARDED, mesh))
        kernel = placed["mlp"]["experts"]["gate"]["kernel"]
        assert kernel.sharding.shard_shape(kernel.shape)[0] == 8 // shape["expert"]
        actual = jax.jit(ambient(mesh)(gradients))(placed, rows)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), expected, actual)
    print("experts")


def check_hybrid():
    """A hybrid by the rules of the configs: logits, gradients and completions."""
    delta = DeltaConfig(rule="fg2_plus", head_dim=8, num_value_heads=8)
    # Not the usual norm_eps: a head that reads next to nothing would be scaled up with its rounding
    # errors, and gradients with it.
    config = presets.decoder(
        "fg2-tiny",
        num_layers=2,
        pattern=("delta", "attention"),
        num_heads=4,
        num_kv_heads=4,
        norm_eps=1e-2,
        delta=delta,
    )
    model = Decoder(config)
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.integers(0, config.vocab_size, (4, 20)))
    segment_ids = jnp.asarray(np.repeat([[1, 2, 0]], 4, 0).repeat([7, 10, 3], 1))
    params = by_operations(model.init)(jax.random.key(0), tokens)["params"]
    sampling = SamplingConfig(max_new_tokens=5, num_samples=2, temperature=0.0)

    def loss(params, tokens, segment_ids):
        logits = model.apply({"params": params}, tokens, None, segment_ids)
        return jnp.mean(jax.nn.log_softmax(logits)[:, :, 0] ** 2), logits

    gradients = jax.value_and_grad(loss, has_aux=True)
    train = jax.jit(gradients)
    forward = jax.jit(lambda *args: loss(*args)[1])

    def complete(params, tokens):
        lengths = jnp.asarray([20, 3, 1, 11])
        return generate(model, params, tokens, lengths, jax.random.key(0), sampling).tokens

    def assert_close(expected, actual):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), expected, actual)

    expected = train(params, tokens, segment_ids)
    expected_tokens = complete(params, tokens)
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    batch = jax.device_put((tokens, segment_ids), NamedSharding(mesh, P("data")))
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, infer(params, common.SHARDED, mesh))
        assert_close(expected, train(placed, *batch))
        print("hybrid SHARDED")
        placed = jax.device_put(params, infer(params, common.DECODING, mesh))
        compiled = forward.lower(placed, *batch).compile()
        assert_close(expected[0][1], compiled(placed, *batch))
        np.testing.assert_array_equal(expected_tokens, complete(placed, batch[0]))
        print("hybrid DECODING")
    # As trainers have it: the mesh is known while they trace, and kernels see a device's share.
    lowered = jax.jit(ambient(mesh)(gradients)).lower(placed, *batch)
    assert "sdy.manual_computation" in lowered.as_text()
    assert "sdy.manual_computation" not in forward.lower(placed, *batch).as_text()
    assert_close(expected, lowered.compile()(placed, *batch))
    print("hybrid ambient")
    # The heads stay where they are: partial sums are added up, and nothing else is exchanged.
    exchanged = re.findall(r" (all-\w+|collective-permute|reduce-scatter)\(", compiled.as_text())
    assert set(exchanged) == {"all-reduce"}, exchanged


if __name__ == "__main__":
    check_training() if "training" in sys.argv else main()
