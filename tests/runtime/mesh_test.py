import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from jaxlab.runtime import mesh


def test_a_free_axis_takes_the_devices_that_are_left():
    made = mesh.make_mesh({"data": -1, "model": 1}, devices=jax.devices()[:1])
    assert dict(made.shape) == {"data": 1, "model": 1}
    assert made.axis_types == (AxisType.Auto,) * 2
    explicit = mesh.make_mesh({"data": 1}, "explicit", devices=jax.devices()[:1])
    assert explicit.axis_types == (AxisType.Explicit,)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"data": 3}, r"\{'data': 3\} needs 3 devices, but there are 1 \(cpu\)"),
        ({"data": -1, "model": 2}, "needs a multiple of 2 devices, but there are 1"),
        ({"data": -1, "model": -1}, "at most one of them -1"),
        ({"data": 0}, "sizes >= 1"),
        ({}, "named sizes"),
    ],
)
def test_a_shape_that_does_not_fit_names_both_numbers(shape, message):
    with pytest.raises(ValueError, match=message):
        mesh.make_mesh(shape, devices=jax.devices()[:1])


def test_unknown_axis_type():
    with pytest.raises(ValueError, match="auto or explicit"):
        mesh.make_mesh({"data": 1}, "manual", devices=jax.devices()[:1])


@pytest.mark.parametrize(
    ("multihost", "message"),
    [
        ("env", "JAXLAB_COORDINATOR, JAXLAB_NUM_PROCESSES, JAXLAB_PROCESS_ID"),
        ("slurm", "none, auto, env or a mapping"),
        ({"coordinator": "h:1"}, "coordinator, num_processes, process_id"),
        ({"coordinator": "h:1", "num_processes": "two", "process_id": 0}, "whole numbers"),
        ({"coordinator": "h:1", "num_processes": 2, "process_id": 2}, "process_id 2 is not in"),
    ],
)
def test_start_names_what_is_missing(monkeypatch, multihost, message):
    for name in ("COORDINATOR", "NUM_PROCESSES", "PROCESS_ID"):
        monkeypatch.delenv(f"JAXLAB_{name}", raising=False)
    with pytest.raises(ValueError, match=message):
        mesh.start(multihost)


def test_one_process_needs_no_start():
    mesh.start()
    assert mesh.is_main()
    mesh.barrier("alone")
    assert mesh.broadcast({"a": 1}) == {"a": 1}
    assert mesh.everywhere(True)
    assert not mesh.everywhere(False)
    assert mesh.host_batch_slice(6) == slice(0, 6)


def test_hosts_take_equal_parts_in_order(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    monkeypatch.setattr(jax, "process_index", lambda: 2)
    assert mesh.host_batch_slice(8) == slice(4, 6)
    with pytest.raises(ValueError, match="6 does not divide by 4 hosts"):
        mesh.host_batch_slice(6)


def test_put_global_takes_leaves_of_every_rank():
    made = mesh.make_mesh({"data": 1}, devices=jax.devices()[:1])
    batch = {"tokens": np.arange(6).reshape(2, 3), "scale": np.float32(2.0)}
    put = mesh.put_global(batch, made)
    assert put["tokens"].sharding.spec == jax.sharding.PartitionSpec("data")
    jax.tree.map(np.testing.assert_array_equal, put, batch)
