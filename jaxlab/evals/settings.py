"""The config of a benchmark run, as frozen dataclasses."""

import dataclasses
from typing import Annotated, Any, Literal

from jaxlab import ranges
from jaxlab.config import fields_of
from jaxlab.evals.options import OPTIONS
from jaxlab.runtime.settings import Mesh

BENCHMARKS = tuple(OPTIONS)


@dataclasses.dataclass(frozen=True)
class Subject:
    """The model.

    Attributes:
        path: a HuggingFace directory or a work directory of training.
        name: instead of it any model of inspect_ai, such as "openai/gpt-4.1".
    """

    path: str | None = None
    name: str | None = None


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What is asked.

    Attributes:
        name: one of `BENCHMARKS`, or a .py file with a task, see `evals.task_file`.
        path: its rows, a .jsonl or .json file, or the directory of a dataset (see `rows.read`); of
            AJ-Bench a folder.
        samples: completions per row.
        limit: so many rows, always the same ones; None is all.
        options: further arguments of the task in `evals.tasks`.
        max_parse_failures: largest share of completions in which nothing could be compared; with
            more of them the door ends with code 1, after the report.
    """

    name: str
    path: str | None = None
    samples: int = 1
    limit: int | None = None
    options: Annotated[dict[str, Any], fields_of(OPTIONS, "name", open=True)] = dataclasses.field(
        default_factory=dict
    )
    max_parse_failures: float = 1.0

    def __post_init__(self) -> None:
        """Refuse names that there are not, and counts below one."""
        if self.name not in BENCHMARKS and not self.own:
            raise ValueError(
                f"name: {self.name!r} is none of {', '.join(BENCHMARKS)}, nor a .py file"
            )
        for name in ("samples", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if not 0.0 <= self.max_parse_failures <= 1.0:
            raise ValueError(f"max_parse_failures must be in [0, 1], not {self.max_parse_failures}")

    @property
    def own(self) -> bool:
        """Whether it is a file of the user's."""
        return self.name.endswith(".py")


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How answers are drawn.

    Attributes:
        max_new_tokens: longest completion.
        temperature: 0 is greedy.
        top_k: of the sampler.
        top_p: of the sampler.
        stop: sequences that end a completion.
        batch: requests decoded together, of which twice as many are under way; for models that are
            not in process, requests under way.
        padding: see `provider.Settings`; for models in process, as are the following.
        prompt_multiple: prompts are padded to a multiple of this many tokens.
        tokenizer: directory with tokenizer.json; None means the model's own.
        chat: render prompts with the chat template; None: if there is one.
    """

    max_new_tokens: int = 512
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    batch: int = 64
    padding: Literal["full", "power_of_two"] = "full"
    prompt_multiple: int = 128
    tokenizer: str | None = None
    chat: bool | None = None

    def __post_init__(self) -> None:
        """Check that counts are positive, shares between 0 and 1, and stop sequences not empty."""
        ranges.check_counts(self, "max_new_tokens", "top_k", "batch", "prompt_multiple")
        ranges.check(self, "temperature", least=0)
        ranges.check(self, "top_p", above=0, most=1)
        if "" in self.stop:
            raise ValueError("stop has an empty string, at which every reply would end: drop it")


@dataclasses.dataclass(frozen=True)
class Encoder:
    """What a library of skills is searched by.

    Attributes:
        path: directory of a sentence encoder, such as all-MiniLM-L6-v2; None: the one that the
            library was made with, if it is one of hashed words.
        reembed: whether a library that was made with another encoder is embedded again; else it is
            refused.
    """

    path: str | None = None
    reembed: bool = False


@dataclasses.dataclass(frozen=True)
class Replay:
    """A library of skills that is scored again: frozen, unless benchmark.options.library says else.

    Attributes:
        path: its file, or a folder that holds it, such as a run's; None: there is none, or
            benchmark.options names it.
        encoder: what it is searched by.
    """

    path: str | None = None
    encoder: Encoder = dataclasses.field(default_factory=Encoder)

    def options(self) -> dict[str, Any]:
        """What it says of a benchmark's options."""
        said: dict[str, Any] = {} if self.path is None else {"skills": self.path}
        if self.encoder.path is not None:
            said["encoder"] = self.encoder.path
        return said | ({"reembed": True} if self.encoder.reembed else {})


@dataclasses.dataclass(frozen=True)
class Run:
    """A benchmark run: the config of `jaxlab.evaluate`.

    Attributes:
        model: who answers.
        benchmark: what is asked.
        eval: how answers are drawn.
        mesh: devices, as in a training config.
        seed: of sampling.
        library: of skills, for benchmarks in which a model acts.
    """

    model: Subject
    benchmark: Benchmark
    eval: Sampling = dataclasses.field(default_factory=Sampling)
    mesh: Annotated[dict[str, Any], fields_of(Mesh)] = dataclasses.field(default_factory=dict)
    seed: int = 0
    library: Replay = dataclasses.field(default_factory=Replay)

    def __post_init__(self) -> None:
        """Check the seed."""
        ranges.check_seed(self)
