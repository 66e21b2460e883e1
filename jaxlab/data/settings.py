"""The config's key `data` of tasks with prompts: a frozen dataclass, and what it names. No jax."""

import dataclasses
from typing import Annotated, Any, Literal

from jaxlab import ranges
from jaxlab.config import ConfigError, build, fields_of
from jaxlab.data.tasks.names import TASKS
from jaxlab.data.tasks.tokens import ENDLESS
from jaxlab.data.tasks.types import Task
from jaxlab.text.tokenizer import Tokenizer
from jaxlab.text.tokenizer import load as load_tokenizer

_OPTIONS = {name: kind.options for name, kind in TASKS.items()}


@dataclasses.dataclass(frozen=True)
class Data:
    """Examples and how they become tokens.

    Attributes:
        task: a name in `jaxlab.data.tasks.names.TASKS`.
        options: keyword arguments of the task (for the modular sum: modulus and addends).
        train: jsonl file of training rows, for tasks that read one.
        test: jsonl file of test rows.
        num_train: number of generated training examples, for tasks that generate.
        tokenizer: directory with tokenizer.json; None means the model's own, or the task's.
        chat: render prompts with the tokenizer's chat template.
        max_prompt: longest prompt in tokens.
        long_prompts: "error" ends the program at a longer one, "drop" leaves such rows out and
            says how many; of generated examples it takes others in their place.
    """

    task: str
    options: Annotated[dict[str, Any], fields_of(_OPTIONS, "task")] = dataclasses.field(
        default_factory=dict
    )
    train: str | None = None
    test: str | None = None
    num_train: int = 100_000
    tokenizer: str | None = None
    chat: bool = False
    max_prompt: int = 512
    long_prompts: Literal["error", "drop"] = "error"

    def __post_init__(self) -> None:
        """Check that counts are positive, and the task's options."""
        ranges.check_counts(self, "max_prompt")
        ranges.check(self, "num_train", least=1, most=ENDLESS)
        self.task_options()

    def task_options(self) -> Any:
        """The dataclass of the task's options; generated examples are `num_train`.

        Raises:
            ConfigError: there is no such option, or its value is of no use.
        """
        kind = TASKS[self.task]
        given: dict[str, Any] = dict(kind.chat) if self.chat else {}
        if any(field.name == "train_size" for field in dataclasses.fields(kind.options)):
            given["train_size"] = self.num_train
        return build(kind.options, given | self.options, "data.options")


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
