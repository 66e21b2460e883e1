"""The section `data` of next-token training: token tasks and texts by name."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np

from jaxlab import ranges
from jaxlab.config import ConfigError, build, fields_of
from jaxlab.data import text as text_lib
from jaxlab.data.tasks.names import TOKEN_TASKS
from jaxlab.data.tasks.tokens import ENDLESS, Generated, TokenSource, TokenTask
from jaxlab.data.text import Text
from jaxlab.text.tokenizer import Tokenizer

# What of a text's options may differ between settings: the rest would tokenise it anew.
TEXT_SETTINGS = ("length", "documents")


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of a mixture.

    Attributes:
        options: changes of the data's options.
        weight: the share of steps that train on it, up to a factor.
    """

    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Check that the weight is positive."""
        ranges.check(self, "weight", above=0)


@dataclasses.dataclass(frozen=True)
class TokenData:
    """Rows of tokens.

    Attributes:
        task: a name in `jaxlab.data.tasks.names.TOKEN_TASKS`, or "text".
        options: fields of the task's dataclass, or of `jaxlab.data.text.Text`.
        mixture: settings to train on; each step draws one, so that its batch has one shape. Empty:
            the options as they are.
        num_train: training examples of a generated task; None: none is seen twice.
        cache: directory for the tokens of a text; None: `tokens` in the work directory.
    """

    task: str
    options: Annotated[dict[str, Any], fields_of(TOKEN_TASKS | {"text": Text}, "task")] = (
        dataclasses.field(default_factory=dict)
    )
    mixture: tuple[Part, ...] = ()
    num_train: int | None = None
    cache: str | None = None

    def __post_init__(self) -> None:
        """Check the number of examples and every setting's options, before anything is trained."""
        ranges.check(self, "num_train", least=1, most=ENDLESS)
        self.settings({}, "data.options")
        for i, part in enumerate(self.mixture):
            self.settings(part.options, f"data.mixture[{i}].options")

    def settings(self, changes: Mapping[str, Any], where: str) -> Text | TokenTask:
        """The task or text with some options changed.

        Raises:
            ConfigError: there is no such option, or the task refuses its value; names `where`.
        """
        if self.task == "text":
            for name in changes:
                if name not in TEXT_SETTINGS:
                    raise ConfigError(
                        f"{where}.{name}: only {' and '.join(TEXT_SETTINGS)} can be changed here"
                    )
            return build(Text, self.options | dict(changes), where)
        return build(TOKEN_TASKS[self.task], self.options | dict(changes), where)


class Opened:
    """The data of a run, with its files read."""

    def __init__(self, data: TokenData, workdir: pathlib.Path, own: Tokenizer | None):
        """Read, and where needed tokenise, the text; a generated task has nothing to read.

        Args:
            data: the config's.
            workdir: holds the cache, unless the config names one.
            own: the tokenizer of the model that is trained further.

        Raises:
            FileNotFoundError, ValueError: a file is absent or malformed; names file and line.
        """
        self._data = data
        self._corpus: text_lib.Corpus | None = None
        self.tokenizer = own
        if data.task == "text":
            text = data.settings({}, "data.options")
            assert isinstance(text, Text)
            cache = pathlib.Path(data.cache or workdir / "tokens")
            self._corpus = text_lib.load(text, cache, own)
            self.tokenizer = self._corpus.tokenizer

    def source(self, changes: Mapping[str, Any], where: str = "data.options") -> TokenSource:
        """The rows of the data with some options changed."""
        settings = self._data.settings(changes, where)
        if isinstance(settings, Text):
            assert self._corpus is not None
            rows = self._corpus.rows(settings.length, settings.documents)
            for split in ("train", "test"):
                rows.num_examples(split)  # raises where the text is too short
            return rows
        return Generated(settings, num_train=self._data.num_train or ENDLESS)

    def training(self) -> "Mixture":
        """What training draws from."""
        parts = self._data.mixture or (Part(),)
        return Mixture(
            [self.source(part.options) for part in parts], [part.weight for part in parts]
        )


class Mixture:
    """Several sources, of which each step takes one."""

    def __init__(self, sources: list[TokenSource], weights: list[float]):
        """Shares of the steps, up to a factor."""
        self.sources = sources
        self._shares = np.array(weights) / sum(weights)

    def at(self, step: int, seed: int) -> TokenSource:
        """The source of a step, a function of the arguments."""
        if len(self.sources) == 1:
            return self.sources[0]
        rng = np.random.Generator(np.random.Philox(key=np.array([seed, step], np.uint64)))
        return self.sources[rng.choice(len(self.sources), p=self._shares)]
