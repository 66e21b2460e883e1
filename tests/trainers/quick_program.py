"""The training door around a trainer that compiles nothing: each step sleeps and adds one.

python quick_program.py --config=FILE --workdir=DIR, as python -m jaxlab.train.
"""

import dataclasses
import time
from typing import Any, Literal

import numpy as np

from jaxlab import doors, train
from jaxlab.trainers.loop import Evaluation, Program, StepOutput
from jaxlab.trainers.settings import Train
from jaxlab.trainers.state import TrainState


@dataclasses.dataclass(frozen=True)
class Quick:
    """Seconds that a step and an evaluation take, and numbers that the state holds."""

    train: Train
    seconds: float = 0.0
    evaluation: float = 0.0
    size: int = 3
    slots: int = 1
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    seed: int = 0
    trainer: Literal["quick"] = "quick"


def program(config, workdir):
    """The run: w counts the steps."""
    del workdir

    def state(step):
        slots = {f"slot_{i}": np.ones(config.size) for i in range(config.slots)}
        return TrainState(np.int32(step), {"w": np.full(config.size, float(step))}, slots)

    def step(current, index):
        time.sleep(config.seconds)
        scalars = {"loss": 1.0 / (index + 1), "grad_norm": 1.0}
        return StepOutput(state(int(current.step) + 1), scalars, dict)

    def evaluate(current, index):
        del index
        until = time.monotonic() + config.evaluation
        while time.monotonic() < until:
            time.sleep(0.01)
        return Evaluation({"eval/accuracy": float(current.step)})

    return Program(state(0), lambda: state(0), step, evaluate)


train.TRAINERS["quick"] = (Quick, program)

if __name__ == "__main__":
    doors.run(train.main, required=["config", "workdir"])
