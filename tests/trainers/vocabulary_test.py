"""The vocabulary is the tokenizer's: rows of a table beyond it are as if they were not there."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab import config as config_lib
from jaxlab.data.tasks.modsum import ModSum
from jaxlab.evals.loop import _entropy
from jaxlab.losses import chunked_vocab, distillation
from jaxlab.losses.methods.matching import TopKReverse
from jaxlab.losses.methods.names import METHODS
from jaxlab.losses.methods.scope import Scope
from jaxlab.models.decoder import Decoder
from jaxlab.models.sizes import Sizes
from jaxlab.rollouts.experience import Experience
from jaxlab.rollouts.policy import Rollout, response_hidden
from jaxlab.runtime.mesh import make_mesh
from jaxlab.trainers import distill, lm, microbatch, optim, routing, sft
from jaxlab.trainers.learn import Learner

WORDS = ModSum(modulus=5, addends=2).tokenizer().vocab_size
SIZES = {
    "hidden_size": 16,
    "intermediate_size": 0,
    "num_layers": 1,
    "num_heads": 2,
    "num_kv_heads": 2,
    "max_position": 32,
}
SHARED = {
    "data": {"task": "modsum", "options": {"modulus": 5, "addends": 2}, "max_prompt": 16},
    "train": {"steps": 1},
    # So small a step leaves the policy where it is.
    "optim": {"learning_rate": 1e-12, "weight_decay": 0.0},
    "eval": {"prompts": 2, "samples": 2, "max_new_tokens": 4, "batch": 2},
}
STUDENT, TEACHER = WORDS + 300, WORDS + 7


def _padded(params):
    """The params with NaN in the rows that stand for no word."""
    tables = {
        name: {"embedding": params[name]["embedding"].at[WORDS:].set(jnp.nan)}
        for name in ("embed", "unembed")
    }
    return params | tables


def _cut(params):
    """Params of a decoder that has the words alone, of their own memory."""
    tables = {
        name: {"embedding": params[name]["embedding"][:WORDS]} for name in ("embed", "unembed")
    }
    return jax.tree.map(jnp.copy, params | tables)


def _run(tmp_path, loss):
    config = SHARED | {
        "student": {"sizes": SIZES | {"vocab_size": STUDENT}},
        "teacher": {"sizes": SIZES | {"vocab_size": TEACHER}},
        "rollout": {"prompts": 4, "samples": 2, "max_new_tokens": 6, "updates": 2},
        "loss": loss,
    }
    return distill._Run(config_lib.build(distill.Distill, config), tmp_path)


def test_differently_padded_tables_train_as_unpadded_ones(tmp_path, monkeypatch):
    run = _run(tmp_path, {"name": "aopd", "guide": {"top_k": 4}})
    start = run._init()
    start = start._replace(params=_padded(start.params))
    other = _padded(jax.tree.map(lambda x: 1.5 * x, run.teacher.params))
    run.teacher = run.teacher._replace(params=other)
    student, teacher = _cut(start.params), _cut(other)
    rollouts = []
    policy = run.policy
    monkeypatch.setattr(run, "policy", lambda *args: rollouts.append(policy(*args)) or rollouts[-1])
    found = run._step(start, 0).metrics

    assert all(np.isfinite(value) for value in found.values())
    np.testing.assert_allclose([found["ratio_mean"], found["ratio_max"]], 1, atol=1e-5)
    (rollout,) = rollouts
    assert int(rollout.response.max()) < WORDS

    @jax.jit
    def plain(student, teacher, rollout):
        """The dense loss of decoders that have the words alone; the sampler's logp error."""
        decoder = Decoder(Sizes(**SIZES, vocab_size=WORDS).decoder())
        student_logp, teacher_logp = (
            jax.nn.log_softmax(
                response_hidden(decoder, params, rollout) @ params["unembed"]["embedding"].T
            )
            for params in (student, teacher)
        )
        sampled = jnp.take_along_axis(student_logp, rollout.response[..., None], axis=-1)[..., 0]
        error = jnp.where(rollout.mask, jnp.abs(sampled - rollout.logprobs), 0).max()
        # Metrics are means over the two minibatches, and the first update is tiny.
        loss, _ = distillation.aopd(
            student_logp, teacher_logp, rollout.response, rollout.mask, top_k=4
        )
        return loss, error

    loss, error = plain(student, teacher, rollout)
    assert error < 1e-5
    np.testing.assert_allclose(found["loss"], loss, rtol=1e-4)


@pytest.fixture
def asked(monkeypatch):
    """The vocabulary that each log-probability is asked for."""
    sizes, words = [], chunked_vocab._words

    def spy(vocab_size, *unembeddings):
        sizes.append(vocab_size)
        return words(vocab_size, *unembeddings)

    monkeypatch.setattr(chunked_vocab, "_words", spy)
    return sizes


def _shape(dtype, *shape):
    return jax.ShapeDtypeStruct(shape, dtype)


ROLLOUT = Rollout(
    _shape(jnp.int32, 8, 22),
    _shape(jnp.int32, 8),
    _shape(jnp.int32, 8, 6),
    _shape(bool, 8, 6),
    _shape(jnp.float32, 8, 6),
    _shape(bool, 8),
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A run whose pieces every method's learner is made of."""
    return _run(tmp_path_factory.mktemp("run"), {"name": "opd"})


def _learner(built, name, **changes):
    """A learner of the run's models and another method."""
    return Learner(
        built.student,
        METHODS[name]() if isinstance(name, str) else name,
        optim.make(built.config.optim, 100),
        lambda step: 1e-3,
        built.mesh,
        jax.tree.map(lambda leaf: leaf.sharding, built.abstract),
        dataclasses.replace(built.learner.options, **changes),
        teacher=built.teacher.decoder,
        reference=built.teacher.decoder,
    )


@pytest.mark.parametrize("name", ["grpo", "opd", "gkd", "gspo"])
def test_statistics_of_the_whole_vocabulary_are_there_for_every_method(name, built):
    learner = _learner(built, name, statistics=True)
    teacher, experience = built.teacher.params, Experience(ROLLOUT, _shape(jnp.float32, 8))
    arguments = (built.abstract.params, teacher, None, experience, _shape(jnp.int32))
    scored, _ = jax.eval_shape(learner._score, *arguments)
    _, metrics = jax.eval_shape(learner._update, built.abstract, teacher, scored)
    assert {"kl_forward", "kl_reverse", "teacher_entropy", "student_entropy"} <= set(metrics)


def test_completions_are_weighed_where_the_whole_distribution_is_compared(built):
    method = Scope(wrong_branch="match", match=TopKReverse(support="full"))
    learner = _learner(built, method)
    teacher, experience = built.teacher.params, Experience(ROLLOUT, _shape(jnp.float32, 8))
    arguments = (built.abstract.params, teacher, None, experience, _shape(jnp.int32))
    scored, metrics = jax.eval_shape(learner._score, *arguments)
    assert scored.weight.shape == (8,)
    assert "wrong_weight_perplexity" in metrics
    jax.eval_shape(learner._update, built.abstract, teacher, scored)


def test_the_meter_leaves_the_balance_of_experts_out(built, monkeypatch):
    weights = []

    def added(loss, stats, found, weight, parts):
        weights.append(weight)
        return loss, dict(stats)

    monkeypatch.setattr(routing, "added", added)
    learner = _learner(built, "grpo", balance_loss=0.5)
    params, experience = built.abstract.params, Experience(ROLLOUT, _shape(jnp.float32, 8))
    scored, _ = jax.eval_shape(learner._score, params, None, None, experience, _shape(jnp.int32))
    jax.eval_shape(
        lambda *arrays: learner._meter(arrays[0], None, arrays[1], 2, arrays[2]),
        *(params, scored, _shape(jnp.int32, 8)),
    )
    assert set(weights) == {0.0}
    jax.eval_shape(learner._update, built.abstract, None, scored)
    assert set(weights) == {0.0, 0.5}


# The scan over several updates knows no method but by what of the batch it splits: of the tokens of
# a teacher, of its top k, of its hidden states, and of none.
SPLIT_WHOLE = ("opd", "aopd", "gkd", "grpo")


@pytest.mark.parametrize("updates", [1, 2])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_scores_and_updates_over_the_words(name, updates, asked, built):
    """Shapes alone: nothing is compiled."""
    learner = _learner(built, name, updates=updates)
    params, teacher = built.abstract.params, built.teacher.params
    experience = Experience(ROLLOUT, _shape(jnp.float32, 8))
    scored, metrics = jax.eval_shape(
        learner._score, params, teacher, teacher, experience, _shape(jnp.int32)
    )
    needs = learner.method.needs
    # No reading of the teacher's vocabulary in the update unless all of it is compared.
    assert (scored.teacher_hidden is None) == (needs.teacher != "full")
    assert (scored.batch.old_logp is None) == (updates == 1 and not needs.old)
    assert {"response_length", "truncated_share"} <= set(metrics)
    if updates == 1 or name in SPLIT_WHOLE:
        new, more = jax.eval_shape(learner._update, built.abstract, teacher, scored)
        assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, built.abstract)
        assert {"loss", "grad_norm", "learning_rate", "student_entropy"} <= set(more)
        if needs.teacher:
            assert "kl_sampled" in more
    else:
        split = jax.eval_shape(lambda batch: microbatch.split(batch, updates, 2), scored)
        for part, leaf in zip(*map(jax.tree.leaves, (split, scored)), strict=True):
            assert part.shape == (updates, leaf.shape[0] // updates, *leaf.shape[1:])
    assert set(asked) == {WORDS}


def test_the_diagnosis_of_an_evaluation_is_over_the_words(asked, built):
    found, counts = jax.eval_shape(
        built.diagnose, built.abstract.params, built.teacher.params, ROLLOUT
    )
    assert set(found) == {"sampler_logp_error", "kl_forward", "kl_reverse", "teacher_entropy"}
    assert counts.shape == (100,)
    assert set(asked) == {WORDS}


def test_every_log_probability_of_other_trainers_is_over_the_words(asked, tmp_path):
    config = SHARED | {"model": {"sizes": SIZES | {"vocab_size": STUDENT}}, "batch_size": 4}
    runs = [sft.program(config_lib.build(sft.Sft, config | {"max_length": 16}), tmp_path / "sft")]
    data = {"task": "state_tracking", "options": {"group": f"z{WORDS}", "length": 8}}
    config |= {"data": data, "eval": {"examples": 4, "batch": 4}}
    runs.append(lm.program(config_lib.build(lm.Lm, config), tmp_path / "lm"))
    for program in runs:
        jax.eval_shape(lambda state, p=program: p.step(state, 0).metrics, program.abstract)
    decoder = Decoder(Sizes(**SIZES, vocab_size=STUDENT).decoder())
    params = program.abstract.params
    jax.eval_shape(_entropy(decoder, 2, 1.0, WORDS, make_mesh({"data": 1})), params, ROLLOUT)
    assert asked == [WORDS] * 3
