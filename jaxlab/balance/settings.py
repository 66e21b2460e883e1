"""The section `balance` of a training config: how documents are packed and budgets chosen."""

import dataclasses
import itertools
from typing import Literal

from jaxlab import ranges
from jaxlab.balance.batching import Cost
from jaxlab.balance.budget import BudgetTuner


@dataclasses.dataclass(frozen=True)
class Control:
    """One fixed budget in the place of tuned ones, for comparison.

    Attributes:
        budget: blocks per query. One that is not whole is met on average: each microbatch has the
            whole number below it or above it.
        path: work directory of a tuned run; the mean of its `balance/control_budget`, the fixed
            budget of equal work, is the budget. "@NAME" is the stage NAME of the same config.
    """

    budget: float | None = None
    path: str | None = None

    def __post_init__(self) -> None:
        """Check that one of the two is given."""
        if (self.budget is None) == (self.path is None):
            raise ValueError("control: give either budget, or the path of a tuned run")
        ranges.check(self, "budget", least=1)


@dataclasses.dataclass(frozen=True)
class Balance:
    """Training on documents of any length, packed over the data-parallel ranks.

    Attributes:
        microbatches: of a rank and step, each one packed row; where the documents of a step find no
            room in them there are more.
        widths: allowed lengths of rows in tokens, ascending: each is one compiled program. The last
            is the most that a microbatch holds.
        tuner: of budgets (DST); its base is the mixer's budget, with which evaluation runs.
        tune: whether budgets are tuned; otherwise all have the base.
        control: a fixed budget in the place of tuned ones.
        batching: what is exchanged: the documents of one "global_batch", or nothing ("in_batch"):
            they are dealt in turn.
        cost: what packing evens out: "latency", predicted at the budgets that such lengths got
            before (SAB); "length"; or "dense", the square of the length.
        method: of packing; see `batching.pack`.
        decay: of the average of budgets.
        table: a file that `LatencyTable.save` wrote, of this device and model; None:
            counted FLOPs.
        long_documents: what is done with documents longer than a microbatch: an "error", "split"
            into several, or "drop". What is split or dropped is counted and told.
    """

    microbatches: int = 1
    widths: tuple[int, ...] = (8192,)
    tuner: BudgetTuner = dataclasses.field(default_factory=BudgetTuner)
    tune: bool = True
    control: Control | None = None
    batching: Literal["global_batch", "in_batch"] = "global_batch"
    cost: Cost = "latency"
    method: Literal["lpt", "first_fit"] = "lpt"
    decay: float = 0.9
    table: str | None = None
    long_documents: Literal["error", "split", "drop"] = "error"

    def __post_init__(self) -> None:
        """Check sizes, and that the choices go together."""
        ranges.check_counts(self, "microbatches")
        ranges.check(self, "decay", least=0, below=1)
        ascending = all(a < b for a, b in itertools.pairwise(self.widths))
        if not self.widths or self.widths[0] < 1 or not ascending:
            raise ValueError(f"widths are {self.widths}: expected ascending lengths from 1")
        if self.tuner.granularity != "microbatch":
            raise ValueError(
                "tuner.granularity: training gives a microbatch one budget for all of its layers; "
                "budgets by layer exist in the tuner and for the simulator alone"
            )
        if self.control is not None and not self.tune:
            raise ValueError("control: it replaces tuned budgets, leave tune as it is")

    @property
    def tuned(self) -> bool:
        """Whether the tuner chooses the budgets."""
        return self.tune and self.control is None
