import pytest

from jaxlab.data.tasks.palindrome import SEPARATOR, Palindrome


@pytest.mark.parametrize("length", [2, 4, 10, 64])
def test_the_targets_are_the_symbols_backwards(length):
    for i in range(20):
        tokens, targets, mask = Palindrome(vocab_size=7, length=length).row(i, "train")
        half = length // 2
        said = list(tokens[:half])[::-1]
        assert SEPARATOR not in said
        assert tokens[half] == SEPARATOR
        assert mask.tolist() == [False] * half + [True] * half
        assert targets[half:].tolist() == said
        # What is read behind the separator is what was to be said before.
        assert tokens[half + 1 :].tolist() == said[:-1]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"length": 7}, "length must be even and at least 2"),
        ({"length": 0}, "length must be even and at least 2"),
        ({"vocab_size": 2}, "vocab_size must be at least 3"),
    ],
)
def test_impossible_sizes(sizes, message):
    with pytest.raises(ValueError, match=message):
        Palindrome(**sizes)
