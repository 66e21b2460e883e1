"""Statistics of actions by robot."""

import numpy as np
import pytest

from jaxlab.evals.lary import normalise, rows


def row(robot, identity="x.csv:2"):
    return rows.Row(identity, "a.npy", robot_type=robot, steps=2)


def test_statistics_by_hand():
    # Steps 0, 2 and 4, 6 of one robot: mean 3, variance 5. The second component never changes.
    examples = [
        (row("a"), np.array([[0.0, 7.0], [2.0, 7.0]])),
        (row("b"), np.array([[10.0, 0.0], [30.0, 1.0]])),
        (row("a"), np.array([[4.0, 7.0], [6.0, 7.0]])),
    ]
    fitted = normalise.Normaliser.fit(examples)
    assert fitted.robots["a"].mean.tolist() == [3.0, 7.0]
    assert fitted.robots["a"].std.tolist() == pytest.approx([5**0.5, 1.0])
    assert (fitted.robots["a"].count, fitted.robots["b"].count) == (4, 2)
    z, strangers = fitted([one for one, _ in examples], np.stack([v for _, v in examples]))
    assert z[1].tolist() == [[-1.0, -1.0], [1.0, 1.0]]
    assert z[0].ravel() == pytest.approx([-3 / 5**0.5, 0, -1 / 5**0.5, 0], rel=1e-6)
    assert (z.dtype, strangers) == (np.float32, [])
    together = normalise.Normaliser.fit(examples, by_robot=False).everywhere
    assert together.mean[0] == pytest.approx(52 / 6)


def test_statistics_in_one_pass_are_numpy_s():
    rng = np.random.default_rng(0)
    chunks = [rng.normal(1e6, 1e-2, (rng.integers(1, 9), 3)) for _ in range(50)]
    found = normalise.Normaliser.fit((row("a"), chunk) for chunk in chunks).robots["a"]
    everything = np.concatenate(chunks)
    # Rounding of numbers near 1e6 is 1e-10, of deviations of 1e-2.
    assert found.mean == pytest.approx(everything.mean(0), rel=1e-15)
    assert found.std == pytest.approx(everything.std(0), rel=1e-6)


def test_unknown_robots_are_named_or_counted():
    fitted = normalise.Normaliser.fit([(row("a"), np.array([[0.0], [2.0]]))])
    values = np.full((2, 1, 1), 5.0)
    with pytest.raises(ValueError, match=r"^x.csv:9: robot_type '' is not in .* which has 'a'"):
        fitted([row("a"), row("", "x.csv:9")], values)
    z, strangers = fitted([row("a"), row("", "x.csv:9")], values, unknown="identity")
    assert z.ravel().tolist() == [4.0, 5.0]
    assert [one.where for one in strangers] == ["x.csv:9"]


def test_shipped_constants_of_the_release():
    calvin = normalise.Normaliser.shipped("calvin")
    z, _ = calvin([row("")], np.full((1, 1, 7), 0.03993005))
    assert z[0, 0, 0] == 0
    with pytest.raises(ValueError, match="robocoin has no constants in the release; calvin, vlab"):
        normalise.Normaliser.shipped("robocoin")
