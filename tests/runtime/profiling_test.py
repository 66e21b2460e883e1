import math

import jax
import jax.numpy as jnp
import pytest

from jaxlab.runtime import profiling


def test_step_timer_skips_warmup_and_takes_the_median():
    times = iter([0.0, 30.0, 31.0, 33.0, 43.0])
    timer = profiling.StepTimer(warmup=1, clock=lambda: next(times))
    assert math.isnan(timer.seconds)
    for _ in range(4):
        timer.tick()
    assert timer.seconds == 2.0  # of 1, 2 and 10


def test_param_count_of_real_and_abstract_trees():
    tree = {"a": jnp.ones((3, 4)), "b": {"c": jnp.float32(1.0)}}
    assert profiling.param_count(tree) == 13
    assert profiling.param_count(jax.eval_shape(lambda: tree)) == 13


def test_decoder_flops_by_hand():
    assert profiling.decoder_flops(100, 7, backward=False) == 2 * 100 * 7
    assert profiling.decoder_flops(100, 7) == 6 * 100 * 7
    # PaLM appendix B: 6 N + 12 L H Q T per token, here with L = 2, H Q = 8, T = 16.
    assert profiling.decoder_flops(100, 7, layers=2, attention_dim=8, context=16) == 7 * (
        600 + 12 * 2 * 8 * 16
    )


def test_mfu_by_hand():
    assert profiling.mfu(4e12, 2.0, 1e12, devices=4) == 0.5


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
