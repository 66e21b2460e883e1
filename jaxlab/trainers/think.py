"""A job that writes K thinkers' texts for every question: what deliberators are trained on.

A step is a batch of training questions in the order of the task; evaluations are the test
questions, and measure M@K, P@K and V@K (HeavySkill, arXiv 2605.02396). Texts go to thinkers.jsonl
in the work directory as they come, and a question that stands there is not asked again: the job
goes on where it was killed. Its checkpoints hold a count, and nothing of the model.
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from jaxlab import ranges
from jaxlab.config import ConfigError
from jaxlab.data import settings
from jaxlab.data.settings import Data
from jaxlab.data.tasks.types import Example, Split
from jaxlab.evals import metrics as scores
from jaxlab.interop import models
from jaxlab.interop.models import Model
from jaxlab.models.decoder import Decoder
from jaxlab.rollouts import cached, trajectories
from jaxlab.rollouts.policy import Policy, to_host
from jaxlab.rollouts.text import text_task
from jaxlab.rollouts.trajectories import Store, Text
from jaxlab.runtime import mesh as mesh_lib
from jaxlab.runtime.settings import Mesh
from jaxlab.sampling import SamplingConfig
from jaxlab.trainers import setup
from jaxlab.trainers.loop import Evaluation, Program, StepOutput
from jaxlab.trainers.settings import Train
from jaxlab.trainers.state import TrainState


@dataclasses.dataclass(frozen=True)
class Think:
    """A job of thinkers; T = 1, top_p = 0.95 and top_k = 10 are those reported for HeavySkill.

    Attributes:
        model: writes the texts.
        data: whose questions.
        train: `steps` times `prompts` training questions; logging.
        width: K, texts of each question.
        prompts: questions of a step.
        test_questions: of the test split, the first ones.
        max_new_tokens: longest text.
        temperature: of the sampler, as are the next two.
        top_k: None: all words.
        top_p: None: all words.
        prompt_multiple: prompts are padded to a multiple of this many tokens.
        mesh: devices.
        seed: of sampling.
        title: heading of the report.
        trainer: names this trainer in a config.
    """

    model: Model
    data: Data
    train: Train
    width: int = 16
    prompts: int = 64
    test_questions: int = 200
    max_new_tokens: int = 512
    temperature: float = 1.0
    top_k: int | None = 10
    top_p: float | None = 0.95
    prompt_multiple: int = 16
    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    seed: int = 0
    title: str | None = None
    trainer: Literal["think"] = "think"

    def __post_init__(self) -> None:
        """Check ranges; the sampler checks its options."""
        ranges.check_counts(self, "width", "prompts", "test_questions", "max_new_tokens")
        ranges.check_counts(self, "prompt_multiple")
        ranges.check_temperature(self, "temperature")
        ranges.check_seed(self)
        self.sampling()

    def sampling(self, **more: Any) -> SamplingConfig:
        """These options of the sampler, and `more` of them."""
        return SamplingConfig(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            num_samples=self.width,
            prompt_multiple=self.prompt_multiple,
            **more,
        )


def program(config: Think, workdir: pathlib.Path) -> Program:
    """The job that `config` describes, ready for `jaxlab.trainers.loop.run`."""
    return _Job(config, workdir).program()


class _Job:
    """The pieces of one job."""

    def __init__(self, config: Think, workdir: pathlib.Path):
        self.config = config
        self.mesh = mesh_lib.make_mesh(config.mesh.shape)
        known = models.tokenizer_at(config.model, "model")
        tokenizer = settings.tokenizer(config.data, known)
        size = tokenizer.vocab_size
        source = models.find(config.model, "model", vocab_size=size, seed=config.seed)
        self.text = text_task(config.data, tokenizer)
        self.prompts = cached.prompts_of(config.data.task)
        self.numbers = {
            "train": range(self._count("train", config.train.steps * config.prompts)),
            "test": range(self._count("test", config.test_questions)),
        }
        if config.data.max_prompt + config.max_new_tokens > source.config.max_position:
            raise ConfigError(
                f"max_new_tokens: prompts of {config.data.max_prompt} and texts of "
                f"{config.max_new_tokens} tokens exceed the model's context of "
                f"{source.config.max_position}"
            )
        mesh_lib.host_batch_slice(config.prompts, self.mesh)
        sampling = config.sampling(
            stop_ids=tuple(tokenizer.eos_ids), pad_id=tokenizer.pad_id, vocab_size=size
        )
        self.policy = Policy(
            Decoder(source.config), sampling, self.mesh, tokenizer.pad_id, config.mesh.decode_rules
        )
        self.store = Store(workdir / trajectories.NAME) if mesh_lib.is_main() else None
        if self.store is not None:
            self.store.check(self._prompt)
        self._params: Any = None
        self._load = lambda: source.load(self.mesh, config.mesh.rules)

    def program(self) -> Program:
        here = NamedSharding(self.mesh, PartitionSpec())

        def init() -> TrainState:
            zero = jax.device_put(jnp.zeros((), jnp.int32), here)
            return TrainState(zero, {"questions": jnp.copy(zero)}, ())

        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), init()
        )
        return Program(abstract, init, self._step, self._evaluate, ("reward", "truncated_share"))

    def _prompt(self, key: trajectories.Key) -> str | None:
        try:
            return self.text.task.example(key[1], key[0]).prompt
        except IndexError:
            return None

    def _count(self, split: Split, wanted: int) -> int:
        """Questions of a split; all of its rows where it has fewer than are wanted.

        Raises:
            ConfigError: a whole step would have no question.
        """
        held = self.text.num_examples(split)
        if split == "train" and wanted - held >= self.config.prompts:
            raise ConfigError(
                f"train.steps: {self.config.train.steps} steps of {self.config.prompts} questions "
                f"are more than the {held} of the training split: set it to "
                f"{-(-held // self.config.prompts)}"
            )
        return min(held, wanted)

    def _step(self, current: TrainState, index: int) -> StepOutput:
        size = self.config.prompts
        numbers = self.numbers["train"][index * size : (index + 1) * size]
        found = self._texts("train", numbers, setup.step_key(self.config.seed, index))
        texts = [text for question in found for text in question.values()]
        tokens = sum(text.tokens or 0 for text in texts)
        nll = -sum((text.logprob or 0.0) * (text.tokens or 0) for text in texts)
        new = TrainState(
            current.step + 1, {"questions": current.params["questions"] + len(numbers)}, ()
        )
        measured = {"loss": nll / max(1, tokens), "grad_norm": 0.0, **_means(texts)}
        return StepOutput(new, measured, lambda: {"tokens": tokens})

    def _evaluate(self, current: TrainState, index: int) -> Evaluation:
        del current, index  # the same texts at every evaluation
        size, width = self.config.prompts, self.config.width
        key = setup.step_key(self.config.seed, setup.EVAL_STEP)
        found: list[Mapping[int, Text]] = []
        for begin in range(0, len(self.numbers["test"]), size):
            numbers = self.numbers["test"][begin : begin + size]
            found += self._texts("test", numbers, jax.random.fold_in(key, begin))
        if self.store is None:
            return Evaluation({})
        right = np.array([[text.reward == 1.0 for text in q.values()] for q in found])
        answers = [[self.prompts.answer(text.text) for text in q.values()] for q in found]
        measured = {
            f"avg@{width}": scores.avg_at_n(right),
            f"pass@{width}": float(right.any(1).mean()),
            f"maj@{width}": float(scores.maj_at_n(answers, right).mean()),
        } | _means([text for question in found for text in question.values()])
        del measured["reward"]
        return Evaluation({f"eval/{name}": value for name, value in measured.items()})

    def _texts(
        self, split: Split, numbers: Sequence[int], key: jax.Array
    ) -> list[Mapping[int, Text]]:
        """The K texts of each question, from the file or written now; process 0 alone has files."""
        rows = [self.text.numbered(number, split) for number in numbers]
        width, store = self.config.width, self.store
        whole = store is not None and all(
            len(store.texts((split, row), example.prompt)) >= width for row, example, _ in rows
        )
        if not mesh_lib.broadcast(whole):
            self._write(split, rows, key)
        if store is None:
            return [{} for _ in rows]
        kept = [store.texts((split, row), example.prompt) for row, example, _ in rows]
        return [{sample: texts[sample] for sample in sorted(texts)[:width]} for texts in kept]

    def _write(
        self, split: Split, rows: Sequence[tuple[int, Example, list[int]]], key: jax.Array
    ) -> None:
        """Generate, grade and keep the texts of these questions."""
        width = self.config.width
        if self._params is None:
            self._params = self._load()
        prompts = [ids for _, _, ids in rows]
        # Every batch has one shape.
        filled = prompts + [prompts[0]] * (self.config.prompts - len(prompts))
        rollout = self.policy(self._params, filled, key)
        response, mask, stopped = (x[: len(rows) * width] for x in to_host(rollout))
        logprobs = multihost_utils.process_allgather(rollout.logprobs, tiled=True)[: len(response)]
        if self.store is None:
            return
        texts = self.text.texts(response, mask)
        examples = [example for _, example, _ in rows for _ in range(width)]
        grades = self.text.grade(examples, texts, stopped)
        lengths = mask.sum(1)
        means = (logprobs * mask).sum(1) / np.maximum(lengths, 1)
        found = [
            Text(text, bool(end), int(length), _finite(mean), grade.reward)
            for text, end, length, mean, grade in zip(
                texts, stopped, lengths, means, grades, strict=True
            )
        ]
        for i, (row, example, _) in enumerate(rows):
            mine = found[i * width : (i + 1) * width]
            self.store.add((split, row), example.prompt, dict(enumerate(mine)))


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _means(texts: Sequence[Text]) -> dict[str, float]:
    """Reward, share of texts that were cut off, and tokens; 0 without a text."""
    count = max(1, len(texts))
    return {
        "reward": sum(text.reward or 0.0 for text in texts) / count,
        "truncated_share": sum(not text.finished for text in texts) / count,
        "response_length": sum(text.tokens or 0 for text in texts) / count,
    }
