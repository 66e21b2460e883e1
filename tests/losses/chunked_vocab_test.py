import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.losses import chunked_vocab, cross_entropy, distillation
from jaxlab.losses.divergences import log_probs
from jaxlab.losses.methods.aopd import Aopd, Guide
from jaxlab.losses.methods.gkd import FullReverseKl, Gkd
from jaxlab.losses.methods.grpo import Gspo
from jaxlab.losses.methods.opd import Opd
from jaxlab.losses.types import Needs, Tokens

B, T, V = 3, 5, 19
METHODS = {
    "opd": Opd(ratio="ppo_clip"),
    "gkd": Gkd(),
    "full_reverse_kl": FullReverseKl(),
    "aopd": Aopd(guide=Guide(top_k=4)),
    "aopd_tail": Aopd(tau=0.1, guide=Guide("rkl", top_k=4, renormalise="tail_bucket")),
}


def batch(dtype=jnp.float32, student_rows=V, teacher_rows=V):
    """Keyword arguments of `chunked_loss`, with hidden sizes 6 and 7."""
    keys = jax.random.split(jax.random.key(0), 6)
    return {
        "student_hidden": jax.random.normal(keys[0], (B, T, 6), dtype),
        "student_unembedding": jax.random.normal(keys[1], (student_rows, 6), dtype),
        "teacher_hidden": jax.random.normal(keys[2], (B, T, 7), dtype),
        "teacher_unembedding": jax.random.normal(keys[3], (teacher_rows, 7), dtype),
        "tokens": jax.random.randint(keys[4], (B, T), 0, V),
        "mask": jnp.arange(T)[None] < jnp.array([5, 2, 4])[:, None],
        "old_logp": -3.0 + 0.3 * jax.random.normal(keys[5], (B, T)),
    }


def chunked_loss(
    method,
    student_hidden,
    student_unembedding,
    teacher_hidden,
    teacher_unembedding,
    tokens,
    mask,
    old_logp=None,
    **options,
):
    """`chunked_vocab.loss` with all statistics, beside a teacher's hidden states."""
    return chunked_vocab.loss(
        method,
        student_hidden,
        student_unembedding,
        Tokens(tokens=tokens, old_logp=old_logp),
        mask,
        **{"teacher": (teacher_hidden, teacher_unembedding), "statistics": True, **options},
    )


def dense(
    method,
    student_hidden,
    student_unembedding,
    teacher_hidden,
    teacher_unembedding,
    temperature=1.0,
    teacher_temperature=1.0,
    **rest,
):
    """What `chunked_vocab.loss` computes, with all logits at once."""
    student = jnp.einsum("btd,vd->btv", student_hidden, student_unembedding,
                         preferred_element_type=jnp.float32)  # fmt: skip
    teacher = jnp.einsum("btd,vd->btv", teacher_hidden, teacher_unembedding,
                         preferred_element_type=jnp.float32)  # fmt: skip
    student_logp = log_probs(student, temperature)
    teacher_logp = log_probs(teacher, teacher_temperature)
    return distillation.distill(method, student_logp, teacher_logp, **rest)


def with_gradients(function, inputs, **options):
    """((loss, metrics), gradients in the student's hidden states and unembedding)."""
    names = ("student_hidden", "student_unembedding")

    def loss(student):
        return function(**student, **{k: v for k, v in inputs.items() if k not in names}, **options)

    student = {name: inputs[name] for name in names}
    return jax.jit(jax.value_and_grad(loss, has_aux=True))(student)


def assert_close(actual, expected, rtol=2e-5, atol=1e-6):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), actual, expected
    )


@pytest.mark.parametrize("name", METHODS)
def test_chunks_give_the_loss_metrics_and_gradients_of_the_whole(name):
    inputs, method = batch(), METHODS[name]
    options = {"temperature": 0.7, "teacher_temperature": 1.3}
    expected = with_gradients(functools.partial(dense, method), inputs, **options)
    chunked = functools.partial(chunked_loss, method)
    # 4 does not divide the 15 tokens.
    actual = with_gradients(chunked, inputs, chunk_size=4, **options)
    assert set(actual[0][1]) == set(expected[0][1])
    assert_close(actual, expected)
    # Without differentiation another path runs.
    plain = jax.jit(lambda inputs: chunked(**inputs, chunk_size=4, **options))
    assert_close(plain(inputs), expected[0])


@pytest.mark.parametrize("name", ["opd", "aopd", "aopd_tail"])
def test_a_view_taken_beforehand_is_as_good_as_the_whole_teacher(name):
    inputs, method = batch(), METHODS[name]
    statistics = {"statistics": False, "teacher_temperature": 1.3, "chunk_size": 4}
    expected = with_gradients(functools.partial(chunked_loss, method), inputs, **statistics)
    hidden, table = inputs.pop("teacher_hidden"), inputs.pop("teacher_unembedding")
    tokens, mask, old = inputs.pop("tokens"), inputs.pop("mask"), inputs.pop("old_logp")
    view = chunked_vocab.teacher_view(
        method.needs, hidden, table, tokens, temperature=1.3, chunk_size=7
    )
    assert view.logp is None
    assert (view.words is None) == (name == "opd")

    def of_view(student_hidden, student_unembedding):
        known = Tokens(tokens=tokens, old_logp=old, teacher=view)
        return chunked_vocab.loss(
            method, student_hidden, student_unembedding, known, mask, chunk_size=4
        )

    assert_close(with_gradients(of_view, inputs), expected)


def test_methods_of_whole_completions_and_weights_of_completions():
    inputs, method = batch(), Gspo(clip_low=0.2, clip_high=0.2)
    weight, advantage = jnp.array([2.0, 0.0, 1.0]), jnp.array([1.0, 5.0, -2.0])
    known = Tokens(
        tokens=inputs["tokens"],
        old_logp=inputs["old_logp"],
        advantage=jnp.broadcast_to(advantage[:, None], (B, T)),
    )

    def chunked(student_hidden, student_unembedding, mask, **_):
        return chunked_vocab.loss(
            method, student_hidden, student_unembedding, known, mask, weight=weight, chunk_size=4
        )

    def whole(student_hidden, student_unembedding, tokens, mask, old_logp, **_):
        logp = log_probs(student_hidden @ student_unembedding.T)
        return distillation.distill(
            method, logp, None, tokens, mask, old_logp=old_logp, advantage=advantage, weight=weight
        )

    actual, expected = with_gradients(chunked, inputs), with_gradients(whole, inputs)
    assert_close(actual, expected)
    # By hand: the ratio of a completion is the exponential of its mean log-ratio.
    logp = log_probs(inputs["student_hidden"] @ inputs["student_unembedding"].T)
    token = np.take_along_axis(np.asarray(logp), np.asarray(inputs["tokens"])[..., None], -1)[
        ..., 0
    ]
    gaps = [np.mean((token - inputs["old_logp"])[b, :n]) for b, n in ((0, 5), (2, 4))]
    first, last = (min(np.exp(gap), 1e9) for gap in gaps)
    terms = -min(first, np.clip(first, 0.8, 1.2)) * 2 + 2 * max(last, np.clip(last, 0.8, 1.2))
    assert actual[0][0] == pytest.approx(terms / 3, rel=1e-4)


def test_a_teacher_of_tokens_costs_no_vocabulary_in_the_update():
    inputs = batch()
    view = chunked_vocab.teacher_view(
        Needs(teacher="token"), inputs["teacher_hidden"], inputs["teacher_unembedding"],
        inputs["tokens"],
    )  # fmt: skip
    known = Tokens(tokens=inputs["tokens"], teacher=view)

    def update(hidden):
        return jax.value_and_grad(
            lambda h: chunked_vocab.loss(
                Opd(), h, inputs["student_unembedding"], known, inputs["mask"], chunk_size=8
            ),
            has_aux=True,
        )(hidden)

    # Logits, and the two products of the gradient.
    assert str(jax.make_jaxpr(update)(inputs["student_hidden"])).count("dot_general") == 3


@pytest.mark.parametrize(
    ("chunk_size", "agg"), [(None, "seq_mean_token_mean"), (1, "token_mean"), (100, "token_mean")]
)
def test_any_chunk_size_and_aggregation(chunk_size, agg):
    inputs, method = batch(), METHODS["aopd"]
    expected = with_gradients(functools.partial(dense, method), inputs, agg=agg, denominator=7.0)
    actual = with_gradients(
        functools.partial(chunked_loss, method),
        inputs,
        agg=agg,
        denominator=7.0,
        chunk_size=chunk_size,
    )
    assert_close(actual, expected)


def test_gradients_against_float64_differences():
    with jax.enable_x64(True):
        inputs = {
            name: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x
            for name, x in batch().items()
        }

        @jax.jit
        def loss(hidden, unembedding):
            changed = inputs | {"student_hidden": hidden, "student_unembedding": unembedding}
            return chunked_loss(Gkd(beta=0.3), **changed, chunk_size=4)[0]

        point = (inputs["student_hidden"], inputs["student_unembedding"])
        gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(*point)
        rng, step = np.random.default_rng(0), 1e-4
        for i in range(2):
            direction = jnp.asarray(rng.normal(size=point[i].shape))
            ends = [
                loss(*(x + sign * step * direction if j == i else x for j, x in enumerate(point)))
                for sign in (1, -1)
            ]
            slope = (ends[0] - ends[1]) / (2 * step)
            np.testing.assert_allclose(jnp.sum(gradients[i] * direction), slope, rtol=1e-5)


def test_a_scaled_loss_scales_its_gradients():
    inputs = batch()

    def loss(hidden, scale):
        changed = inputs | {"student_hidden": hidden}
        return scale * chunked_loss(Gkd(), **changed, chunk_size=4)[0]

    differentiate = jax.jit(jax.grad(loss))
    gradient = differentiate(inputs["student_hidden"], 1.0)
    scaled = differentiate(inputs["student_hidden"], -2.5)
    assert_close(scaled, -2.5 * gradient)


def test_nothing_reaches_the_teacher():
    inputs = batch()

    def loss(teacher):
        return chunked_loss(Gkd(), **(inputs | teacher), chunk_size=4)[0]

    names = ("teacher_hidden", "teacher_unembedding", "old_logp")
    for gradient in jax.tree.leaves(
        jax.jit(jax.grad(loss))({name: inputs[name] for name in names})
    ):
        np.testing.assert_array_equal(gradient, 0.0)


def test_vocabularies_that_are_padded_differently():
    padded = batch(student_rows=V + 5, teacher_rows=V + 2)
    exact = padded | {
        "student_unembedding": padded["student_unembedding"][:V],
        "teacher_unembedding": padded["teacher_unembedding"][:V],
    }
    expected = with_gradients(functools.partial(dense, METHODS["aopd"]), exact)
    chunked = functools.partial(chunked_loss, METHODS["aopd"])
    loss, gradients = with_gradients(chunked, padded, vocab_size=V, chunk_size=4)
    np.testing.assert_array_equal(gradients["student_unembedding"][V:], 0.0)
    gradients["student_unembedding"] = gradients["student_unembedding"][:V]
    assert_close((loss, gradients), expected)
    common = batch(student_rows=V + 5, teacher_rows=V)
    assert_close(
        jax.jit(chunked)(**common), jax.jit(functools.partial(chunked, vocab_size=V))(**common)
    )
    with pytest.raises(ValueError, match=f"vocab_size={V + 1}: the smallest .* {V} rows"):
        chunked(**common, vocab_size=V + 1)


def test_masked_positions_may_hold_nan():
    inputs = batch()
    hole = ~inputs["mask"][..., None]
    spoiled = inputs | {
        "student_hidden": jnp.where(hole, jnp.nan, inputs["student_hidden"]),
        "teacher_hidden": jnp.where(hole, jnp.inf, inputs["teacher_hidden"]),
        "tokens": jnp.where(inputs["mask"], inputs["tokens"], -100),
        "old_logp": jnp.where(inputs["mask"], inputs["old_logp"], jnp.nan),
    }
    chunked = functools.partial(chunked_loss, METHODS["aopd"], chunk_size=4)
    actual, expected = with_gradients(chunked, spoiled), with_gradients(chunked, inputs)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)
    np.testing.assert_array_equal(actual[1]["student_hidden"][~inputs["mask"]], 0.0)


def test_empty_mask_gives_zero():
    inputs = batch() | {"mask": jnp.zeros((B, T), bool)}
    chunked = functools.partial(chunked_loss, METHODS["aopd"], chunk_size=4)
    (loss, metrics), gradients = with_gradients(chunked, inputs)
    assert loss == 0.0
    assert all(np.isfinite(x) for x in metrics.values())
    jax.tree.map(lambda x: np.testing.assert_array_equal(x, 0.0), gradients)


def test_bfloat16_inputs_are_accumulated_in_float32():
    inputs = batch(jnp.bfloat16)
    wide = {k: v.astype(jnp.float32) if v.dtype == jnp.bfloat16 else v for k, v in inputs.items()}
    chunked = functools.partial(chunked_loss, Gkd(), chunk_size=4)
    (loss, _), gradients = with_gradients(chunked, inputs)
    (expected, _), expected_gradients = with_gradients(chunked, wide)
    assert loss.dtype == jnp.float32
    # Products of bfloat16 numbers are exact in float32.
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for name, gradient in gradients.items():
        assert gradient.dtype == jnp.bfloat16
        scale = jnp.max(jnp.abs(expected_gradients[name]))
        difference = jnp.abs(gradient.astype(jnp.float32) - expected_gradients[name])
        assert jnp.max(difference) < 2**-7 * scale


def test_extreme_logits_stay_finite():
    inputs = batch()
    inputs["student_unembedding"] *= 1e4
    inputs["teacher_unembedding"] *= -1e4
    for name in ("gkd", "aopd"):
        chunked = functools.partial(chunked_loss, METHODS[name], chunk_size=4)
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(with_gradients(chunked, inputs)))


def test_cross_entropy_is_that_of_the_whole():
    inputs = batch()
    hidden, unembedding = inputs["student_hidden"], inputs["student_unembedding"]
    tokens, mask = inputs["tokens"], inputs["mask"]
    options = {"z_loss": 0.1}

    def whole(hidden, unembedding):
        return cross_entropy.cross_entropy(hidden @ unembedding.T / 0.7, tokens, mask, **options)

    def chunked(hidden, unembedding):
        return chunked_vocab.cross_entropy(
            hidden, unembedding, tokens, mask, temperature=0.7, chunk_size=4, **options
        )

    expected, actual = (
        jax.jit(jax.value_and_grad(f, argnums=(0, 1), has_aux=True))(hidden, unembedding)
        for f in (whole, chunked)
    )
    assert_close(actual, expected)


def test_token_logp_and_its_gradient():
    inputs = batch()
    hidden, unembedding = inputs["student_hidden"], inputs["student_unembedding"]
    tokens, mask = inputs["tokens"], inputs["mask"]
    factors = jax.random.normal(jax.random.key(1), (B, T))

    def whole(hidden, unembedding):
        logp = log_probs(hidden @ unembedding.T, 0.7)
        token = jnp.take_along_axis(logp, tokens[..., None], axis=-1)[..., 0]
        entropy = -jnp.sum(jnp.exp(logp) * logp, axis=-1)
        return jnp.sum(jnp.where(mask, factors * token, 0.0)), (token, entropy)

    def chunked(hidden, unembedding):
        token, entropy = chunked_vocab.token_logp(hidden, unembedding, tokens, 0.7, chunk_size=4)
        return jnp.sum(jnp.where(mask, factors * token, 0.0)), (token, entropy)

    differentiate = lambda f: jax.jit(jax.value_and_grad(f, argnums=(0, 1), has_aux=True))  # noqa: E731
    expected = differentiate(whole)(hidden, unembedding)
    assert_close(differentiate(chunked)(hidden, unembedding), expected)
    spoiled = jnp.where(mask[..., None], hidden, jnp.nan)
    (loss, _), gradients = differentiate(chunked)(spoiled, unembedding)
    assert_close((loss, gradients), (expected[0][0], expected[1]))


def test_an_explicit_mesh_is_fine():
    inputs, method = batch(), METHODS["aopd"]
    expected = with_gradients(functools.partial(dense, method), inputs)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        rows, whole = jax.P("data"), jax.P()
        placed = {
            name: jax.device_put(x, whole if "unembedding" in name else rows)
            for name, x in inputs.items()
        }
        chunked = functools.partial(chunked_loss, method, chunk_size=5)
        actual = with_gradients(chunked, placed)
    assert_close(jax.device_get(actual), jax.device_get(expected))


def test_logits_are_held_a_chunk_at_a_time_and_gradients_only_when_asked_for():
    tokens, width, words = 64, 4, 1000
    inputs = {
        "student_hidden": jnp.ones((1, tokens, width)),
        "student_unembedding": jnp.ones((words, width)),
        "teacher_hidden": jnp.ones((1, tokens, width)),
        "teacher_unembedding": jnp.ones((words, width)),
        "tokens": jnp.zeros((1, tokens), jnp.int32),
        "mask": jnp.ones((1, tokens), bool),
    }
    chunked = functools.partial(chunked_loss, Gkd(), chunk_size=8)

    def differentiated(hidden):
        return jax.value_and_grad(
            lambda h: chunked(**(inputs | {"student_hidden": h})), has_aux=True
        )(hidden)

    def plain(hidden):
        return chunked(**(inputs | {"student_hidden": hidden}))

    for function, products in ((plain, 2), (differentiated, 4)):
        text = str(jax.make_jaxpr(function)(inputs["student_hidden"]))
        assert f"{tokens},{words}" not in text
        assert f"8,{words}" in text
        assert text.count("dot_general") == products


def test_default_chunk_takes_about_64_mebibytes():
    assert chunked_vocab.default_chunk_size(151_936) == 110
    assert chunked_vocab.default_chunk_size(10**7) == 16
    with pytest.raises(ValueError, match="chunk_size=0"):
        chunked_loss(Gkd(), **batch(), chunk_size=0)
