import jax
import numpy as np
import pytest

from jaxlab import train
from jaxlab.config import ConfigError
from jaxlab.runtime import decode_devices, settings
from jaxlab.runtime.mesh import make_mesh


@pytest.mark.parametrize(
    ("devices", "prompts", "samples", "divides"),
    [(2, 4, 1, True), (2, 3, 2, True), (2, 3, 3, False), (4, 2, 2, True), (4, 6, 1, False)],
)
def test_prompts_are_split_first_and_samples_where_those_do_not_divide(
    devices, prompts, samples, divides
):
    assert decode_devices.divides(devices, prompts, samples) == divides


def test_a_library_leaves_the_devices_of_its_process_alone(monkeypatch):
    state = decode_devices._State()
    monkeypatch.setattr(decode_devices, "_state", state)
    decode_devices.start(None)
    assert state == decode_devices._State()
    # What was settled before the program began, stays.
    decode_devices.automatically()
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=1")
    decode_devices.start(None)
    assert (state.count, state.own) == (1, False)


def test_a_number_that_cannot_be_had_is_refused(monkeypatch):
    monkeypatch.setattr(decode_devices, "_state", decode_devices._State())
    there = len(jax.devices())
    with pytest.raises(ValueError, match=f"{there + 1} CPU devices are wanted.*NUM_CPU_DEVICES"):
        decode_devices.start(there + 1)
    with pytest.raises(ValueError, match="decode_devices must be at least 1, not 0"):
        decode_devices.start(0)
    with pytest.raises(ValueError, match="decode_devices"):
        settings.Mesh(decode_devices=0)


@pytest.mark.parametrize(("always", "size", "splits"), [(False, 8, False), (True, 8, True)])
def test_small_models_are_split_only_when_asked(monkeypatch, always, size, splits):
    state = decode_devices._State(count=2, own=True, always=always)
    monkeypatch.setattr(decode_devices, "_state", state)
    twice = [jax.devices()[0], object()]
    assert decode_devices.others(twice) == twice[:1]
    home = make_mesh({"data": 1}, devices=jax.devices()[:1])
    monkeypatch.setattr(decode_devices.jax, "local_devices", lambda backend: jax.devices() * 2)
    monkeypatch.setattr(decode_devices, "Mesh", lambda devices, axes: (devices.shape, axes))
    params = {"kernel": np.zeros(size)}
    expected = ((2,), ("data",)) if splits else None
    assert decode_devices.mesh_for(home, params, 4, 1) == expected
    gains = {"kernel": np.broadcast_to(0.0, 1_000_000)}
    assert decode_devices.mesh_for(home, gains, 4, 1) == ((2,), ("data",))
    huge = {"kernel": np.broadcast_to(0.0, 200_000_000)}
    assert decode_devices.mesh_for(home, huge, 4, 1) == expected


def test_stages_agree_on_the_devices_of_their_process():
    stages = {name: {"mesh": {"decode_devices": n}} for name, n in (("a", None), ("b", 2))}
    assert train._decode_devices(stages | {"c": {}}) == 2
    assert train._decode_devices({"c": {}}) is None
    with pytest.raises(ConfigError, match=r"decode_devices: .* not 2 \(b\), 1 \(d\)"):
        train._decode_devices(stages | {"d": {"mesh": {"decode_devices": 1}}})
