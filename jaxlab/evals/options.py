"""What every benchmark is asked, and which options each of them has."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from jaxlab import config
from jaxlab.evals.ajbench import options as ajbench
from jaxlab.evals.general365 import options as general365
from jaxlab.evals.household import options as household
from jaxlab.evals.math import options as math
from jaxlab.evals.webshop import options as webshop


@dataclass(frozen=True)
class Asked:
    """What is asked of a model.

    Attributes:
        path: file or folder of rows.
        samples: completions per row.
        limit: so many rows, always the same ones; None is all.
        seed: completion j of row i has a seed made of this, i and j.
    """

    path: str
    samples: int = 1
    limit: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the counts."""
        for name in ("samples", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")


# The prefix of an option in a message of the door.
WHERE = "config.benchmark.options"
# Benchmark -> its options, and those of them on which its scores depend and its answers do not.
OPTIONS: dict[str, type[Any]] = {
    "gsm8k": math.Gsm8kOptions,
    "math": math.Options,
    "general365": general365.Options,
    "ajbench": ajbench.Options,
    "household": household.Options,
    "webshop": webshop.Options,
}
GRADING: dict[str, type[Any]] = {
    "gsm8k": math.Grading,
    "math": math.Grading,
    "general365": general365.Grading,
    "ajbench": ajbench.Grading,
    "household": household.Grading,
    "webshop": webshop.Grading,
}


def names(cls: type[Any]) -> tuple[str, ...]:
    """The names of a dataclass's fields."""
    return tuple(field.name for field in fields(cls))


def filled(benchmark: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a benchmark as JSON values, those that are not given with their defaults.

    Raises:
        ConfigError: an option is unknown, or has a value that it cannot have.
    """
    return config.to_json(config.build(OPTIONS[benchmark], options, WHERE))


def grading(benchmark: str, options: Any) -> dict[str, Any]:
    """The options on which scores alone depend, by name."""
    return {name: getattr(options, name) for name in names(GRADING[benchmark])}


def named(fields: Mapping[str, str | None] | None) -> dict[str, str]:
    """The fields that have a name; a config names all that there are, and None where none is."""
    return {ours: theirs for ours, theirs in (fields or {}).items() if theirs is not None}
