"""Episodes side by side: the order of answers, choices, and the rows that are learnt from."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.agents import skill1, skill1_terse
from jaxlab.agents.skill1 import PHASES
from jaxlab.envs.protocol import Step
from jaxlab.losses import chunked_vocab
from jaxlab.models.decoder import Decoder, unembedding
from jaxlab.models.sizes import Sizes
from jaxlab.rollouts import episodes
from jaxlab.rollouts.episodes import Lengths, Speaker, Speech, together
from jaxlab.rollouts.policy import response_hidden
from jaxlab.rollouts.turns import Asked, Shape, Turn, experience
from jaxlab.runtime.drawing import by_operations
from jaxlab.runtime.mesh import make_mesh

TOKENIZER = skill1_terse.tokenizer()
MESH = make_mesh({"data": 1})
DECODER = Decoder(
    Sizes(
        vocab_size=TOKENIZER.vocab_size,
        hidden_size=16,
        intermediate_size=32,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        qk_norm=True,
        max_position=64,
    ).decoder()
)
SPEECH = Speech(
    Lengths(query=4, rank=4, act=6, distil=6),
    max_prompt=24,
    prompt_multiple=24,
    row_multiple=8,
    actions="choice",
)


@dataclasses.dataclass
class Countdown:
    """Ends after so many steps; dies at the step `dies`."""

    steps: int
    dies: int | None = None

    def reset(self):
        self.left = self.steps
        return Step("you see shelf 1", admissible=("look", "go to shelf 1", "inventory"))

    def step(self, action):
        self.left -= 1
        if self.dies == self.left:
            raise OSError("the planner is gone")
        done = not self.left
        return Step("you see nothing", float(done), done, ("look", "open shelf 1"))


def scripted(asked):
    replies = {"act": "look", "distil": "look at shelf 1 when look"}
    return [Turn(q, replies[q.phase], (3,), (4, 1), (0.0, 0.0), True) for q in asked]


def play(env):
    def begin(generate):
        return skill1.play(env, "look", generate, distil=True, words=skill1_terse)

    return begin


def test_all_that_wait_in_the_earliest_phase_are_answered_together():
    batches = []

    def answer(phase, asked):
        batches.append((phase, [(q.episode, q.call) for q in asked]))
        return scripted(asked)

    played, turns = together([play(Countdown(1)), play(Countdown(3)), play(Countdown(2))], answer)
    assert batches == [
        ("act", [(0, 0), (1, 0), (2, 0)]),
        ("act", [(1, 1), (2, 1)]),
        ("act", [(1, 2)]),
        ("distil", [(0, 1), (1, 3), (2, 2)]),
    ]
    assert [len(one.actions) for one in played] == [1, 3, 2]
    assert [turn.asked.episode for turn in turns] == [0, 0, 1, 1, 1, 1, 2, 2, 2]
    assert played[1].skill.strategy == "look at shelf 1"
    assert len(set(played[1].states)) == 2


def test_an_environment_that_dies_costs_its_episode():
    played, turns = together(
        [play(Countdown(2)), play(Countdown(3, dies=1))], lambda phase, asked: scripted(asked)
    )
    assert [one.error for one in played] == [None, "OSError: the planner is gone"]
    assert [one.reward for one in played] == [1.0, 0.0]
    assert played[1].counts["died"] == 1
    # Nothing is distilled from it.
    assert [t.asked.phase for t in turns if t.asked.episode == 1] == ["act", "act"]


@pytest.fixture(scope="module")
def params():
    return by_operations(DECODER.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]


@pytest.fixture(scope="module")
def speaker():
    return Speaker(DECODER, TOKENIZER, SPEECH, MESH)


COMMANDS = ("go to shelf 1", "go to shelf 2", "open shelf 1", "look")


def questions(count, phase="act", choices=COMMANDS):
    return [Asked(i, 2, phase, f"task look see shelf {i} act", choices) for i in range(count)]


def test_choices_are_kept_to_and_trainer_and_sampler_agree(params, speaker):
    """The log-probability of a token is that among the words that continue a command."""
    asked = questions(8)
    # One may write anything.
    asked[7] = asked[7]._replace(choices=())
    turns = speaker.answer(params, jax.random.key(1), 8, "act", asked)
    ids = {c: (*TOKENIZER.encode(c), TOKENIZER.eos_id) for c in COMMANDS}
    assert len({turn.reply for turn in turns[:7]}) > 1
    for turn in turns[:7]:
        assert turn.reply in COMMANDS
        assert turn.response == ids[turn.reply]
        assert turn.stopped
        assert set(turn.choices[0]) == {c[0] for c in ids.values()}
        # "look" is alone once it has begun: nothing is left to chance.
        if turn.reply == "look":
            assert turn.choices[1:] == ((TOKENIZER.eos_id,),)
            assert turn.logprobs[1] == 0.0
    assert turns[7].choices == ()
    batch = experience(turns, Shape(12, 24, 8), TOKENIZER.pad_id, MESH)

    @jax.jit
    def read(params, rollout):
        hidden, table = response_hidden(DECODER, params, rollout), unembedding(params)
        among, _ = chunked_vocab.token_logp(
            hidden, table, rollout.response, choices=rollout.choices
        )
        return among, chunked_vocab.token_logp(hidden, table, rollout.response)[0]

    mask = np.asarray(batch.rollout.mask)
    logp, whole = (np.where(mask, x, 0) for x in read(params, batch.rollout))
    np.testing.assert_allclose(logp, np.where(mask, batch.rollout.logprobs, 0), atol=2e-5)
    # Among all words a command is less likely.
    assert np.all(whole[:7].sum(1) < logp[:7].sum(1) - 1)
    np.testing.assert_allclose(whole[7], logp[7], atol=1e-6)
    _check_rows(batch, turns)


def _check_rows(batch, turns):
    """Each token that was written is in one row, of one phase; nothing else counts."""
    rollout = batch.rollout
    assert rollout.tokens.shape == (12, 24 + 8)
    assert np.asarray(batch.valid).tolist() == [True] * 8 + [False] * 4
    assert np.asarray(batch.phase)[:8].tolist() == [PHASES.index("act")] * 8
    mask = np.asarray(rollout.mask)
    assert mask.sum() == sum(len(turn.response) for turn in turns)
    for b, turn in enumerate(turns):
        row = np.asarray(rollout.tokens[b])
        prompt = row[24 - int(rollout.lengths[b]) : 24].tolist()
        assert prompt == list(turn.prompt) == TOKENIZER.encode_prompt(turn.asked.prompt)
        assert row[24:][mask[b]].tolist() == list(turn.response)


def test_an_answer_does_not_depend_on_what_is_asked_beside_it(params, speaker):
    key = jax.random.key(3)
    together_ = speaker.answer(params, key, 8, "act", questions(8))
    alone = speaker.answer(params, key, 8, "act", questions(8)[5:7])
    assert [t.response for t in alone] == [t.response for t in together_[5:7]]


def test_long_and_hostile_prompts_are_cut_in_the_middle_and_counted(speaker):
    ids, cut = speaker.prompt_ids("task " + "mug " * 5000 + "\ud800 act")
    assert cut
    assert len(ids) == 24
    assert TOKENIZER.decode(ids).split()[0] == "task"
    assert TOKENIZER.decode(ids).split()[-1] == "act"


def test_choices_too_long_to_be_written_leave_the_others(speaker):
    long = Asked(0, 0, "act", "task", ("go to shelf 1 go to shelf 1", "look"))
    assert [TOKENIZER.decode(ids) for ids in speaker._listed(long)] == ["look"]
    turn = speaker.turn(long, "look")
    assert (turn.response[-1], turn.stopped) == (TOKENIZER.eos_id, True)
    with pytest.raises(ValueError, match="actions='maybe' is not one of text, choice"):
        Speech(actions="maybe")


def test_the_driver_closes_episodes_when_an_answer_fails():
    def fails(phase, asked):
        raise RuntimeError("no device")

    with pytest.raises(RuntimeError, match="no device"):
        episodes.together([play(Countdown(1))], fails)
