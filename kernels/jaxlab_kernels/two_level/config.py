"""What the index holds and how much of the cache a step reads."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class IndexConfig:
    """Budgets and form of two-level attention; hashable, and static in every program.

    Budgets that exceed the cache are clipped to it. Special cases by the same fields: full
    attention has both budgets as large as the cache; Quest has k_tokens of at least k_blocks *
    block, so that level 2 keeps everything; Double Sparsity has k_blocks of all blocks, so that
    level 1 does; a sliding window with sinks has k_blocks=0 and such k_tokens, so that the forced
    blocks are all there is.

    Attributes:
        block: tokens per block.
        k_blocks: blocks that level 1 keeps, forced ones included. The forced ones are kept also
            where they are more.
        k_tokens: tokens that level 2 keeps of those blocks, the newest token included.
        channels: r, key channels that the token index holds.
        index_bits: 4 or 8 bits per channel of the token index; a scale per token is bfloat16.
        block_score: "quest", the min/max bound over all channels, or "quest_r", over the calibrated
            ones alone (reconstructed).
        head_reduce: how the query heads of one key head agree, at both levels: "sum", "max", or
            "softmax_sum" of their scores (reconstructed: no source says which).
        share: "kv_head" selects blocks per key head; "layer" sums the scores of all key heads, so
            that they share one list of blocks (reconstructed). Tokens are per key head in both.
        sink_blocks: first blocks that are always kept.
        recent_blocks: last blocks that are always kept; the newest is, also at 0.
        min_len: while the longest row of the batch is shorter, attention is dense.
        skip_layers: layers that stay dense; for caches, the operation does not know its layer.
    """

    block: int = 64
    k_blocks: int = 128
    k_tokens: int = 1024
    channels: int = 32
    index_bits: int = 4
    block_score: Literal["quest", "quest_r"] = "quest"
    head_reduce: Literal["sum", "max", "softmax_sum"] = "sum"
    share: Literal["kv_head", "layer"] = "kv_head"
    sink_blocks: int = 1
    recent_blocks: int = 2
    min_len: int = 16384
    skip_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: a field is out of range; the message names it.
        """
        object.__setattr__(self, "skip_layers", tuple(self.skip_layers))
        least = {"block": 1, "k_blocks": 0, "k_tokens": 1, "channels": 1, "sink_blocks": 0,
                 "recent_blocks": 0, "min_len": 0}  # fmt: skip
        for name, low in least.items():
            number = getattr(self, name)
            if type(number) is not int or number < low:
                raise ValueError(f"{name} is {number!r}: expected a whole number from {low}")
        choices = {
            "index_bits": (4, 8),
            "block_score": ("quest", "quest_r"),
            "head_reduce": ("sum", "max", "softmax_sum"),
            "share": ("kv_head", "layer"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}: expected one of {known}")
        if any(type(layer) is not int or layer < 0 for layer in self.skip_layers):
            raise ValueError(f"skip_layers is {self.skip_layers}: expected layers from 0")

    def blocks(self, slots: int) -> int:
        """N, blocks of a cache of S slots; the last may be short."""
        return -(-slots // self.block)

    def candidates(self, slots: int) -> int:
        """Blocks that level 1 keeps of a cache of S slots."""
        forced = self.sink_blocks + max(self.recent_blocks, 1)
        return min(self.blocks(slots), max(self.k_blocks, forced))

    @property
    def label_bytes(self) -> int:
        """Bytes of one token's codes in the index, its scale aside."""
        return -(-self.channels // 2) if self.index_bits == 4 else self.channels
