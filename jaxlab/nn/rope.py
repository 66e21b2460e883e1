"""Rotary position embedding and the frequency rules of the model families."""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab import ranges


@dataclasses.dataclass(frozen=True)
class Rope:
    """Frequencies of a rotary embedding; field names as in HuggingFace's `rope_parameters`.

    Attributes:
        theta: base of the geometric sequence of wavelengths.
        rule: "default"; "linear" (Chen et al. 2023, positions divided by `factor`); "llama3"
            (Llama 3.1: low frequencies divided by `factor`, a ramp between two wavelengths); "yarn"
            (Peng et al. 2023, section 3.2: a ramp over dimensions, and a temperature on attention).
        factor: ratio of the extended context to the original one.
        original_max_position: context length before extension (llama3, yarn).
        low_freq_factor, high_freq_factor: ends of the ramp (llama3).
        beta_fast, beta_slow: rotations at the ends of the ramp (yarn).
        attention_factor: multiplies cos and sin (yarn); None means 0.1 ln(factor) + 1, or the ratio
            of the two mscale terms where they are given.
        mscale, mscale_all_dim: DeepSeek's terms of the yarn attention factor.
        truncate: whether the ends of yarn's ramp are rounded to whole dimensions.
    """

    theta: float = 10_000.0
    rule: Literal["default", "linear", "llama3", "yarn"] = "default"
    factor: float = 1.0
    original_max_position: int | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        """Check that every number is in its range."""
        ranges.check(self, "theta", "factor", "attention_factor", above=0)
        ranges.check(self, "low_freq_factor", "high_freq_factor", above=0)
        ranges.check(self, "beta_fast", "beta_slow", above=0)
        ranges.check(self, "mscale", "mscale_all_dim")
        ranges.check_counts(self, "original_max_position")


def frequencies(rope: Rope, head_dim: int) -> tuple[np.ndarray, float]:
    """Angular frequencies [head_dim // 2] in radians per position, and the factor on cos and sin.

    Raises:
        ValueError: the rule needs `original_max_position` and it is None.
    """
    # Released checkpoints were trained with float32 frequencies, rounded after each of the steps
    # that stand here and below. One that is off by a part in 10^7 turns a query at position 30,000
    # by 3e-3 radians.
    exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    period = (rope.theta ** exponent.astype(np.float64)).astype(np.float32)
    base = np.float32(1.0) / period
    if rope.rule == "default":
        return base, 1.0
    if rope.rule == "linear":
        return base / np.float32(rope.factor), 1.0
    if rope.original_max_position is None:
        raise ValueError(f"rope rule {rope.rule!r} needs original_max_position")
    if rope.rule == "llama3":
        return _llama3(base, rope, rope.original_max_position), 1.0
    return _yarn(period, rope, rope.original_max_position), _yarn_attention_factor(rope)


def _llama3(base: np.ndarray, rope: Rope, original_length: int) -> np.ndarray:
    rotations = original_length / (2 * math.pi / base)
    ramp = (rotations - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    keep = np.clip(ramp, 0.0, 1.0)
    return (1 - keep) * base / rope.factor + keep * base


def _yarn(period: np.ndarray, rope: Rope, original_length: int) -> np.ndarray:
    head_dim = 2 * period.size

    def dimension(rotations: float) -> float:
        """Index of the pair that turns `rotations` times within the original context."""
        length = original_length / (rotations * 2 * math.pi)
        return head_dim * math.log(length) / (2 * math.log(rope.theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    pairs = np.arange(period.size, dtype=np.float32)
    # The small constant keeps a ramp of width zero finite.
    ramp = np.clip((pairs - low) / ((high - low) or 1e-3), 0.0, 1.0)
    keep = 1 - ramp
    return 1 / (rope.factor * period) * (1 - keep) + 1 / period * keep


def _yarn_attention_factor(rope: Rope) -> float:
    def scale(mscale: float) -> float:
        return 0.1 * mscale * math.log(rope.factor) + 1.0 if rope.factor > 1 else 1.0

    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return scale(rope.mscale) / scale(rope.mscale_all_dim)
    return scale(1.0)


def angles(rope: Rope, head_dim: int, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """cos and sin tables, float32 [B, T, 1, head_dim // 2], for int32 positions [B, T]."""
    frequency, factor = frequencies(rope, head_dim)
    angle = positions[..., None, None].astype(jnp.float32) * jnp.asarray(frequency)
    return jnp.cos(angle) * factor, jnp.sin(angle) * factor


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotate the pairs (x[i], x[i + D/2]) of the last axis, in float32.

    Source: Su et al. 2021, eq. 34, in the half-split layout of Llama and Qwen checkpoints.

    Args:
        x: [B, T, H, D].
        cos: [B, T, 1, D // 2].
        sin: [B, T, 1, D // 2].
    """
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)
