import numpy as np
import pytest

from jaxlab.data import batch


def test_right_padding():
    rows = [[5, 6], [], [7, 8, 9]]
    right, lengths = batch.right_pad(rows, 4, pad_id=1)
    np.testing.assert_array_equal(right, [[5, 6, 1, 1], [1, 1, 1, 1], [7, 8, 9, 1]])
    np.testing.assert_array_equal(lengths, [2, 0, 3])
    assert right.dtype == lengths.dtype == np.int32


def test_padding_names_the_row_that_is_too_long():
    with pytest.raises(ValueError, match="row 1 has 3 tokens, more than the width 2"):
        batch.right_pad([[1], [1, 2, 3]], 2, 0)


@pytest.mark.parametrize(
    ("n", "sizes", "expected"),
    [
        (0, 16, 16),
        (1, 16, 16),
        (16, 16, 16),
        (17, 16, 32),
        (5, (16, 4, 8), 8),
        (4, (4, 8), 4),
    ],
)
def test_bucket(n, sizes, expected):
    assert batch.bucket(n, sizes) == expected


def test_bucket_errors():
    with pytest.raises(ValueError, match="length 9 exceeds the largest bucket 8"):
        batch.bucket(9, (4, 8))
    for sizes in (0, (), (0, 4)):
        with pytest.raises(ValueError, match="must be positive"):
            batch.bucket(1, sizes)


def test_the_eos_counts_even_where_it_is_also_the_padding():
    tokens, mask = batch.prompt_completion([4, 5], [6, 0], width=6, pad_id=0)
    np.testing.assert_array_equal(tokens, [4, 5, 6, 0, 0, 0])
    np.testing.assert_array_equal(mask, [0, 0, 1, 1, 0, 0])
    assert tokens.dtype == np.int32
    assert mask.dtype == bool


def test_a_long_completion_is_cut():
    tokens, mask = batch.prompt_completion([4, 5], [6, 7, 8, 1], width=4, pad_id=0)
    np.testing.assert_array_equal(tokens, [4, 5, 6, 7])
    np.testing.assert_array_equal(mask, [0, 0, 1, 1])


def test_without_a_prompt_the_first_token_is_no_target():
    _, mask = batch.prompt_completion([], [6, 7], width=3, pad_id=0)
    np.testing.assert_array_equal(mask, [0, 1, 0])


def test_prompt_completion_errors_name_row_and_lengths():
    message = r"row 1: a prompt of 4 tokens \(completion: 2\) leaves no room in a width of 4"
    with pytest.raises(ValueError, match=message):
        batch.prompt_completion_batch([[1], [1, 2, 3, 4]], [[2], [3, 4]], 4, 0)
    with pytest.raises(ValueError, match="row 0: the completion is empty"):
        batch.prompt_completion([1], [], 4, 0)


def test_batch_stacks_its_rows():
    tokens, mask = batch.prompt_completion_batch([[1], [2, 3]], [[9], [9]], 3, 0)
    np.testing.assert_array_equal(tokens, [[1, 9, 0], [2, 3, 9]])
    np.testing.assert_array_equal(mask, [[0, 1, 0], [0, 0, 1]])
