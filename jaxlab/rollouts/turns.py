"""Turns of episodes as rows: what was asked, what was answered, and how a learner reads it."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxlab.agents.skill1 import PHASES, Phase
from jaxlab.data.batch import bucket, right_pad
from jaxlab.rollouts.experience import Experience
from jaxlab.rollouts.policy import Rollout
from jaxlab.runtime.mesh import host_batch_slice, put_global

# Numbers of choices are rounded up to a multiple of so many.
CHOICES = 16


class Asked(NamedTuple):
    """A question of an episode.

    Attributes:
        episode: its number in the batch.
        call: questions that it asked before.
        phase: of the question.
        prompt: text.
        choices: the replies that can be read; none: any text may come.
    """

    episode: int
    call: int
    phase: Phase
    prompt: str
    choices: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Turn:
    """An answer: tokens that are learnt from. Each belongs to the one phase of its turn.

    Attributes:
        asked: the question.
        reply: the answer as text.
        prompt: token ids that were read.
        response: token ids that were written, the stop token included.
        logprobs: float32, by the sampler, of each of them; 0 where nobody sampled.
        stopped: whether a stop token came.
        choices: of each token the ids among which it was drawn; empty: among all.
        cut: whether the middle of the prompt was left out.
    """

    asked: Asked
    reply: str
    prompt: tuple[int, ...]
    response: tuple[int, ...]
    logprobs: tuple[float, ...]
    stopped: bool
    choices: tuple[tuple[int, ...], ...] = ()
    cut: bool = False


class Shape(NamedTuple):
    """What the sizes of a batch of turns are rounded up to, so that few programs are compiled."""

    rows: int = 64
    prompt: int = 64
    response: int = 16


def experience(
    turns: Sequence[Turn],
    shape: Shape,
    pad_id: int,
    mesh: Mesh,
    *,
    advantage: Sequence[float] | None = None,
    weight: Sequence[float] | None = None,
    valid: Sequence[bool] | None = None,
    stored: Sequence[bool] | None = None,
) -> Experience:
    """Turns as the rows that a learner reads: prompts left-padded, responses behind them.

    Rows that fill the batch are not valid. Where any turn was chosen among listed replies, all
    rows say among which words their tokens were drawn.

    Args:
        turns: at least one.
        shape: see there.
        pad_id: fills up.
        mesh: where the arrays go; rows are split over "data".
        advantage: of each turn.
        weight: of each turn.
        valid: whether a turn counts; None: all do.
        stored: whether a turn is of an earlier policy.
    """
    count = bucket(len(turns), shape.rows)
    filler = count - len(turns)
    width = bucket(max(len(turn.prompt) for turn in turns), shape.prompt)
    length = bucket(max(len(turn.response) for turn in turns), shape.response)
    prompts = [turn.prompt for turn in turns] + [turns[0].prompt] * filler
    responses = [turn.response for turn in turns] + [()] * filler
    left, lengths = np.full((count, width), pad_id, np.int32), np.array(list(map(len, prompts)))
    for b, prompt in enumerate(prompts):
        left[b, width - len(prompt) :] = prompt
    right, sizes = right_pad(responses, length, pad_id)
    mask = np.arange(length)[None] < sizes[:, None]
    logprobs = np.zeros((count, length), np.float32)
    for b, turn in enumerate(turns):
        logprobs[b, : len(turn.logprobs)] = turn.logprobs
    stopped = np.array([turn.stopped for turn in turns] + [True] * filler)
    choices = _words_among(turns, count, length)

    def column(values: Sequence[Any] | None, dtype: Any) -> np.ndarray | None:
        if values is None:
            return None
        return np.concatenate([np.asarray(values, dtype), np.zeros(filler, dtype)])

    true = [True] * len(turns) if valid is None else valid
    tokens = np.concatenate([left, right], 1)
    written: dict[str, Any] = {
        "tokens": tokens,
        "lengths": lengths.astype(np.int32),
        "response": right,
        "mask": mask,
        "logprobs": logprobs,
        "stopped": stopped,
        "choices": choices,
    }
    arrays = (
        Rollout(**written),
        None,
        column([PHASES.index(turn.asked.phase) for turn in turns], np.int32),
        column(true, bool),
        column(advantage, np.float32),
        column(weight, np.float32),
        column(stored, bool),
    )
    mine = host_batch_slice(count, mesh)
    return Experience(*put_global(jax.tree.map(lambda x: x[mine], arrays), mesh))


def _words_among(turns: Sequence[Turn], count: int, length: int) -> np.ndarray | None:
    most = max((len(ids) for turn in turns for ids in turn.choices), default=0)
    if not most:
        return None
    found = np.full((count, length, bucket(most, CHOICES)), -1, np.int32)
    for b, turn in enumerate(turns):
        for t, ids in enumerate(turn.choices):
            # Repeats do not count; the first place must hold a word.
            found[b, t] = ids[0]
            found[b, t, : len(ids)] = ids
    return found
