"""A training step's plan: where each document goes and which budget its microbatch has.

Every process of a run makes the whole plan by itself and gets the same one: what depends on its own
latency table is exchanged first, and all that follows is computed from the gathered numbers.

R: ranks; M: microbatches per rank; K: budgets to choose from; N: documents.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxlab.balance.batching import Bins, deal, estimate, pack
from jaxlab.balance.budget import Memory, bucket_of
from jaxlab.balance.latency import Latency
from jaxlab.balance.settings import Balance

# This process's float64 array -> those of all processes, on a leading axis, the same everywhere.
Exchange = Callable[[np.ndarray], np.ndarray]


class Plan(NamedTuple):
    """One step.

    Attributes:
        lengths: int [N], tokens of the documents.
        bins: [R][M][indices of documents]; a rank's microbatches by falling tokens, so that those
            that run side by side are of like width.
        tokens: int [R, M].
        widths: [M], the length of the rows of each microbatch; 0 where it is empty on all ranks.
        budgets: int [R, M].
        floored: bool [R, M], where the coverage floor decided.
        seconds: [R, M, K], predicted at each of the tuner's buckets, by each rank's own table.
    """

    lengths: np.ndarray
    bins: Bins
    tokens: np.ndarray
    widths: list[int]
    budgets: np.ndarray
    floored: np.ndarray
    seconds: np.ndarray


def alone(values: np.ndarray) -> np.ndarray:
    """The `Exchange` of a single process."""
    return values[None]


class Planner:
    """Plans steps, and takes up what they measured."""

    def __init__(
        self,
        settings: Balance,
        latency: Latency,
        memory: Memory,
        *,
        ranks: int,
        fixed: float | None = None,
        owners: Sequence[int] | None = None,
        exchange: Exchange = alone,
    ):
        """Take what plans are made from.

        Args:
            settings: of packing and budgets.
            latency: of the model on this process's device.
            memory: of budgets and coverage; in every process the same.
            ranks: R.
            fixed: one budget for all, in the place of tuned ones.
            owners: the process of each rank, whose table predicts its microbatches.
            exchange: with the other processes.
        """
        self._settings, self._latency, self._memory = settings, latency, memory
        self._ranks, self._fixed, self._exchange = ranks, fixed, exchange
        self._owners = np.zeros(ranks, int) if owners is None else np.asarray(owners)

    def plan(self, lengths: Sequence[int], step: int) -> Plan:
        """The plan of a step, a function of the arguments and of the memory.

        Raises:
            ValueError: a document is longer than any microbatch, or has no token.
        """
        tokens = np.asarray(lengths, int)
        widest = self._settings.widths[-1]
        for n in np.flatnonzero((tokens > widest) | (tokens < 1)):
            raise ValueError(
                f"document {n} of step {step} has {tokens[n]} tokens, a microbatch takes from 1 to "
                f"{widest}: raise balance.widths, or set balance.long_documents"
            )
        bins = self._bins(tokens)
        shape = (self._ranks, len(bins[0]))
        place = _places(bins, len(tokens))
        sizes = _sums(tokens, place, shape).astype(int)
        buckets = np.asarray(self._settings.tuner.buckets)
        own = _sums(self._predict(tokens[:, None], buckets), place, shape)
        seconds = self._exchange(own)[self._owners, np.arange(self._ranks)]
        budgets, floored = self._budgets(tokens, place, seconds, step)
        widths = [self._width(int(most)) for most in sizes.max(axis=0)]
        return Plan(tokens, bins, sizes, widths, budgets, floored, seconds)

    def observe(self, plan: Plan, coverage: np.ndarray) -> bool:
        """Takes up a step's budgets and the coverage [R, M, K] that it measured.

        Returns:
            Whether it was taken up: without tuning nothing is remembered, and coverage that is not
            finite, of a step that broke, is left out.
        """
        if not self._settings.tuned or not len(plan.lengths):
            return False
        place = _places(plan.bins, len(plan.lengths))
        filled = np.unique(place)
        measured = coverage.reshape(-1, coverage.shape[-1])[filled]
        if not np.isfinite(measured).all():
            return False
        keys = [bucket_of(int(length)) for length in plan.lengths]
        names = sorted(set(keys))
        shares = np.zeros((plan.tokens.size, len(names)))
        group = np.array([names.index(key) for key in keys])
        np.add.at(shares, (place, group), plan.lengths)
        curves = attribute(
            shares[filled], measured, [self._memory.curves.get(name) for name in names]
        )
        by_name = dict(zip(names, curves, strict=True))
        self._memory.observe(
            plan.lengths.tolist(),
            plan.budgets.reshape(-1)[place].tolist(),
            [by_name[key] for key in keys],
        )
        return True

    def metrics(self, plan: Plan, coverage: np.ndarray, blocks: np.ndarray) -> dict[str, float]:
        """Scalars of a step whose documents are at least one.

        Args:
            plan: of the step.
            coverage: [R, M, K], measured at the tuner's buckets.
            blocks: [R], pairs of a query and a block that each rank computed.

        Returns:
            - imbalance, straggler: longest microbatch, most loaded rank, over the mean one, in
              predicted seconds; counted: the same of ranks in blocks that were computed;
            - coverage: at the budgets chosen, mean over tokens; at `base_coverage` the base one;
            - budget: mean over tokens; floored: share of microbatches at the floor;
            - padding: share of the rows that holds no token; microbatches: per rank;
            - work, base_work: predicted seconds of all ranks, and those at the base budget;
            - control_budget, control_work, control_straggler: of one fixed budget for the same
              bins that takes the same work, as far as it is among the buckets.
        """
        tuner = self._settings.tuner
        buckets = np.asarray(tuner.buckets, float)
        weights = plan.tokens / plan.tokens.sum()
        times = _at(plan.seconds, buckets, plan.budgets)
        control = self._equal_work(plan.seconds, times.sum())
        even = _at(plan.seconds, buckets, np.full(plan.budgets.shape, control))
        filled = plan.tokens > 0
        places = sum(plan.widths) * self._ranks
        found = {
            "imbalance": times[filled].max() / times[filled].mean(),
            "straggler": _over_mean(times.sum(axis=1)),
            "counted": _over_mean(blocks),
            "blocks": blocks.sum(),
            "coverage": (weights * _at(coverage, buckets, plan.budgets)).sum(),
            "base_coverage": (weights * coverage[..., tuner.base_index]).sum(),
            "budget": (weights * plan.budgets).sum(),
            "floored": plan.floored[filled].mean(),
            "padding": 1 - plan.tokens.sum() / places,
            "microbatches": len(plan.widths),
            "work": times.sum(),
            "base_work": plan.seconds[..., tuner.base_index].sum(),
            "control_budget": control,
            "control_work": even.sum(),
            "control_straggler": _over_mean(even.sum(axis=1)),
        }
        return {f"balance/{name}": float(value) for name, value in found.items()}

    def _predict(self, lengths: Any, budgets: Any) -> np.ndarray:
        return np.asarray(self._latency.predict(lengths, budgets), np.float64)

    def _bins(self, tokens: np.ndarray) -> Bins:
        settings = self._settings
        costs = tokens.astype(float)
        if self._fixed is not None and settings.cost == "latency":
            costs = self._predict(tokens, self._fixed)
        elif len(tokens):
            costs = estimate(tokens, self._latency, self._memory, settings.cost)
        costs = self._exchange(np.asarray(costs, np.float64)).mean(axis=0)
        # A rank with one more microbatch waits less than a run that has ended.
        for microbatches in itertools.count(settings.microbatches):
            shape: dict[str, Any] = {"ranks": self._ranks, "microbatches": microbatches}
            if settings.batching == "in_batch":
                bins = deal(len(tokens), **shape)
                if max(_loads(bins, tokens)) > settings.widths[-1]:
                    continue
            else:
                try:
                    bins = pack(
                        costs, **shape, method=settings.method, lengths=tokens.tolist(),
                        max_tokens=settings.widths[-1],
                    )  # fmt: skip
                except ValueError:
                    if microbatches > len(tokens):
                        raise
                    continue
            return [sorted(rank, key=lambda part: -int(tokens[part].sum())) for rank in bins]
        raise AssertionError("count() does not end")

    def _budgets(
        self, tokens: np.ndarray, place: np.ndarray, seconds: np.ndarray, step: int
    ) -> tuple[np.ndarray, np.ndarray]:
        tuner, shape = self._settings.tuner, seconds.shape[:2]
        if not self._settings.tuned:
            fixed = float(tuner.base) if self._fixed is None else self._fixed
            # Whole numbers whose mean is the budget, over microbatches and steps.
            ends = (step * math.prod(shape) + np.arange(math.prod(shape) + 1)) * fixed
            budgets = np.diff(np.floor(ends + 1e-9)).astype(int).reshape(shape)
            return budgets, np.zeros(shape, bool)
        curves = np.asarray([self._memory.curve(int(n)) for n in tokens])
        curves = curves.reshape(len(tokens), len(tuner.buckets))
        weights = np.maximum(_sums(tokens[:, None], place, shape), 1)
        choice = tuner.plan(seconds, _sums(curves * tokens[:, None], place, shape) / weights)
        return np.asarray(choice.budgets), np.asarray(choice.floored)

    def _width(self, tokens: int) -> int:
        return 0 if not tokens else min(w for w in self._settings.widths if w >= tokens)

    def _equal_work(self, seconds: np.ndarray, work: float) -> float:
        buckets = np.asarray(self._settings.tuner.buckets, float)
        low, high = buckets[0], buckets[-1]
        for _ in range(40):
            middle = (low + high) / 2
            spent = _at(seconds, buckets, np.full(seconds.shape[:2], middle)).sum()
            low, high = (middle, high) if spent < work else (low, middle)
        return float(low + high) / 2


def attribute(
    shares: np.ndarray, measured: np.ndarray, before: Sequence[Sequence[float] | None]
) -> np.ndarray:
    """Coverage curves of length buckets, from those of microbatches that mix them.

    A microbatch's coverage is the mean of its documents' over tokens. Of all curves whose means are
    what was measured (least squares, where there are none), those nearest to the curves before.

    Args:
        shares: [I, G], tokens of each bucket in each microbatch.
        measured: [I, K].
        before: the buckets' curves of the last step; None: the mean of the microbatches that it
            has tokens in.

    Returns:
        [G, K], within 0 to 1 and rising in k.
    """
    known = np.stack([
        np.average(measured, axis=0, weights=shares[:, g]) if curve is None else np.asarray(curve)
        for g, curve in enumerate(before)
    ])  # fmt: skip
    weights = shares / shares.sum(axis=1, keepdims=True)
    change = np.linalg.lstsq(weights, measured - weights @ known, rcond=1e-6)[0]
    return np.maximum.accumulate(np.clip(known + change, 0, 1), axis=1)


def _places(bins: Bins, count: int) -> np.ndarray:
    """The microbatch of each document, counted through the ranks."""
    place = np.zeros(count, int)
    for number, members in enumerate(part for rank in bins for part in rank):
        place[members] = number
    return place


def _loads(bins: Bins, tokens: np.ndarray) -> list[int]:
    return [int(tokens[part].sum()) for rank in bins for part in rank]


def _sums(values: np.ndarray, place: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """[N, ...] -> [R, M, ...], sums over the documents of each microbatch."""
    total = np.zeros((math.prod(shape), *values.shape[1:]))
    np.add.at(total, place, values)
    return total.reshape(*shape, *values.shape[1:])


def _at(curves: np.ndarray, buckets: np.ndarray, budgets: np.ndarray) -> np.ndarray:
    """Values [R, M] of curves [R, M, K] at budgets [R, M], linear between the buckets."""
    rows = zip(curves.reshape(-1, len(buckets)), budgets.reshape(-1), strict=True)
    return np.array([np.interp(k, buckets, row) for row, k in rows]).reshape(budgets.shape)


def _over_mean(values: np.ndarray) -> float:
    return float(values.max() / values.mean()) if values.any() else 1.0
