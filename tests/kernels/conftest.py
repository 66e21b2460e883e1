import jax
import pytest


@pytest.fixture
def on_a_cpu():
    """Skips what holds on a CPU only; `make gpu-check` runs these files on other devices too."""
    if jax.default_backend() != "cpu":
        pytest.skip(f"about CPUs; jax runs on {jax.default_backend()}")
