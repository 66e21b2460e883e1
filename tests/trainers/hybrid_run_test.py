"""Models with gated-delta layers through the doors: fine-tuned, distilled, read again, refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab import config as config_lib
from jaxlab import train
from jaxlab.data.tasks.modsum import ModSum
from jaxlab.exporting import MAX_DIFFERENCE, export
from jaxlab.interop import hf, models
from jaxlab.interop.models import Model
from jaxlab.models.decoder import Decoder
from jaxlab.models.sizes import Sizes
from jaxlab.runtime.checkpoint import Checkpointer
from jaxlab.runtime.drawing import by_operations
from jaxlab.runtime.mesh import make_mesh

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


LINEAR = {"pattern": ["delta"], "num_heads": 0, "num_kv_heads": 0}


@pytest.fixture(scope="module")
def tuned(config, tmp_path_factory):
    """The work directory of two steps of fine-tuning on the modular sum."""
    workdir = tmp_path_factory.mktemp("tuned")
    stage = config("aopd_modsum", "tiny")["stages"]["teacher"]
    stage["model"] = {"sizes": SIZES}
    stage["batch_size"] = 8
    train.train(stage, workdir)
    return workdir


@pytest.mark.slow
def test_a_hybrid_distils_a_linear_model(config, tuned, tmp_path):
    stage = config("aopd_modsum", "tiny")["stages"]["aopd"]
    stage["teacher"] = {"path": str(tuned)}
    changes = {"scan_layers": True, "delta": {"rule": "kda", "head_dim": 8}}
    stage["student"] = {"sizes": SIZES | LINEAR | changes}
    train.train(stage, tmp_path)
    assert Checkpointer(tmp_path / "checkpoints").latest() == 2
    assert Sizes.of(models.read_run(tmp_path)).delta.rule == "kda"


def test_a_linear_model_of_fla_is_tuned_teaches_a_hybrid_and_goes_back(config, tuned, tmp_path):
    """From flash-linear-attention's layout, through fine-tuning and distillation, into it again."""
    stages = config("aopd_modsum", "tiny")["stages"]
    tokenizer = ModSum(**stages["teacher"]["data"]["options"]).tokenizer()
    changes = {"delta": {"rule": "gdn", "head_dim": 8, "num_heads": 2}, "intermediate_size": 24}
    sizes = SIZES | LINEAR | changes | {"vocab_size": tokenizer.vocab_size, "num_layers": 1}
    decoder = config_lib.build(Sizes, sizes).decoder()
    init = by_operations(Decoder(decoder).init)
    params = init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    given = {"family": "gated_deltanet", "eos_token_id": tokenizer.eos_id}
    source = hf.save(tmp_path / "source", decoder, params, **given)
    tokenizer.save(source)

    stage = stages["teacher"] | {"model": {"path": str(source)}, "batch_size": 8}
    train.train(stage, tmp_path / "tuned")
    out = export(tmp_path / "tuned", tmp_path / "out")
    data = [json.loads((path / "config.json").read_text()) for path in (source, out)]
    assert data[0] == data[1]
    assert data[1]["model_type"] == "gated_deltanet"
    assert (out / "tokenizer.json").exists()
    trained = hf.load(out)[1]
    moved = jax.tree.map(
        lambda a, b: float(np.abs(a - b).max()), *map(jax.device_get, (trained, params))
    )
    assert min(jax.tree.leaves(moved)) > 0

    own = export(tmp_path / "tuned", tmp_path / "own", family="fg2_gdn")
    jax.tree.map(np.testing.assert_array_equal, hf.load(own)[1], trained)
    assert json.loads((own / "config.json").read_text())["model_type"] == "fg2_gdn"
    with pytest.raises(hf.CheckpointFormatError, match="kda has no such model"):
        export(tmp_path / "tuned", tmp_path / "no", family="kda")

    stage = stages["gkd"] | {"teacher": {"path": str(out)}, "student": {"path": str(tuned)}}
    train.train(stage, tmp_path / "distilled")
    assert Sizes.of(models.read_run(tmp_path / "distilled")).pattern == ("delta", "attention")
    samples = (tmp_path / "distilled" / "samples.jsonl").read_text().splitlines()
    assert {json.loads(line)["step"] for line in samples} == {0, 1, 2}
    rows = (tmp_path / "distilled" / "metrics.jsonl").read_text().splitlines()
    # What was sampled is scored alike by the sampler and by the trainer.
    errors = [json.loads(row).get("eval/sampler_logp_error") for row in rows]
    assert 0 < max(error for error in errors if error is not None) < 1e-5
    student = hf.load(export(tmp_path / "distilled", tmp_path / "student"))[0]
    assert Sizes.of(student).delta.rule == "fg2_plus"


def test_a_run_is_read_in_another_dtype_and_layout(tuned):
    with Checkpointer(tuned / "checkpoints") as checkpointer:
        stored = checkpointer.restore_params()
    spec = Model(path=str(tuned), sizes={"param_dtype": "bfloat16", "scan_layers": True})
    source = models.find(spec, "model", vocab_size=None, seed=0)
    params = source.load(make_mesh({"data": 1}), ((".*", ()),))
    expected = source.abstract_params()
    kinds = [jax.tree.map(lambda x: (x.dtype, x.shape), tree) for tree in (params, expected)]
    assert kinds[0] == kinds[1]
    mixer = params["stack_0"]["layer_0"]["mixer"]
    assert mixer["query"]["kernel"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(
        mixer["decay"]["A_log"][0], stored["layer_0"]["mixer"]["decay"]["A_log"]
    )


def test_an_export_is_the_trained_model_and_can_be_built_upon(tuned, tmp_path):
    out = export(tuned, tmp_path / "out")
    with Checkpointer(tuned / "checkpoints") as checkpointer:
        trained = checkpointer.restore_params()
    config, exported = hf.load(out)
    assert Sizes.of(config).delta.rule == "fg2_plus"
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
