import sys

import pytest

from jaxlab.interop import torch_check
from jaxlab.models import presets


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_a_missing_package_names_the_extra(package, monkeypatch, tmp_path):
    # A None entry makes the import fail as if the package were not there.
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"pip install 'jaxlab\[torch\]'"):
        torch_check.compare(tmp_path, presets.decoder("tiny"), {}, [[1]], max_difference=1e-5)
