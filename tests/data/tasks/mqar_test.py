import numpy as np
import pytest

from jaxlab.data.tasks.mqar import Mqar

MINI = Mqar(vocab_size=32, length=16, num_pairs=4, power_a=1.0, first_key=0)


def _answers(tokens, num_pairs):
    """Brute force: read the list, then look up what is asked."""
    return dict(zip(tokens[: 2 * num_pairs : 2], tokens[1 : 2 * num_pairs : 2], strict=True))


@pytest.mark.parametrize(
    "task",
    [
        MINI,
        Mqar(vocab_size=64, length=64, num_pairs=5),
        Mqar(vocab_size=64, length=64, num_pairs=16, random_filler=False),
        Mqar(vocab_size=33, length=62, num_pairs=15),
        Mqar(vocab_size=8192, length=256, num_pairs=64),
    ],
)
def test_every_label_follows_from_the_list(task):
    for i in range(60):
        tokens, targets, mask = task.row(i, "train")
        context = 2 * task.num_pairs
        table = _answers(tokens, task.num_pairs)
        half = task.vocab_size // 2
        # Distinct keys of the lower half, distinct values of the upper.
        assert len(table) == len(set(table.values())) == task.num_pairs
        assert task.first_key <= min(table) <= max(table) < half <= min(table.values())
        # Each key is asked once, at an even place behind the list.
        (asked,) = np.nonzero(mask)
        assert sorted(tokens[asked]) == sorted(table)
        assert asked.min() >= context
        assert not (asked % 2).any()
        assert [table[key] for key in tokens[asked]] == targets[asked].tolist()
        if not task.random_filler:
            rest = np.setdiff1d(np.arange(context, task.length), asked)
            assert not tokens[rest].any()


def test_the_mini_variant_asks_at_every_even_place():
    assert MINI.vocab_size == 32
    for i in range(20):
        assert np.flatnonzero(MINI.row(i, "test").mask).tolist() == [8, 10, 12, 14]


def _chi_square(counts, expected):
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("first_key", [0, 1])
def test_keys_and_values_are_uniform(first_key):
    """Pearson's chi-square within 5 standard deviations, sqrt(2 df), of its mean, df."""
    task = Mqar(vocab_size=32, length=32, num_pairs=2, first_key=first_key)
    rows = np.stack([task.row(i, "train").tokens for i in range(4000)])
    for column, low, high in ((0, first_key, 16), (2, first_key, 16), (1, 16, 32), (3, 16, 32)):
        counts = np.bincount(rows[:, column], minlength=32)[low:high]
        assert counts.sum() == 4000  # none elsewhere
        df = high - low - 1
        assert _chi_square(counts, 4000 / (df + 1)) < df + 5 * np.sqrt(2 * df)


@pytest.mark.parametrize("power_a", [0.01, 0.5, 1.0])
def test_the_first_key_is_asked_at_power_law_distances(power_a):
    task = Mqar(vocab_size=64, length=24, num_pairs=2, power_a=power_a)
    slots = []
    for i in range(4000):
        tokens, _, mask = task.row(i, "train")
        places = np.flatnonzero(mask)
        slots.append((places[tokens[places] == tokens[0]][0] - 4) // 2)
    weights = np.arange(1, 11) ** (power_a - 1)
    expected = 4000 * weights / weights.sum()
    counts = np.bincount(slots, minlength=10)
    assert _chi_square(counts, expected) < 9 + 5 * np.sqrt(2 * 9)


def test_filler_covers_the_vocabulary():
    task = Mqar(vocab_size=16, length=64, num_pairs=2)
    rows = np.stack([task.row(i, "train").tokens for i in range(500)])
    # Odd places behind the list are never queries.
    counts = np.bincount(rows[:, 5::2].ravel(), minlength=16)
    expected = counts.sum() / 16
    assert _chi_square(counts, expected) < 15 + 5 * np.sqrt(30)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"length": 15}, "length must be even and at least 4"),
        ({"length": 12, "num_pairs": 4}, r"at least 4 \* num_pairs = 16 .* not 12"),
        ({"vocab_size": 8, "num_pairs": 4, "length": 16}, "has 3 keys"),
        ({"num_pairs": 0}, "num_pairs must be at least 1, not 0"),
        ({"power_a": 0.0}, r"power_a must be in \(0, 1\], not 0.0"),
        ({"power_a": 1000.0}, r"power_a must be in \(0, 1\]"),
        ({"first_key": -1}, "first_key -1"),
    ],
)
def test_impossible_sizes(sizes, message):
    with pytest.raises(ValueError, match=message):
        Mqar(**sizes)
