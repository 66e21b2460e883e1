"""Balanced training: what is refused before it begins; steps on four devices in a process."""

import dataclasses
import json
import pathlib

import jax
import pytest

from jaxlab import train
from jaxlab.balance import BudgetTuner, LatencyTable, measure
from jaxlab.balance.settings import Balance, Control
from jaxlab.config import ConfigError, build
from jaxlab.data import settings
from jaxlab.models.sizes import Sizes
from jaxlab.models.sparse import SparseMixer
from jaxlab.nn.moe import MoE
from jaxlab.nn.routing import Router
from jaxlab.rollouts.text import text_task
from jaxlab.runtime.checkpoint import CheckpointError
from jaxlab.runtime.mesh import make_mesh
from jaxlab.trainers import balanced, latencies, setup, sft
from jaxlab.trainers.optim import Optim

CASES = pathlib.Path(__file__).with_name("balanced_devices_cases.py")
SIZES = Sizes(
    vocab_size=7, hidden_size=6, intermediate_size=10, num_layers=2, num_heads=2, num_kv_heads=1,
    head_dim=4, max_position=32,
)  # fmt: skip
DECODER = SparseMixer(block_size=4, budget=2).apply(SIZES.decoder())
_LAYER = dataclasses.replace(DECODER.layers[0], mlp=MoE(4, Router(num_experts=2, top_k=1)))
EXPERTS = dataclasses.replace(DECODER, stacks=((2, (_LAYER,)),))
SETTINGS = Balance(widths=(16, 32), tuner=BudgetTuner(buckets=(1, 2, 4), base=2))


def _mesh():
    return make_mesh({"data": 1}, devices=jax.devices()[:1])


def _balanced(balance=SETTINGS, decoder=DECODER):
    recipe = balanced.Recipe(decoder, Optim(learning_rate=0.1), 2, False, 7)
    return balanced.Balanced(balance, recipe, _mesh(), ((".*", ()),))


def test_on_four_devices(forks):
    words = ("-q", "-p", "no:cacheprovider", "-n0", CASES)
    done = forks.run("pytest", *words, cwd=CASES.parents[2])
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.parametrize(
    ("changes", "decoder", "message"),
    [
        ({}, EXPERTS, "the model has experts, .* train it without balance"),
        ({}, SIZES.decoder(), "no block-sparse layer .* model.mixer.name=block_sparse"),
        ({"tuner": BudgetTuner(buckets=(1, 4), base=4)}, DECODER, "base is 4, .* budget 2"),
        ({"widths": (64,)}, DECODER, "rows of 64 tokens exceed the model's context of 32"),
        ({"table": "nowhere.json"}, DECODER, "balance.table: .*nowhere.json"),
        ({"control": Control(path="nowhere")}, DECODER, "balance.control.path: .*nowhere"),
    ],
)
def test_what_does_not_fit_is_refused(changes, decoder, message):
    with pytest.raises(ConfigError, match=message):
        _balanced(dataclasses.replace(SETTINGS, **changes), decoder)


def test_a_table_of_another_device_or_model_is_refused(tmp_path):
    own = {"device": measure.device(), "model": measure.describe(DECODER)}
    table = LatencyTable((8, 32), (1, 4), ((1.0, 2.0), (3.0, 9.0)), layers=2, other=0.5, **own)
    path = tmp_path / "table.json"
    table.save(path)
    balance = dataclasses.replace(SETTINGS, table=str(path))
    latency = latencies.of(balance, DECODER)
    assert (latency.id, latency.predict(8, 4)) == (table.id, 2 * 2.0 + 8 * 0.5)
    for name in own:
        dataclasses.replace(table, **{name: "another"}).save(path)
        with pytest.raises(ConfigError, match=f"table.json: .* for the {name} 'another'"):
            latencies.of(balance, DECODER)


def test_flops_by_hand():
    # Matrices of a layer: query and output 6 x 8 each, key and value 6 x 4 each, 3 of 6 x 10; the
    # unembedding is 7 x 6, and the table that is looked up counts nothing.
    products = 2 * (2 * 48 + 2 * 24 + 180) + 42
    found = latencies.formula(DECODER)
    assert found.token * latencies.RATE == 6 * products
    # Two layers of two heads of 4.
    assert found.pair * latencies.RATE == pytest.approx(12 * 2 * 2 * 4)
    assert found.route * latencies.RATE == pytest.approx(2 * 2 * 2 * 4)
    assert (found.block, found.dense) == (4, 0)
    half = SparseMixer(block_size=4, budget=2, pattern=("block_sparse", "attention"))
    mixed = latencies.formula(half.apply(SIZES.decoder()))
    assert mixed.dense == mixed.pair == found.pair / 2
    assert mixed.predict(8, 1) - mixed.predict(8, 1) == 0
    assert mixed.id != found.id
    tied = dataclasses.replace(DECODER, tie_embeddings=True, scan_layers=True)
    assert latencies.formula(tied).token == found.token


def test_a_control_has_the_mean_budget_of_the_run_it_is_compared_with(tmp_path):
    rows = [{"step": 1, "balance/control_budget": 3.0}, {"step": 1, "eval/loss": 1.0},
            {"step": 2, "balance/control_budget": 4.0}]  # fmt: skip
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert latencies.fixed_budget(Control(path=str(tmp_path))) == 3.5
    assert latencies.fixed_budget(Control(budget=2.25)) == 2.25
    for text, message in (("", "has no balance/control_budget"), ("{", "control.path: ")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            latencies.fixed_budget(Control(path=str(tmp_path)))


def test_what_is_remembered_belongs_to_a_table():
    run = _balanced()
    kept = run.host_state.dump()
    run.host_state.load(json.loads(json.dumps(kept)))
    assert kept["table"] == latencies.formula(DECODER).id
    with pytest.raises(CheckpointError, match="come from the latency table 'another'"):
        run.host_state.load(kept | {"table": "another"})
    with pytest.raises(CheckpointError, match="state is damaged"):
        run.host_state.load({"budgets": 3})


def test_reporting_changes_no_parameter():
    found = latencies.reporting(DECODER, (1, 2, 4))
    assert [layer.mixer.coverage_at for layer in found.layers] == [(1, 2, 4)] * 2
    assert balanced.abstract_params(found) == balanced.abstract_params(DECODER)


def _config(trainer, **changes):
    common = {"train": {"steps": 1}, "optim": {"learning_rate": 0.1}, "model": {"path": "x"}}
    data = {"lm": {"task": "needle"}, "sft": {"task": "modsum", "max_prompt": 16}}[trainer]
    return {"trainer": trainer, "data": data, **common, **changes}


@pytest.mark.parametrize(
    ("trainer", "changes", "message"),
    [
        ("lm", {"balance": {"width": (8,)}}, "balance.width is not a known key; .* 'widths'"),
        ("lm", {"balance": {}, "train": {"steps": 1, "microbatch": 4}}, "balance.microbatches"),
        ("sft", {"balance": {"widths": (64,)}, "max_length": 66}, "of 64 tokens is too short"),
        ("sft", {"balance": {"tuner": {"base": 3}}}, "base budget 3 is not among the buckets"),
        ("sft", {"balance": {"control": {}}}, "control: give either budget, or the path"),
    ],
)
def test_bad_configs_are_refused_before_anything_is_read(trainer, changes, message):
    with pytest.raises(ConfigError, match=message):
        train.check(_config(trainer, **changes), "run")


def test_examples_of_fine_tuning_have_their_own_lengths_and_cuts_are_counted():
    data = {"task": "chains", "max_prompt": 12}
    config = build(sft.Sft, _config("sft", batch_size=12, max_length=14, data=data))
    text = text_task(config.data, settings.tokenizer(config.data), config.max_length)
    rows, counts = sft._documents(config, text, 3)
    examples = setup.training_rows(text, 3, 12, config.seed)
    cut = 0
    for row, (example, prompt) in zip(rows, examples, strict=True):
        target = text.target(example)
        whole = [*prompt, *target][:14]
        cut += len(prompt) + len(target) > 14
        assert row.tokens.tolist() == whole[:-1]
        # The completion alone is learnt, from the prompt's last token on.
        begin = len(prompt) - 1
        assert row.mask.tolist() == [i >= begin for i in range(len(whole) - 1)]
        assert row.targets[begin:].tolist() == whole[begin + 1 :]
    assert counts == {"cut": cut}
    assert 0 < cut < 12
    assert len({len(row.tokens) for row in rows}) > 2
