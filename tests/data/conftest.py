import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data():
    """Path of a file of the real data; skips the test by name where it is absent."""
    default = Path(__file__).parents[2].parent / "shared" / "data"
    root = Path(os.environ.get("JAXLAB_DATA", default))

    def find(name: str) -> Path:
        path = root / name
        if not path.exists():
            pytest.skip(f"{name} is not in {root}; set JAXLAB_DATA to a folder that holds it")
        return path

    return find
