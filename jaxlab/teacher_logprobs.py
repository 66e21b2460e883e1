"""Write what a teacher says of fixed completions, for runs without the teacher. One command.

    python -m jaxlab.teacher_logprobs --config=configs/NAME.py[:variant] --out=DIR \\
        --config.rollout.source=data [--config.KEY=VALUE ...]

The config is that of the distillation run. Of every training row the teacher's likeliest words are
written, as many as the loss compares, with their log-probabilities, the mass of the others and the
log-probability of each token: of the data's own completions, or with rollout.source=teacher of
`rollout.samples` that the teacher writes now. The files are then read back and checked. The run
takes them by --config.teacher.logprobs=DIR; jaxlab/trainers/teacher_file.py has the format.
"""

import logging
import math
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils

from jaxlab import config as config_lib
from jaxlab import doors
from jaxlab.interop import directory, fingerprint, models
from jaxlab.losses.types import Needs, Teacher
from jaxlab.rollouts.policy import Policy, Rollout, cropped, to_host
from jaxlab.rollouts.text import TextTask, text_task
from jaxlab.runtime import mesh as mesh_lib
from jaxlab.runtime.sharding import ambient
from jaxlab.runtime.workdir import directory as named_directory
from jaxlab.runtime.workdir import local_paths
from jaxlab.text.tokenizer import Tokenizer
from jaxlab.trainers import distill, microbatch, setup, teacher_file, teachers
from jaxlab.trainers.distill import Distill
from jaxlab.trainers.teacher_file import About, Said, TeacherFile, Writer, key

flags.declare_key_flag("config")
OUT = flags.DEFINE_string(
    "out", None, "The directory to write; an earlier one is replaced.", allow_override=True
)

# Of a loss that compares no words.
DEFAULT_TOP_K = 32

logger = logging.getLogger("jaxlab.teacher_logprobs")


def main(argv: list[str]) -> None:
    """Write the files of the command line's config."""
    del argv
    with doors.reading_input():
        out = named_directory(OUT.value, "--out")
        config = config_lib.build(Distill, local_paths(doors.config(), "config"), "config")
        mesh_lib.start(config.mesh.multihost, config.mesh.decode_devices)
        about = write(config, out).about
    logger.info(
        "wrote %s: %d rows, %d tokens, the %d likeliest words; %.2g of the mass is others'",
        *(out, about.rows, about.tokens, about.top_k, about.tail_mass),
    )


def write(config: Distill, out: Path) -> TeacherFile:
    """Write the directory `out`, and read it back.

    Args:
        config: of the distillation run; `rollout.prompts` rows are read at a time, in microbatches
            of `train.microbatch` completions.
        out: it takes its place when it is whole; an earlier one is replaced.

    Raises:
        ConfigError: the completions are the student's, the loss compares the whole vocabulary, or
            there is no teacher.
        FileExistsError: `out` holds something else.
        ValueError: model or data are of no use.
    """
    needs, rollout = config.loss.needs, config.rollout
    if rollout.source == "student":
        raise config_lib.ConfigError(
            'rollout.source: the student\'s completions are new at every step: set it to "data" or '
            '"teacher"'
        )
    if needs.teacher == "full":
        raise config_lib.ConfigError(teachers.WHOLE_VOCABULARY)
    spec = config.teacher_model
    if spec is None:
        raise config_lib.ConfigError("teacher: give the path of the model that is to be asked")
    if out.exists() and any(out.iterdir()) and not (out / teacher_file.ABOUT).exists():
        raise FileExistsError(f"{out} holds other files: give a new directory")
    tokenizer = distill.tokenizer_of(config)
    size = tokenizer.vocab_size
    text = text_task(config.data, tokenizer, thinkers=config.thinkers)
    mesh = mesh_lib.make_mesh(config.mesh.shape)
    mesh_lib.host_batch_slice(rollout.prompts, mesh)
    source = models.find(spec, "teacher", vocab_size=size, seed=config.seed)
    distill.check_context(config, source.config, "teacher")
    about = About(
        model=fingerprint.fingerprint(spec, source, config.seed),
        model_name=spec.path or "from scratch",
        vocabulary=teacher_file.vocabulary(tokenizer),
        vocab_size=size,
        top_k=min(needs.top_k or DEFAULT_TOP_K, size),
        temperature=config.teacher_temperature,
        source=rollout.source,
        samples=rollout.samples if rollout.source == "teacher" else 1,
        max_new_tokens=rollout.max_new_tokens,
        sampled_at=rollout.temperature if rollout.source == "teacher" else None,
    )
    teacher = teachers.load(
        spec, "teacher", mesh, config.mesh.rules, vocab_size=size, seed=config.seed
    )
    assert teacher is not None
    rows = _Rows(config, about, tokenizer, text, teacher, mesh)
    if not mesh_lib.is_main():
        # Log-probs are gathered from all processes, so that each has to take part in every row.
        for _ in rows:
            pass
        mesh_lib.barrier("jaxlab_teacher_logprobs")
        return TeacherFile(out)
    with directory.replacing(out) as staged:
        writer, repeated = Writer(staged, about), 0
        for row, completions in rows:
            if row in writer:
                repeated += 1
            else:
                writer.add(row, completions)
        if repeated:
            logger.info("%d rows repeat another and are written once", repeated)
        tokenizer.save(staged)
        writer.close()
        TeacherFile(staged)
    mesh_lib.barrier("jaxlab_teacher_logprobs")
    return TeacherFile(out)


class _Rows:
    """The training rows, as keys with what the teacher says of their completions."""

    def __init__(
        self,
        config: Distill,
        about: About,
        tokenizer: Tokenizer,
        text: TextTask,
        teacher: teachers.Frozen,
        mesh: jax.sharding.Mesh,
    ):
        self._config, self._about, self._text, self._teacher = config, about, text, teacher
        sampling = config.rollout.sampling(tokenizer, about.samples)
        self._policy = Policy(
            teacher.decoder, sampling, mesh, tokenizer.pad_id, config.mesh.decode_rules
        )
        self._read = jax.jit(ambient(mesh)(self._view))

    def __iter__(self) -> Iterator[tuple[int, list[Said]]]:
        config, samples = self._config, self._about.samples
        count, size = self._text.num_examples("train"), config.rollout.prompts
        for begin in range(0, count, size):
            numbers = range(begin, min(begin + size, count))
            # Every batch has one shape.
            filled = [*numbers, *[begin] * (size - len(numbers))]
            rows = [self._text.prompt(i, "train") for i in filled]
            prompts = [prompt for _, prompt in rows]
            if config.rollout.source == "teacher":
                step = setup.step_key(config.seed, begin // size)
                rollout = self._policy(self._teacher.params, prompts, step)
                keys = [key(prompt) for prompt in prompts]
            else:
                targets = [self._text.target(example) for example, _ in rows]
                rollout = self._policy.given(prompts, targets)
                keys = [key(*pair) for pair in zip(prompts, targets, strict=True)]
            rollout = cropped(rollout, config.rollout.response_multiple)
            said = self._said(rollout)
            for i in range(len(numbers)):
                yield keys[i], said[i * samples : (i + 1) * samples]
            logger.info("%d of %d rows", begin + len(numbers), count)

    def _said(self, rollout: Rollout) -> list[Said]:
        response, mask, _ = to_host(rollout)
        view = self._read(self._teacher.params, rollout)
        token, words, top, tail = multihost_utils.process_allgather(
            (view.token, view.words, view.top, view.tail), tiled=True
        )
        return [
            Said(*(np.asarray(x[b][mask[b]]) for x in (response, token, words, top, tail)))
            for b in range(len(response))
        ]

    def _view(self, params: models.Params, rollout: Rollout) -> Teacher:
        about, rows = self._about, rollout.response.shape[0]
        at_once = math.gcd(rows, self._config.train.microbatch or rows)
        group = math.gcd(at_once, about.samples)

        def read(part: Rollout) -> Teacher:
            return teachers.view(
                self._teacher.decoder,
                params,
                part,
                Needs(teacher="topk", top_k=about.top_k, tail=True),
                temperature=about.temperature,
                vocab_size=about.vocab_size,
                samples=group,
            )

        found: Teacher = microbatch.over_parts(read, rollout, rows // at_once, group)
        return found


def start() -> None:
    """Run the program of the command line: `python -m jaxlab.teacher_logprobs`."""
    doors.run(main, required=["config", "out"], configs="(?!eval_)", schema=_schema)


def _schema(config: object) -> type[Distill]:
    del config
    return Distill


if __name__ == "__main__":
    start()
