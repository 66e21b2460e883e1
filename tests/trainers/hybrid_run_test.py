"""Models with gated-delta layers through the doors: fine-tuned, distilled, read again, refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab import train
from jaxlab.interop import hf
from jaxlab.runtime.checkpoint import Checkpointer
from jaxlab.runtime.mesh import make_mesh
from jaxlab.trainers import models
from jaxlab.trainers.exporting import MAX_DIFFERENCE, export
from jaxlab.trainers.settings import Model

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 0,
    "num_layers": 2,
    "num_heads": 2,
    "num_kv_heads": 1,
    "pattern": ["delta", "attention"],
    "delta": {"rule": "fg2_plus", "head_dim": 8},
    "max_position": 32,
}


@pytest.fixture(scope="module")
def tuned(config, tmp_path_factory):
    """The work directory of two steps of fine-tuning on the modular sum."""
    workdir = tmp_path_factory.mktemp("tuned")
    stage = config("aopd_modsum", "tiny")["stages"]["teacher"]
    stage["model"] = {"sizes": SIZES}
    stage["batch_size"] = 8
    train.train(stage, workdir)
    return workdir


def test_a_hybrid_distils_a_linear_model(config, tuned, tmp_path):
    stage = config("aopd_modsum", "tiny")["stages"]["aopd"]
    stage["teacher"] = {"path": str(tuned)}
    linear = {"pattern": ["delta"], "num_heads": 0, "num_kv_heads": 0, "scan_layers": True}
    stage["student"] = {"sizes": SIZES | linear | {"delta": {"rule": "kda", "head_dim": 8}}}
    stage["rollout"] |= {"prompts": 2, "samples": 2}
    train.train(stage, tmp_path)
    assert Checkpointer(tmp_path / "checkpoints").latest() == 2
    assert models.read_run(tmp_path).delta.rule == "kda"


def test_a_run_is_read_in_another_dtype_and_layout(tuned):
    with Checkpointer(tuned / "checkpoints") as checkpointer:
        stored = checkpointer.restore_params()
    spec = Model(path=str(tuned), sizes={"param_dtype": "bfloat16", "scan_layers": True})
    source = models.find(spec, "model", vocab_size=None, seed=0)
    params = source.load(make_mesh({"data": 1}), ((".*", ()),))
    expected = source.abstract_params()
    kinds = [jax.tree.map(lambda x: (x.dtype, x.shape), tree) for tree in (params, expected)]
    assert kinds[0] == kinds[1]
    mixer = params["layers"]["block_0"]["mixer"]
    assert mixer["query"]["kernel"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(
        mixer["decay"]["A_log"][0], stored["layer_0"]["mixer"]["decay"]["A_log"]
    )


def test_an_export_is_the_trained_model_and_can_be_built_upon(tuned, tmp_path):
    out = export(tuned, tmp_path / "out")
    with Checkpointer(tuned / "checkpoints") as checkpointer:
        trained = checkpointer.restore_params()
    config, exported = hf.load(out)
    assert config.delta.rule == "fg2_plus"
    jax.tree.map(np.testing.assert_array_equal, exported, trained)
    spec = Model(path=str(out), sizes={"param_dtype": "bfloat16", "scan_layers": True})
    source = models.find(spec, "model", vocab_size=None, seed=0)
    params = source.load(make_mesh({"data": 1}), ((".*", ()),))
    kinds = [
        jax.tree.map(lambda x: (x.dtype, x.shape), tree)
        for tree in (params, source.abstract_params())
    ]
    assert kinds[0] == kinds[1]


@pytest.mark.interop
def test_an_export_is_compared_with_pytorch(tuned, tmp_path):
    export(tuned, tmp_path / "out", check=True)
    report = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert report["passed"]
    assert 0 < report["max_abs_difference"] < MAX_DIFFERENCE
