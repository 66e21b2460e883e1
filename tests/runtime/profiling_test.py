import jax
import pytest

from jaxlab.runtime import profiling


def test_mfu_is_a_share_of_the_peak_of_all_devices(monkeypatch):
    assert profiling.mfu(1e12, 1) is None  # nobody publishes the peak of a host's CPU
    monkeypatch.setitem(profiling.PEAK_FLOPS, jax.devices()[0].device_kind, 1e12)
    assert profiling.mfu(2e12, 4) == 0.5


def test_peak_memory_is_that_of_this_process():
    assert 1 << 24 < profiling.peak_memory_bytes() < 1 << 40


@pytest.mark.parametrize(("first", "expected"), [(0, [2, 3]), (3, [3]), (7, [])])
def test_trace_window_covers_its_steps(tmp_path, monkeypatch, first, expected):
    open_, traced = [], []
    monkeypatch.setattr(jax.profiler, "start_trace", open_.append)
    monkeypatch.setattr(jax.profiler, "stop_trace", open_.clear)
    window = profiling.TraceWindow(2, 2, tmp_path)
    for step in range(first, 9):
        with window.step(step):
            if open_:
                traced.append(step)
    window.close()
    assert traced == expected
    assert not open_
