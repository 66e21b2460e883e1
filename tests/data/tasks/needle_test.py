import numpy as np
import pytest

from jaxlab.data.tasks.needle import ASK, Needle


@pytest.mark.parametrize("num_needles", [1, 2, 5])
def test_the_label_is_the_value_behind_the_key(num_needles):
    task = Needle(length=12, num_needles=num_needles, num_keys=6, num_values=4, num_noise=3)
    for i in range(200):
        tokens, targets, mask = task.row(i, "train")
        assert mask.tolist() == [False] * 11 + [True]
        assert tokens[-2] == ASK
        (places,) = np.nonzero((tokens[:-2] >= 1) & (tokens[:-2] < 7))
        assert len(places) == len(set(tokens[places])) == num_needles
        table = dict(zip(tokens[places], tokens[places + 1], strict=True))
        assert all(7 <= value < 11 for value in table.values())
        assert targets[-1] == table[tokens[-1]]
        # All else is noise.
        assert (tokens[:-2] >= 11).sum() == 10 - 2 * num_needles


def test_every_place_is_alike():
    task = Needle(length=12, num_needles=1)
    places = [int(np.argmax(task.row(i, "train").tokens < 65)) for i in range(3000)]
    counts = np.bincount(places, minlength=9)
    assert ((counts - 3000 / 9) ** 2 / (3000 / 9)).sum() < 8 + 5 * 4


@pytest.mark.parametrize(("depth", "place"), [(0.0, 0), (0.5, 4), (1.0, 8)])
def test_depth_places_the_needle(depth, place):
    task = Needle(length=12, num_needles=1, depth=depth)
    for i in range(20):
        tokens = task.row(i, "test").tokens
        assert int(np.argmax(tokens < 65)) == place
        assert tokens[place] == tokens[-1]


@pytest.mark.parametrize("depth", [0.0, 0.3, 1.0])
def test_depth_among_other_needles(depth):
    """The pair that is asked for is first, last or in between, with the right answer."""
    task = Needle(length=14, num_needles=4, depth=depth)
    for i in range(50):
        tokens, targets, _ = task.row(i, "test")
        (places,) = np.nonzero((tokens[:-2] >= 1) & (tokens[:-2] <= 32))
        asked = places[tokens[places] == tokens[-1]]
        assert len(places) == 4
        assert targets[-1] == tokens[asked[0] + 1]
        assert depth or asked[0] == 0
        assert depth < 1 or asked[0] == 10


def test_several_questions_are_answered_in_the_row_but_the_last():
    task = Needle(length=24, num_needles=4, num_queries=3, num_keys=6, num_values=4, depth=0.0)
    last = set()
    for i in range(50):
        tokens, targets, mask = task.row(i, "train")
        assert np.flatnonzero(mask).tolist() == [17, 20, 23]
        assert tokens[[16, 19, 22]].tolist() == [ASK] * 3
        assert tokens[[18, 21]].tolist() == targets[[17, 20]].tolist()
        (places,) = np.nonzero((tokens[:16] >= 1) & (tokens[:16] < 7))
        table = dict(zip(tokens[places], tokens[places + 1], strict=True))
        asked = tokens[[17, 20, 23]]
        assert len(table) == 4
        assert len(set(asked)) == 3
        assert [table[key] for key in asked] == targets[[17, 20, 23]].tolist()
        assert tokens[0] == tokens[23]  # depth places the needle that is asked for last
        last.add(tuple(np.searchsorted(places, [np.argmax(tokens == key) for key in asked[:2]])))
    assert len(last) == 6  # two of the other three, in any order


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_needles": 2, "num_queries": 3}, "3 questions need as many needles, there are 2"),
        ({"length": 5, "num_needles": 2}, r"length must be at least 2 \* num_needles \+ 2 = 6"),
        ({"num_needles": 9, "num_keys": 8}, "9 needles need as many keys, there are 8"),
        ({"num_values": 1}, "num_values must be at least 2"),
        ({"depth": 1.5}, r"depth must be in \[0, 1\]"),
        ({"num_noise": 0}, "num_noise must be at least 1"),
    ],
)
def test_impossible_sizes(sizes, message):
    with pytest.raises(ValueError, match=message):
        Needle(**sizes)
