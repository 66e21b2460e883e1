"""Deliberation over cached thinkers as a task: prompts hold their texts, the task grades.

HeavySkill's RL (arXiv 2605.02396, appendix B): thinkers are written once, queries whose pass rate
lies in [0, 0.625] are kept, and the deliberator alone is trained. To a trainer it is one more task.
A share of easier queries is replayed, which the paper does not do: without them an aggregator
unlearns what the vote knows (AggLM). No jax.
"""

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jaxlab import ranges
from jaxlab.agents.heavy_cache import Prune, Select, Tokens
from jaxlab.agents.heavy_context import Context
from jaxlab.agents.heavy_journal import Completion
from jaxlab.agents.heavy_options import Heavy
from jaxlab.agents.heavy_prompts import Plain, Prompts
from jaxlab.config import ConfigError
from jaxlab.data.tasks.names import TASKS
from jaxlab.data.tasks.types import Example, Grade, Split, Task
from jaxlab.grading.rows import sample_seed
from jaxlab.rollouts import trajectories
from jaxlab.rollouts.trajectories import Key
from jaxlab.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Thinkers:
    """What a deliberator reads, and which questions it is trained on.

    Attributes:
        path: a file of thinkers' texts, or the work directory of a run of the trainer "think".
        width: K, texts that are read of a question's; 0: none, the question alone (a control).
        select: which, where there are more; see `agents.heavy_cache.select`.
        prune: what is left of a text that is too long; see `agents.heavy_cache.build`.
        cache_tokens: most tokens of all texts in a prompt; data.max_prompt bounds them too.
        filtered: leave out unfinished and repetitive texts, unless all are.
        min_pass_rate: training questions have at least this share of right texts.
        max_pass_rate: and at most this one; those above are easy.
        easy_share: share of the training questions that are easy ones, in [0, 1).
        views: selections and orders of the texts in which each training question comes.
        target: what supervised runs imitate: the task's own "reference", or of a random text that
            is read (of any, where none is) the whole "thinker" or its "answer" alone.
        seed: of selections, orders and the easy questions.
    """

    path: str
    width: int = 8
    select: Select = "random"
    prune: Prune = "keep_tail"
    cache_tokens: int = 80_000
    filtered: bool = False
    min_pass_rate: float = 0.0
    max_pass_rate: float = 0.625
    easy_share: float = 0.25
    views: int = 4
    target: Literal["reference", "thinker", "answer"] = "reference"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the choices and ranges."""
        ranges.check_choices(self)
        ranges.check_counts(self, "cache_tokens", "views")
        ranges.check(self, "width", least=0, below=ranges.COUNTS)
        ranges.check(self, "min_pass_rate", "max_pass_rate", least=0, most=1)
        ranges.check(self, "easy_share", least=0, below=1)
        ranges.check_seed(self)
        if self.min_pass_rate > self.max_pass_rate:
            raise ValueError(
                f"min_pass_rate {self.min_pass_rate} is above max_pass_rate {self.max_pass_rate}"
            )

    def heavy(self, seed: int, context_tokens: int) -> Heavy:
        """The options of the workflow that read the same."""
        return Heavy(
            width=max(1, self.width),
            cache_tokens=self.cache_tokens,
            select=self.select,
            prune=self.prune,
            filtered=self.filtered,
            domain="as_asked",
            seed=seed,
            context_tokens=context_tokens,
        )


@dataclass(frozen=True)
class Deliberation(Example):
    """An example whose prompt holds thinkers' texts.

    Attributes:
        pass_rate: share of all of the question's texts that are right.
        cut: whether a text in the prompt was shortened.
    """

    pass_rate: float = 0.0
    cut: bool = False


@dataclass(frozen=True)
class Cached:
    """A question of the task with its texts, in the order of their numbers."""

    key: Key
    example: Example
    texts: tuple[Completion, ...]
    rewards: tuple[float, ...]

    @property
    def pass_rate(self) -> float:
        """Share of the texts that are right; 0 without a text."""
        return sum(self.rewards) / max(1, len(self.rewards))


class CachedTask:
    """A task (`data.tasks.types.Task`) of deliberations over the cached texts of another one."""

    def __init__(
        self,
        task: Task,
        prompts: Prompts,
        options: Thinkers,
        tokenizer: Tokenizer,
        max_prompt: int,
    ):
        """Read the file, grade what it does not grade, and choose the training questions.

        Args:
            task: whose questions the file answers.
            prompts: how texts become a prompt.
            options: see `Thinkers`.
            tokenizer: of the deliberator.
            max_prompt: most tokens of a prompt, what a chat template adds left out.

        Raises:
            FileNotFoundError, ValueError: there is no file, or a line is of no use; names it.
            ConfigError: the file is of another task, no question is left of a split, or the marks
                of the texts alone exceed a prompt.
        """
        self.task, self.prompts, self._options = task, prompts, options
        self._tokens, self._room = Tokens(tokenizer), max_prompt
        questions = _read(task, options)
        test = [question for question in questions if question.key[0] == "test"]
        train = _chosen([q for q in questions if q.key[0] == "train"], options)
        self.questions: dict[Split, list[Cached]] = {"train": train, "test": test}
        for split, found in self.questions.items():
            if not found:
                raise ConfigError(f"thinkers.path: {options.path} has no question of {split}")
        self._check_room()

    def num_examples(self, split: Split) -> int:
        """Questions of `split`, times `views` where they are for training."""
        views = self._options.views if split == "train" else 1
        return len(self.questions[split]) * views

    def example(self, i: int, split: Split) -> Deliberation:
        """Question i modulo their number, in its view of number i divided by it."""
        questions = self.questions[split]
        view, number = divmod(i, len(questions))
        question, options = questions[number], self._options
        seed = sample_seed(options.seed, "/".join(map(str, question.key)), view)
        context = self.context(question, seed)
        texts = dict(enumerate(question.texts, start=1)) if options.width else {}
        attempts, _ = context.choose(texts)
        prompt, cut = self.prompts.thinking(question.example.prompt), False
        if attempts:
            prompt, account = context.prompt(attempts)
            cut = any(row["cut"] for row in account["attempts"])
        return Deliberation(
            prompt,
            target=self._target(question, [one.text for one in attempts], seed),
            answer=question.example.answer,
            pass_rate=question.pass_rate,
            cut=cut and options.prune != "answer_only",
        )

    def grade_batch(self, examples: Sequence[Example], texts: Sequence[str]) -> list[Grade]:
        """By the task's own grader."""
        return self.task.grade_batch(examples, texts)

    def measures(self, examples: Sequence[Example]) -> dict[str, float]:
        """Means over a step's examples, for metrics: what their prompts lost, how hard they are."""
        found = [example for example in examples if isinstance(example, Deliberation)]
        return {
            "cache_cut_share": sum(example.cut for example in found) / len(found),
            "thinkers_pass_rate": sum(example.pass_rate for example in found) / len(found),
        }

    def context(self, question: Cached, seed: int) -> Context:
        """All that decides how the question's texts are read."""
        options = self._options.heavy(seed, self._room)
        return Context(question.example.prompt, options, self.prompts, self._tokens)

    def _target(self, question: Cached, read: Sequence[str], seed: int) -> str | None:
        """What a supervised run imitates; None where there is nothing of the kind."""
        if self._options.target == "reference":
            return question.example.target
        found = [(text, self.prompts.answer(text)) for text in read or question.texts]
        # Whoever gives no answer is imitated where nobody gives one.
        found = [pair for pair in found if pair[1] is not None] or found
        text, answer = random.Random(f"target {seed}").choice(found)
        if self._options.target == "thinker" or answer is None:
            return str(text)
        final: Any = getattr(self.prompts, "final", "\\boxed{{{}}}".format)
        return str(final(answer))

    def _check_room(self) -> None:
        """Refuse questions whose prompt has no room for the marks of the texts."""
        marks = [
            self.prompts.attempt("Thinker", 10 + i, "", "000000")
            for i in range(self._options.width)
        ]
        for split, questions in self.questions.items():
            for question in questions:
                frame = self.prompts.deliberation(question.example.prompt, marks)
                if (needed := self._tokens.count(frame)) > self._room:
                    raise ConfigError(
                        f"data.max_prompt: the prompt of {split}/{question.key[1]} has {needed} "
                        f"tokens before any text of {self._options.width} thinkers, and there is "
                        f"room for {self._room}: raise it, or lower thinkers.width"
                    )


def prompts_of(task: str) -> Prompts:
    """How attempts at a task's examples become a prompt: its own way, or in English.

    The English prompts leave the form of the answer to the question.
    """
    attempts = TASKS[task].attempts
    own: Prompts = Plain("as_asked") if attempts is None else attempts()
    return own


def _read(task: Task, options: Thinkers) -> list[Cached]:
    """The questions of the file, all graded."""
    found = trajectories.read(Path(options.path))
    questions: list[Cached] = []
    ungraded = 0
    for key, question in found.items():
        split, row = key
        try:
            example = task.example(row, split)
        except IndexError:
            example = None
        if example is None or example.prompt != question.prompt:
            raise ConfigError(
                f"thinkers.path: {options.path} was written for other data: {split}/{row} is "
                f"{question.prompt!r:.60} there, and {example and example.prompt!r:.60} in the task"
            )
        texts = [question.texts[sample] for sample in sorted(question.texts)]
        missing = [i for i, text in enumerate(texts) if text.reward is None]
        ungraded += len(missing)
        grades = task.grade_batch([example] * len(missing), [texts[i].text for i in missing])
        for i, grade in zip(missing, grades, strict=True):
            texts[i] = texts[i]._replace(reward=grade.reward if texts[i].finished else 0.0)
        questions.append(
            Cached(
                key,
                example,
                tuple(Completion(t.text, t.finished, t.tokens, None, t.logprob) for t in texts),
                tuple(float(text.reward or 0.0) for text in texts),
            )
        )
    few = sum(len(question.texts) < options.width for question in questions)
    if few:
        logger.warning(
            "thinkers: %d of %d questions have fewer than %d texts, and show all they have",
            *(few, len(questions), options.width),
        )
    if ungraded:
        logger.info("thinkers: graded %d texts that the file does not grade", ungraded)
    return questions


def _chosen(questions: Sequence[Cached], options: Thinkers) -> list[Cached]:
    """The training questions: those within the range, and a share of the easier ones."""
    low, high = options.min_pass_rate, options.max_pass_rate
    hard = [question for question in questions if low <= question.pass_rate <= high]
    easy = [question for question in questions if question.pass_rate > high]
    if questions and not hard:
        raise ConfigError(
            f"thinkers.max_pass_rate: none of {len(questions)} training questions of "
            f"{options.path} has a pass rate from {low:g} to {high:g} ({len(easy)} are above): "
            "widen the range, or take other thinkers"
        )
    wanted = round(len(hard) * options.easy_share / (1 - options.easy_share))
    # A larger share has the questions of a smaller one.
    order = list(easy)
    random.Random(options.seed).shuffle(order)
    replayed = order[:wanted]
    logger.info(
        "thinkers: %d training questions: %d with a pass rate from %g to %g, and %d easier ones; "
        "left out: %d easier, %d harder",
        *(len(hard) + len(replayed), len(hard), low, high, len(replayed)),
        *(len(easy) - len(replayed), len(questions) - len(hard) - len(easy)),
    )
    if len(replayed) < wanted:
        logger.warning(
            "thinkers.easy_share: %d easy questions would be a share of %g, and there are %d",
            *(wanted, options.easy_share, len(easy)),
        )
    return hard + replayed
