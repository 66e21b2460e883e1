import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.runtime import checkpoint, sharding

CASES = pathlib.Path(__file__).with_name("eight_devices_cases.py")


def _run_cases(*flags):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *flags, str(CASES)],
        cwd=CASES.parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.slow
def test_on_two_and_four_devices():
    _run_cases("-m", "slow")


def test_on_eight_devices(tmp_path, monkeypatch):
    """Runs eight_devices_cases.py, and restores here what it saved there."""
    monkeypatch.setenv("EIGHT_DEVICES_CHECKPOINT", str(tmp_path))
    _run_cases()
    params = checkpoint.Checkpointer(tmp_path / "auto").restore_params()
    np.testing.assert_array_equal(params["mlp"]["up"]["kernel"], np.arange(32.0).reshape(8, 4))
    example = {"step": jnp.int32(0)}
    with pytest.raises(checkpoint.CheckpointError, match="expected nothing, found"):
        checkpoint.Checkpointer(tmp_path / "auto").restore(example)


def test_without_a_mesh_nothing_happens():
    def f(a, b):
        return a + b

    assert sharding.shard_call(f, (("data",), ()), ("data",))(1, 2) == 3
