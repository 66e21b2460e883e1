"""Budgets that even out the load: workload-aware dynamic sparsity tuning (DST) of SparseBalance.

R: data-parallel ranks; M: microbatches per rank; K: budgets to choose from; N: sparse layers.

Every rank computes the same anchor from the same gathered scalars: with anchors of their own, ranks
whose tables differ by a digit would tune towards different targets.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

Anchor = Literal["mean", "min", "max"]
Scope = Literal["microbatch", "rank", "local"]
Granularity = Literal["microbatch", "layer"]
Coverage = Literal["abs_drop", "rel_drop", "band"]

# Shares of router mass are sums of softmax terms: equal ones differ by their rounding.
ROUNDING = 1e-6


class Choice(NamedTuple):
    """Budgets of microbatches, or of the layers of microbatches.

    Attributes:
        budgets: int, blocks per query.
        floored: bool, True where no budget met both conditions and the coverage floor decided.
    """

    budgets: Any
    floored: Any


@dataclasses.dataclass(frozen=True)
class BudgetTuner:
    """Chooses the budget of each microbatch by its predicted seconds and its router's coverage.

    A microbatch i whose time T_i(k0) at the base budget is above the anchor A gets a smaller
    budget, one below it a larger one, as far as the coverage C_i(k), the share of router mass in
    the best k blocks, allows:

        K_i = {k : T_i(k) <= A and C_i(k) >= C_i(k0) - p},   k_i = max K_i      (Eqs. 6 and 7)

    Where K_i is empty, k_i is the smallest k that meets the second condition: the floor, which the
    paper lacks (docs/sparse_balance.md says how many simulated microbatches need it).

    Attributes:
        anchor: of the predicted seconds at the base budget: their mean, min or max.
        anchor_scope: over which set: every "microbatch" of the global batch; the totals of the
            "rank"s, where each microbatch aims at its share of the anchor (right without a
            pipeline, where a rank's microbatches add up); or those of one rank alone, "local".
        granularity: one budget per "microbatch", or one per "layer", where layers are decided in
            order and each gets an equal share of the time that is left.
        p: how much coverage may be lost.
        coverage: p as an absolute loss ("abs_drop"); of a share of C_i(k0) ("rel_drop"); or a bound
            on changes both ways ("band").
        buckets: the budgets to choose from, ascending.
        base: k0, the budget without tuning, one of the buckets.

    Source: SparseBalance, section 4, as public notes give it; the equations are reconstructions.
    """

    anchor: Anchor = "mean"
    anchor_scope: Scope = "microbatch"
    granularity: Granularity = "microbatch"
    p: float = 0.1
    coverage: Coverage = "abs_drop"
    buckets: tuple[int, ...] = (8, 12, 16, 24, 32, 48, 64)
    base: int = 32

    def __post_init__(self) -> None:
        """Check names, p, and that the base budget is among the buckets."""
        for name, choices in (
            ("anchor", ("mean", "min", "max")),
            ("anchor_scope", ("microbatch", "rank", "local")),
            ("granularity", ("microbatch", "layer")),
            ("coverage", ("abs_drop", "rel_drop", "band")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}: expected one of {', '.join(choices)}"
                )
        if not (math.isfinite(self.p) and 0 <= self.p <= 1):
            raise ValueError(f"p is {self.p}: expected a share of router mass from 0 to 1")
        object.__setattr__(self, "buckets", tuple(self.buckets))
        ascending = all(a < b for a, b in itertools.pairwise(self.buckets))
        if not self.buckets or self.buckets[0] < 1 or not ascending:
            raise ValueError(f"buckets are {self.buckets}: expected ascending budgets from 1")
        if self.base not in self.buckets:
            raise ValueError(f"the base budget {self.base} is not among the buckets {self.buckets}")

    @property
    def base_index(self) -> int:
        """Where the base budget stands among the buckets."""
        return self.buckets.index(self.base)

    def anchors(self, seconds: Any) -> np.ndarray:
        """The seconds that each microbatch aims at, [R, M].

        Args:
            seconds: [R, M], predicted at the base budget for the whole global batch; 0 stands for
                an empty microbatch, which counts neither in means nor in minima.

        Raises:
            ValueError: they are no such array, or one is negative or not finite.
        """
        times = np.asarray(seconds, np.float64)
        if times.ndim != 2 or not (np.isfinite(times) & (times >= 0)).all():
            raise ValueError(
                f"seconds at the base budget, shape {times.shape}: expected finite numbers [ranks, "
                "microbatches], none below 0"
            )
        if not times.any():
            return np.zeros_like(times)
        reduce: Any = {"mean": np.mean, "min": np.min, "max": np.max}[self.anchor]
        if self.anchor_scope == "microbatch":
            return np.full_like(times, reduce(times[times > 0]))
        if self.anchor_scope == "local":
            rows = [reduce(row[row > 0]) if row.any() else 0.0 for row in times]
            return np.broadcast_to(np.asarray(rows)[:, None], times.shape).copy()
        totals = times.sum(axis=1)
        aim = reduce(totals[totals > 0])
        return times * (aim / np.where(totals > 0, totals, 1.0))[:, None]

    def choose(self, seconds: Any, coverage: Any, anchor: Any) -> Choice:
        """The budgets of microbatches, of NumPy or JAX arrays (traced ones too).

        Args:
            seconds: [..., K], predicted at each bucket.
            coverage: [..., K], router mass of the best k blocks at each bucket.
            anchor: [...], seconds to stay within.

        Returns:
            Budgets [...], and whether the floor decided [...].
        """
        xp = seconds.__array_namespace__()
        base = coverage[..., self.base_index : self.base_index + 1]
        least = base * (1 - self.p) if self.coverage == "rel_drop" else base - self.p
        allowed = coverage >= least - ROUNDING
        if self.coverage == "band":
            allowed = allowed & (coverage <= base + self.p + ROUNDING)
        places = xp.arange(len(self.buckets))
        feasible = allowed & (seconds <= anchor[..., None] * (1 + ROUNDING))
        best = xp.where(feasible, places, -1).max(axis=-1)
        floor = xp.where(allowed, places, len(self.buckets)).min(axis=-1)
        floored = best < 0
        budgets = xp.asarray(self.buckets)[xp.where(floored, floor, best)]
        return Choice(budgets, floored)

    def plan(self, seconds: Any, coverage: Any) -> Choice:
        """The budgets of a global batch.

        Args:
            seconds: [R, M, K], predicted for each microbatch at each bucket: of all layers.
            coverage: [R, M, K]; or [R, M, N, K] of each sparse layer with granularity "layer".

        Returns:
            Budgets [R, M] or [R, M, N]; an empty microbatch has the base budget.

        Raises:
            ValueError: a shape does not fit, or coverage is not finite.
        """
        times, shares = np.asarray(seconds, np.float64), np.asarray(coverage, np.float64)
        layered = self.granularity == "layer"
        fits = times.ndim == 3 and times.shape[2] == len(self.buckets)
        if not fits or shares.ndim != 3 + layered or shares.shape[-1] != len(self.buckets):
            wanted = "[R, M, N, K]" if layered else "[R, M, K]"
            raise ValueError(
                f"seconds has shape {times.shape} and coverage {shares.shape}: expected [R, M, K] "
                f"and {wanted} with K = {len(self.buckets)} buckets"
            )
        if shares.shape[:2] != times.shape[:2] or not np.isfinite(shares).all():
            raise ValueError("coverage must be finite, and of as many microbatches as seconds")
        anchors = self.anchors(times[..., self.base_index])
        if not layered:
            choice = self.choose(times, shares, anchors)
        else:
            choice = self._by_layer(times, shares, anchors)
        empty: Any = ~times.any(axis=-1)
        empty = empty[..., None] if layered else empty
        return Choice(np.where(empty, self.base, choice.budgets), choice.floored & ~empty)

    def _by_layer(self, times: np.ndarray, shares: np.ndarray, anchors: np.ndarray) -> Choice:
        layers = shares.shape[2]
        left, chosen = anchors.copy(), []
        for n in range(layers):
            one = self.choose(times / layers, shares[:, :, n], left / (layers - n))
            chosen.append(one)
            at = np.searchsorted(self.buckets, one.budgets)
            left = left - np.take_along_axis(times, at[..., None], -1)[..., 0] / layers
        return Choice(*(np.stack(part, axis=-1) for part in zip(*chosen, strict=True)))


def bucket_of(length: int) -> int:
    """floor(log2 L), by which lengths share what is remembered.

    Raises:
        ValueError: the length is below 1.
    """
    if length < 1:
        raise ValueError(f"length is {length}: expected at least 1 token")
    return int(length).bit_length() - 1


@dataclasses.dataclass
class Memory:
    """What tuning remembers between steps: host state that a checkpoint has to keep.

    A resumed run that lacked it would choose other budgets than the run that it goes on with.

    Attributes:
        tuner: whose buckets the curves are of.
        table: `LatencyTable.id` of the predictions.
        decay: of the average of budgets.
        budgets: length bucket -> moving average of the budgets that DST assigned.
        curves: length bucket -> coverage at each of the tuner's buckets, as of the last step.
    """

    tuner: BudgetTuner
    table: str = ""
    decay: float = 0.9
    budgets: dict[int, float] = dataclasses.field(default_factory=dict)
    curves: dict[int, tuple[float, ...]] = dataclasses.field(default_factory=dict)

    def budget(self, length: int) -> float:
        """The budget that a sequence of this length is expected to get; the base one at first."""
        return self.budgets.get(bucket_of(length), float(self.tuner.base))

    def curve(self, length: int) -> tuple[float, ...]:
        """Coverage at each bucket, of the last step that had such a length.

        Before there was one: nothing below the base budget, so that nothing is cut blindly.
        """
        unknown = tuple(float(k >= self.tuner.base) for k in self.tuner.buckets)
        return self.curves.get(bucket_of(length), unknown)

    def observe(
        self,
        lengths: Sequence[int],
        budgets: Sequence[float],
        curves: Sequence[Sequence[float]] | None = None,
    ) -> None:
        """Takes up a step's sequences: their lengths, budgets and, where measured, coverage.

        Sequences of one length bucket count as one observation, their mean, in whatever order they
        come.

        Raises:
            ValueError: the lists differ in length, or a value is not finite.
        """
        groups: dict[int, list[int]] = {}
        for i, length in enumerate(lengths):
            groups.setdefault(bucket_of(length), []).append(i)
        values = np.asarray(budgets, np.float64)
        if values.shape != (len(lengths),) or not (np.isfinite(values) & (values >= 1)).all():
            raise ValueError(f"budgets {budgets!r}: expected {len(lengths)} numbers from 1")
        shares = None
        if curves is not None and len(lengths):
            shares = np.asarray(curves, np.float64)
            wanted = (len(lengths), len(self.tuner.buckets))
            if shares.shape != wanted or not np.isfinite(shares).all():
                raise ValueError(f"coverage of shape {shares.shape}: expected finite {wanted}")
        for key, members in groups.items():
            new = float(values[members].mean())
            old = self.budgets.get(key)
            self.budgets[key] = new if old is None else self.decay * old + (1 - self.decay) * new
            if shares is not None:
                self.curves[key] = tuple(shares[members].mean(axis=0).tolist())

    def to_json(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {
            "table": self.table,
            "buckets": list(self.tuner.buckets),
            "budgets": {str(key): value for key, value in sorted(self.budgets.items())},
            "curves": {str(key): list(value) for key, value in sorted(self.curves.items())},
        }

    def restore(self, data: Mapping[str, Any]) -> None:
        """Takes up what `to_json` gave.

        Raises:
            ValueError: it is of another latency table or of other buckets, or is damaged.
        """
        try:
            table, buckets = data["table"], tuple(data["buckets"])
            budgets = {int(key): float(value) for key, value in data["budgets"].items()}
            curves = {int(k): tuple(map(float, value)) for k, value in data["curves"].items()}
            for curve in curves.values():
                if len(curve) != len(buckets) or not all(map(math.isfinite, curve)):
                    raise ValueError(f"coverage {curve}: expected {len(buckets)} finite numbers")
            for budget in budgets.values():
                if not (math.isfinite(budget) and budget >= 1):
                    raise ValueError(f"budget {budget}: expected a number from 1")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the checkpoint's balancer state is damaged: {error!r}") from error
        if table != self.table:
            raise ValueError(
                f"the checkpoint's budgets come from the latency table {table!r}, this run has "
                f"{self.table!r}: load that table, or begin anew"
            )
        if buckets != self.tuner.buckets:
            raise ValueError(
                f"the checkpoint's budgets are of the buckets {buckets}, this run has "
                f"{self.tuner.buckets}"
            )
        self.budgets, self.curves = budgets, curves
