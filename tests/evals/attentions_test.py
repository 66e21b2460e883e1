"""One model read through several caches, against its own forward pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.data.tasks.needle import Needle
from jaxlab.data.tasks.tokens import Generated
from jaxlab.evals.attentions import compare
from jaxlab.models.decoder import Decoder
from jaxlab.models.sizes import Sizes
from jaxlab.sampling.caches import TwoLevelAttention

SOURCE = Generated(Needle(length=20, num_keys=4, num_values=4, num_noise=4), num_train=1)
SMALL = {"block": 4, "channels": 4, "min_len": 0, "recent_blocks": 1}
ATTENTIONS = {
    "full": {"8": TwoLevelAttention(**SMALL, k_blocks=9, k_tokens=99)},
    "window": {"8": TwoLevelAttention(**SMALL, k_blocks=0, k_tokens=99)},
    "stale": {"8": TwoLevelAttention(**SMALL, k_blocks=3, k_tokens=8, stale=True)},
}


@pytest.fixture(scope="module")
def model():
    config = Sizes(
        vocab_size=13, hidden_size=16, intermediate_size=0, num_layers=1, num_heads=2,
        num_kv_heads=1, max_position=32,
    ).decoder()  # fmt: skip
    decoder = Decoder(config)
    params = jax.jit(decoder.init)(jax.random.key(3), jnp.zeros((1, 1), jnp.int32))["params"]
    return decoder, params | {"embed": jax.tree.map(lambda x: 4 * x, params["embed"])}


def test_full_attention_is_the_forward_pass_and_a_window_sees_less(model):
    decoder, params = model
    found = compare(decoder, params, SOURCE, ATTENTIONS, rows=8, batch=4, decoded=2)
    rows = SOURCE.batch(np.arange(8), "test")
    logits = jax.jit(decoder.apply)({"params": params}, jnp.asarray(rows.tokens))
    right = np.asarray(logits[:, -1]).argmax(-1) == rows.targets[:, -1]
    assert found["accuracy@attention=full,budget=8"] == right.mean()
    assert found["mass@attention=full,budget=8"] == pytest.approx(1)
    assert 0.1 < found["mass@attention=window,budget=8"] < 0.9
    assert 0.1 < found["mass@attention=stale,budget=8"] < 1
    # Keys and values of 8 numbers each, in float32: 19 and 20 tokens; then those of two blocks, of
    # which the last holds 3 and 4 tokens (16 to 18 and 16 to 19).
    assert found["kilobytes@attention=full,budget=8"] == pytest.approx(19.5 * 64 / 1024)
    assert found["kilobytes@attention=window,budget=8"] > 7.5 * 64 / 1024
    assert found["milliseconds@attention=stale,budget=8"] > 0


def test_rows_must_ask_at_their_end(model):
    decoder, params = model

    class Early:
        def batch(self, ids, split):
            rows = SOURCE.batch(ids, split)
            return rows._replace(mask=np.roll(rows.mask, 1, axis=1))

    with pytest.raises(ValueError, match="on the last token of a row, which must count"):
        compare(decoder, params, Early(), ATTENTIONS, rows=4, batch=4)
