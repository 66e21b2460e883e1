"""Codecs of model families: tensors of a checkpoint to parameters and back."""

import numpy as np
import pytest

from jaxlab.interop.families.codecs import CONV, LINEAR, OWN, Permute, Split, Stack, Target

# Codec, shapes of parameters, shapes of tensors.
CASES = {
    "own": (OWN, [(3, 4)], [(3, 4)]),
    "scalar": (OWN, [()], [()]),
    "linear": (LINEAR, [(3, 4)], [(4, 3)]),
    "conv": (CONV, [(2, 5)], [(5, 1, 2)]),
    # A patch embedding: [out, in, height, width] as [height, width, in, out].
    "permute": (Permute((2, 3, 1, 0)), [(4, 5, 3, 2)], [(2, 3, 4, 5)]),
    "experts": (Stack(), [(3, 4, 2)], [(2, 4)] * 3),
    "split": (Split(), [(4, 2), (4, 3)], [(5, 4)]),
    "split-own-last": (Split(-1, OWN), [(4, 2), (4, 3)], [(4, 5)]),
}


@pytest.mark.parametrize("name", CASES)
def test_there_and_back(name):
    codec, shapes, stored = CASES[name]
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape) for shape in shapes]
    tensors = list(codec.write(arrays))
    assert [tensor.shape for tensor in tensors] == stored
    assert codec.stored(shapes, len(stored)) == stored
    openers = [lambda tensor=tensor: tensor for tensor in tensors]
    for begin, end in ((0, None), (1, None), (0, -1), (1, 2)):
        parts = [(slice(begin, end),) * len(shape) for shape in shapes]
        wanted = [array[part] for array, part in zip(arrays, parts, strict=True)]
        back = [np.full(part.shape, np.nan) for part in wanted]
        codec.read(openers, list(map(Target, back, shapes, parts)))
        for one, two in zip(wanted, back, strict=True):
            np.testing.assert_array_equal(one, two)


def test_only_tensors_of_the_part_are_opened():
    opened = []

    def expert(i):
        opened.append(i)
        return np.full((2, 4), i)

    out = np.zeros((2, 4, 1))
    part = (slice(1, 3), slice(None), slice(0, 1))
    openers = [lambda i=i: expert(i) for i in range(4)]
    Stack().read(openers, [Target(out, (4, 4, 2), part)])
    assert opened == [1, 2]
    assert out[:, 0, 0].tolist() == [1, 2]


def test_the_values_are_where_they_should_be():
    out = [np.zeros((3, 2)), np.zeros((3, 1))]
    fused = np.arange(9.0).reshape(3, 3)  # [out, in]: rows 0 and 1 belong to the first
    Split().read([lambda: fused], [Target(one, one.shape) for one in out])
    np.testing.assert_array_equal(out[0], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(out[1], [[6], [7], [8]])
    taps = np.zeros((2, 3))
    CONV.read([lambda: np.arange(6.0).reshape(3, 1, 2)], [Target(taps, taps.shape)])
    np.testing.assert_array_equal(taps, [[0, 2, 4], [1, 3, 5]])


@pytest.mark.parametrize("codec", [OWN, Stack()])
def test_other_numbers_of_tensors_are_refused(codec):
    with pytest.raises(ValueError, match="not 2"):
        codec.stored([(3, 4, 5)], 2)
