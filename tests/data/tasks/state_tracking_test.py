import itertools
import math

import numpy as np
import pytest

from jaxlab.data.tasks.state_tracking import (
    StateTracking,
    letters,
    permutations,
    product_table,
)


def test_parity_counts_ones():
    for i in range(20):
        tokens, targets, mask = StateTracking("z2", length=33).row(i, "train")
        assert set(tokens) <= {0, 1}
        assert targets.tolist() == (np.cumsum(tokens) % 2).tolist()
        assert mask.all()


def test_cyclic_words_add_up():
    tokens, targets, _ = StateTracking("z7", length=40).row(0, "train")
    assert targets.tolist() == (np.cumsum(tokens) % 7).tolist()


def test_the_order_of_s3_by_hand():
    # Lexicographic: 012 021 102 120 201 210. Read 021 (exchange 1, 2), then 102 (exchange 0, 1):
    # 0 -> 0 -> 1, 1 -> 2 -> 2, 2 -> 1 -> 0, which is 120.
    assert permutations("s3").tolist() == [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ]
    assert product_table("s3")[2, 1] == 3
    # The other way round 0 -> 1 -> 2, 1 -> 0 -> 0, 2 -> 2 -> 1: they do not commute.
    assert product_table("s3")[1, 2] == 4


@pytest.mark.parametrize("group", ["s3", "a4", "s4", "a5", "s5"])
def test_labels_move_points_as_the_word_does(group):
    task = StateTracking(group, length=24)
    elements = permutations(group)
    for i in range(10):
        tokens, targets, _ = task.row(i, "train")
        points = np.arange(elements.shape[1])
        for token, target in zip(tokens, targets, strict=True):
            points = np.array([elements[token][p] for p in points])
            np.testing.assert_array_equal(points, elements[target])


@pytest.mark.parametrize(
    ("group", "order"), [("z2", 2), ("z60", 60), ("s3", 6), ("a4", 12), ("a5", 60), ("s5", 120)]
)
def test_groups(group, order):
    table = product_table(group)
    everything = list(range(order))
    assert table.shape == (order, order)
    assert table[0].tolist() == table[:, 0].tolist() == everything
    assert all(sorted(line) == everything for line in (*table, *table.T))
    for x, y, z in itertools.islice(itertools.product(range(order), repeat=3), 0, None, 97):
        assert table[table[x, y], z] == table[x, table[y, z]]
    assert StateTracking(group).vocab_size == order


@pytest.mark.parametrize(("moved", "count"), [(2, 1 + math.comb(5, 2)), (3, 11 + 20), (5, 120)])
def test_words_of_few_moved_points(moved, count):
    assert len(letters("s5", moved)) == count
    task = StateTracking("s5", length=400, max_moved=moved)
    tokens, targets, _ = task.row(0, "train")
    assert set(tokens) <= set(letters("s5", moved))
    # 400 exchanges reach far more elements than there are letters.
    assert moved == 5 or len(set(targets)) > count


def test_words_are_uniform():
    task = StateTracking("s3", length=100)
    words = np.concatenate([task.row(i, "train").tokens for i in range(60)])
    counts = np.bincount(words, minlength=6)
    assert ((counts - 1000) ** 2 / 1000).sum() < 5 + 5 * np.sqrt(10)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"group": "q8"}, "group 'q8' is none of zM, sN, aN"),
        ({"group": "s7"}, "s2 to s6 are supported"),
        ({"group": "z1"}, "z2 to z1024"),
        ({"group": "z5", "max_moved": 2}, "max_moved is for permutations"),
        ({"group": "a5", "max_moved": 2}, "no element of a5 but the identity"),
        ({"length": 0}, "length must be at least 1"),
    ],
)
def test_impossible_groups(sizes, message):
    with pytest.raises(ValueError, match=message):
        StateTracking(**sizes)
