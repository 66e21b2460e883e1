"""Resizing as two matrix products, with the weights of PyTorch's `interpolate`. numpy, float64.

Without antialiasing a cubic kernel is that of Keys (1981) with a = -0.75 on clamped pixels; with
it, kernels are widened by the factor of the shrinkage, cut off at the border and normalised, cubic
ones with a = -0.5, as in Pillow.
"""

from typing import Literal

import numpy as np

Kernel = Literal["bilinear_antialias", "bicubic", "bicubic_antialias"]


def weights(before: int, after: int, kernel: Kernel) -> np.ndarray:
    """Matrix float64[after, before] that resizes one axis; its rows sum to 1.

    Raises:
        ValueError: a size is below 1.
    """
    if min(before, after) < 1:
        raise ValueError(f"sizes from 1 up, not {before} and {after}")
    scale = before / after
    found = np.zeros((after, before))
    if kernel == "bicubic":
        centres = scale * (np.arange(after) + 0.5) - 0.5
        first = np.floor(centres).astype(int)
        for offset in (-1, 0, 1, 2):
            near = (first + offset).clip(0, before - 1)
            np.add.at(found, (np.arange(after), near), _cubic(centres - first - offset, -0.75))
        return found
    half = (1.0 if kernel == "bilinear_antialias" else 2.0) * max(scale, 1.0)
    for i in range(after):
        centre = scale * (i + 0.5)
        first = max(int(centre - half + 0.5), 0)
        near = np.arange(first, min(int(centre + half + 0.5), before))
        distance = (near - centre + 0.5) / max(scale, 1.0)
        if kernel == "bilinear_antialias":
            row = (1 - abs(distance)).clip(min=0)
        else:
            row = _cubic(distance, -0.5)
        found[i, near] = row / row.sum()
    return found


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    x = abs(x)
    inner = ((a + 2) * x - (a + 3)) * x * x + 1
    outer = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x < 1, inner, np.where(x < 2, outer, 0.0))
