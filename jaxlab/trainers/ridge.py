"""Ridge regression of standardised features in closed form, for several penalties at once."""

from collections.abc import Callable

import numpy as np

MOST = 8192  # numbers of a feature: their products are held as one matrix
_BLOCK = 512  # rows


def solve(
    read: Callable[[np.ndarray], np.ndarray],
    targets: np.ndarray,
    penalties: tuple[float, ...],
) -> tuple[np.ndarray, np.ndarray]:
    """The maps x W + b that minimise mean |y - xW - b|^2 + penalty |W'|^2.

    W' are the weights of features with mean 0 and deviation 1, which do not hang on units. One pass
    over the rows in float64, one decomposition for all penalties.

    Args:
        read: numbers of rows -> their features [n, ...].
        targets: float[N, O].
        penalties: H of them.

    Returns:
        W float32[H, D, O] and b float32[H, O].

    Raises:
        ValueError: features are of more than `MOST` numbers.
    """
    count = len(targets)
    width = int(np.prod(read(np.arange(1)).shape[1:]))
    if width > MOST:
        raise ValueError(
            f"ridge: features are of {width} numbers, more than {MOST}: set data.pca to fewer"
        )
    total, products = np.zeros(width), np.zeros((width, width))
    cross, mean_out = np.zeros((width, targets.shape[1])), targets.mean(0, dtype=np.float64)
    for begin in range(0, count, _BLOCK):
        ids = np.arange(begin, min(begin + _BLOCK, count))
        x = read(ids).reshape(len(ids), -1).astype(np.float64)
        total += x.sum(0)
        products += x.T @ x
        cross += x.T @ (targets[ids] - mean_out)
    mean = total / count
    covariance = products / count - np.outer(mean, mean)
    scale = np.sqrt(np.maximum(np.diagonal(covariance), 0))
    scale[scale < 1e-8] = 1.0
    values, vectors = np.linalg.eigh(covariance / np.outer(scale, scale))
    # The targets are centred, so that the features' mean drops out of the products.
    turned = vectors.T @ (cross / count / scale[:, None])
    kernels = np.stack(
        [vectors @ (turned / (values.clip(min=0) + p)[:, None]) / scale[:, None] for p in penalties]
    )
    biases = mean_out - np.einsum("d,hdo->ho", mean, kernels)
    return kernels.astype(np.float32), biases.astype(np.float32)
