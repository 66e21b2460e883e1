"""From episodes to what their turns are worth: advantages, weights, and which turns count.

Pure functions of what was played; the formulas are in `credit.segments` and `credit.steps`.
"""

from collections.abc import Sequence
from typing import NamedTuple

from jaxlab.agents.skill1 import Played
from jaxlab.credit import segments
from jaxlab.credit.steps import returns, step_advantages
from jaxlab.losses.methods.gigpo import Gigpo
from jaxlab.losses.methods.grpo import Grpo
from jaxlab.rollouts.turns import Turn
from jaxlab.trainers.agent_settings import Credit


class Worth(NamedTuple):
    """What turns are worth, one number for each turn.

    Attributes:
        advantage: of its tokens.
        weight: of its mean loss.
        valid: False for turns of an episode whose environment died, and, in mode "released", for
            skills, which that trainer does not learn from.
    """

    advantage: list[float]
    weight: list[float]
    valid: list[bool]


def segment(played: Played, task: int) -> segments.Episode:
    """What credit needs to know of an episode."""
    return segments.Episode(
        task=task,
        outcome=float(played.reward == 1),
        utilities=tuple(candidate.entry.utility for candidate in played.candidates),
        order=played.order,
        written=played.skill is not None,
    )


def worth(
    played: Sequence[Played],
    tasks: Sequence[int],
    turns: Sequence[Turn],
    method: Grpo,
    credit: Credit,
) -> Worth:
    """Credit the turns of a batch.

    Args:
        played: episodes.
        tasks: the game of each; episodes of one game are compared.
        turns: of all episodes, in order.
        method: GRPO, or GiGPO, which also compares actions from one state.
        credit: options.
    """
    alive = [i for i, one in enumerate(played) if one.error is None]
    found = segments.advantages(
        [segment(played[i], tasks[i]) for i in alive],
        credit.mode,
        weights=(credit.rank_weight, credit.distil_weight),
    )
    by_phase = dict(zip(alive, found, strict=True))
    steps = _steps(played, tasks, alive, method, credit)
    advantage, valid = [], []
    acts = dict.fromkeys(range(len(played)), 0)
    for turn in turns:
        i, phase = turn.asked.episode, turn.asked.phase
        known = i in by_phase
        value = by_phase[i][phase] if known else 0.0
        if phase == "act":
            if known:
                value += steps[i][acts[i]]
                value -= credit.invalid_penalty * played[i].bad[acts[i]]
            acts[i] += 1
        advantage.append(value)
        valid.append(known and not (credit.mode == "released" and phase == "distil"))
    return Worth(advantage, weights(turns, valid, len(alive), credit), valid)


def joined(found: Worth, ripe: Sequence[float], episodes: int, credit: Credit) -> Worth:
    """The turns of a batch with skills of earlier steps behind them.

    Args:
        found: of the batch's own turns.
        ripe: advantage of each of the skills.
        episodes: of the batch that count.
        credit: options.
    """
    own, more = found.weight, [1.0] * len(ripe)
    if credit.reduction == "trajectory":
        # Rows are averaged: with more of them each has to weigh more.
        rows = sum(found.valid)
        own = [w * (rows + len(ripe)) / max(rows, 1) for w in own]
        more = [(rows + len(ripe)) / max(episodes, 1)] * len(ripe)
    return Worth([*found.advantage, *ripe], [*own, *more], [*found.valid, *[True] * len(ripe)])


def weights(
    turns: Sequence[Turn], valid: Sequence[bool], episodes: int, credit: Credit
) -> list[float]:
    """Weights of turns beside the mean over turns of token means.

    With reduction "trajectory" the loss becomes the mean over episodes of

        (sum over query and action tokens) / |tau|  +  sum over the ranking's tokens
        +  (sum over the skill's tokens) / |s|.
    """
    if credit.reduction == "turns":
        return [1.0] * len(turns)
    own: dict[int, int] = {}
    for turn in turns:
        if turn.asked.phase in ("query", "act"):
            own[turn.asked.episode] = own.get(turn.asked.episode, 0) + len(turn.response)
    rows, found = sum(valid), []
    for turn in turns:
        share = {
            "rank": float(len(turn.response)),
            "distil": 1.0,
        }.get(turn.asked.phase)
        if share is None:
            share = len(turn.response) / own[turn.asked.episode]
        found.append(rows * share / max(episodes, 1))
    return found


def _steps(
    played: Sequence[Played],
    tasks: Sequence[int],
    alive: Sequence[int],
    method: Grpo,
    credit: Credit,
) -> dict[int, list[float]]:
    """What GiGPO adds to each action of each episode; zeros under other methods."""
    if not isinstance(method, Gigpo):
        return {i: [0.0] * len(played[i].actions) for i in alive}
    groups: list[int] = []
    states: list[str] = []
    values: list[float] = []
    for i in alive:
        one = played[i]
        rewards = [-credit.invalid_penalty * bad for bad in one.bad]
        if rewards:
            rewards[-1] += one.reward == 1
        groups += [tasks[i]] * len(rewards)
        states += one.states
        values += returns(rewards, method.discount)
    flat = iter(step_advantages(groups, states, values, normalise=method.step_normalised))
    return {i: [method.step_weight * next(flat) for _ in played[i].actions] for i in alive}
