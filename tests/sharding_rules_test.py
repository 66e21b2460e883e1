"""The sharding rules that configs share mean the same layer by layer and stacked."""

import jax
import pytest

from configs import common
from jaxlab.interop.models import abstract_params
from jaxlab.models import presets
from jaxlab.runtime import sharding
from jaxlab.runtime.mesh import make_mesh


@pytest.mark.parametrize("rules", [common.SHARDED, common.DECODING], ids=["SHARDED", "DECODING"])
@pytest.mark.parametrize("preset", ["qwen3-0.6b", "fg2-gdn-340m"])
def test_stacked_layers_are_laid_out_like_single_ones(preset, rules):
    mesh = make_mesh({"data": 1, "model": 1})

    def layout(scan_layers):
        config = presets.decoder(preset, scan_layers=scan_layers)
        params = abstract_params(config)
        specs = jax.tree.map(lambda x: x.spec, sharding.infer(params, rules, mesh))
        # Padded to the number of axes: PartitionSpecs may leave out what is not split.
        return jax.tree.map(lambda x, spec: (*spec, *[None] * (x.ndim - len(spec))), params, specs)

    apart = layout(scan_layers=False)
    stacked = layout(scan_layers=True)
    for name, block in stacked["stack_0"].items():
        first = apart[name]
        single, many = (_by_path(x) for x in (first, block))
        assert many == {path: (None, *spec) for path, spec in single.items()}
        assert any("model" in spec for spec in many.values())


def _by_path(specs):
    leaves = jax.tree_util.tree_leaves_with_path(specs, is_leaf=lambda x: type(x) is tuple)
    return {jax.tree_util.keystr(path): spec for path, spec in leaves}
