"""What every trainer does before its first step: mesh, task, tokenizer, order of the data."""

import jax
import numpy as np

from jaxlab.config import ConfigError
from jaxlab.data.index import example_ids
from jaxlab.data.tasks.names import TASKS
from jaxlab.data.tasks.types import Example, Task
from jaxlab.rollouts.text import LongPromptError as LongPromptError
from jaxlab.rollouts.text import TextTask
from jaxlab.text.tokenizer import Tokenizer
from jaxlab.text.tokenizer import load as load_tokenizer
from jaxlab.trainers.settings import Data

# Evaluations draw from the randomness of a step that no run reaches.
EVAL_STEP = 2**31 - 1


def tokenizer(data: Data, *candidates: Tokenizer | None) -> Tokenizer:
    """The tokenizer named by the config, else the first candidate there is, else the task's own.

    Raises:
        ConfigError: there is none.
    """
    if data.tokenizer is not None:
        return load_tokenizer(data.tokenizer)
    for candidate in candidates:
        if candidate is not None:
            return candidate
    own = getattr(data.task_options(), "tokenizer", None)
    if own is not None:
        made: Tokenizer = own()
        return made
    raise ConfigError(
        f"data.tokenizer: the task {data.task} has no tokenizer of its own and neither has the "
        "model: name a directory with tokenizer.json"
    )


def check_same_words(ours: Tokenizer, name: str, theirs: Tokenizer | None) -> None:
    """Refuse a model whose token ids mean other words: of equal size, it would train on noise.

    Raises:
        ConfigError: an id that both know stands for different words.
    """
    if theirs is None:
        return
    by_id = {i: word for word, i in ours.backend.get_vocab().items()}
    for i, word in sorted((i, word) for word, i in theirs.backend.get_vocab().items()):
        if by_id.get(i, word) != word:
            raise ConfigError(
                f"{name}.path: its tokenizer has {word!r} as token {i}, the student's has "
                f"{by_id[i]!r}: distillation needs one tokenizer"
            )


def task(data: Data) -> Task:
    """The task that the config names.

    Raises:
        ConfigError: a file is not given, or an option is unknown.
        FileNotFoundError, ValueError: a file is absent or malformed; names file and line.
    """
    read = TASKS[data.task].read
    options = data.task_options()
    if read is None:
        generated: Task = options
        return generated
    for name in ("train", "test"):
        if getattr(data, name) is None:
            raise ConfigError(f"data.{name}: {data.task} needs a jsonl file of its rows")
    assert data.train is not None
    assert data.test is not None
    return read(options, data.train, data.test)


def text_task(data: Data, tok: Tokenizer, max_length: int | None = None) -> TextTask:
    """The task seen through the tokenizer; `max_length` is that of `TextTask`.

    Raises:
        ConfigError: the tokenizer names no end of sequence.
        FileNotFoundError, ValueError: a file is absent or malformed, or a prompt is too long.
    """
    if not tok.eos_ids:
        raise ConfigError(
            f"data.tokenizer: {tok.name} names no end-of-sequence token, so no completion would end"
        )
    return TextTask(
        task(data),
        tok,
        chat=data.chat,
        max_prompt=data.max_prompt,
        max_length=max_length,
        generated=data.train is None,
        long_prompts=data.long_prompts,
    )


def training_rows(
    text: TextTask, step: int, batch_size: int, seed: int
) -> list[tuple[Example, list[int]]]:
    """Examples and prompts of one step: a function of its arguments, the same on every host."""
    ids = example_ids(step, batch_size, text.num_examples("train"), seed)
    return [text.prompt(int(i), "train") for i in np.asarray(ids)]


def step_key(seed: int, step: int) -> jax.Array:
    """The randomness of one step."""
    return jax.random.fold_in(jax.random.key(seed), step)
