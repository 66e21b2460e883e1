"""The options of WebShop."""

from dataclasses import dataclass

from jaxlab.evals.played import Playing


@dataclass(frozen=True, kw_only=True)
class Grading:
    """Nothing to choose: a purchase has a reward, and is a success where it is 1."""


@dataclass(frozen=True, kw_only=True)
class Options(Playing, Grading):
    """The options of `webshop`, beside those of all episodes.

    Attributes:
        products: of the made-up shop, or of a folder's files so many from the beginning; None:
            1000, or all.
    """

    max_steps: int = 15
    products: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        super().__post_init__()
        if self.products is not None and self.products < 1:
            raise ValueError(f"products must be at least 1, not {self.products}")
