import pytest


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A world of two episodes, with four clips and a file of unseen robots; only read it."""
    pytest.importorskip("av")
    from jaxlab.evals.lary import world

    out = tmp_path_factory.mktemp("world")
    world.write(out, 16, clips=4, unseen=3)
    return out
