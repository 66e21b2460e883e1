"""Probes of features: shapes, and the same numbers as PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.nn import probe
from jaxlab.runtime.drawing import by_operations

SMALL = probe.Attentive(width=8, heads=2, depth=3, max_frames=4)


def test_time_is_embedded_and_interpolated():
    module = SMALL.module(5)
    x = jax.random.normal(jax.random.key(0), (2, 8, 3, 6))
    params = by_operations(module.init)(jax.random.key(1), x)["params"]
    assert params["time"].shape == (4, 8)

    @jax.jit
    def out(params, x):
        return module.apply({"params": params}, x)

    # Time tells the order of frames, which attention alone would not see.
    assert abs(out(params, x[:, :4]) - out(params, x[:, 3::-1])).max() > 1e-6
    flat = {**params, "time": jnp.zeros((4, 8))}
    # Sums over tokens in another order: roundings of float32.
    same = out(flat, x[:, :4]), out(flat, x[:, 3::-1]), out(params, x[:, :4].reshape(2, 12, 6))
    np.testing.assert_allclose(same[0], same[1], atol=2e-6)
    np.testing.assert_allclose(same[0], same[2], atol=2e-6)
    # Beyond max_frames a constant embedding stays constant.
    even = {**params, "time": jnp.ones((4, 8))}
    again = {**params, "time": jnp.ones((8, 8))}
    wide = probe.Attentive(width=8, heads=2, depth=3, max_frames=8).module(5)
    expected = jax.jit(wide.apply)({"params": again}, x)
    np.testing.assert_allclose(out(even, x), expected, atol=2e-6)


def test_bad_options():
    with pytest.raises(ValueError, match="heads: 3 do not divide width = 8"):
        probe.Attentive(width=8, heads=3)
    with pytest.raises(ValueError, match="blocks"):
        probe.ResidualMlp(blocks=0)


@pytest.mark.interop
def test_the_attentive_probe_is_pytorch_s():
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    module = SMALL.module(5)
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 6)).astype(np.float32)
    params = jax.tree.map(np.asarray, module.init(jax.random.key(1), x)["params"])
    # Biases and norms begin at 0 and 1, which would hide a wrong place.
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda p: p + rng.normal(0, 0.1, p.shape).astype(np.float32), params)
    p = jax.tree.map(torch.from_numpy, params)

    def dense(x, layer):
        return F.linear(x, layer["kernel"].T, layer["bias"])

    def norm(x, layer):
        return F.layer_norm(x, x.shape[-1:], layer["scale"], layer["bias"])

    def attend(q, k, v):
        q, k, v = (t.reshape(*t.shape[:2], 2, 4).transpose(1, 2) for t in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def feed_forward(x, block):
        return dense(F.gelu(dense(norm(x, block["norm2"]), block["fc1"])), block["fc2"])

    h = F.gelu(norm(dense(torch.from_numpy(x), p["projection"]), p["projection_norm"]))
    h = (h + p["time"][None, :3, None]).flatten(1, 2)
    for name in ("block_0", "block_1"):
        block = p[name]
        qkv = dense(norm(h, block["norm1"]), block["qkv"]).chunk(3, -1)
        h = h + dense(attend(*qkv), block["proj"])
        h = h + feed_forward(h, block)
    block = p["pool"]
    query = p["query"].repeat(2, 1, 1)
    k, v = dense(norm(h, block["norm1"]), block["kv"]).chunk(2, -1)
    query = query + attend(dense(query, block["q"]), k, v)
    query = query + feed_forward(query, block)
    expected = dense(query[:, 0], p["out"]).numpy()
    np.testing.assert_allclose(module.apply({"params": params}, x), expected, atol=1e-5)


@pytest.mark.interop
def test_the_residual_mlp_is_pytorch_s():
    torch = pytest.importorskip("torch")
    module = probe.ResidualMlp(width=8, blocks=2).module(3)
    x = np.random.default_rng(0).normal(size=(4, 2, 5)).astype(np.float32)
    params = module.init(jax.random.key(0), x)["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda p: p + rng.normal(0, 0.1, p.shape).astype(np.float32), params)
    p = jax.tree.map(lambda a: torch.from_numpy(np.asarray(a)), params)

    def linear(name):
        layer = torch.nn.Linear(*p[name]["kernel"].shape)
        layer.weight.data, layer.bias.data = p[name]["kernel"].T, p[name]["bias"]
        return layer

    def norm(name):
        layer = torch.nn.LayerNorm(len(p[name]["scale"]))
        layer.weight.data, layer.bias.data = p[name]["scale"], p[name]["bias"]
        return layer

    with torch.no_grad():
        h = torch.relu(linear("in")(norm("norm_in")(torch.from_numpy(x).flatten(1))))
        for i in range(2):
            h = h + torch.relu(linear(f"block_{i}")(norm(f"norm_{i}")(h)))
        expected = linear("out")(norm("norm_out")(h)).numpy()
    np.testing.assert_allclose(module.apply({"params": params}, x), expected, atol=1e-5)
