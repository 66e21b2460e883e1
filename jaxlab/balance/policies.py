"""What a step takes under each policy of batching and budgets, simulated.

Stages of a pipeline have equal shares of each microbatch, so that a rank with microbatches of t_1,
t_2, ... seconds is a flow shop that ends after (sum t + (PP - 1) max t) / PP, and a step after its
slowest rank.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from jaxlab.balance.batching import Cost, Method, deal, estimate, pack
from jaxlab.balance.budget import BudgetTuner, Memory
from jaxlab.balance.latency import Latency
from jaxlab.balance.workloads import Routing, Workload


@dataclasses.dataclass(frozen=True)
class Policy:
    """How sequences are dealt out and how their budgets are chosen.

    Attributes:
        cost: what packing evens out; None deals sequences in turn.
        tuned: budgets by the tuner (DST); else all have the base budget.
    """

    cost: Cost | None = None
    tuned: bool = False


POLICIES = {
    "round robin": Policy(),
    "DST": Policy(tuned=True),
    "LBB": Policy("length"),
    "SAB": Policy("latency"),
    "LBB + DST": Policy("length", tuned=True),
    "SAB + DST": Policy("latency", tuned=True),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all policies of a simulation share.

    Attributes:
        workload: lengths and cluster.
        latency: seconds of a layer by length and budget.
        tuner: of DST; its base budget is everybody's.
        block: tokens per block.
        steps: simulated, after `warmup`.
        warmup: steps in which only the memory of budgets is filled.
        method: of packing.
        seed: of lengths and routing.
        history: coverage by length bucket from the last step, as training without a second pass
            knows it; else the router's own for each microbatch, as the paper has it.
        equal_size: microbatches have equally many sequences, as the paper's do; else they are
            packed by cost alone, as `jaxlab.trainers.balanced` packs them.
    """

    workload: Workload
    latency: Latency
    tuner: BudgetTuner = dataclasses.field(default_factory=BudgetTuner)
    block: int = 256
    steps: int = 100
    warmup: int = 5
    method: Method = "lpt"
    seed: int = 0
    history: bool = False
    equal_size: bool = True


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Means over the steps of one policy.

    Attributes:
        seconds: of a step, of one layer.
        compute: seconds of all ranks' work on one layer per step: what is spent, not waited for.
        coverage: router mass within the budget, mean over sequences.
        token_coverage: the same weighted by tokens.
        imbalance: longest microbatch over the mean one.
        straggler: most loaded rank over the mean one.
        floored: share of microbatches whose budget the coverage floor decided.
        budget: mean over sequences.
        long_budget: mean over the sequences that the base budget does not cover.
        single: share of steps in which one sequence alone takes longer than a mean rank.
    """

    seconds: float
    compute: float
    coverage: float
    token_coverage: float
    imbalance: float
    straggler: float
    floored: float
    budget: float
    long_budget: float
    single: float


@dataclasses.dataclass(frozen=True)
class Step:
    """The sequences of a global batch: lengths and routing."""

    lengths: np.ndarray
    routing: Routing


def steps(settings: Settings) -> Iterator[Step]:
    """The same global batches for every policy, a pure function of the seed."""
    for n in range(settings.warmup + settings.steps):
        generator = np.random.default_rng([settings.seed, n])
        lengths = settings.workload.draw(generator, settings.workload.global_batch)
        yield Step(lengths, Routing(generator, lengths, settings.block))


def run(settings: Settings, policy: Policy, budget: float | None = None) -> Outcome:
    """Simulates one policy.

    Args:
        settings: of the simulation.
        policy: to simulate.
        budget: one for all in place of the tuner's base, not necessarily whole: the control.
    """
    memory = Memory(settings.tuner)
    rows = [_step(settings, policy, memory, each, budget) for each in steps(settings)]
    kept = rows[settings.warmup :]
    return Outcome(*map(_mean, zip(*kept, strict=True)))


def control_budget(settings: Settings, compute: float) -> float:
    """The fixed budget whose total work is `compute` seconds per step, by bisection."""
    kept = list(steps(settings))[settings.warmup :]
    lengths = np.concatenate([each.lengths for each in kept])
    low, high = map(float, (settings.tuner.buckets[0], settings.tuner.buckets[-1]))
    for _ in range(40):
        middle = (low + high) / 2
        spent = np.sum(settings.latency.predict(lengths, middle)) / len(kept)
        low, high = (middle, high) if spent < compute else (low, middle)
    return (low + high) / 2


def _step(
    settings: Settings, policy: Policy, memory: Memory, step: Step, budget: float | None
) -> Iterable[float]:
    work, tuner, lengths = settings.workload, settings.tuner, step.lengths
    base = tuner.base if budget is None else budget
    shape: dict[str, Any] = {"ranks": work.ranks, "microbatches": work.microbatches}
    if policy.cost is None:
        bins = deal(len(lengths), **shape)
    else:
        if budget is None:
            costs = estimate(lengths, settings.latency, memory, policy.cost)
        else:
            costs = settings.latency.predict(lengths, budget)
        bins = pack(costs, **shape, method=settings.method, equal_size=settings.equal_size)
    # The microbatch of each sequence, counted through ranks.
    place = np.empty(len(lengths), int)
    for number, members in enumerate(part for rank in bins for part in rank):
        place[members] = number

    def sums(values: np.ndarray) -> np.ndarray:
        total = np.zeros((work.ranks * work.microbatches, *values.shape[1:]))
        np.add.at(total, place, values)
        return total.reshape(work.ranks, work.microbatches, *values.shape[1:])

    floored, budgets = 0.0, np.full(len(lengths), float(base))
    if policy.tuned:
        curves = step.routing.coverage(np.asarray(tuner.buckets))
        known = np.asarray([memory.curve(n) for n in lengths]) if settings.history else curves
        # A microbatch without sequences has no coverage; its budget matters to nobody.
        weighted = sums(known * lengths[:, None]) / np.maximum(sums(lengths[:, None]), 1)
        seconds = settings.latency.predict(lengths[:, None], np.asarray(tuner.buckets))
        choice = tuner.plan(sums(seconds), weighted)
        budgets = choice.budgets.reshape(-1)[place].astype(float)
        floored = float(choice.floored.mean())
        memory.observe(lengths.tolist(), budgets.tolist(), curves.tolist())
    own = np.asarray(settings.latency.predict(lengths, budgets))
    times = sums(own)
    ranks = times.sum(axis=1)
    ends = (ranks + (work.stages - 1) * times.max(axis=1)) / work.stages
    levels, inverse = np.unique(budgets, return_inverse=True)
    covered = step.routing.coverage(levels)[np.arange(len(lengths)), inverse]
    long = lengths > base * settings.block
    return (
        float(ends.max()),
        float(own.sum()),
        float(covered.mean()),
        float((covered * lengths).sum() / lengths.sum()),
        float(times.max() / times.mean()),
        float(ranks.max() / ranks.mean()),
        floored,
        float(budgets.mean()),
        float(budgets[long].mean()) if long.any() else float("nan"),
        float(own.max() > ranks.mean()),
    )


def _mean(values: Iterable[float]) -> float:
    kept = [value for value in values if not np.isnan(value)]
    return float(np.mean(kept)) if kept else float("nan")
