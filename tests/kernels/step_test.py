import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxlab_kernels import gated_delta, gated_delta_from_logits, gated_delta_step
from jaxlab_kernels.delta_rule import cases, step
from jaxlab_kernels.delta_rule.rule import Rule

BY_TIME = ("q", "k", "v", "log_decay", "erase", "write")


def split(arguments, at):
    """(the tokens before, [one token, ...])."""
    names = [name for name in BY_TIME if name in arguments]
    before = {name: arguments[name][:, :at] for name in names}
    length = arguments["v"].shape[1]
    return before, [{n: arguments[n][:, t] for n in names} for t in range(at, length)]


@pytest.fixture(name="float64", autouse=True)
def _float64():
    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        yield


@pytest.mark.parametrize("name", ["gdn", "kda", "fg2_plus", "left", "gdn2"])
def test_prefill_and_steps_equal_the_whole(name):
    arguments = cases.make(cases.MEMBERS[name])
    form, start = arguments.pop("form"), arguments.pop("initial_state")
    options = {"form": form, "initial_state": start, "implementation": "reference"}
    whole, last = gated_delta(**arguments, **options)
    before, tokens = split(arguments, 71)
    _, state = gated_delta(**before, **options)
    one = jax.jit(lambda state, token: gated_delta_step(**token, state=state, rule=Rule(form)))
    for t, token in enumerate(tokens):
        out, state = one(state, token)
        np.testing.assert_allclose(out, whole[:, 71 + t], atol=1e-13)
    np.testing.assert_allclose(state, last, atol=1e-13)


def test_a_step_from_logits():
    arguments = cases.make(cases.Case(length=1, write="channel"))
    form, start = arguments.pop("form"), arguments.pop("initial_state")
    token = {name: x[:, 0] for name, x in arguments.items()}
    erase, write = arguments.pop("erase"), arguments.pop("write")
    whole, last = gated_delta_from_logits(
        **arguments, erase_logits=erase, write_logits=write, gate_scale=2.0, initial_state=start,
        implementation="reference",
    )  # fmt: skip
    rule = Rule(form, logits=True, gate_scale=2.0, norm_eps=1e-6)
    out, state = gated_delta_step(**token, state=start, rule=rule)
    np.testing.assert_allclose(out, whole[:, 0], atol=1e-14)
    np.testing.assert_allclose(state, last, atol=1e-14)


@pytest.mark.parametrize("name", ["gdn", "fg2_plus", "gdn2"])
def test_rolled_back_tokens_leave_no_trace(name):
    """Drafts are stepped, some of each row taken back, the right tokens stepped instead."""
    arguments = cases.make(cases.MEMBERS[name])
    form, start = arguments.pop("form"), arguments.pop("initial_state")
    rule = Rule(form)
    wrong = {**cases.make(cases.MEMBERS[name], seed=1)}
    plain = jax.jit(lambda state, token: gated_delta_step(**token, state=state, rule=rule))
    draft = jax.jit(lambda ring, token: step.ring_step(**token, ring=ring, rule=rule))

    def token_of(source, at):
        rows = np.arange(2)
        return {n: source[n][rows, at] for n in BY_TIME if n in source}

    expected, state = [], jnp.asarray(start)
    _, tokens = split(arguments, 0)
    for token in tokens[:24]:
        out, state = plain(state, token)
        expected.append(np.asarray(out))
    expected = np.stack(expected, 1)

    ring, done = step.ring(jnp.asarray(start), 4), np.zeros(2, int)
    for round_ in range(8):
        accepted = np.array([round_ % 4, (round_ + 2) % 4])
        for t in range(3):
            right, bad = token_of(arguments, done + t), token_of(wrong, done + t)
            good = t < accepted
            mixed = {
                n: np.where(good.reshape(2, *[1] * (x.ndim - 1)), x, bad[n])
                for n, x in right.items()
            }
            out, ring = draft(ring, mixed)
            for row in np.flatnonzero(good):
                np.testing.assert_allclose(out[row], expected[row, done[row] + t], atol=1e-13)
        ring = step.rollback(ring, jnp.asarray(3 - accepted))
        done += accepted
    for row in range(2):
        _, state = gated_delta(
            **{n: arguments[n][row : row + 1, : done[row]] for n in BY_TIME if n in arguments},
            form=form, initial_state=start[row : row + 1], implementation="reference",
        )  # fmt: skip
        np.testing.assert_allclose(step.settle(ring)[row], state[0], atol=1e-13)


def test_taking_back_none_all_or_one_of_every_row():
    key = jax.random.key(0)
    filled = step.Ring(*(jax.random.normal(key, shape) for shape in
                         ((2, 1, 3, 3), (2, 4, 1, 3), (2, 4, 1, 3), (2, 4, 1, 3))))  # fmt: skip
    for count in (0, -1, jnp.array([0, -3])):
        jax.tree.map(np.testing.assert_array_equal, step.rollback(filled, count), filled)
    one = step.rollback(filled, 1)
    np.testing.assert_array_equal(one.u[:, 1:], filled.u[:, :-1])
    np.testing.assert_array_equal(one.u[:, 0], 0)
    np.testing.assert_array_equal(step.rollback(filled, 9).b, 0)


def test_wrong_shapes_are_named():
    x = jnp.zeros((2, 3, 4))
    with pytest.raises(ValueError, match=r"^state has shape \(2, 3, 4\); expected \[B, HV"):
        gated_delta_step(x, x, x, x, x, state=x)
    with pytest.raises(ValueError, match=r"q has shape \(2, 1, 3, 4\); expected \[B, H, Dk\]"):
        gated_delta_step(x[:, None], x, x, x, x, state=x)
    with pytest.raises(ValueError, match="capacity=0 is not positive"):
        step.ring(jnp.zeros((1, 1, 4, 4)), 0)
