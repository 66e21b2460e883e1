"""Evaluate a model on a task's test rows. The second door.

    python -m jaxlab.evaluate --config=configs/eval_NAME.py --workdir=DIR \\
        --config.model.path=MODEL [--config.KEY=VALUE ...]

MODEL is a HuggingFace directory or a work directory of training. Writes metrics.jsonl,
samples.jsonl, report.json and report.md.
"""

import dataclasses
import json
import logging
import pathlib

import jax
from absl import flags

from jaxlab import config as config_lib
from jaxlab import doors
from jaxlab.evals import report
from jaxlab.evals.loop import Eval, Evaluator
from jaxlab.models.decoder import Decoder
from jaxlab.runtime import mesh as mesh_lib
from jaxlab.runtime.metrics import MetricsWriter
from jaxlab.trainers import models, setup
from jaxlab.trainers.settings import Data, Mesh, Model

flags.declare_key_flag("config")
flags.declare_key_flag("workdir")

# By name: run with -m, this module is __main__.
logger = logging.getLogger("jaxlab.evaluate")


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """An evaluation.

    Attributes:
        model: what is evaluated.
        data: the task; only its test rows are used.
        eval: how it is sampled.
        mesh: devices.
        seed: of sampling.
    """

    model: Model
    data: Data
    eval: Eval
    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    seed: int = 0


def main(argv: list[str]) -> None:
    """Run the config of the command line."""
    del argv
    workdir = pathlib.Path(doors.WORKDIR.value or "")
    with doors.reading_input():
        if (workdir / "checkpoints").exists():
            raise ValueError(f"--workdir={workdir} is a training run: give the results another one")
        config = config_lib.build(Evaluate, doors.CONFIG.value.to_dict())
        mesh_lib.start(config.mesh.multihost)
        workdir.mkdir(parents=True, exist_ok=True)
        config_lib.save_json(config, workdir / "config.json")
        mesh = mesh_lib.make_mesh(config.mesh.shape)
        tokenizer = setup.tokenizer(config.data, models.tokenizer_at(config.model))
        source = models.find(
            config.model, "model", vocab_size=tokenizer.vocab_size, seed=config.seed
        )
        text = setup.text_task(config.data, tokenizer)
        evaluator = Evaluator(
            Decoder(source.config), text, config.eval, mesh, config.mesh.decode_rules
        )
        params = source.load(mesh, config.mesh.rules)
    scores, samples = evaluator(params, jax.random.key(config.seed))
    if not mesh_lib.is_main():
        return
    (workdir / "metrics.jsonl").unlink(missing_ok=True)
    with MetricsWriter(workdir) as writer:
        writer.write(0, {f"eval/{name}": value for name, value in scores.items()})
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in samples]
    (workdir / "samples.jsonl").write_text("".join(lines), encoding="utf-8")
    for name, value in scores.items():
        logger.info("%s %.4g", name, value)
    for path in report.write(workdir, {workdir.name: workdir}, f"{config.data.task}: evaluation"):
        logger.info("wrote %s", path)


if __name__ == "__main__":
    doors.run(main, required=["config", "workdir"])
