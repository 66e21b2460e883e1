"""The training door around a trainer that compiles nothing: each step sleeps and adds one.

python quick_program.py --config=FILE --workdir=DIR, as python -m jaxlab.train.
"""

import dataclasses
import math
from time import sleep
from typing import Any, Literal

import numpy as np

from jaxlab import doors, train
from jaxlab.runtime.settings import Mesh
from jaxlab.trainers.loop import Evaluation, Program, StepOutput
from jaxlab.trainers.settings import Train
from jaxlab.trainers.state import TrainState


@dataclasses.dataclass(frozen=True)
class Model:
    """Numbers that the model holds."""

    size: int = 3


@dataclasses.dataclass(frozen=True)
class Optim:
    """Arrays that the optimiser holds."""

    slots: int = 1


@dataclasses.dataclass(frozen=True)
class Quick:
    """Lengths, seconds that a step takes, and sizes of the state."""

    train: Train
    seconds: float = 0.0
    model: Model = dataclasses.field(default_factory=Model)
    optim: Optim = dataclasses.field(default_factory=Optim)
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    seed: int = 0
    nan_at: int | None = None
    trainer: Literal["quick", "other"] = "quick"


def program(config, workdir):
    """The run: w counts the steps."""
    del workdir

    def state(step):
        # Numbers that do not compress.
        rng = np.random.default_rng(step)
        slots = {f"slot_{i}": rng.random(config.model.size) for i in range(config.optim.slots)}
        return TrainState(np.int32(step), {"w": np.full(config.model.size, float(step))}, slots)

    def step(current, index):
        sleep(config.seconds)
        loss = math.nan if index == config.nan_at else 1.0 / (index + 1)
        return StepOutput(state(int(current.step) + 1), {"loss": loss, "grad_norm": 1.0}, dict)

    def evaluate(current, index):
        del index
        return Evaluation({"eval/accuracy": float(current.step)})

    return Program(state(0), lambda: state(0), step, evaluate)


train.TRAINERS["quick"] = (Quick, program)

if __name__ == "__main__":
    doors.run(train.main, required=["config", "workdir"])
