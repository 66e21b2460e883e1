"""Principal components against a singular value decomposition."""

import numpy as np
import pytest

from jaxlab.evals import components


@pytest.mark.parametrize("shape", [(30, 2, 5), (12, 40, 3)])
def test_components_are_those_of_the_decomposition(shape):
    features = np.random.default_rng(0).normal(size=shape) * np.linspace(1, 3, shape[-1])
    found = components.fit(lambda ids: features[ids], shape[0], 4)
    flat = features.reshape(shape[0], -1)
    flat = flat - flat.mean(0)
    _, values, basis = np.linalg.svd(flat, full_matrices=False)
    coordinates = found(features)
    np.testing.assert_allclose(coordinates.std(0, ddof=1), 1, rtol=1e-3)
    for k in range(4):
        assert abs(np.corrcoef(coordinates[:, k], flat @ basis[k])[0, 1]) > 0.999
    assert found.share == pytest.approx((values[:4] ** 2).sum() / (values**2).sum(), rel=1e-4)


def test_more_components_than_there_are():
    with pytest.raises(ValueError, match=r"pca: 5 components .* 5 rows of 9 numbers have 4"):
        components.fit(lambda ids: np.eye(9)[ids], 5, 5)
