from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxlab.data.packing import line, pack
from jaxlab.data.tasks.tokens import NO_TARGET, Row


def test_hand_worked():
    packed = pack([[1, 2, 3], [4, 5], [6], [7, 8]], width=4, pad_id=0)
    np.testing.assert_array_equal(packed.tokens, [[1, 2, 3, 6], [4, 5, 7, 8]])
    np.testing.assert_array_equal(packed.segment_ids, [[1, 1, 1, 2], [1, 1, 2, 2]])
    np.testing.assert_array_equal(packed.positions, [[0, 1, 2, 0], [0, 1, 0, 1]])
    np.testing.assert_array_equal(packed.mask, [[0, 1, 1, 0], [0, 1, 0, 1]])


def test_masks_and_padding():
    packed = pack([[1, 2, 3], [4]], 5, pad_id=9, masks=[[True, False, True], [True]])
    np.testing.assert_array_equal(packed.tokens, [[1, 2, 3, 4, 9]])
    np.testing.assert_array_equal(packed.segment_ids, [[1, 1, 1, 2, 0]])
    np.testing.assert_array_equal(packed.mask, [[0, 0, 1, 0, 0]])


def test_errors():
    with pytest.raises(ValueError, match="at least 1 token wide"):
        pack([[1]], 0, 0)
    with pytest.raises(ValueError, match="document 1 has 2 tokens, its mask 1"):
        pack([[1], [2, 3]], 4, 0, masks=[[True], [True]])


def test_no_documents_give_no_rows():
    assert pack([[], []], 4, 0).tokens.shape == (0, 4)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 13), max_size=20), st.integers(1, 8))
def test_nothing_lost_or_doubled(lengths, width):
    # Every token is unique, and the padding id is also a token: it must not matter.
    ends = np.cumsum([0, *lengths])
    documents = [np.arange(a, b) for a, b in pairwise(ends)]
    packed = pack(documents, width, pad_id=0)
    real = packed.segment_ids > 0
    assert sorted(packed.tokens[real]) == list(range(ends[-1]))

    for tokens, segments, positions, mask in zip(*packed, strict=True):
        used = np.count_nonzero(segments)
        assert used > 0
        assert (segments[used:] == 0).all()
        assert not mask[used:].any()
        for segment in range(1, segments.max() + 1):
            here = segments == segment
            np.testing.assert_array_equal(positions[here], np.arange(here.sum()))
            np.testing.assert_array_equal(np.diff(tokens[here]), 1)
            np.testing.assert_array_equal(mask[here], positions[here] > 0)
            # One segment is a piece of one document.
            starts = np.searchsorted(ends, tokens[here], side="right")
            assert len(set(starts)) == 1

    again = pack(documents, width, pad_id=0)
    for a, b in zip(packed, again, strict=True):
        np.testing.assert_array_equal(a, b)


def test_documents_in_a_line():
    documents = [
        Row(np.array([5, 6, 7]), np.array([6, 7, 8]), np.array([False, True, True])),
        Row(np.array([9, 3]), np.array([3, 4]), np.array([True, False])),
    ]
    row = line(documents, 6)
    assert row.tokens.tolist() == [5, 6, 7, 9, 3, 0]
    assert row.targets.tolist() == [6, 7, 8, 3, 4, NO_TARGET]
    assert row.mask.tolist() == [False, True, True, True, False, False]
    assert row.segment_ids.tolist() == [1, 1, 1, 2, 2, 0]
    assert row.positions.tolist() == [0, 1, 2, 0, 1, 0]
    assert not line([], 2).segment_ids.any()
    with pytest.raises(ValueError, match="2 documents of 5 tokens do not fit 4"):
        line(documents, 4)
