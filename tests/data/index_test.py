import numpy as np
import pytest

from jaxlab.data import index


def _epoch(n, seed, epoch, batch=7):
    """The ids of one epoch, put together from batches that straddle its ends."""
    steps = range(epoch * n // batch, -(-(epoch + 1) * n // batch))
    ids = np.concatenate([index.example_ids(s, batch, n, seed) for s in steps])
    start = epoch * n - steps[0] * batch
    return ids[start : start + n]


def test_each_example_once_per_epoch_in_a_new_order():
    epochs = [_epoch(53, seed=3, epoch=e) for e in range(3)]
    for ids in epochs:
        assert sorted(ids) == list(range(53))
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[0], _epoch(53, seed=4, epoch=0))


def test_a_pure_function_of_its_arguments():
    late = index.example_ids(1000, 8, 100, seed=5)
    index._permutation.cache_clear()
    for step in range(3):
        index.example_ids(step, 8, 100, seed=5)
    np.testing.assert_array_equal(late, index.example_ids(1000, 8, 100, seed=5))
    assert late.dtype == np.int64
    assert late.shape == (8,)


def test_unshuffled_is_file_order():
    np.testing.assert_array_equal(index.example_ids(1, 4, 6, 0, shuffle=False), [4, 5, 0, 1])


def test_a_batch_may_hold_several_epochs():
    ids = index.example_ids(0, 9, 3, seed=0)
    assert [sorted(part) for part in ids.reshape(3, 3)] == [[0, 1, 2]] * 3


@pytest.mark.parametrize("n", [1, 2, 3, 17, 256, 257, 1000])
def test_feistel_is_a_bijection(n):
    ids = index.feistel(np.arange(n), n, seed=9, epoch=2)
    assert sorted(ids) == list(range(n))


def test_feistel_scatters_and_depends_on_its_key():
    n = 4096
    one = index.feistel(np.arange(n), n, seed=0, epoch=0)
    for seed, epoch in [(0, 1), (1, 0)]:
        other = index.feistel(np.arange(n), n, seed, epoch)
        # Two independent permutations agree in one place on average (Poisson).
        assert (one == other).sum() < 10
    # Neighbours land n/3 apart on average; its standard error here is n / sqrt(18 n).
    assert abs(np.abs(np.diff(one)).mean() - n / 3) < 4 * n / np.sqrt(18 * n)


def test_huge_data_sets_make_no_permutation(monkeypatch):
    monkeypatch.setattr(index, "_permutation", None)
    n = (1 << 40) + 3
    ids = np.concatenate([index.example_ids(s, 64, n, seed=0) for s in range(4)])
    assert len(set(ids)) == 256
    assert ids.min() >= 0
    assert ids.max() < n
    assert ids.max() > n // 2


def test_both_orders_have_the_epoch_property(monkeypatch):
    monkeypatch.setattr(index, "MAX_PERMUTATION", 10)
    for epoch in range(2):
        assert sorted(_epoch(53, seed=3, epoch=epoch)) == list(range(53))


@pytest.mark.parametrize(
    "bad", [(-1, 2, 3, 0), (0, 0, 3, 0), (0, 2, 0, 0), (0, 2, 3, -1), (0, 2, 3, 1 << 64)]
)
def test_bad_arguments(bad):
    with pytest.raises(ValueError, match="are needed, got step="):
        index.example_ids(*bad)
