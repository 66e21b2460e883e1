"""Next-token runs: what they learn, what they leave, and that they resume bit for bit."""

import json
import pathlib

import jax
import numpy as np
import pytest

from jaxlab import train
from jaxlab.config import ConfigError
from jaxlab.exporting import export
from jaxlab.runtime.checkpoint import Checkpointer
from jaxlab.runtime.drawing import by_operations

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
TIMES = ("step_seconds", "tokens_per_second", "model_flops_per_second")


def _config(**changes):
    """Parity: a run of a second."""
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_layers": 1,
        "num_heads": 2,
        "num_kv_heads": 2,
        "max_position": 16,
    }
    config = {
        "trainer": "lm",
        "seed": 3,
        "model": {"sizes": sizes},
        "data": {"task": "state_tracking", "options": {"group": "z3", "length": 6}},
        "batch_size": 8,
        "train": {"steps": 6, "log_every": 1, "eval_every": 3, "checkpoint_every": 2},
        "optim": {"learning_rate": 1e-2},
        "eval": {"examples": 6, "batch": 4, "settings": ({"length": 12},)},
    }
    return config | changes


def _text(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [f"the {n}th line, of {n} words\n" * (1 + n % 3) for n in range(40)]
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    data = {
        "task": "text",
        "options": {"train": str(path), "tokenizer": "char", "length": 6},
        "mixture": ({"options": {"length": 6}}, {"options": {"length": 12, "documents": True}}),
    }
    return _config(data=data)


def _rows(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(x).items() if k not in TIMES} for x in lines]


def _params(workdir, step=6):
    return Checkpointer(workdir / "checkpoints").restore_params(step)


def _check_same(workdir, reference):
    jax.tree.map(np.testing.assert_array_equal, _params(workdir), _params(reference))
    assert _rows(workdir) == _rows(reference)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("reference")
    train.train(_config(), workdir)
    return workdir


def test_rows(reference):
    rows = _rows(reference)
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 7))
    assert {"loss", "nll", "accuracy", "student_entropy", "grad_norm", "learning_rate"} < set(
        next(row for row in rows if "loss" in row)
    )
    evaluated = [row for row in rows if "eval/loss" in row]
    assert [row["step"] for row in evaluated] == [0, 3, 6]
    assert evaluated[0].keys() - {"step"} == {
        "eval/accuracy",
        "eval/loss",
        "eval/sequence_accuracy",
        "eval/entropy",
        "eval/accuracy@length=12",
        "eval/loss@length=12",
        "eval/sequence_accuracy@length=12",
    }
    # A model of random params knows about as much as one that says nothing: ln 3.
    assert evaluated[0]["eval/loss"] == pytest.approx(np.log(3), abs=0.5)


def test_the_first_step_has_the_loss_of_a_plain_forward(reference, tmp_path):
    """The batch that step 0 sees, through a dense softmax in float64."""
    from jaxlab.data.index import example_ids
    from jaxlab.data.tasks.state_tracking import StateTracking
    from jaxlab.data.tasks.tokens import Generated
    from jaxlab.models import flops
    from jaxlab.models.decoder import Decoder
    from jaxlab.models.sizes import Sizes

    config = _config()
    model = Sizes(vocab_size=3, **config["model"]["sizes"]).decoder()
    init = by_operations(Decoder(model).init)
    params = init(jax.random.key(3), np.zeros((1, 1), np.int32))["params"]
    source = Generated(StateTracking("z3", length=6))
    batch = source.batch(example_ids(0, 8, 2**40, 3), "train")
    apply = jax.jit(Decoder(model).apply)
    logits = np.asarray(apply({"params": params}, batch.tokens), np.float64)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nll = -np.take_along_axis(logp, batch.targets[..., None], -1).mean()
    assert _rows(reference)[1]["loss"] == pytest.approx(nll, rel=1e-5)
    written = [json.loads(x) for x in (reference / "metrics.jsonl").read_text().splitlines()]
    rates = written[1]["model_flops_per_second"], written[1]["tokens_per_second"]
    each = 3 * flops.forward(model, params, 6)
    assert rates[0] / rates[1] == pytest.approx(each)


def test_stopped_and_resumed_it_ends_bit_for_bit_the_same(reference, tmp_path):
    for stop in (3, None):
        config = _config()
        config["train"] = config["train"] | {"stop_after": stop}
        train.train(config, tmp_path)
    _check_same(tmp_path, reference)


def test_a_text_run_resumes_too(tmp_path):
    """With rows of a stream and longer ones of packed documents, of which each step draws one."""
    config = _text(tmp_path)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train.train(config, whole)
    for stop in (3, None):
        train.train(config | {"train": config["train"] | {"stop_after": stop}}, parts)
    _check_same(parts, whole)
    last = [row for row in _rows(whole) if "eval/loss" in row][-1]
    assert last["eval/perplexity"] == pytest.approx(np.exp(last["eval/loss"]))
    assert {"eval/bits_per_byte", "eval/perplexity@length=12"} < last.keys()
    # The tokenizer goes with the model.
    assert (whole / "model" / "tokenizer.json").exists()


def test_microbatches_give_the_gradient_of_the_batch(reference, tmp_path):
    """Of targets that are spread unevenly; up to the order of sums."""
    stacks = {"data": {"task": "stacks", "options": {"length": 12}}, "eval": {"examples": 4}}
    for name, microbatch in (("whole", None), ("parts", 2)):
        config = _config(**stacks)
        config["train"] = config["train"] | {"microbatch": microbatch, "steps": 2}
        train.train(config, tmp_path / name)
    for row, other in zip(_rows(tmp_path / "whole"), _rows(tmp_path / "parts"), strict=True):
        assert row == pytest.approx(other, rel=1e-4)


def test_it_learns_to_look_back(tmp_path):
    """The answer stands one and three places back; a guess has ln 4 = 1.4."""
    config = _config(
        data={"task": "palindrome", "options": {"vocab_size": 5, "length": 4}},
        eval={"examples": 64},
        batch_size=64,
        train={"steps": 250, "eval_every": 250, "checkpoint_every": 250},
    )
    train.train(config, tmp_path)
    first, last = [row for row in _rows(tmp_path) if "eval/loss" in row]
    assert first["eval/loss"] > 1
    assert last["eval/loss"] < 0.05
    assert last["eval/sequence_accuracy"] == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"train": {"steps": 1, "microbatch": 3}}, "microbatch: 3 does not divide a batch of 8"),
        ({"eval": {"settings": ({"lenth": 3},)}}, r"eval.settings\[0\].lenth .*did you mean"),
        ({"eval": {"exampels": 3}}, "eval.exampels is not a known key"),
    ],
)
def test_bad_configs_are_refused_before_the_first_stage(changes, message):
    with pytest.raises(ConfigError, match=message):
        train.check(_config(**changes), "run")


def test_rows_beyond_the_context_are_refused(tmp_path):
    config = _config(eval={"settings": ({"length": 17},)})
    with pytest.raises(SystemExit) as leaving:
        train.train(config, tmp_path)
    assert leaving.value.code == 2


def test_a_model_that_is_too_small_for_the_words_is_refused(tmp_path, capsys):
    config = _config()
    config["model"]["sizes"]["vocab_size"] = 2
    with pytest.raises(SystemExit):
        train.train(config, tmp_path)
    assert "vocabulary of 2" in capsys.readouterr().err


def test_a_model_without_words_is_exported_without_a_tokenizer(reference, tmp_path):
    out = export(reference, tmp_path / "hf")
    assert {path.name for path in out.iterdir()} >= {"config.json", "model.safetensors"}
    assert not (out / "tokenizer.json").exists()


def test_each_device_has_rows_of_its_own_in_the_kernels(tmp_path, forks):
    """Which XLA cannot divide. One token is what parameters are drawn with."""
    process = forks.run(HERE / "delta_devices_program.py", tmp_path, cwd=ROOT)
    assert process.returncode == 0, process.stderr[-4000:]
    assert process.stdout.splitlines()[-1] == "[(1, ()), (16, ('data',))]"
