"""A trained deliberator on the cached texts of its test questions: the workflow itself, measured.

Deliberations and controls are those of `agents.heavy` and `agents.heavy_controls`; prompts, texts
and grader are the run's own (`rollouts.cached`), so that only the questions differ from training.
"""

import asyncio
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxlab import config as config_lib
from jaxlab.agents import heavy, heavy_controls
from jaxlab.agents.heavy import Completion, Heavy
from jaxlab.agents.heavy_cache import repetitive
from jaxlab.config import ConfigError
from jaxlab.data import settings
from jaxlab.data.settings import Data
from jaxlab.data.tasks.types import Example, Task
from jaxlab.evals.heavy.measures import Question, Text
from jaxlab.grading.rows import sample_seed
from jaxlab.interop import models
from jaxlab.interop.models import Model
from jaxlab.models.decoder import Decoder
from jaxlab.rollouts.batcher import Batcher
from jaxlab.rollouts.cached import Cached, CachedTask, Thinkers
from jaxlab.rollouts.text import TextTask, text_task
from jaxlab.runtime.mesh import make_mesh
from jaxlab.sampling import SamplingConfig

# Texts decoded together, and questions under way at once: twice as many as fill a batch with one
# text each.
ROWS, UNDER_WAY = 128, 256


@dataclasses.dataclass(frozen=True)
class Subject:
    """A run of the trainers "distill" or "sft" that reads cached thinkers.

    Attributes:
        path: its work directory.
        data: its task.
        thinkers: what it reads.
        sampling: how its evaluations draw deliberations: max_new_tokens, temperature, top_k, top_p.
        thinker: the model that thinks one long thought, and how it draws.
    """

    path: Path
    data: Data
    thinkers: Thinkers
    sampling: Mapping[str, Any]
    thinker: tuple[Path, Mapping[str, Any]]


def subject(run: Path, thinker: Path | None = None) -> Subject:
    """The run in a work directory.

    Args:
        run: the work directory.
        thinker: its thinkers' model; None: that of the job which wrote the texts, where the
            directory of that job is at hand, else the run's own.

    Raises:
        ConfigError: it is no such run, or reads no thinkers.
    """
    path = run / "config.json"
    if not path.is_file():
        raise ConfigError(f"{run} is no run of training: it has no config.json")
    config = config_lib.load_json(path)
    given = config.get("thinkers")
    if not isinstance(given, Mapping) or not given.get("width"):
        raise ConfigError(f"{run} reads no thinkers: name a run with `thinkers.path` in its config")
    thinkers = config_lib.build(Thinkers, given, "thinkers")
    data = config_lib.build(Data, config["data"], "data")
    sampling = _sampling(config["eval"])
    job = Path(thinkers.path) / "config.json"
    found = config_lib.load_json(job) if job.is_file() else {}
    drawn = _sampling(found) if found else {**sampling, "temperature": 1.0}
    named = thinker or Path((found.get("model") or {}).get("path") or run)
    return Subject(run, data, thinkers, sampling, (named, drawn))


def measure(
    of: Subject,
    changes: Mapping[str, Any],
    *,
    limit: int | None = None,
    controls: bool = True,
    seed: int = 0,
) -> list[Question]:
    """The test questions with their graded thinkers, deliberations and controls.

    Args:
        of: whose deliberations.
        changes: fields of `Heavy` that are to differ from the run's own reading.
        limit: the first questions alone.
        controls: run those of `heavy_controls` too.
        seed: of selections, orders and sampling.

    Raises:
        ConfigError: a model or the file of thinkers does not fit.
        FileNotFoundError, ValueError: a file is absent or malformed.
    """
    known = models.tokenizer_at(Model(path=str(of.path)), "run")
    tokenizer = settings.tokenizer(of.data, known)
    text = text_task(of.data, tokenizer, thinkers=of.thinkers)
    task = text.task
    assert isinstance(task, CachedTask)
    questions = task.questions["test"][:limit]
    with _generator(of.path, of.sampling, text) as (judge, context):
        room = context - of.sampling["max_new_tokens"]
        options = dataclasses.replace(of.thinkers.heavy(seed, room), **{"samples": 4, **changes})
        path, drawn = of.thinker
        with _generator(path, drawn, text) as (think, reach):
            # One long thought reads what its own model can.
            options = dataclasses.replace(
                options, context_tokens=min(room, reach - drawn["max_new_tokens"])
            )
            work = _Work(task, tokenizer, options, think, judge, controls)
            return asyncio.run(work.all(questions))


@dataclasses.dataclass(frozen=True)
class _Work:
    """The workflow over many questions at once."""

    task: CachedTask
    tokenizer: Any
    options: Heavy
    think: heavy.Generate
    judge: heavy.Generate
    controls: bool

    async def all(self, questions: Sequence[Cached]) -> list[Question]:
        slots = asyncio.Semaphore(UNDER_WAY)

        async def one(question: Cached) -> Question:
            async with slots:
                return await self.one(question)

        return list(await asyncio.gather(*(one(question) for question in questions)))

    async def one(self, question: Cached) -> Question:
        asked, name = question.example.prompt, "/".join(map(str, question.key))
        seed = sample_seed(self.options.seed, name, 0)
        options = dataclasses.replace(self.options, seed=seed)
        arguments = (self.think, options, self.tokenizer)
        more: dict[str, Any] = {"deliberator": self.judge, "prompts": self.task.prompts}
        result = await heavy.think(asked, *arguments, thinkers=question.texts, **more)
        texts: Mapping[str, Sequence[str]] = {}
        if self.controls:
            texts, _ = await heavy_controls.run(asked, result, *arguments, **more)
        read = [row["number"] - 1 for row in result.manifest["thinkers"] if row["read"]]
        rewards = [question.rewards[i] for i in read]
        thinkers = [
            self._text(question.texts[i], reward) for i, reward in zip(read, rewards, strict=True)
        ]
        manifest = result.manifest
        return Question(
            name,
            name,
            thinkers,
            [self._graded(question.example, round_) for round_ in result.deliberations],
            {kind: self._graded(question.example, found) for kind, found in texts.items()},
            tokens=sum(one.tokens for one in thinkers) + manifest["tokens"],
            seconds=manifest["seconds"],
            missing=manifest["missing"] + sum(one["missing"] for one in manifest["rounds"]),
        )

    def _graded(self, example: Example, texts: Sequence[str]) -> list[Text]:
        grader: Task = self.task.task
        grades = grader.grade_batch([example] * len(texts), texts)
        return [self._text(text, grade.reward) for text, grade in zip(texts, grades, strict=True)]

    def _text(self, text: str, reward: float) -> Text:
        known = text if isinstance(text, Completion) else Completion(text)
        return Text(
            # A text that was cut off counts as wrong, as it does in training.
            correct=reward == 1.0 and known.finished,
            answer=self.task.prompts.answer(text),
            length=len(text),
            tokens=known.tokens or 0,
            finished=known.finished,
            repetitive=repetitive(text),
            score=known.logprob,
        )


@contextmanager
def _generator(
    path: Path, drawn: Mapping[str, Any], text: TextTask
) -> Iterator[tuple[heavy.Generate, int]]:
    """A generator of the model in a directory, and the length of its context."""
    tokenizer = text.tokenizer
    source = models.find(Model(path=str(path)), "model", vocab_size=tokenizer.vocab_size, seed=0)
    mesh = make_mesh({"data": -1})
    sampling = SamplingConfig(
        stop_ids=tuple(tokenizer.eos_ids),
        pad_id=tokenizer.pad_id,
        vocab_size=tokenizer.vocab_size,
        prompt_multiple=64,
        **drawn,
    )
    params = source.load(mesh, ((".*", ()),))
    # Full batches: at other sizes each would be a program of its own.
    batcher = Batcher(Decoder(source.config), params, mesh, tokenizer.pad_id, rows=ROWS)

    async def generate(prompt: str, *, samples: int, seed: int, stage: str) -> list[str]:
        ids = tokenizer.encode_prompt(text.render(prompt))
        seeds = [sample_seed(seed, stage, j) for j in range(samples)]
        replies = await asyncio.wrap_future(batcher.submit_group(ids, sampling, seeds))
        texts = tokenizer.decode_batch(reply.tokens for reply in replies)
        return [
            Completion(
                one,
                reply.stopped,
                len(reply.tokens),
                len(ids) if j == 0 else 0,
                sum(reply.logprobs) / max(1, len(reply.logprobs)),
            )
            for j, (one, reply) in enumerate(zip(texts, replies, strict=True))
        ]

    try:
        yield generate, source.config.max_position
    finally:
        batcher.close()


def _sampling(section: Mapping[str, Any]) -> dict[str, Any]:
    names = ("max_new_tokens", "temperature", "top_k", "top_p")
    return {name: section[name] for name in names if section.get(name) is not None}
