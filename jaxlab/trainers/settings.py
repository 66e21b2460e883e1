"""The parts that every training config has: frozen dataclasses with the config's keys."""

import dataclasses
from typing import Annotated, Any, Literal

from jaxlab import ranges
from jaxlab.config import build, fields_of
from jaxlab.data.tasks.names import TASKS
from jaxlab.data.tasks.tokens import ENDLESS

_OPTIONS = {name: kind.options for name, kind in TASKS.items()}


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
        nonfinite: what a non-finite loss or gradient does: "stop" ends the run and names the step;
            "skip" leaves the state as it was and counts the step in the metric `skipped`.
        microbatch: rows whose forward and backward passes are computed at once; their gradients are
            added up. It bounds the memory of activations, and on a CPU a few thousand tokens at a
            time are faster than many. None: the whole batch.
        stop_after: ends the run after this many steps without touching its schedules.
        tensorboard: also write TensorBoard event files.
        wandb: Weights & Biases project to report to.
        profile_start: first step of a jax.profiler trace of five steps, counted from 0.
    """

    steps: int
    log_every: int = 10
    eval_every: int = 100
    checkpoint_every: int = 100
    keep_checkpoints: int = 3
    nonfinite: Literal["stop", "skip"] = "stop"
    microbatch: int | None = None
    stop_after: int | None = None
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
            "microbatch",
            "stop_after",
        )
        ranges.check(self, "profile_start", least=0)
        if self.profile_start is not None and self.profile_start >= self.steps:
            raise ValueError(
                f"profile_start must be below steps = {self.steps}, not {self.profile_start}: "
                "there would be no trace"
            )

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


@dataclasses.dataclass(frozen=True)
class Data:
    """Examples and how they become tokens.

    Attributes:
        task: a name in `jaxlab.data.tasks.names.TASKS`.
        options: keyword arguments of the task (for the modular sum: modulus and addends).
        train: jsonl file of training rows, for tasks that read one.
        test: jsonl file of test rows.
        num_train: number of generated training examples, for tasks that generate.
        tokenizer: directory with tokenizer.json; None means the model's own, or the task's.
        chat: render prompts with the tokenizer's chat template.
        max_prompt: longest prompt in tokens.
        long_prompts: "error" ends the program at a longer one, "drop" leaves such rows out and
            says how many; of generated examples it takes others in their place.
    """

    task: str
    options: Annotated[dict[str, Any], fields_of(_OPTIONS, "task")] = dataclasses.field(
        default_factory=dict
    )
    train: str | None = None
    test: str | None = None
    num_train: int = 100_000
    tokenizer: str | None = None
    chat: bool = False
    max_prompt: int = 512
    long_prompts: Literal["error", "drop"] = "error"

    def __post_init__(self) -> None:
        """Check that counts are positive, and the task's options."""
        ranges.check_counts(self, "max_prompt")
        ranges.check(self, "num_train", least=1, most=ENDLESS)
        self.task_options()

    def task_options(self) -> Any:
        """The dataclass of the task's options; generated examples are `num_train`.

        Raises:
            ConfigError: there is no such option, or its value is of no use.
        """
        kind = TASKS[self.task]
        given: dict[str, Any] = dict(kind.chat) if self.chat else {}
        if any(field.name == "train_size" for field in dataclasses.fields(kind.options)):
            given["train_size"] = self.num_train
        return build(kind.options, given | self.options, "data.options")
