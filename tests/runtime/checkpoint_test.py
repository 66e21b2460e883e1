import json
import logging
import pathlib
import random
import shutil
import socket
import subprocess
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.runtime import checkpoint
from jaxlab.runtime.preemption import Preemption

PROGRAMS = pathlib.Path(__file__).parent


class TrainState(NamedTuple):
    step: Any
    params: Any
    opt_state: Any


def _state(value):
    params = {"dense": {"kernel": jnp.full((4, 3), value), "bias": jnp.zeros(3, jnp.bfloat16)}}
    return TrainState(jnp.int32(value), params, ({"mu": params}, ()))


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    directory = tmp_path_factory.mktemp("two_steps")
    with checkpoint.Checkpointer(directory) as saver:
        for step in (1, 2):
            saver.save(step, _state(float(step)), {"tokens": 10 * step})
    return directory


@pytest.fixture
def directory(two_steps, tmp_path):
    return shutil.copytree(two_steps, tmp_path / "checkpoints")


def _check(restored, step):
    assert restored.step == step
    jax.tree.map(np.testing.assert_array_equal, restored.state, _state(float(step)))
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(restored.state)]
    assert dtypes == [leaf.dtype for leaf in jax.tree.leaves(_state(0.0))]
    assert restored.extra == {"tokens": 10 * step}


def test_round_trip(directory):
    saver = checkpoint.Checkpointer(directory)
    assert saver.steps() == [1, 2]
    assert saver.latest() == 2
    _check(saver.restore(_state(0.0)), 2)
    _check(saver.restore(jax.eval_shape(lambda: _state(0.0)), step=1), 1)


def test_an_empty_directory_restores_nothing(tmp_path):
    saver = checkpoint.Checkpointer(tmp_path / "absent")
    assert saver.restore(_state(0.0)) is None
    assert saver.latest() is None
    assert not (tmp_path / "absent").exists()
    with pytest.raises(checkpoint.CheckpointError, match="no checkpoint in"):
        saver.restore_params()
    with pytest.raises(checkpoint.CheckpointError, match="no checkpoint of step 7"):
        saver.restore(_state(0.0), step=7)


def test_params_alone_need_no_example(directory):
    saver = checkpoint.Checkpointer(directory)
    params = saver.restore_params()
    jax.tree.map(np.testing.assert_array_equal, params, _state(2.0).params)
    assert isinstance(params["dense"]["kernel"], np.ndarray)
    assert params["dense"]["bias"].dtype == jnp.bfloat16
    assert saver.restore_params(step=1, dtype=jnp.float16)["dense"]["kernel"].dtype == np.float16
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    assert saver.restore_params(shardings=one)["dense"]["bias"].sharding == one
    with pytest.raises(checkpoint.CheckpointError, match="differ at params/dense/bias"):
        saver.restore_params(shardings={"dense": {"kernel": one}})


def test_leaves_of_every_kind_come_back_as_they_were(tmp_path):
    state = {
        "key": jax.random.key(3, impl="rbg"),
        "count": 5,
        "rate": 0.5,
        "ids": np.arange(3, dtype=np.int64),
        "nothing": None,
    }
    with checkpoint.Checkpointer(tmp_path) as saver:
        saver.save(0, state)
        restored = saver.restore({**state, "key": jax.random.key(0, impl="rbg"), "count": 0}).state
        abstract_key = jax.ShapeDtypeStruct((), state["key"].dtype)
        again = saver.restore({**state, "key": abstract_key}).state
    for got in (restored["key"], again["key"]):
        assert jax.random.key_impl(got) == jax.random.key_impl(state["key"])
        np.testing.assert_array_equal(jax.random.key_data(got), jax.random.key_data(state["key"]))
    assert (restored["count"], restored["rate"], restored["nothing"]) == (5, 0.5, None)
    assert restored["ids"].dtype == np.int64
    np.testing.assert_array_equal(restored["ids"], state["ids"])


def test_saved_values_are_those_before_donation(tmp_path):
    """An asynchronous save must not see what the next step writes into the same buffers."""
    step = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 + 7, s), donate_argnums=0)
    state = {"params": {"w": jnp.arange(1 << 20, dtype=jnp.float32)}}
    with checkpoint.Checkpointer(tmp_path) as saver:
        saver.save(1, state)
        jax.block_until_ready(step(state))
        np.testing.assert_array_equal(
            saver.restore_params()["w"], np.arange(1 << 20, dtype=np.float32)
        )


def test_keeps_the_latest_and_every_nth(tmp_path):
    with checkpoint.Checkpointer(tmp_path, keep=2, keep_every=4, async_save=False) as saver:
        for step in range(1, 8):
            assert saver.save(step, {"w": jnp.float32(step)})
        assert saver.steps() == [4, 6, 7]
        assert not saver.save(7, {"w": jnp.float32(0.0)})  # it is there already
        assert saver.restore({"w": jnp.float32(0.0)}).state["w"] == 7.0
    assert {p.name for p in tmp_path.iterdir()} == {"4", "6", "7"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"params": {"dense": {"kernel": jnp.ones((4, 5)), "bias": jnp.ones(3, jnp.bfloat16)}}},
            r"params/dense/kernel: expected float32\[4,5\], found float32\[4,3\]",
        ),
        (
            {"params": {"dense": {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}}},
            r"params/dense/bias: expected float32\[3\], found bfloat16\[3\]",
        ),
        (
            {"params": {"dense": {"kernel": jnp.ones((4, 3))}}},
            r"params/dense/bias: expected nothing, found bfloat16\[3\]",
        ),
        (
            {"opt_state": ({"mu": {}, "nu": jnp.ones(2)}, ())},
            r"opt_state/0/mu/dense/bias: expected nothing, found bfloat16\[3\]",
        ),
    ],
)
def test_a_state_that_does_not_fit_names_the_first_difference(directory, change, message):
    saver = checkpoint.Checkpointer(directory)
    with pytest.raises(checkpoint.CheckpointError, match=message):
        saver.restore(_state(0.0)._replace(**change))
    assert saver.steps() == [1, 2]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": {"w": jnp.ones((0, 3))}}, r"a/w cannot be saved: float32 of shape \(0, 3\)"),
        ({"a": "text", "b": object()}, "b cannot be saved"),
        (jnp.ones(3), "container"),
    ],
)
def test_what_cannot_be_saved_is_named(tmp_path, state, message):
    with pytest.raises(checkpoint.CheckpointError, match=message):
        checkpoint.Checkpointer(tmp_path).save(1, state)


def test_urls_and_bad_options_are_refused(tmp_path):
    with pytest.raises(checkpoint.CheckpointError, match="mount the bucket"):
        checkpoint.Checkpointer("gs://bucket/run")
    with pytest.raises(checkpoint.CheckpointError, match="keep must be at least 1"):
        checkpoint.Checkpointer(tmp_path, keep=0)


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


KINDS = (
    "extra.json",
    "manifest.json",
    "state/_METADATA",
    "state/manifest.ocdbt",
    "state/d/*",
    "state/array_metadatas/*",
    "state/ocdbt.process_0/d/*",
    "state/ocdbt.process_0/manifest.ocdbt",
)


# A manifest that is missing altogether is another matter: see the tests after this one.
DAMAGES = [
    (kind, damage)
    for kind in KINDS
    for damage in (_flip, _truncate, pathlib.Path.unlink)
    if (kind, damage) != ("manifest.json", pathlib.Path.unlink)
]


@pytest.mark.parametrize(("kind", "damage"), DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(directory, caplog, kind, damage):
    victim = sorted((directory / "2").glob(kind))[0]
    damage(victim)
    saver = checkpoint.Checkpointer(directory)
    np.testing.assert_array_equal(saver.restore_params()["dense"]["kernel"], np.ones((4, 3)))
    assert saver.steps() == [1, 2]  # reading params alone moves nothing
    caplog.clear()
    _check(saver.restore(_state(0.0)), 1)
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert str(directory / "2") in record.getMessage()
    name = str(victim.relative_to(directory / "2"))
    if name == "manifest.json" and damage is _flip:
        assert "is damaged" in record.getMessage()
    else:
        assert name in record.getMessage()
    assert sorted(p.name for p in directory.iterdir()) == ["1", "2.corrupt"]


def test_a_checkpoint_that_lost_its_manifest_is_tried_and_sealed(directory):
    manifest = directory / "2" / "manifest.json"
    before = manifest.read_text()
    manifest.unlink()
    _check(checkpoint.Checkpointer(directory).restore(_state(0.0)), 2)
    assert json.loads(manifest.read_text()) == json.loads(before)


# tensorstore still answers into orbax's event loop after the failed read has closed it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_checkpoint_without_manifest_is_not_used(directory, caplog):
    (directory / "2" / "manifest.json").unlink()
    for data in (directory / "2" / "state" / "d").iterdir():
        _truncate(data)
    _check(checkpoint.Checkpointer(directory).restore(_state(0.0)), 1)
    assert "no manifest, and unreadable" in caplog.text


def test_when_none_is_good_all_are_named_and_stay(directory):
    (directory / "1" / "extra.json").unlink()
    _flip(directory / "2" / "state" / "_METADATA")
    saver = checkpoint.Checkpointer(directory)
    with pytest.raises(
        checkpoint.CheckpointError,
        match=r"no good checkpoint in .*2: state/_METADATA has changed.*1: extra.json is missing",
    ):
        saver.restore(_state(0.0))
    assert saver.steps() == [1, 2]
    with pytest.raises(checkpoint.CheckpointError, match="2: state/_METADATA has changed"):
        saver.restore(_state(0.0), step=2)


def test_what_a_killed_run_left_is_swept_by_the_next_save(directory, caplog):
    (directory / "3.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    (directory / "0.deleted").mkdir()
    with checkpoint.Checkpointer(directory) as saver:
        assert saver.latest() == 2
        saver.save(3, _state(3.0), {"tokens": 30})
        _check(saver.restore(_state(0.0)), 3)
    assert "3.orbax-checkpoint-tmp" in caplog.text
    assert sorted(p.name for p in directory.iterdir()) == ["1", "2", "3"]


def test_a_killed_process_leaves_a_usable_checkpoint(tmp_path):
    """SIGKILL at random moments of a saving loop; every start must find a consistent state."""
    rng = random.Random(0)
    last = 0
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, str(PROGRAMS / "saving_program.py"), str(tmp_path)],
            cwd=PROGRAMS.parents[1],
            stdout=subprocess.PIPE,
            text=True,
        )
        first = process.stdout.readline()
        assert first.startswith("restored "), first
        assert int(first.split()[1]) >= last
        process.stdout.readline()  # a first save is on disk
        time.sleep(rng.uniform(0.0, 0.4))
        process.kill()
        process.wait(timeout=300)
        process.stdout.close()
        saver = checkpoint.Checkpointer(tmp_path)
        restored = saver.restore({"params": {"a": jnp.zeros(2000), "b": jnp.zeros((3, 5))}})
        assert restored.step > last
        assert restored.extra == {"step": restored.step}
        for leaf in jax.tree.leaves(restored.state):
            np.testing.assert_array_equal(leaf, np.full(leaf.shape, restored.step))
        last = restored.step
    assert not list(tmp_path.glob("*.corrupt"))


def test_two_processes_save_restore_and_are_preempted_together(tmp_path, forks):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = [
        forks.start(
            PROGRAMS / "two_hosts_program.py",
            tmp_path,
            cwd=PROGRAMS.parents[1],
            JAXLAB_COORDINATOR=f"localhost:{port}",
            JAXLAB_NUM_PROCESSES="2",
            JAXLAB_PROCESS_ID=str(index),
        )
        for index in range(2)
    ]
    ended = [process.wait() for process in processes]
    for done in ended:
        assert done.returncode == Preemption.EXIT_CODE, done.stdout + done.stderr[-4000:]
    (step,) = {int(done.stdout.split("preempted ")[1]) for done in ended}
    restored = checkpoint.Checkpointer(tmp_path).restore(
        {"step": jnp.int32(0), "params": {"w": jnp.zeros((8, 2))}}
    )
    assert restored.step == step == restored.state["step"]
    # Every step adds the sum of the global batch, 0 + 1 + ... + 7.
    np.testing.assert_array_equal(restored.state["params"]["w"], np.full((8, 2), 28.0 * step))
