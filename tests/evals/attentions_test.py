"""One model read through several caches, against its own forward pass."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.data.tasks.needle import Needle
from jaxlab.data.tasks.tokens import Generated
from jaxlab.evals.attentions import compare
from jaxlab.evals.tokens import TokenEval
from jaxlab.models.decoder import Decoder
from jaxlab.models.sizes import Sizes
from jaxlab.models.stacking import unscan
from jaxlab.runtime.drawing import by_operations
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
    params = by_operations(decoder.init)(jax.random.key(3), jnp.zeros((1, 1), jnp.int32))["params"]
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

    class Changed:
        def __init__(self, change):
            self.change, self.num_examples = change, SOURCE.num_examples

        def batch(self, ids, split):
            rows = SOURCE.batch(ids, split)
            return rows._replace(**self.change(rows))

    early = Changed(lambda rows: {"mask": np.roll(rows.mask, 1, axis=1)})
    with pytest.raises(ValueError, match="on the last token of a row, which must count"):
        compare(decoder, params, early, ATTENTIONS, rows=4, batch=4)
    packed = Changed(lambda rows: {"segment_ids": np.ones_like(rows.tokens)})
    with pytest.raises(ValueError, match="on rows of one document each"):
        compare(decoder, params, packed, ATTENTIONS, rows=4, batch=4)


def test_every_row_counts_once_whatever_the_batch(model):
    decoder, params = model
    few = dataclasses.replace(SOURCE, num_test=5)
    chosen = {"stale": ATTENTIONS["stale"]}
    found = [
        compare(decoder, params, source, chosen, rows=rows, batch=batch, decoded=2)
        for source, rows, batch in ((SOURCE, 5, 5), (few, 8, 4))
    ]
    times = [scores.pop("milliseconds@attention=stale,budget=8") for scores in found]
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert min(times) > 0


def test_stacked_layers_are_measured_as_those_apart():
    sizes = Sizes(
        vocab_size=13, hidden_size=16, intermediate_size=0, num_layers=2, num_heads=2,
        num_kv_heads=1, max_position=32,
    )  # fmt: skip
    stacked = dataclasses.replace(sizes, scan_layers=True).decoder()
    init = by_operations(Decoder(stacked).init)
    params = init(jax.random.key(3), jnp.zeros((1, 1), jnp.int32))["params"]
    chosen = {"stale": ATTENTIONS["stale"]}
    found = [
        compare(Decoder(config), weights, SOURCE, chosen, rows=2, batch=2, decoded=2)
        for config, weights in ((stacked, params), unscan(stacked, params))
    ]
    for scores in found:
        scores.pop("milliseconds@attention=stale,budget=8")
    assert found[1] == pytest.approx(found[0], rel=1e-5)


def test_calibrated_channels_are_refused():
    calibrated = dataclasses.replace(ATTENTIONS["full"]["8"], calibration="checkpoint")
    with pytest.raises(ValueError, match=r"attentions\.full: calibration is 'checkpoint'"):
        TokenEval(attentions={"full": {"8": calibrated}})
