"""What every token task promises, whatever it asks."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from jaxlab.data.tasks import tokens
from jaxlab.data.tasks.mqar import Mqar
from jaxlab.data.tasks.needle import Needle
from jaxlab.data.tasks.palindrome import Palindrome
from jaxlab.data.tasks.stack import Stacks
from jaxlab.data.tasks.state_tracking import StateTracking

TASKS = [
    Mqar(vocab_size=32, length=24, num_pairs=4),
    Needle(length=24, num_needles=3),
    Palindrome(vocab_size=5, length=24),
    Stacks(length=25),
    StateTracking("s3", length=24),
]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)
def test_shapes_types_and_ranges(task):
    batch = tokens.Generated(task).batch(range(50), "train")
    assert {array.shape for array in batch[:3]} == {(50, task.length)}
    assert (batch.tokens.dtype, batch.targets.dtype, batch.mask.dtype) == (np.int32, np.int32, bool)
    assert batch.segment_ids is None
    for array in (batch.tokens, batch.targets):
        assert array.min() >= 0
        assert array.max() < task.vocab_size
    assert batch.mask.any(1).all()
    assert not batch.targets[~batch.mask].any()


@pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)
def test_an_example_is_a_function_of_seed_split_and_id(task):
    source = tokens.Generated(task)
    batch = source.batch([5, 6, 2**39], "train")
    for row, i in enumerate([5, 6, 2**39]):
        alone = source.batch([i], "train")
        np.testing.assert_array_equal(alone.tokens[0], batch.tokens[row])
        np.testing.assert_array_equal(alone.targets[0], batch.targets[row])
        np.testing.assert_array_equal(alone.mask[0], batch.mask[row])
    others = [
        source.batch([5], "test"),
        source.batch([7], "train"),
        tokens.Generated(dataclasses.replace(task, seed=1)).batch([5], "train"),
    ]
    assert not any(np.array_equal(other.tokens[0], batch.tokens[0]) for other in others)


def test_another_process_makes_the_same_rows():
    program = (
        "from jaxlab.data.tasks.mqar import Mqar\n"
        "print(*Mqar(vocab_size=32, length=24, num_pairs=4).row(7, 'test').tokens)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    here = TASKS[0].row(7, "test").tokens
    assert [int(word) for word in done.stdout.split()] == here.tolist()


def test_sizes_of_the_splits():
    source = tokens.Generated(TASKS[0], num_train=10, num_test=3)
    assert source.num_examples("train") == 10
    assert source.num_examples("test") == 3
    assert source.tokens_per_byte("test") is None


def test_an_empty_batch_is_refused():
    with pytest.raises(ValueError, match="at least one row"):
        tokens.Generated(TASKS[0]).batch([], "train")


@pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)
def test_bad_seeds_are_refused(task):
    for seed in (-1, 2**63):
        with pytest.raises(ValueError, match=r"seed must be in \[0, 2\*\*63\)"):
            dataclasses.replace(task, seed=seed)
