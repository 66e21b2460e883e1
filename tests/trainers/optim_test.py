import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.nn.context import Context
from jaxlab.nn.delta import GatedDelta
from jaxlab.nn.delta_config import DeltaConfig
from jaxlab.trainers import optim
from jaxlab.trainers.state import apply_gradients, create


def _full(*shape):
    return np.full(shape, 2.0, np.float32)


PARAMS = {
    "embed": {"embedding": _full(4, 3)},
    "layer_0": {
        "mixer": {"query": {"kernel": _full(3, 3), "bias": _full(3)}},
        "mlp": {"up": {"kernel": _full(3, 6)}},
        "mlp_norm": {"scale": _full(3)},
    },
}


def _rates(steps, count, **options):
    schedule = optim.schedule(optim.Optim(learning_rate=2.0, **options), steps)
    return [float(schedule(i)) for i in range(count)]


def test_schedules_by_hand():
    assert _rates(4, 3) == [2.0, 2.0, 2.0]
    assert _rates(4, 6, warmup_steps=2) == [0.0, 1.0, 2.0, 2.0, 2.0, 2.0]
    linear = _rates(6, 8, schedule="linear", warmup_steps=2, final_fraction=0.5)
    np.testing.assert_allclose(linear, [0.0, 1.0, 2.0, 1.75, 1.5, 1.25, 1.0, 1.0])
    cosine = _rates(4, 6, schedule="cosine")
    half = 1 / np.sqrt(2)
    np.testing.assert_allclose(cosine, [2, 1 + half, 1, 1 - half, 0, 0], atol=1e-6)


@functools.cache
def _first_step(config):
    optimizer = optim.make(config, 10)
    return jax.jit(lambda grads, params: optimizer.update(grads, optimizer.init(params), params)[0])


def _update(config, grads, params=PARAMS):
    return jax.device_get(_first_step(config)(grads, params))


def _zeros(params=PARAMS):
    return jax.tree.map(np.zeros_like, params)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_decay_spares_scales_and_biases(name):
    config = optim.Optim(learning_rate=0.1, name=name, weight_decay=0.5)
    updates = _update(config, _zeros())
    layer = updates["layer_0"]
    for kernel in (layer["mixer"]["query"]["kernel"], layer["mlp"]["up"]["kernel"]):
        np.testing.assert_allclose(kernel, -0.1 * 0.5 * 2.0, rtol=1e-6)
    np.testing.assert_allclose(updates["embed"]["embedding"], -0.1, rtol=1e-6)
    np.testing.assert_array_equal(layer["mlp_norm"]["scale"], 0.0)
    np.testing.assert_array_equal(layer["mixer"]["query"]["bias"], 0.0)


def test_no_decay_is_a_choice():
    config = optim.Optim(learning_rate=0.1, weight_decay=0.5, no_decay=("embedding$",))
    updates = _update(config, _zeros())
    np.testing.assert_array_equal(updates["embed"]["embedding"], 0.0)
    np.testing.assert_allclose(updates["layer_0"]["mlp_norm"]["scale"], -0.1, rtol=1e-6)


def test_decay_spares_the_rates_of_delta_layers():
    """Of a real layer: A_log, dt_bias, biases and norms stay; everything else is decayed."""
    layer = GatedDelta(DeltaConfig(rule="fg2_plus", head_dim=3), 6)
    shapes = jax.eval_shape(
        layer.init, jax.random.key(0), jnp.ones((1, 2, 6)), Context(jnp.zeros((1, 2)))
    )
    ones = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes["params"])
    params = {"layer_0": {"mixer": ones}}
    updates = _update(optim.Optim(learning_rate=0.1, weight_decay=0.5), _zeros(params), params)
    spared = {
        optim.path_string(path).removeprefix("layer_0/mixer/")
        for path, update in jax.tree_util.tree_leaves_with_path(updates)
        if not np.any(update)
    }
    assert spared == {
        "decay/A_log", "decay/dt_bias", "gate/expand/bias", "output_norm/scale"
    }  # fmt: skip


def test_the_first_step_of_adamw_is_the_sign_of_the_gradient():
    grads = jax.tree.map(lambda x: np.full_like(x, -3.0), PARAMS)
    updates = _update(optim.Optim(learning_rate=0.1, weight_decay=0.0, clip_norm=None), grads)
    for leaf in jax.tree.leaves(updates):
        np.testing.assert_allclose(leaf, 0.1, rtol=1e-5)


def test_clipping_keeps_the_global_norm():
    params = {"w": np.zeros(2, np.float32)}
    grads = {"w": np.array([3.0, 4.0], np.float32)}
    config = optim.Optim(learning_rate=1.0, weight_decay=0.0, eps=1e6, b1=0.0, b2=0.0)
    # With a huge eps AdamW is gradient descent at 1 / eps.
    clipped = _update(config, grads, params)["w"] * -1e6
    np.testing.assert_allclose(clipped, [0.6, 0.8], rtol=1e-4)


def _random_grads(params):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), params)


def test_muon_orthogonalises_the_kernels_inside_layers_alone():
    config = optim.Optim(learning_rate=0.1, name="muon", weight_decay=0.0, clip_norm=None)
    grads = _random_grads(PARAMS)
    updates = _update(config, grads)
    plain = _update(optim.Optim(learning_rate=0.1, weight_decay=0.0, clip_norm=None), grads)
    for kernel in (updates["layer_0"]["mixer"]["query"], updates["layer_0"]["mlp"]["up"]):
        matrix = kernel["kernel"]
        # optax scales by sqrt(max(1, out / in)); five Newton-Schulz steps end within 0.7 .. 1.2.
        scale = 0.1 * max(1.0, matrix.shape[1] / matrix.shape[0]) ** 0.5
        singular = np.linalg.svd(np.asarray(matrix) / scale, compute_uv=False)
        assert (singular > 0.6).all(), singular
        assert (singular < 1.3).all(), singular
    for path in (("embed", "embedding"), ("layer_0", "mlp_norm")):
        got, expected = updates[path[0]][path[1]], plain[path[0]][path[1]]
        jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_muon_takes_stacked_layers_one_by_one():
    config = optim.Optim(learning_rate=0.1, name="muon", weight_decay=0.01, clip_norm=None)
    kernels, grads = np.random.default_rng(1).normal(size=(2, 2, 3, 5)).astype(np.float32)
    single = [{"mlp": {"up": {"kernel": kernel}}} for kernel in kernels]
    stacked = {"mlp": {"up": {"kernel": kernels}}}
    together = _update(config, {"mlp": {"up": {"kernel": grads}}}, stacked)
    for i, params in enumerate(single):
        alone = _update(config, {"mlp": {"up": {"kernel": grads[i]}}}, params)
        np.testing.assert_allclose(
            together["mlp"]["up"]["kernel"][i], alone["mlp"]["up"]["kernel"], rtol=1e-4, atol=1e-6
        )


def test_a_skipped_step_changes_nothing():
    optimizer = optim.make(optim.Optim(learning_rate=0.1), 10)
    grads = _random_grads(PARAMS)

    @functools.partial(jax.jit, static_argnums=3)
    def step(state, grads, loss, skip):
        return apply_gradients(state, grads, loss, optimizer, skip)

    state, metrics = step(
        jax.jit(lambda params: create(params, optimizer))(PARAMS), grads, 1.0, True
    )
    assert metrics["skipped"] == 0.0
    norm = np.sqrt(sum(np.sum(np.square(x, dtype=np.float64)) for x in jax.tree.leaves(grads)))
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-6)
    # A gradient may be finite where the loss is not, and the other way round.
    bad = grads | {"embed": {"embedding": np.full((4, 3), np.nan, np.float32)}}
    for g, loss in ((grads, np.inf), (bad, 1.0)):
        new, metrics = step(state, g, loss, True)
        assert metrics["skipped"] == 1.0
        jax.tree.map(np.testing.assert_array_equal, new, state)
    new, _ = step(state, bad, 1.0, False)
    assert np.isnan(new.params["embed"]["embedding"]).all()
