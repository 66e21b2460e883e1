"""The parts that every training config has: frozen dataclasses with the config's keys."""

import dataclasses
from typing import Literal

from jaxlab import ranges


@dataclasses.dataclass(frozen=True)
class Until:
    """A score at which a run ends.

    Attributes:
        metric: of an evaluation, without "eval/".
        at_least: the score.
    """

    metric: str
    at_least: float


@dataclasses.dataclass(frozen=True)
class Train:
    """How long a run lasts and what it leaves behind.

    Attributes:
        steps: optimisation steps (for distillation: rollout batches).
        log_every: steps between rows of metrics.jsonl.
        eval_every: steps between evaluations; there is one before the first and after the last
            step.
        checkpoint_every: steps between checkpoints; there is one after the last step.
        keep_checkpoints: how many of the newest checkpoints stay.
        keep_every: checkpoints of steps that are a multiple of this stay as well; None: none do.
        nonfinite: what a non-finite loss or gradient does: "stop" ends the run and names the step;
            "skip" leaves the state as it was and counts the step in the metric `skipped`.
        microbatch: rows whose forward and backward passes are computed at once; their gradients are
            added up. It bounds the memory of activations, and on a CPU a few thousand tokens at a
            time are faster than many. None: the whole batch.
        balance_loss: weight of the routers' balance loss, a mean over the layers with experts that
            is 1 where all experts have the same load (`jaxlab.nn.routing.balance`); metrics called
            router_* say how even it is. The metric `loss` includes it.
        stop_after: ends the run after this many steps without touching its schedules.
        until: ends the run with the first evaluation that has this score. Models of one score are
            alike, which those of one step are not: processors sum in different orders, and a model
            that is just learning is far better a hundred steps later.
        tensorboard: also write TensorBoard event files.
        wandb: Weights & Biases project to report to.
        profile_start: first step of a jax.profiler trace of five steps, counted from 0.
    """

    steps: int
    log_every: int = 10
    eval_every: int = 100
    checkpoint_every: int = 100
    keep_checkpoints: int = 3
    keep_every: int | None = None
    nonfinite: Literal["stop", "skip"] = "stop"
    microbatch: int | None = None
    balance_loss: float = 0.0
    stop_after: int | None = None
    until: Until | None = None
    tensorboard: bool = False
    wandb: str | None = None
    profile_start: int | None = None

    def __post_init__(self) -> None:
        """Check that counts are positive and that a trace begins within the run."""
        ranges.check_counts(
            self,
            "steps",
            "log_every",
            "eval_every",
            "checkpoint_every",
            "keep_checkpoints",
            "keep_every",
            "microbatch",
            "stop_after",
        )
        ranges.check(self, "profile_start", "balance_loss", least=0)
        if self.profile_start is not None and self.profile_start >= self.steps:
            raise ValueError(
                f"profile_start must be below steps = {self.steps}, not {self.profile_start}: "
                "there would be no trace"
            )

    def check_whole(self, done: str) -> None:
        """Refuse `until` where something is `done` after the last of `steps` alone."""
        if self.until is not None:
            raise ValueError(f"train.until: {done} after the last of train.steps: leave it out")

    def parts(self, rows: int) -> int:
        """Into how many microbatches a batch of `rows` is divided.

        Raises:
            ValueError: `microbatch` does not divide it.
        """
        if self.microbatch is None or self.microbatch >= rows:
            return 1
        if rows % self.microbatch:
            raise ValueError(
                f"train.microbatch: {self.microbatch} does not divide a batch of {rows} rows"
            )
        return rows // self.microbatch
