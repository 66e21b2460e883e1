import numpy as np
import pytest

from jaxlab.data.tasks.stack import POP, PUSH, Stacks


def _replay(tokens, num_stacks):
    """Brute force: what each place asks for, None where nothing; fails on a bad operation."""
    stacks = [[] for _ in range(num_stacks)]
    asked = [None] * len(tokens)
    deepest = 0
    for at in range(0, len(tokens), 3):
        operation, name, symbol = (*tokens[at : at + 3].tolist(), None, None)[:3]
        assert operation in (PUSH, POP)
        if name is None:
            break
        assert 2 <= name < 2 + num_stacks
        if operation == POP:
            asked[at + 1] = stacks[name - 2].pop()
            assert symbol in (None, asked[at + 1])
        elif symbol is not None:
            assert symbol >= 2 + num_stacks
            stacks[name - 2].append(symbol)
            deepest = max(deepest, len(stacks[name - 2]))
    return asked, deepest


@pytest.mark.parametrize("length", [6, 7, 8, 9, 10, 96])
@pytest.mark.parametrize("push_share", [0.0, 0.5, 0.9])
def test_every_label_is_the_top_of_its_stack(length, push_share):
    task = Stacks(num_stacks=3, num_symbols=5, length=length, push_share=push_share, max_depth=4)
    for i in range(40):
        tokens, targets, mask = task.row(i, "train")
        asked, deepest = _replay(tokens, 3)
        assert mask.tolist() == [symbol is not None for symbol in asked]
        assert targets[mask].tolist() == [symbol for symbol in asked if symbol is not None]
        assert mask.any()
        assert deepest <= 4


def test_pushes_have_their_share_and_symbols_are_uniform():
    task = Stacks(num_stacks=2, num_symbols=8, length=300, push_share=0.7)
    rows = np.stack([task.row(i, "train").tokens for i in range(100)])
    # The first operation must be a push, so a little more than the share.
    assert (rows[:, ::3] == PUSH).mean() == pytest.approx(0.7, abs=0.02)
    symbols = rows[:, 2::3][rows[:, ::3] == PUSH]
    counts = np.bincount(symbols, minlength=12)[4:]
    expected = counts.sum() / 8
    assert ((counts - expected) ** 2 / expected).sum() < 7 + 5 * np.sqrt(14)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"length": 5}, "length must be at least 6, a push and a pop"),
        ({"num_stacks": 0}, "num_stacks must be at least 1"),
        ({"num_symbols": 1}, "num_symbols must be at least 2"),
        ({"push_share": 1.0}, r"push_share must be in \[0, 1\)"),
        ({"max_depth": 0}, "max_depth must be at least 1"),
    ],
)
def test_impossible_sizes(sizes, message):
    with pytest.raises(ValueError, match=message):
        Stacks(**sizes)
