import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.nn.rope import Rope, angles, frequencies, rotate


class TestFrequencies:
    def test_default(self):
        actual, factor = frequencies(Rope(theta=10_000.0), 8)
        np.testing.assert_allclose(actual, [1.0, 0.1, 0.01, 0.001], rtol=1e-6)
        assert actual.dtype == np.float32
        assert factor == 1.0

    def test_linear_divides(self):
        actual, factor = frequencies(Rope(theta=10_000.0, rule="linear", factor=4.0), 4)
        np.testing.assert_allclose(actual, [0.25, 0.0025], rtol=1e-6)
        assert factor == 1.0

    def test_llama3(self):
        """Wavelengths below L / 4 stay, above L / 1 are divided, and between is a ramp."""
        rope = Rope(16.0, "llama3", 8.0, original_max_position=32)
        # Frequencies 1, 1/2, 1/4, 1/8: rotations in 32 positions 16/pi = 5.09, 2.546, 1.273, 0.637.
        keep = [1.0, (8 / math.pi - 1) / 3, (4 / math.pi - 1) / 3, 0.0]
        expected = [f * (k + (1 - k) / 8) for f, k in zip([1, 0.5, 0.25, 0.125], keep, strict=True)]
        actual, factor = frequencies(rope, 8)
        np.testing.assert_allclose(actual, expected, rtol=1e-6)
        assert factor == 1.0

    def test_yarn(self):
        """Pairs that turn more than beta_fast times stay, fewer than beta_slow are divided."""
        rope = Rope(10.0, "yarn", 4.0, 628, beta_fast=20.0, beta_slow=2.0, truncate=False)
        base = 10.0 ** -np.array([0, 0.25, 0.5, 0.75])
        # Pair i turns 628 / (2 pi) * 10^(-i / 4) times, about 99.9 down to 17.8: i as a function
        # of turns is 4 log10(99.95 / turns).
        low, high = (4 * math.log10(628 / (2 * math.pi) / turns) for turns in (20.0, 2.0))
        ramp = np.clip((np.arange(4) - low) / (high - low), 0, 1)
        assert 0 < ramp[3] < 1
        actual, factor = frequencies(rope, 8)
        np.testing.assert_allclose(actual, base * (1 - ramp) + base / 4 * ramp, rtol=1e-6)
        assert factor == pytest.approx(0.1 * math.log(4) + 1)

    def test_yarn_truncates_to_whole_pairs(self):
        rope = Rope(10.0, "yarn", 4.0, 628, beta_fast=50.0, beta_slow=2.0)
        # The ramp runs from floor(1.2) = 1 to ceil(6.8) = 7.
        ramp = np.clip((np.arange(4) - 1) / 6, 0, 1)
        base = 10.0 ** -np.array([0, 0.25, 0.5, 0.75])
        np.testing.assert_allclose(
            frequencies(rope, 8)[0], base * (1 - ramp) + base / 4 * ramp, rtol=1e-6
        )

    @pytest.mark.parametrize(
        ("fields", "factor"),
        [
            ({"attention_factor": 1.25, "mscale": 1.0, "mscale_all_dim": 0.5}, 1.25),
            (
                {"mscale": 1.0, "mscale_all_dim": 0.5},
                (0.1 * math.log(4) + 1) / (0.05 * math.log(4) + 1),
            ),
            ({"mscale": 0.7}, 0.1 * math.log(4) + 1),
            ({"factor": 1.0}, 1.0),
        ],
    )
    def test_yarn_attention_factor(self, fields, factor):
        rope = Rope(**{"rule": "yarn", "factor": 4.0, "original_max_position": 64} | fields)
        assert frequencies(rope, 8)[1] == pytest.approx(factor)

    @pytest.mark.parametrize("rule", ["llama3", "yarn"])
    def test_original_length_is_needed(self, rule):
        with pytest.raises(ValueError, match=f"'{rule}' needs original_max_position"):
            frequencies(Rope(rule=rule, factor=2.0), 8)


class TestRotate:
    def test_a_quarter_turn(self):
        """Pairs are (x[i], x[i + D/2]); a quarter turn takes (a, b) to (-b, a)."""
        x = jnp.asarray([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4)
        cos, sin = jnp.zeros((1, 1, 1, 2)), jnp.ones((1, 1, 1, 2))
        np.testing.assert_array_equal(rotate(x, cos, sin).ravel(), [-3.0, -4.0, 1.0, 2.0])

    def test_scores_depend_on_the_distance_alone(self):
        rng = np.random.default_rng(0)
        query, key = jnp.asarray(rng.normal(size=(2, 1, 1, 1, 8)), jnp.float32)

        def score(i, j):
            turned = [
                rotate(x, *angles(Rope(), 8, jnp.asarray([[at]])))
                for x, at in ((query, i), (key, j))
            ]
            return float(jnp.sum(turned[0] * turned[1]))

        assert score(7, 3) == pytest.approx(score(104, 100), abs=1e-5)
        assert abs(score(7, 3) - score(3, 7)) > 1e-2

    def test_tables(self):
        cos, sin = angles(Rope(theta=10_000.0), 4, jnp.asarray([[0, 2], [100, 5]]))
        assert cos.shape == sin.shape == (2, 2, 1, 2)
        np.testing.assert_allclose(cos[1, 0, 0], np.cos([100.0, 1.0]), atol=1e-5)
        np.testing.assert_allclose(sin[0, 1, 0], np.sin([2.0, 0.02]), atol=1e-6)
        yarn = Rope(rule="yarn", factor=4.0, original_max_position=64, attention_factor=1.5)
        np.testing.assert_allclose(angles(yarn, 4, jnp.zeros((1, 1), jnp.int32))[0], 1.5)

    def test_bfloat16_turns_in_float32(self):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 1, 1, 8)), jnp.bfloat16)
        cos, sin = angles(Rope(), 8, jnp.asarray([[777]]))
        exact = rotate(x.astype(jnp.float32), cos, sin)
        assert rotate(x, cos, sin).dtype == jnp.bfloat16
        np.testing.assert_array_equal(rotate(x, cos, sin), exact.astype(jnp.bfloat16))
