"""Latent action models: codes, blocks, use of the codebook; the poles that stand beside them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.models import image_pairs, latent_action
from jaxlab.models.image_pairs import Autoencoder, Invariant
from jaxlab.models.latent_action import LatentAction

TINY = {
    "width": 8,
    "heads": 2,
    "spatial": 1,
    "temporal": 1,
    "decoder": 1,
    "patch": 8,
    "tokens": 4,
    "codes": 3,
    "code_width": 5,
}


@pytest.fixture(scope="module")
def made():
    """A model, its parameters, and features [2, 3, 16, 6]."""
    model = LatentAction(**TINY).module()
    frames = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 16, 6)), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), frames)["params"]
    return model, random_like(shapes), frames


def random_like(shapes):
    """Parameters without a program for each of them."""
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), leaf.dtype), shapes
    )


def test_codes_are_the_nearest(made):
    model, params, frames = made
    before, after = jax.jit(
        lambda params, frames: [
            model.apply({"params": params}, frames, stage, method="features")
            for stage in ("before", "after")
        ]
    )(params, frames)
    assert before.shape == after.shape == (2, 2, 4, 5)
    codebook = np.asarray(params["codebook"])
    for one, code in zip(before.reshape(-1, 5), after.reshape(-1, 5), strict=True):
        distances = [float(((one - c) ** 2).sum()) for c in codebook]
        np.testing.assert_array_equal(code, codebook[int(np.argmin(distances))])


def test_measures_are_of_the_pairs_and_gradients_pass_the_quantiser(made):
    model, params, frames = made

    def both(params, key):
        def loss(params):
            return model.apply({"params": params}, frames, key)[0]

        return *model.apply({"params": params}, frames, None), jax.grad(loss)(params)

    loss, found, grads = jax.jit(both)(params, jax.random.key(3))
    for name in ("codebook", "into", "embed"):
        assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(grads[name])), name
    assert float(loss) == float(found["frame_mse"])
    assert int(found["counts"].sum()) == 2 * 2 * 4
    copied = np.mean((np.asarray(frames[:, 1:]) - np.asarray(frames[:, :-1])) ** 2)
    assert float(found["copy_mse"]) == pytest.approx(copied, rel=1e-5)
    assert found["changes"].shape == (16, 5)


def test_nsvq_puts_noise_of_the_error_s_length():
    model = LatentAction(**TINY).module()
    change = jnp.array([[[3.0, 4.0, 0, 0, 0]]])
    code = jnp.zeros((1, 1, 5))
    found = model._quantised(change, code, jax.random.key(0)) - change
    assert float(jnp.linalg.norm(found)) == pytest.approx(5, rel=1e-5)
    np.testing.assert_array_equal(model._quantised(change, code, None), code)


def test_blocks_by_hand():
    # A grid of 4 x 4 numbered by rows; the first of 2 x 2 blocks holds 0, 1, 4 and 5.
    found = latent_action._blocks(jnp.arange(16.0).reshape(1, 16, 1), 4)
    assert found[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    with pytest.raises(ValueError, match="16 patches are no square grid of 3 x 3 blocks"):
        latent_action._blocks(jnp.zeros((1, 16, 1)), 9)


def test_use_of_the_codebook_by_hand():
    found = latent_action.usage(np.array([4, 4, 0, 0]))
    assert float(found["utilisation"]) == 0.5
    assert int(found["dead_codes"]) == 2
    assert float(found["code_perplexity"]) == pytest.approx(2)
    found = latent_action.usage(np.array([3, 1]))
    # exp of 0.75 ln(4/3) + 0.25 ln 4.
    assert float(found["code_perplexity"]) == pytest.approx(4**0.25 * (4 / 3) ** 0.75)


def test_dead_codes_begin_anew_from_the_batch():
    params = {"codebook": jnp.zeros((3, 2)), "other": jnp.ones(1)}
    changes = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    found = latent_action.restarted(params, jnp.array([5, 0, 1]), changes, jax.random.key(0))
    assert found["codebook"][0].tolist() == found["codebook"][2].tolist() == [0, 0]
    assert found["codebook"][1].tolist() in changes.tolist()
    assert found["other"] is params["other"]


def test_vicreg_s_terms_by_hand():
    x = jnp.array([[1.0, 2.0], [3.0, 6.0]])
    # Deviations sqrt(2) and sqrt(8) are above 1; covariance 4, twice off the diagonal.
    assert float(image_pairs._hinge(x)) == 0
    assert float(image_pairs._off_diagonal(x)) == pytest.approx(16, rel=1e-5)
    assert float(image_pairs._hinge(0 * x)) == pytest.approx(1 - 1e-2, rel=1e-5)


@pytest.mark.parametrize("options", [Autoencoder, Invariant])
def test_poles_have_features_of_single_frames(options):
    model = options(width=8, heads=2, layers=1, latent=3).module()
    frames = jnp.asarray(np.random.default_rng(0).normal(size=(2, 2, 16, 16, 3)), jnp.float32)
    params = random_like(jax.eval_shape(model.init, jax.random.key(0), frames))

    def run(params):
        features = (model.apply(params, x, method="features") for x in (frames, frames[:, 1:]))
        return model.apply(params, frames, jax.random.key(1))[0], *features

    loss, found, alone = jax.jit(run)(params)
    assert np.isfinite(loss)
    assert found.shape == (2, 2, 4, 3)
    np.testing.assert_allclose(found[:, 1:], alone, atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "cause"),
    [
        ({"tokens": 3}, "tokens: a square"),
        ({"codes": 1}, "codes must be at least 2"),
        ({"width": 9}, "heads: 2 do not divide width = 9"),
        ({"quantiser": "gumbel"}, "quantiser='gumbel' is not one of"),
    ],
)
def test_bad_options(wrong, cause):
    with pytest.raises(ValueError, match=cause):
        LatentAction(**TINY | wrong)
