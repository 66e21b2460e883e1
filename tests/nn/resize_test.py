"""Resizing matrices, by hand and against properties that PyTorch's share."""

import numpy as np
import pytest

from jaxlab.nn import resize


def test_weights_by_hand():
    # From 4 pixels to 2: centres 1 and 3, a triangle of half-width 2, cut off at the border.
    found = resize.weights(4, 2, "bilinear_antialias")
    np.testing.assert_allclose(found * 7, [[3, 3, 1, 0], [0, 1, 3, 3]], atol=1e-12)
    # From 2 to 4: the first pixel lies at -0.25, so that three of four neighbours are pixel 0.
    found = resize.weights(2, 4, "bicubic")
    np.testing.assert_allclose(found[0], [1 + 27 / 256, -27 / 256], atol=1e-12)
    # Keys' cubic of a = -0.5 at distances 1.25, 0.25, 0.75 and 1.75.
    found = resize.weights(8, 16, "bicubic_antialias")[7, 2:6]
    expected = [-0.0703125, 0.8671875, 0.2265625, -0.0234375]
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("kernel", ["bilinear_antialias", "bicubic", "bicubic_antialias"])
def test_rows_sum_to_one_and_the_same_size_stays(kernel):
    for before, after in ((5, 13), (13, 5), (1, 4), (4, 1)):
        np.testing.assert_allclose(resize.weights(before, after, kernel).sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(resize.weights(6, 6, kernel), np.eye(6), atol=1e-12)
    with pytest.raises(ValueError, match="sizes from 1 up, not 3 and 0"):
        resize.weights(3, 0, kernel)
