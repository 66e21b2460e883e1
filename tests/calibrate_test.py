"""Channels of the token index: measured, kept beside a checkpoint, put into caches."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab import calibrate, evaluate
from jaxlab.interop import channels
from jaxlab.json_file import CheckpointFormatError
from jaxlab.models.decoder import Decoder, DecoderConfig, empty_caches
from jaxlab.models.sizes import Sizes
from jaxlab.nn.layers import Layer
from jaxlab.nn.mla import MLA
from jaxlab.runtime.drawing import by_operations
from jaxlab.sampling import calibration
from jaxlab.sampling.caches import TwoLevelAttention
from jaxlab.sampling.caches.channels import check_channels, with_channels
from tests.evals import random_model

SIZES = Sizes(
    vocab_size=11, hidden_size=12, intermediate_size=8, num_layers=2, num_heads=4, num_kv_heads=2,
    head_dim=6, rope=None, max_position=32,
)  # fmt: skip
TOKENS = np.random.default_rng(0).integers(0, 11, (2, 7))


@pytest.fixture(scope="module")
def params():
    init = by_operations(Decoder(SIZES.decoder()).init)
    return init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]


def test_channels_of_the_first_layer_by_plain_arithmetic(params):
    found = calibration.measure(Decoder(SIZES.decoder()), params, TOKENS)
    assert [layer.shape for layer in found] == [(2, 6)] * 2
    layer = jax.tree.map(np.asarray, params["layer_0"])
    x = np.asarray(params["embed"]["embedding"])[TOKENS]
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * layer["mixer_norm"]["scale"]
    query = (x @ layer["mixer"]["query"]["kernel"]).reshape(14, 2, 2, 6)
    key = (x @ layer["mixer"]["key"]["kernel"]).reshape(14, 2, 1, 6)
    weights = np.abs(query * key).sum(axis=(0, 2))
    np.testing.assert_array_equal(found[0], np.argsort(-weights, axis=1))


def test_stacked_layers_have_each_their_own():
    config = dataclasses.replace(SIZES, scan_layers=True).decoder()
    given = tuple(np.stack([np.roll(np.arange(6), n + h) for h in range(2)]) for n in range(2))
    kind = TwoLevelAttention(channels=3).kind(8, None, calibrated=True)

    def held(config):
        chosen = check_channels(config, given, 3)
        return with_channels(config, empty_caches(config, 5, kind), chosen)

    ((stacked,),), apart = held(config), held(SIZES.decoder())
    assert stacked.index.channels.shape == (2, 5, 2, 3)
    for n, layer in enumerate(apart):
        np.testing.assert_array_equal(layer.index.channels[4], given[n][:, :3])
        np.testing.assert_array_equal(stacked.index.channels[n], layer.index.channels)


def test_a_latent_layer_has_one_head_of_channels():
    mixer = MLA(num_heads=2, latent_dim=6, nope_dim=4, rope_dim=2, value_dim=3)
    config = DecoderConfig(vocab_size=11, hidden_size=8, stacks=((1, (Layer(mixer),)),))
    model = Decoder(config)
    params = by_operations(model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    (found,) = calibration.measure(model, params, TOKENS)
    assert np.sort(found).tolist() == [list(range(8))]
    check_channels(config, (found,), 3)
    with pytest.raises(ValueError, match=r"have shape \(2, 8\); expected \[1, from 3 to 8\]"):
        check_channels(config, (np.repeat(found, 2, axis=0),), 3)


def test_channels_of_another_model_are_refused(params):
    config, good = SIZES.decoder(), np.zeros((2, 6), np.int32)
    for found, message in (
        (None, "the model comes without channels: make them with python -m jaxlab.calibrate"),
        ((good,), "channels are of 1 layers, the model has 2: a calibration of another model"),
        ((good, good[:1]), r"channels of layer 1 have shape \(1, 6\); expected \[2, from 4 to 6\]"),
        ((good, good[:, :3]), r"channels of layer 1 have shape \(2, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            check_channels(config, found, 4)
    made = channels.Calibration((good,) * 2, channels.fingerprint(params), 14, "")
    made.check(params, "here")
    stored = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    made.check(stored, "here")  # the same weights at another precision
    trained = params | {"final_norm": {"scale": params["final_norm"]["scale"] * 1.01}}
    with pytest.raises(ValueError, match=r"here/channels.json was made with another model's"):
        made.check(trained, "here")
    with pytest.raises(ValueError, match="from scratch has no calibrated channels"):
        channels.read(None)


def test_from_a_text_to_a_file(tmp_path):
    model, text = random_model.save(tmp_path / "model"), tmp_path / "text.txt"
    with pytest.raises(ValueError, match=r"model has no channels.json; make it with: python -m"):
        channels.read(model)
    text.write_text("a b c 1 2 3 é " * 30)
    path = calibrate.calibrate(str(model), text, length=16, rows=2)
    found = channels.read(model)
    assert (path, found.tokens) == (model / "channels.json", 32)
    assert [np.sort(layer).tolist() for layer in found.channels] == [[list(range(8))]]
    text.write_bytes(b"a b \xff c")
    for changes, message in (
        ({"text": text}, "is not UTF-8: invalid start byte at byte 4"),
        ({"length": 300}, "--length=300 exceeds the model's context of 256"),
    ):
        with pytest.raises(ValueError, match=message):
            calibrate.calibrate(**({"model": str(model), "text": tmp_path / "text.txt"} | changes))
    held = json.loads(path.read_text())
    for changes, message in (
        ({"channels": [[[0, 0, 1]]]}, r"channels\[0\] is no list of key heads"),
        ({"channels": [[[0, 1], [0]]]}, r"channels\[0\] is no list of key heads"),
        ({"channels": "all"}, "channels is no list of layers"),
        ({"tokens": -1}, "tokens"),
    ):
        path.write_text(json.dumps(held | changes))
        with pytest.raises(CheckpointFormatError, match=message):
            channels.read(model)
    path.write_text(json.dumps({"channels": []}))
    with pytest.raises(CheckpointFormatError, match="no model"):
        channels.read(model)


@pytest.mark.slow
def test_an_evaluation_takes_the_channels_beside_its_model(tmp_path, monkeypatch):
    model, text = random_model.save(tmp_path / "model"), tmp_path / "text.txt"
    text.write_text("a b c 1 2 3 " * 30)
    calibrate.calibrate(str(model), text, rows=2)
    config = {
        "model": {"path": str(model)},
        "data": {"task": "modsum"},
        "eval": {
            "prompts": 1, "samples": 2, "max_new_tokens": 4, "batch": 1,
            "attention": {"name": "offload", "block": 4, "k_blocks": 3, "k_tokens": 6,
                          "channels": 4, "calibration": "checkpoint"},
        },
    }  # fmt: skip
    seen = []
    monkeypatch.setattr(channels.Calibration, "check", lambda self, *_: seen.append(self.model))
    evaluate._task(evaluate.build(config), tmp_path / "run")
    assert seen == [channels.read(model).model]
    (line,) = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    scores = json.loads(line)
    assert 0 <= scores["eval/offload/hit_rate"] <= 1
    assert scores["eval/offload/deferred"] == 0
    assert scores["eval/offload/resident_bytes"] > 0
