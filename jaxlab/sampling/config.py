"""What to sample, and when to stop."""

import dataclasses
import math
from typing import Literal

from jaxlab import ranges
from jaxlab.sampling.caches import Attention, DenseAttention


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """Options of `jaxlab.sampling.generate`, combined as transformers combines them.

    The logits are divided by the temperature, then truncated by top-k, then by top-p (on what
    top-k left), then by min-p; tokens that tie with the last one kept are kept.

    Attributes:
        max_new_tokens: N, the most tokens that one completion holds, its stop token included.
        temperature: divides the logits; 0 takes the most likely token (greedy).
        top_k: keep the k most likely tokens (Fan et al. 2018).
        top_p: keep the smallest set of most likely tokens whose probability reaches top_p (nucleus
            sampling, Holtzman et al. 2020); 1 keeps all.
        min_p: keep the tokens at least min_p times as likely as the most likely one (Nguyen et al.
            2024); 0 keeps all.
        stop_ids: token ids that end a completion.
        pad_id: what stands behind a completion's end in the output.
        vocab_size: number of token ids, from 0 on, that can be drawn: the tokenizer's, where the
            model's table has further rows. Log-probabilities are over these ids. None: all rows.
        num_samples: completions per prompt; the prompt is read once.
        prompt_multiple: prompts are padded to the next multiple of this many columns, so that few
            widths are ever compiled; None pads to the next power of two, at least 16.
        cache_dtype: storage dtype of cached keys and values; None means the model's compute dtype.
            "bfloat16" under a float32 model moves log-probabilities by up to some 1e-2.
        attention: which attention reads the cache, "dense", "two_level" or "offload"; prompts are
            read by dense attention in any case.
        prefill_chunk: prompts are read so many tokens at a time, so that activations take the
            memory of a chunk; None reads them whole. For decoders of attention layers.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    stop_ids: tuple[int, ...] = ()
    pad_id: int = 0
    vocab_size: int | None = None
    num_samples: int = 1
    prompt_multiple: int | None = None
    cache_dtype: Literal["float32", "bfloat16"] | None = None
    attention: Attention = dataclasses.field(default_factory=DenseAttention)
    prefill_chunk: int | None = None

    def __post_init__(self) -> None:
        """Check that every value is in its range.

        Raises:
            ValueError: a value is out of range; the message names it.
        """
        object.__setattr__(self, "stop_ids", tuple(int(i) for i in self.stop_ids))
        for name in (
            "max_new_tokens",
            "vocab_size",
            "num_samples",
            "top_k",
            "prompt_multiple",
            "prefill_chunk",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}: it must be at least 1")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature is {self.temperature}: it must be finite and at least 0")
        if self.temperature:
            ranges.check_temperature(self, "temperature")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}: it must be above 0 and at most 1")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p is {self.min_p}: it must be between 0 and 1")
        if any(i < 0 for i in self.stop_ids):
            raise ValueError(f"stop_ids {self.stop_ids} has a negative token id")
        if self.cache_dtype not in (None, "float32", "bfloat16"):
            raise ValueError(
                f"cache_dtype is {self.cache_dtype!r}: it must be 'float32', 'bfloat16' or None"
            )

    def prompt_width(self, length: int) -> int:
        """Columns that a prompt of `length` tokens is padded to."""
        if self.prompt_multiple is None:
            return max(16, 1 << (length - 1).bit_length())
        return -(-length // self.prompt_multiple) * self.prompt_multiple
