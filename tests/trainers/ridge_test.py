"""Ridge regression against its normal equations."""

import numpy as np
import pytest

from jaxlab.trainers import ridge


def test_ridge_solves_the_normal_equations():
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (700, 2, 3)).astype(np.float32)
    x[:, 1, 2] = 5  # says nothing
    y = rng.normal(size=(700, 2)).astype(np.float32) + x[:, 0, :2]
    kernels, biases = ridge.solve(lambda ids: x[ids], y, (0.5, 1e-6))
    flat = x.reshape(700, 6).astype(float)
    std = flat.std(0)
    std[std == 0] = 1
    z = (flat - flat.mean(0)) / std
    for penalty, kernel, bias in zip((0.5, 1e-6), kernels, biases, strict=True):
        weights = np.linalg.solve(z.T @ z / 700 + penalty * np.eye(6), z.T @ (y - y.mean(0)) / 700)
        np.testing.assert_allclose(flat @ kernel + bias, z @ weights + y.mean(0), atol=1e-4)


def test_too_many_numbers_are_refused():
    with pytest.raises(ValueError, match=r"ridge: features are of 8193 numbers, .* set data.pca"):
        ridge.solve(lambda ids: np.zeros((len(ids), 8193)), np.zeros((2, 1)), (1.0,))
