"""The section `data` of next-token training: token tasks and texts by name."""

import dataclasses
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np

from jaxlab import ranges
from jaxlab.config import ConfigError, build, fields_of
from jaxlab.data import text as text_lib
from jaxlab.data.tasks.names import TOKEN_TASKS
from jaxlab.data.tasks.tokens import ENDLESS, Generated, Row, TokenSource, TokenTask
from jaxlab.data.text import Text
from jaxlab.text.tokenizer import Tokenizer

# What of a text's options may differ between settings: the rest would tokenise it anew.
TEXT_SETTINGS = ("length", "documents")

logger = logging.getLogger(__name__)


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
        mixture: settings to train on; each step draws one, so that its batch has one shape, or with
            `balance` each document. Empty: the options as they are.
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

    def documents(self, longest: int, long: Literal["error", "split", "drop"]) -> "Corpus | Drawn":
        """What balanced training draws from: documents one by one, of their own lengths.

        Of a text by `documents` they are the file's; otherwise each is a row of a part of the
        mixture.

        Args:
            longest: most tokens of a document that is read.
            long: what is done with longer ones.

        Raises:
            ConfigError: there are longer ones, which are an error; or none is left.
        """
        settings = self._data.settings({}, "data.options")
        if isinstance(settings, Text) and settings.documents:
            assert self._corpus is not None
            if self._data.mixture:
                raise ConfigError(
                    "data.mixture: the documents of a text have their own lengths; leave it empty, "
                    "or set data.options.documents to False"
                )
            part = self._corpus.parts["train"]
            return Corpus(part.documents(), longest, long, part.name)
        mixture = self.training()
        for source in mixture.sources:
            if source.length > longest:
                raise ConfigError(
                    f"data: rows of {source.length} tokens are longer than a microbatch of "
                    f"{longest}: raise balance.widths, or shorten data.mixture"
                )
        return Drawn(mixture)


class Drawn:
    """Documents that are rows of a mixture's parts, each document of a part of its own."""

    left_out = 0

    def __init__(self, mixture: "Mixture"):
        """Take the parts; every document is a function of its number and the seed."""
        self._mixture = mixture
        self.count = max(source.num_examples("train") for source in mixture.sources)

    def at(self, i: int, seed: int) -> Row:
        """Document i."""
        source = self._mixture.at(i, seed)
        batch = source.batch([i % source.num_examples("train")], "train")
        if batch.segment_ids is not None:
            raise ConfigError("data.mixture: its parts may not pack documents themselves")
        return Row(batch.tokens[0], batch.targets[0], batch.mask[0])


class Corpus:
    """The documents of a file.

    Attributes:
        count: documents, pieces of those that were split counted one by one.
        left_out: documents that nothing is learnt from: too long ones that are dropped, and those
            of a single token, which has nothing to predict it from.
    """

    def __init__(
        self,
        documents: Sequence[np.ndarray],
        longest: int,
        long: Literal["error", "split", "drop"],
        name: str,
    ):
        """Look at every length; see `Opened.documents`."""
        # A document of T + 1 tokens is T to read and, one place on, T to say.
        over = [i for i, document in enumerate(documents) if len(document) > longest + 1]
        if over and long == "error":
            raise ConfigError(
                f"{name}: document {over[0] + 1} has {len(documents[over[0]])} tokens, more than a "
                f"microbatch of {longest} and its last target ({len(over)} such documents): raise "
                "balance.widths, or set balance.long_documents to split or drop"
            )
        if over:
            told = {"split": "split into several", "drop": "left out"}[long]
            logger.warning(
                "%s: %d of %d documents have more than %d tokens and are %s",
                *(name, len(over), len(documents), longest + 1, told),
            )
        if long == "drop":
            kept = [document for document in documents if len(document) <= longest + 1]
        else:
            kept = [
                document[begin : begin + longest + 1]
                for document in documents
                for begin in range(0, len(document), longest + 1)
            ]
        self._documents = [document for document in kept if len(document) > 1]
        self.count = len(self._documents)
        self.left_out = len(kept) - self.count + (len(over) if long == "drop" else 0)
        if not self.count:
            raise ConfigError(
                f"{name}: of {len(documents)} documents none has from 2 to {longest + 1} tokens"
            )

    def at(self, i: int, seed: int) -> Row:
        """Document i."""
        del seed
        ids = np.asarray(self._documents[i], np.int64)
        return Row(ids[:-1], ids[1:], np.ones(len(ids) - 1, bool))


class Mixture:
    """Several sources, of which each step, or each document, takes one."""

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
