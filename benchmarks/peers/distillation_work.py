"""What the contenders of `benchmarks/training.py` do at every step. Standard library alone."""

from typing import Any

PROMPT, NEW_TOKENS, PROMPTS, SAMPLES = 16, 48, 16, 8
# Rows whose forward and backward passes run at once.
MICROBATCH = 16


def work(vocab: int) -> dict[str, Any]:
    """Sizes of the models and of a batch."""
    return {
        "student": sizes(128, 4, 4, vocab),
        "teacher": sizes(256, 6, 8, vocab),
        "prompts": PROMPTS,
        "samples": SAMPLES,
        "prompt": PROMPT,
        "new_tokens": NEW_TOKENS,
    }


def sizes(width: int, layers: int, heads: int, vocab: int) -> dict[str, Any]:
    """Fields of a Qwen3-shaped decoder."""
    return {
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_layers": layers,
        "num_heads": heads,
        "num_kv_heads": heads // 2,
        "max_position": 256,
    }
