"""Cases that need a mesh of eight devices; sharding_test.py runs this file in its own process."""

import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from configs import common
from jaxlab.losses.methods.scope import Scope
from jaxlab.models.sizes import Sizes
from jaxlab.rollouts.experience import Experience
from jaxlab.rollouts.policy import Rollout
from jaxlab.runtime import checkpoint, mesh, sharding
from jaxlab.trainers import distill
from jaxlab.trainers.learn import Learning
from jaxlab.trainers.optim import Optim
from tests.interop.directories import random_params

jax.config.update("jax_num_cpu_devices", 8)


class TrainState(NamedTuple):
    step: Any
    params: Any
    opt_state: Any


RULES = (("up/kernel", ("data", "model")), ("embed", (("data", "model"),)), (".*", ()))


def _mesh(axis_type="auto"):
    return mesh.make_mesh({"data": 2, "model": -1}, axis_type)


def _state(optimizer):
    params = {
        "embed": jnp.arange(48.0, dtype=jnp.bfloat16).reshape(16, 3),
        "mlp": {"up": {"kernel": jnp.arange(32.0).reshape(8, 4), "bias": jnp.ones(4)}},
    }
    return TrainState(jnp.int32(3), params, optimizer.init(params))


def _specs(tree, *args, **kwargs):
    flat, _ = jax.tree_util.tree_flatten_with_path(sharding.infer(tree, *args, **kwargs))
    return {"/".join(sharding.leaf_path(path)): s.spec for path, s in flat}


def test_a_free_axis_is_filled():
    assert dict(_mesh().shape) == {"data": 2, "model": 4}


def test_adamw_state_follows_the_params():
    specs = _specs(_state(optax.adamw(1e-3)), RULES, _mesh())
    assert specs == {
        "step": P(),
        "params/embed": P(("data", "model")),
        "params/mlp/up/kernel": P("data", "model"),
        "params/mlp/up/bias": P(),
        "opt_state/0/count": P(),
        "opt_state/0/mu/embed": P(("data", "model")),
        "opt_state/0/mu/mlp/up/kernel": P("data", "model"),
        "opt_state/0/mu/mlp/up/bias": P(),
        "opt_state/0/nu/embed": P(("data", "model")),
        "opt_state/0/nu/mlp/up/kernel": P("data", "model"),
        "opt_state/0/nu/mlp/up/bias": P(),
    }


def test_muon_state_follows_the_params():
    specs = _specs(_state(optax.contrib.muon(1e-3)), RULES, _mesh())
    muon = "opt_state/inner_states/muon/inner_state/0"
    adam = "opt_state/inner_states/adam/inner_state/0"
    assert specs[f"{muon}/mu/mlp/up/kernel"] == P("data", "model")
    assert specs[f"{muon}/mu/embed"] == P(("data", "model"))
    assert specs[f"{muon}/ns_coeffs"] == P()  # (3,), and no parameter's
    assert specs[f"{adam}/mu/mlp/up/bias"] == P()
    assert f"{muon}/mu/mlp/up/bias" not in specs


def test_factored_moments_are_replicated():
    optimizer = optax.adafactor(1e-3, min_dim_size_to_factor=2)
    specs = _specs(_state(optimizer), RULES, _mesh())
    assert specs["opt_state/0/v_row/mlp/up/kernel"] == P()


def test_axes_that_the_mesh_lacks_are_unsharded():
    data_only = mesh.make_mesh({"data": 8})
    assert _specs({"up": {"kernel": jnp.ones((8, 4))}}, RULES, data_only) == {
        "up/kernel": P("data", None)
    }


def test_infer_errors():
    tree = {"mlp": {"up": {"kernel": jnp.ones((6, 3))}}}
    with pytest.raises(ValueError, match=r"no sharding rule matches mlp/up/kernel .*\(6, 3\)"):
        _specs(tree, [("down", ())], _mesh())
    with pytest.raises(ValueError, match=r"dimension 1 of mlp/up/kernel.*'model' of size 4"):
        _specs(tree, RULES, _mesh())
    with pytest.raises(ValueError, match="is shorter"):
        _specs(tree, [("up", (None, None, "data"))], _mesh())


@pytest.mark.parametrize("axis_type", ["auto", "explicit"])
def test_shard_call(axis_type):
    """Values and gradients are the same with a mesh as without: on integers, to the last bit."""

    def kernel(x, w):  # cumulative sum over time, a scan as kernels have it
        def body(carry, x_t):
            carry = carry + x_t @ w
            return carry, carry

        _, out = jax.lax.scan(body, jnp.zeros_like(x[:, 0]), jnp.swapaxes(x, 0, 1))
        return jnp.swapaxes(out, 0, 1)

    run = sharding.shard_call(kernel, in_specs=(("data",), ()), out_specs=("data",))

    @jax.jit
    def loss(x, w):
        y = run(x, w)
        return (y**2).sum(), y

    x = jax.random.randint(jax.random.key(0), (8, 5, 4), -3, 4).astype(jnp.float32)
    w = jax.random.randint(jax.random.key(1), (4, 4), -3, 4).astype(jnp.float32)
    grad = jax.grad(loss, argnums=(0, 1), has_aux=True)
    want_grads, want = grad(x, w)
    with jax.set_mesh(_mesh(axis_type)):
        got_grads, got = grad(x, w)
    jax.tree.map(np.testing.assert_array_equal, (got, got_grads), (want, want_grads))


@pytest.mark.parametrize("axis_type", ["auto", "explicit"])
def test_restores_onto_fewer_devices(axis_type, tmp_path):
    state = _state(optax.contrib.muon(1e-3))
    placed = jax.device_put(state, sharding.infer(state, RULES, _mesh(axis_type)))
    kept = os.environ.get("EIGHT_DEVICES_CHECKPOINT", str(tmp_path))
    with checkpoint.Checkpointer(f"{kept}/{axis_type}", async_save=False) as saver:
        saver.save(3, placed, {"devices": 8})
        for count in (4, 1):
            small = mesh.make_mesh({"model": count}, devices=jax.devices()[:count])
            shardings = sharding.infer(state, RULES, small)
            abstract = jax.tree.map(
                lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings
            )
            restored = saver.restore(abstract)
            jax.tree.map(np.testing.assert_array_equal, restored.state, state)
            kernel = restored.state.params["mlp"]["up"]["kernel"]
            assert len(kernel.sharding.device_set) == count
        params = saver.restore_params(
            dtype=jnp.float32, shardings=lambda tree: sharding.infer(tree, RULES, _mesh())
        )
    assert params["embed"].dtype == jnp.float32
    assert params["embed"].sharding.spec == P(("data", "model"))
    np.testing.assert_array_equal(params["embed"], state.params["embed"].astype(jnp.float32))


@pytest.mark.parametrize("out_specs", [[("data",), ()], (P("data"), P())])
def test_shard_call_returns_several_results(out_specs):
    run = sharding.shard_call(
        lambda pair: (pair[0] + 1, jnp.float32(pair[0].shape[0])), (P("data", "absent"),), out_specs
    )
    with jax.set_mesh(_mesh()):
        rows, local = jax.jit(run)((jnp.zeros((4, 3)), jnp.zeros((4, 3))))
    np.testing.assert_array_equal(rows, np.ones((4, 3)))
    assert local == 2  # each of the two data shards sees two of the four rows


def _answers():
    """Four prompts of four answers each: all, some and none of them right; two are cut off."""
    rng = np.random.default_rng(0)
    prompts, response = rng.integers(12, size=(4, 3)), rng.integers(12, size=(16, 5))
    lengths = np.array([1, 5, 3, 2, 5, 4, 4, 1, 5, 5, 2, 3, 2, 1, 3, 5])
    stopped = (lengths < 5) | (np.arange(16) % 3 > 0)
    right = [[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0], [0, 1, 1, 1]]
    rollout = Rollout(
        tokens=np.concatenate([prompts.repeat(4, axis=0), response], axis=1).astype(np.int32),
        lengths=np.full(16, 3, np.int32),
        response=response.astype(np.int32),
        mask=np.arange(5) < lengths[:, None],
        logprobs=-rng.uniform(0.1, 4.0, (16, 5)).astype(np.float32),
        stopped=stopped,
    )
    return Experience(rollout, np.ravel(right).astype(np.float32) * stopped)


SIZES = {"vocab_size": 12, "intermediate_size": 16, "num_layers": 1, "num_heads": 2}
SIZES |= {"num_kv_heads": 2, "max_position": 16}


def _learnt(shape, parts, rules):
    """Metrics and params of a step of SCOPE on a mesh."""
    decoders = [Sizes(**SIZES, hidden_size=n).decoder() for n in (8, 16)]
    here = mesh.make_mesh(shape, devices=jax.devices()[: int(np.prod(list(shape.values())))])
    # AdamW turns a gradient near zero into its sign. With a large eps rounding stays rounding.
    recipe = distill._Recipe(
        *(*decoders, None, Scope(), Optim(1e-2, eps=1e-2)),
        Learning(samples=4, steps=1, vocab_size=12, parts=parts),
    )
    compiled = distill._compiled(recipe, here, rules)
    student, teacher = (
        jax.device_put(params, sharding.infer(params, rules, here))
        for params in map(random_params, decoders)
    )
    batch = mesh.put_global(_answers(), here)
    scored, credit = compiled.learner.score(student, teacher, None, batch, 0)
    state, metrics = compiled.learner.update(compiled.create(student), teacher, scored)
    return jax.device_get((dict(metrics) | credit, state.params))


@pytest.fixture(scope="module")
def on_one_device():
    return _learnt({"data": 1}, 1, common.REPLICATED)


@pytest.mark.parametrize(
    ("shape", "parts", "rules"),
    [
        pytest.param({"data": 2}, 8, common.REPLICATED, marks=pytest.mark.slow),
        pytest.param({"data": 4}, 4, common.SHARDED, marks=pytest.mark.slow),
        ({"data": 4, "model": 2}, 2, common.SHARDED),
    ],
)
def test_scope_is_the_same_on_any_devices_and_in_any_parts(on_one_device, shape, parts, rules):
    """Credit, loss, gradient and parameters, up to the order of sums."""
    metrics, params = on_one_device
    assert metrics["correct_share"] == pytest.approx(8 / 16)
    assert metrics["correct_weight_perplexity"] > 0 > metrics["wrong_weight_perplexity"]
    found, moved = _learnt(shape, parts, rules)
    for name, value in metrics.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-5, atol=1e-6, err_msg=name)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), moved, params)
