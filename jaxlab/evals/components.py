"""Principal components of features, so that encoders of different sizes can be compared. numpy."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

MOST_ROWS = 2048  # that the components are computed from


@dataclass(frozen=True)
class Components:
    """The first components of flattened features.

    Attributes:
        mean: float32[D].
        basis: float32[D, k], orthonormal.
        scale: float32[k], of each component's deviation in train, by which it is divided.
        share: of the variance that they hold.
    """

    mean: np.ndarray
    basis: np.ndarray
    scale: np.ndarray
    share: float

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Coordinates float32[N, k] of features [N, ...], of deviation 1 each in train."""
        flat = features.reshape(len(features), -1)
        return (flat - self.mean) @ self.basis / self.scale


def fit(read: Callable[[np.ndarray], np.ndarray], rows: int, count: int) -> Components:
    """Components of at most `MOST_ROWS` rows, evenly spaced.

    Features may be far longer than there are rows: it is the rows' products that are decomposed.

    Args:
        read: numbers of rows -> their features [n, ...].
        rows: how many there are.
        count: of components.

    Raises:
        ValueError: the rows have fewer components.
    """
    chosen = np.unique(np.linspace(0, rows - 1, min(rows, MOST_ROWS)).astype(int))
    flat = read(chosen).reshape(len(chosen), -1).astype(np.float32)
    mean = flat.mean(0)
    flat = flat - mean
    values, vectors = np.linalg.eigh((flat @ flat.T).astype(np.float64))
    rank = int((values > values[-1] * 1e-6).sum())
    if count > rank:
        raise ValueError(
            f"pca: {count} components are asked for, but {len(chosen)} rows of "
            f"{flat.shape[1]} numbers have {rank}"
        )
    values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
    basis = flat.T @ (vectors / np.sqrt(values)).astype(np.float32)
    scale = np.sqrt(values / max(len(chosen) - 1, 1)).astype(np.float32)
    share = float(values.sum() / (flat.astype(np.float64) ** 2).sum())
    return Components(mean, basis, scale, share)
