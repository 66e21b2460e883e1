"""The balance loss in a training step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab import train
from jaxlab.config import ConfigError
from jaxlab.models import presets
from jaxlab.nn.routing import Balance
from jaxlab.trainers import distill, routing

FOUND = Balance(jnp.array(1.5), jnp.array(3.0), jnp.array(0.25))


def test_it_is_averaged_over_microbatches_and_reported():
    stats = {"entropy": jnp.ones((2, 3))}
    loss, more = routing.added(jnp.array(2.0), stats, FOUND, 0.1, 5)
    assert loss == pytest.approx(2.0 + 0.1 / 5 * 1.5)
    assert more.keys() == {"entropy", "router_balance", "router_load_max", "router_unused"}
    np.testing.assert_array_equal(more["router_load_max"], np.full((2, 3), 3.0))


def test_a_model_without_experts_is_left_as_it_is_or_refused():
    stats = {"entropy": jnp.ones((2, 3))}
    assert routing.added(jnp.array(2.0), stats, None, 0.0, 1) == (2.0, stats)
    routing.check(0.0, presets.decoder("tiny"))
    with pytest.raises(ConfigError, match=r"train.balance_loss: 0.1 balances experts"):
        routing.check(0.1, presets.decoder("tiny"))


def test_distillation_of_and_into_experts(config, tmp_path):
    """Two steps by the tiny study's config, the balance loss on; one layer each, from scratch."""
    stage = config("moe_modsum", "tiny")["stages"]["opd"]
    student = config("moe_modsum", "tiny")["stages"]["student"]["model"]
    student["sizes"] |= {"num_layers": 1, "first_dense": 0}
    moe = student["sizes"]["moe"]
    stage["student"] = student
    stage["teacher"] = student | {"sizes": student["sizes"] | {"moe": moe | {"shared_size": 0}}}
    run = distill.program(train.settings(stage), tmp_path)
    state = run.init()
    router = state.params["layer_0"]["mlp"]["router"]
    before = jax.tree.map(np.asarray, dict(router))
    for step in range(2):
        output = run.step(state, step)
        state = output.state
        metrics = jax.device_get(output.metrics)
        # Not the balance loss alone.
        assert abs(metrics["loss"] - 0.01 * metrics["router_balance"]) > 1e-3
        assert 0.9 < metrics["router_balance"] < 4
        assert metrics["grad_norm"] > 0
    after = state.params["layer_0"]["mlp"]["router"]
    assert np.abs(after["kernel"] - before["kernel"]).max() > 1e-4
    # Without gradient and without weight decay.
    np.testing.assert_array_equal(after["correction_bias"], before["correction_bias"])


def test_rows_end_behind_their_last_token_that_counts():
    counts = jnp.array([[False, True, False, True, False], [False] * 5])
    expected = [[1, 1, 1, 1, 0], [0] * 5]
    np.testing.assert_array_equal(routing.behind_padding(counts), expected)
