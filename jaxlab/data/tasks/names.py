"""The tasks by the names that configs give them in `data.task`. No jax."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxlab.data.tasks import gsm8k
from jaxlab.data.tasks.chains import Attempts, Chains
from jaxlab.data.tasks.modsum import ModSum
from jaxlab.data.tasks.mqar import Mqar
from jaxlab.data.tasks.needle import Needle
from jaxlab.data.tasks.palindrome import Palindrome
from jaxlab.data.tasks.stack import Stacks
from jaxlab.data.tasks.state_tracking import StateTracking
from jaxlab.data.tasks.types import Task


@dataclasses.dataclass(frozen=True)
class PromptTask:
    """A task with prompts and graded answers.

    Attributes:
        options: the dataclass that `data.options` fills. Of a task that generates its examples it
            is the task itself; a method `tokenizer()` brings a tokenizer for models from scratch.
        read: (options, train, test) -> the task of these two files; None: it reads none.
        chat: options where prompts are rendered with a chat template, unless the config sets them.
        attempts: how attempts at an example become a deliberator's prompt, with the methods of
            `jaxlab.agents.heavy_prompts.Prompts` and `final(answer)`; None: in English.
    """

    options: type[Any]
    read: Callable[[Any, str, str], Task] | None = None
    chat: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    attempts: type[Any] | None = None


TASKS = {
    "modsum": PromptTask(ModSum),
    "chains": PromptTask(Chains, attempts=Attempts),
    "gsm8k": PromptTask(gsm8k.Options, read=gsm8k.read, chat={"prompt": "{question}"}),
}

# Tasks of next-token training: rows of tokens instead of prompts and answers.
TOKEN_TASKS: dict[str, type[Any]] = {
    "mqar": Mqar,
    "needle": Needle,
    "palindrome": Palindrome,
    "stacks": Stacks,
    "state_tracking": StateTracking,
}
