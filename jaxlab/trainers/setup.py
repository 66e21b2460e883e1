"""What trainers on prompts share: the rows of a step, its randomness, a check of tokenizers."""

import jax
import numpy as np

from jaxlab.config import ConfigError
from jaxlab.data.index import example_ids
from jaxlab.data.tasks.types import Example
from jaxlab.rollouts.text import TextTask
from jaxlab.text.tokenizer import Tokenizer

Rows = list[tuple[Example, list[int]]]
# Evaluations draw from the randomness of a step that no run reaches.
EVAL_STEP = 2**31 - 1


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


def training_rows(text: TextTask, step: int, batch_size: int, seed: int) -> Rows:
    """Examples and prompts of one step: a function of its arguments, the same on every host."""
    ids = example_ids(step, batch_size, text.num_examples("train"), seed)
    return [text.prompt(int(i), "train") for i in np.asarray(ids)]


def step_key(seed: int, step: int) -> jax.Array:
    """The randomness of one step."""
    return jax.random.fold_in(jax.random.key(seed), step)
