"""Parts of a batch give what the batch gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab import config as config_lib
from jaxlab.data.tasks.modsum import ModSum
from jaxlab.losses import chunked_vocab
from jaxlab.losses.aggregate import AGGREGATIONS, count, per_token, summarise
from jaxlab.models import flops
from jaxlab.models.sizes import Sizes
from jaxlab.trainers import distill, microbatch, sft
from jaxlab.trainers.settings import Train

ROWS = 12


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def rows(rng, *shape):
    return rng.normal(size=(ROWS, *shape)).astype(np.float32)


def test_over_parts_keeps_rows_in_their_order(rng):
    cases = [(1, 1), (3, 1), (12, 1), (3, 2), (2, 3), (3, 4)]

    @jax.jit
    def in_parts(*batch):
        return [
            microbatch.over_parts(lambda part: (2 * part[0], part[1] ** 2), batch, parts, group)
            for parts, group in cases
        ]

    x, y = rows(rng, 3), rows(rng)
    for case, got in zip(cases, in_parts(x, y), strict=True):
        np.testing.assert_array_equal(got[0], 2 * x, err_msg=str(case))
        np.testing.assert_array_equal(got[1], y**2, err_msg=str(case))


def test_groups_stay_together():
    def of_first(part):
        groups = part.reshape(-1, 3)
        return jnp.repeat(groups[:, 0], 3)

    got = jax.jit(lambda x: microbatch.over_parts(of_first, x, 2, 3))(np.arange(ROWS))
    np.testing.assert_array_equal(got, [0, 0, 0, 3, 3, 3, 6, 6, 6, 9, 9, 9])


@pytest.mark.parametrize("agg", AGGREGATIONS)
def test_loss_gradient_and_metrics_are_those_of_the_whole_batch(rng, agg):
    # Small logits: of large ones some token's loss is a small difference, and its rounding, which
    # is that of the logits, no small part of it.
    params = {
        "kernel": rng.normal(size=(4, 5)).astype(np.float32),
        "table": (0.1 * rng.normal(size=(7, 5))).astype(np.float32),
    }
    tokens = rng.integers(7, size=(ROWS, 6), dtype=np.int32)
    # Rows of very different lengths, one of them empty.
    mask = np.arange(6) < rng.permutation([0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 6, 6])[:, None]
    batch = (rows(rng, 6, 4), tokens, mask)

    def loss(params, batch):
        x, tokens, mask = batch
        return chunked_vocab.cross_entropy(
            x @ params["kernel"],
            params["table"],
            tokens,
            mask,
            agg=agg,
            denominator=count(batch_mask, agg),
            summary=per_token,
        )

    batch_mask = mask

    @jax.jit
    def of_the_whole(params, batch):
        direct = chunked_vocab.cross_entropy(
            batch[0] @ params["kernel"], params["table"], tokens, mask, agg=agg
        )
        return jax.value_and_grad(loss, has_aux=True)(params, batch), direct

    @jax.jit
    def in_parts(params, batch):
        found = [microbatch.value_and_grad(loss, params, batch, parts, 1) for parts in (2, 12)]
        return found, [summarise(value, stats, mask) for (value, stats), _ in found]

    ((whole, wanted_stats), wanted), (direct, metrics) = of_the_whole(params, batch)
    for ((value, stats), grads), summary in zip(*in_parts(params, batch), strict=True):
        np.testing.assert_allclose(value, whole, rtol=1e-6)
        np.testing.assert_allclose(value, direct, rtol=1e-6)
        for got, want in zip(jax.tree.leaves(grads), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)
        for name, values in wanted_stats.items():
            np.testing.assert_allclose(stats[name], values, rtol=1e-6, atol=1e-7)
        for name, want in metrics.items():
            np.testing.assert_allclose(summary[name], want, rtol=1e-5, err_msg=name)


def test_gradients_of_bfloat16_parameters_are_added_in_float32():
    # In bfloat16 256 + 1 is 256, so a sum in that type would stop there.
    terms = np.array([256.0] + [1.0] * 255, np.float32)

    def loss(w, part):
        return jnp.sum(w.astype(jnp.float32) * part), part

    in_parts = jax.jit(lambda w, terms: microbatch.value_and_grad(loss, w, terms, 256))
    _, grad = in_parts(np.ones((), jnp.bfloat16), terms)
    assert grad.dtype == jnp.bfloat16
    assert float(grad) == pytest.approx(511, rel=2**-8)


def test_a_microbatch_must_divide_the_batch():
    assert Train(steps=1).parts(12) == 1
    assert Train(steps=1, microbatch=4).parts(12) == 3
    assert Train(steps=1, microbatch=64).parts(12) == 1
    with pytest.raises(ValueError, match=r"train.microbatch: 5 does not divide a batch of 12 rows"):
        Train(steps=1, microbatch=5).parts(12)


MODEL = {
    "sizes": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_layers": 1,
        "num_heads": 2,
        "num_kv_heads": 2,
        "max_position": 96,
    }
}
SHARED = {
    "data": {"task": "modsum", "options": {"modulus": 5, "addends": 2}, "max_prompt": 16},
    "optim": {"learning_rate": 0.1},
}


def one_step(build, config, tmp_path, microbatch_rows):
    config = config | {"train": {"steps": 1, "microbatch": microbatch_rows}}
    program = build.program(
        config_lib.build({distill: distill.Distill, sft: sft.Sft}[build], config),
        tmp_path / str(microbatch_rows),
    )
    output = program.step(program.init(), 0)
    return output.state.params, output.metrics, output.host_metrics()


@pytest.mark.parametrize(
    "loss",
    [
        *("grpo", "aopd with two updates"),
        *(pytest.param(x, marks=pytest.mark.slow) for x in ("gkd", "full_reverse_kl")),
        pytest.param("cross_entropy", marks=pytest.mark.slow),
    ],
)
def test_distillation_in_microbatches(loss, tmp_path):
    rollout = {"prompts": 4, "samples": 2, "max_new_tokens": 6}
    if loss.endswith("updates"):
        rollout["updates"] = 2
    config = SHARED | {
        "student": MODEL,
        "teacher": {"sizes": MODEL["sizes"] | {"hidden_size": 24}},
        "loss": {"name": loss.split()[0]},
        "rollout": rollout,
    }
    whole, parts = (one_step(distill, config, tmp_path, rows) for rows in (None, 2))
    assert_same_step(whole, parts)


def test_supervised_steps_in_microbatches(tmp_path):
    config = SHARED | {"model": MODEL, "batch_size": 8, "max_length": 24}
    whole, parts = (one_step(sft, config, tmp_path, rows) for rows in (None, 2))
    assert_same_step(whole, parts)
    sizes = Sizes(vocab_size=ModSum(modulus=5, addends=2).tokenizer().vocab_size, **MODEL["sizes"])
    each = 3 * flops.forward(sizes.decoder(), whole[0], 24)
    assert whole[2]["model_flops"] == parts[2]["model_flops"] == pytest.approx(8 * 24 * each)


def assert_same_step(whole, parts):
    for name, want in whole[1].items():
        np.testing.assert_allclose(parts[1][name], want, rtol=2e-4, atol=1e-5, err_msg=name)
    moved = jax.tree.map(
        lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).mean(), *(x[0] for x in (whole, parts))
    )
    # Adam's first step is the sign of the gradient times 0.1: only gradients of about 0 may differ.
    assert max(jax.tree.leaves(moved)) < 2e-3
