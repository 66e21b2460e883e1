"""Decoders with block-sparse attention in the place of attention, and back."""

import dataclasses
import itertools
from typing import Literal

from jaxlab.models.decoder import DecoderConfig
from jaxlab.models.stacking import shortest_period
from jaxlab.nn.attention import Attention
from jaxlab.nn.layers import Layer
from jaxlab.nn.sparse import BlockSparse


@dataclasses.dataclass(frozen=True)
class SparseMixer:
    """The keys `model.mixer` of a config: block-sparse attention with the model's own weights.

    Attributes:
        block_size: see `jaxlab.nn.sparse.BlockSparse`, as for budget, coverage_at, implementation.
        budget: blocks per query, its own included.
        coverage_at: budgets at which the router's mass is reported.
        pattern: consecutive attention layers, repeated down the stack: "block_sparse", or
            "attention" for those that stay dense.
        implementation: of `jaxlab_kernels.block_sparse`.
        name: the tag of this choice.
    """

    block_size: int = 256
    budget: int = 32
    coverage_at: tuple[int, ...] = ()
    pattern: tuple[Literal["block_sparse", "attention"], ...] = ("block_sparse",)
    implementation: str | None = None
    name: Literal["block_sparse"] = "block_sparse"

    def __post_init__(self) -> None:
        """Check the sizes."""
        if not self.pattern:
            raise ValueError('pattern is empty: expected for example ("block_sparse", "attention")')
        unknown = set(self.pattern) - {"block_sparse", "attention"}
        if unknown or "block_sparse" not in self.pattern:
            raise ValueError(
                f'pattern is {self.pattern}: expected "block_sparse" at least once, or "attention"'
            )
        self._of(Attention(1, 1, 2))

    def apply(self, config: DecoderConfig) -> DecoderConfig:
        """The decoder of the same parameters with these mixers.

        Raises:
            ValueError: it has no attention layer, or the pattern leaves all of them dense.
        """
        kinds = itertools.cycle(self.pattern)

        def changed(layer: Layer) -> Layer:
            mixer = layer.mixer.dense() if isinstance(layer.mixer, BlockSparse) else layer.mixer
            if isinstance(mixer, Attention) and next(kinds) == "block_sparse":
                mixer = self._of(mixer)
            return dataclasses.replace(layer, mixer=mixer)

        if not any(isinstance(layer.mixer, Attention) for layer in config.layers):
            raise ValueError("the model has no attention layer that could be block_sparse")
        stacks = []
        for times, layers in config.stacks:
            new = tuple(map(changed, layers * times))
            period = shortest_period(new)
            stacks.append((len(new) // len(period), period))
        sparse = dataclasses.replace(config, stacks=tuple(stacks))
        if not any(isinstance(layer.mixer, BlockSparse) for layer in sparse.layers):
            raise ValueError(
                f"pattern {self.pattern} leaves all attention layers dense: the model has too few"
            )
        return sparse

    def _of(self, attention: Attention) -> BlockSparse:
        fields = dataclasses.asdict(attention) | {"rope": attention.rope}
        own = {name: getattr(self, name) for name in ("block_size", "budget", "coverage_at")}
        return BlockSparse(
            **fields | own | {"implementation": self.implementation, "name": "block_sparse"}
        )


def dense(config: DecoderConfig) -> DecoderConfig:
    """The decoder of the same parameters whose attention sees all blocks."""

    def changed(layer: Layer) -> Layer:
        if not isinstance(layer.mixer, BlockSparse):
            return layer
        return dataclasses.replace(layer, mixer=layer.mixer.dense())

    stacks = tuple((times, tuple(map(changed, layers))) for times, layers in config.stacks)
    return dataclasses.replace(config, stacks=stacks)
