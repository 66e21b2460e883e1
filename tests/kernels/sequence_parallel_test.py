import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from jaxlab_kernels.delta_rule import segments
from jaxlab_kernels.delta_rule.sequence_parallel import tokens_before


def test_shards_equal_one_device(forks):
    """Members, packed rows, logits and dtypes on 2 to 8 devices, gradients as well."""
    script = pathlib.Path(__file__).with_name("sequence_parallel_script.py")
    done = forks.run(script, cwd=script.parents[2], timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def test_a_segment_goes_on_or_starts_behind_a_border():
    ids = jnp.array([[0, 3, 3, 4], [3, 3, 4, 4], [0, 0, 0, 0], [5, 5, 5, 0]])
    begins = segments.starts(ids, jnp.array([3, 2, 1, 0]))
    expected = [[0, 0, 0, 1], [1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(begins, np.array(expected, bool))


def test_more_tokens_than_a_shard_has():
    with pytest.raises(ValueError, match=r"count=3 tokens of a shard of 2: expected 0 to 2"):
        tokens_before(jnp.zeros((1, 2, 4)), 3, "sequence")
