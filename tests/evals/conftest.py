import pytest


@pytest.fixture
def drawn():
    """For a test that looks at the pictures of a benchmark's report."""


@pytest.fixture(autouse=True)
def plots(request, monkeypatch):
    """Reports of benchmarks have no pictures but where `drawn` asks for them.

    They are half of a small run's time.
    """
    from jaxlab.evals import benchmark_report

    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(benchmark_report, "_plots", lambda *arguments: {})
