"""The balance loss in a training step."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.config import ConfigError
from jaxlab.models import presets
from jaxlab.nn.routing import Balance
from jaxlab.trainers import routing

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


def test_rows_end_behind_their_last_token_that_counts():
    counts = jnp.array([[False, True, False, True, False], [False] * 5])
    expected = [[1, 1, 1, 1, 0], [0] * 5]
    np.testing.assert_array_equal(routing.behind_padding(counts), expected)
