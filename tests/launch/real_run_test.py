"""launch/local.py with real training: two processes, one of which is killed."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]

CONFIG = """
from configs import mqar_fg2


def get_config(variant=""):
    config = next(iter(mqar_fg2.get_config("tiny").stages.values()))
    config.train.steps, config.train.checkpoint_every = 12, 4
    config.train.log_every = 1
    return config
"""


def start(folder, name):
    words = [f"--config={folder / 'small.py'}", f"--workdir={folder / name}", "--processes=2"]
    return subprocess.Popen(
        [sys.executable, ROOT / "launch/local.py", *words, "--grace=5"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


def losses(workdir):
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def params(workdir):
    import jax

    from jaxlab.runtime.checkpoint import Checkpointer

    restored = Checkpointer(workdir / "checkpoints").restore_params(12)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(restored)]


@pytest.mark.slow
def test_a_killed_process_does_not_change_the_result(tmp_path):
    (tmp_path / "small.py").write_text(CONFIG)
    whole = start(tmp_path, "whole")
    whole.communicate(timeout=600)
    assert whole.returncode == 0

    process = start(tmp_path, "killed")
    text = ""
    while "process 1 is" not in text:
        text += process.stdout.readline()
    victim = int(re.search(r"process 1 is (\d+)", text)[1])
    saved = tmp_path / "killed/checkpoints/4"
    deadline = time.monotonic() + 300
    while not saved.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert saved.exists()
    os.kill(victim, signal.SIGKILL)
    rest, _ = process.communicate(timeout=600)
    assert process.returncode == 0, (tmp_path / "killed/launch/0.log").read_text()[-4000:]
    assert "ended with code -9; restart 1 of 3" in rest
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    for one, other in zip(params(tmp_path / "killed"), params(tmp_path / "whole"), strict=True):
        np.testing.assert_array_equal(one, other)
