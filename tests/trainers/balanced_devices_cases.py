"""Balanced steps on four devices; balanced_test.py runs this file in its own process."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlab.balance import BudgetTuner
from jaxlab.balance.settings import Balance
from jaxlab.data.packing import line
from jaxlab.data.tasks.tokens import Row
from jaxlab.models.decoder import Decoder
from jaxlab.models.sizes import Sizes
from jaxlab.models.sparse import SparseMixer
from jaxlab.runtime.checkpoint import Checkpointer
from jaxlab.runtime.drawing import by_operations
from jaxlab.runtime.mesh import make_mesh
from jaxlab.trainers import balanced, loop
from jaxlab.trainers.loop import Evaluation
from jaxlab.trainers.optim import Optim
from jaxlab.trainers.settings import Train

jax.config.update("jax_num_cpu_devices", 4)

BLOCK, WIDTH, VOCABULARY = 4, 64, 11
SIZES = Sizes(
    vocab_size=VOCABULARY, hidden_size=8, intermediate_size=0, num_layers=1, num_heads=2,
    num_kv_heads=1, head_dim=4, max_position=WIDTH,
)  # fmt: skip
DECODER = SparseMixer(block_size=BLOCK, budget=2).apply(SIZES.decoder())
RECIPE = balanced.Recipe(DECODER, Optim(learning_rate=0.05), 6, False, VOCABULARY)
SETTINGS = Balance(widths=(WIDTH,), tuner=BudgetTuner(buckets=(1, 2, 3, 5, 8), base=2))
RULES = ((".*", ()),)


def _run(**changes):
    settings = dataclasses.replace(SETTINGS, **changes)
    return balanced.Balanced(settings, RECIPE, make_mesh({"data": 4}), RULES)


@pytest.fixture(scope="module")
def params():
    init = by_operations(Decoder(DECODER).init)
    drawn = init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    # Large enough that routing is not a matter of rounding.
    return jax.tree.map(lambda x: 2 * x, drawn["params"])


def _documents(step):
    rng = np.random.default_rng(step)
    lengths = np.exp(rng.uniform(np.log(3), np.log(WIDTH), 10)).astype(int)
    return [Row(*rng.integers(VOCABULARY, size=(2, n)), rng.uniform(size=n) < 0.7) for n in lengths]


def _gradient(run, params, rows):
    """Loss and summed gradient of a step, and its metrics."""
    kept = []
    finish = run.compiled.finish

    def keeping(current, sums, targets):
        kept.append(jax.tree.map(lambda x: np.asarray(x, np.float64).sum(0), sums))
        return finish(current, sums, targets)

    run.compiled = run.compiled._replace(finish=keeping)
    output = run.step(run.compiled.create(params), 0, rows)
    return kept[0][1], kept[0][0], output.host_metrics() | jax.device_get(output.metrics)


def _same(grads, others):
    scale = optax.tree.norm(others)
    return max(jax.tree.leaves(jax.tree.map(lambda a, b: abs(a - b).max(), grads, others))) / scale


def test_neither_packing_nor_ranks_change_loss_and_gradient(params):
    """To 1e-6, and as documents that stand alone have them by the op's definition."""
    rows = _documents(0)
    found = [
        _gradient(_run(tune=False, **changes), params, rows)
        for changes in (
            {},
            {"microbatches": 3},
            {"batching": "in_batch"},
            {"microbatches": 2, "method": "first_fit", "cost": "length"},
        )
    ]
    assert len({metrics["balance/microbatches"] for *_, metrics in found}) > 1
    targets = sum(row.mask.sum() for row in rows)

    mixer = dataclasses.replace(DECODER.layers[0].mixer, implementation="reference")
    layer = dataclasses.replace(DECODER.layers[0], mixer=mixer)
    plain = Decoder(dataclasses.replace(DECODER, stacks=((1, (layer,)),)))
    alone = jax.tree.map(lambda *x: np.stack(x), *(line([row], WIDTH) for row in rows))

    @jax.jit
    @jax.value_and_grad
    def reference(params):
        logits = plain.apply({"params": params}, alone.tokens, None, alone.segment_ids)
        logp = jnp.take_along_axis(jax.nn.log_softmax(logits), alone.targets[..., None], -1)
        return -jnp.sum(jnp.where(alone.mask, logp[..., 0], 0.0)) / targets

    loss, grads = reference(params)
    for each, own, metrics in found:
        assert each == pytest.approx(float(loss), rel=1e-6)
        assert each == pytest.approx(found[0][0], rel=1e-6)
        assert _same(own, found[0][1]) < 1e-6
        assert _same(own, grads) < 1e-5
        assert metrics["loss"] == pytest.approx(metrics["nll"], rel=1e-6)
        assert metrics["tokens"] == targets
    # One program, whatever the packing.
    assert found[-1][2]["balance/programs"] == 1


def _blocks(length, budget):
    return sum(min(t // BLOCK + 1, budget) for t in range(length))


def test_ranks_count_what_they_compute(params):
    """Every query of two heads has so many blocks, by the budget of its microbatch."""
    run = _run(microbatches=2)
    rows = _documents(1)
    state = run.compiled.create(params)
    for step in range(2):
        output = run.step(state, step, rows)
        metrics, plan, state = output.host_metrics(), run._last._plan, output.state
        by_rank = [
            sum(2 * _blocks(len(rows[i].tokens), plan.budgets[r, m])
                for m, part in enumerate(rank) for i in part)
            for r, rank in enumerate(plan.bins)
        ]  # fmt: skip
        assert metrics["balance/blocks"] == sum(by_rank)
        assert metrics["balance/counted"] == pytest.approx(max(by_rank) / np.mean(by_rank))
        assert len(set(plan.budgets.flat)) > 1
        assert 0 < metrics["balance/coverage"] < 1
    assert run.compiled.widths == [WIDTH]
    # Documents within one block are covered whole at any budget.
    short = [Row(*np.ones((2, 3), int), np.ones(3, bool))] * 8
    assert run.step(state, 2, short).host_metrics()["balance/coverage"] == pytest.approx(1)


def test_coverage_belongs_to_its_microbatch(params):
    """Each rank has a document of 60 tokens, then one of 3, which any budget covers."""
    rng = np.random.default_rng(3)
    long, short = (
        [Row(*rng.integers(VOCABULARY, size=(2, n)), np.ones(n, bool)) for _ in range(4)]
        for n in (60, 3)
    )
    *_, alone = _gradient(_run(tune=False), params, long)
    *_, both = _gradient(_run(tune=False, microbatches=2), params, [*short, *long])
    assert both["balance/microbatches"] == 2
    assert alone["balance/base_coverage"] < 0.9
    expected = (60 * alone["balance/base_coverage"] + 3) / 63
    assert both["balance/base_coverage"] == pytest.approx(expected, rel=1e-6)


def test_ranks_without_documents_and_steps_without_targets(params):
    run = _run()
    rows = _documents(2)[:2]
    loss, grads, metrics = _gradient(run, params, rows)
    again, others, _ = _gradient(_run(), params, rows[::-1])
    assert loss == pytest.approx(again, rel=1e-6)
    assert _same(grads, others) < 1e-6
    assert np.isfinite(list(metrics.values())).all()
    for nothing in ([], [Row(*np.ones((2, 5), int), np.zeros(5, bool))]):
        loss, grads, metrics = _gradient(_run(), params, nothing)
        assert loss == 0
        assert optax.tree.norm(grads) == 0
        assert metrics["tokens"] == 0


def _train(workdir, params, stop_after=None):
    run = _run(microbatches=2)
    planned = []
    step = run.step

    def watched(state, index, rows):
        output = step(state, index, rows)
        planned.append((index, run._last._plan.budgets.tolist()))
        return output

    run.step = watched
    program = balanced.program(
        run, lambda: params, lambda index: (_documents(index), {"left_out": 3}),
        lambda state, index: Evaluation({"eval/none": 0.0}),
    )  # fmt: skip
    train = Train(6, log_every=1, eval_every=3, checkpoint_every=4, stop_after=stop_after)
    loop.run(program, train, workdir)
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    times = ("step_seconds", "tokens_per_second")
    rows = [{k: v for k, v in json.loads(x).items() if k not in times} for x in lines]
    return planned, rows


def test_a_resumed_run_chooses_the_same_budgets(params, tmp_path):
    whole, rows = _train(tmp_path / "whole", params)
    first, _ = _train(tmp_path / "parts", params, stop_after=3)
    rest, again = _train(tmp_path / "parts", params)
    assert [index for index, _ in first + rest] == list(range(6))
    assert first + rest == whole
    assert len({str(budgets) for _, budgets in whole}) > 3
    assert rows == again
    assert rows[1]["left_out"] == 3
    ends = [Checkpointer(tmp_path / name / "checkpoints").restore_params(6)
            for name in ("whole", "parts")]  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, *ends)
