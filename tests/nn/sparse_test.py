"""Block-sparse layers in decoders: against dense ones, while decoding, and in checkpoints."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab import config as config_lib
from jaxlab.balance import LatencyTable
from jaxlab.interop import hf, models
from jaxlab.models.decoder import Cache, Decoder, empty_caches
from jaxlab.models.sizes import Sizes
from jaxlab.models.sparse import SparseMixer, dense
from jaxlab.models.stacking import unscan
from jaxlab.nn.sparse import BlockSparse
from jaxlab.sampling.caches import Dense, TwoLevelAttention
from jaxlab.sampling.caches.reading import reading

SIZES = Sizes(
    vocab_size=19, hidden_size=12, intermediate_size=20, num_layers=3, num_heads=4, num_kv_heads=2,
    head_dim=6, qkv_bias=True, tie_embeddings=True,
)  # fmt: skip
MIXER = SparseMixer(
    block_size=4, budget=2, coverage_at=(2, 3), pattern=("block_sparse", "attention")
)
CONFIG = MIXER.apply(SIZES.decoder())


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(Decoder(CONFIG).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        return jnp.asarray(
            0.4 * rng.normal(size=leaf.shape) + ("scale" in str(path[-1])), leaf.dtype
        )

    return jax.tree_util.tree_map_with_path(draw, shapes["params"])


TOKENS = np.random.default_rng(1).integers(19, size=(2, 23))


def test_patterns_leave_dense_layers_and_their_parameters():
    names = [layer.mixer.name for layer in CONFIG.layers]
    assert names == ["block_sparse", "attention", "block_sparse"]
    assert dense(CONFIG).layers == SIZES.decoder().layers
    # A period of its own where layers are scanned, and again another mixer of what is sparse.
    four = dataclasses.replace(SIZES, num_layers=4).decoder()
    (stack,) = MIXER.apply(four).stacks
    assert (stack[0], [layer.mixer.name for layer in stack[1]]) == (2, names[:2])
    (again,) = SparseMixer(budget=3).apply(MIXER.apply(four)).stacks
    assert (again[0], again[1][0].mixer.budget) == (4, 3)


def test_another_budget_is_data_and_all_blocks_are_the_dense_model(params):
    @jax.jit
    def run(params, budget):
        return Decoder(CONFIG).apply({"params": params}, TOKENS, budget=budget, mutable=["aux"])

    expected = jax.jit(Decoder(dense(CONFIG)).apply)({"params": params}, TOKENS)
    logits, aux = run(params, jnp.array([6, 6]))
    np.testing.assert_allclose(logits, expected, atol=2e-5)
    mixed, fewer = run(params, jnp.array([6, 1]))
    np.testing.assert_allclose(mixed[0], expected[0], atol=2e-5)
    assert np.abs(mixed[1] - expected[1]).max() > 1e-3
    assert run._cache_size() == 1
    # 23 tokens in blocks of 4, 4 heads: each layer reports what it computed.
    row = 4 * sum(t // 4 + 1 for t in range(23))
    assert sorted(aux["aux"]) == ["layer_0", "layer_2"]
    for each, blocks in ((aux, 2 * row), (fewer, row + 4 * 23)):
        (found,) = each["aux"]["layer_2"]["mixer"]["blocks"]
        assert found == blocks
    (coverage,) = aux["aux"]["layer_0"]["mixer"]["coverage"]
    assert coverage.shape == (2, 2, 2)


def test_decoding_attends_as_training_does(params):
    """Left-padded prompts of 9 and 4 tokens, then three tokens at once and six one by one."""
    decoder = Decoder(CONFIG)
    whole = jax.jit(decoder.apply)({"params": params}, TOKENS[:, :18])
    lengths = np.array([9, 4])
    prompts = np.stack([TOKENS[0, :9], np.pad(TOKENS[1, :4], (5, 0))])

    def call(method, *arguments):
        return decoder.apply({"params": params}, *arguments, method=method)

    hidden, cache = jax.jit(lambda: call("prefill", prompts, lengths, Dense(20)))()
    found = [hidden[:, None]]
    extend = jax.jit(lambda tokens, cache: call("extend", tokens, cache))
    for start, count in ((0, 3), *((n, 1) for n in range(3, 9))):
        tokens = np.stack([TOKENS[b, n + start : n + start + count] for b, n in enumerate(lengths)])
        hidden, cache = extend(tokens, cache)
        found.append(hidden)
    logits = decoder.apply({"params": params}, jnp.concatenate(found, axis=1), method="logits")
    for b, n in enumerate(lengths):
        np.testing.assert_allclose(logits[b], whole[b, n - 1 : n + 9], atol=3e-5)


@pytest.mark.parametrize("scan", [False, True])
def test_rematerialised_layers_route_once(scan):
    two = SparseMixer(block_size=4).apply(dataclasses.replace(SIZES, num_layers=2).decoder())
    config = dataclasses.replace(two, scan_layers=scan, remat=True)

    def loss(params):
        return jnp.sum(Decoder(config).apply({"params": params}, TOKENS))

    text = str(jax.make_jaxpr(jax.grad(loss))(models.abstract_params(config)))
    assert text.count("bitcast_convert_type") == (1 if scan else 2)


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
@pytest.mark.parametrize("scan", [False, True])
def test_a_dense_checkpoint_is_made_sparse_and_exported_as_what_it_was(tmp_path, family, scan):
    sizes = dataclasses.replace(
        SIZES, num_layers=4, qkv_bias=family == "qwen2", qk_norm=family == "qwen3"
    )
    rng = np.random.default_rng(3)
    params = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype),
        models.abstract_params(sizes.decoder()),
    )
    hf.save(tmp_path / "dense", sizes.decoder(), params)
    asked = {"name": "block_sparse", "block_size": 4, "pattern": ["block_sparse", "attention"]}
    spec = config_lib.build(
        models.Model,
        {"path": str(tmp_path / "dense"), "sizes": {"scan_layers": scan}, "mixer": asked},
        "model",
    )
    source = models.find(spec, "model", vocab_size=None, seed=0)
    assert [layer.mixer.name for layer in source.config.layers] == asked["pattern"] * 2
    mesh = jax.make_mesh((1,), ("data",), (jax.sharding.AxisType.Auto,))
    loaded = source.load(mesh, ((".*", ()),))
    jax.tree.map(np.testing.assert_array_equal, unscan(source.config, loaded)[1], params)
    # As a run describes it, read back, and exported.
    file = tmp_path / "decoder.json"
    config_lib.save_json(source.config, file)
    config = config_lib.build(type(source.config), config_lib.load_json(file), "decoder.json")
    assert config == source.config
    hf.save(tmp_path / "out", config, loaded, like=tmp_path / "dense")
    written = {name: (tmp_path / name / "config.json").read_bytes() for name in ("dense", "out")}
    assert written["out"] == written["dense"]
    back, again = hf.load(tmp_path / "out")
    assert back == dataclasses.replace(sizes.decoder(), max_position=back.max_position)
    jax.tree.map(np.testing.assert_array_equal, again, params)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == family


@pytest.mark.interop
def test_pytorch_computes_what_was_exported_with_all_blocks(tmp_path, params):
    pytest.importorskip("torch")
    from jaxlab.interop import torch_check

    hf.save(tmp_path / "out", CONFIG, params)
    prompts = TOKENS.tolist()  # of six blocks, of which two are attended to in training
    found = torch_check.compare(tmp_path / "out", CONFIG, params, prompts, max_difference=2e-4)
    assert found["passed"]
    assert found["model_type"] == "qwen2"


@pytest.mark.parametrize(
    ("mixer", "message"),
    [
        ({"name": "block_sparce"}, "model.mixer.name: expected one of 'block_sparse'"),
        ({"name": "block_sparse", "budget": 0}, "budget 0: expected at least 1"),
        ({"name": "block_sparse", "pattern": []}, "pattern is empty"),
        ({"name": "block_sparse", "pattern": ["attention"]}, "at least once"),
        ({"name": "block_sparse", "coverage_at": [0]}, "coverage_at is"),
    ],
)
def test_bad_mixers_are_named(mixer, message):
    with pytest.raises(config_lib.ConfigError, match=message):
        config_lib.build(models.Model, {"path": "anywhere", "mixer": mixer}, "model")


def test_a_misspelt_or_unreached_pattern_does_not_leave_the_model_dense():
    with pytest.raises(ValueError, match=r"pattern is \('block_sparce', 'block_sparse'\)"):
        SparseMixer(pattern=("block_sparce", "block_sparse"))
    one = dataclasses.replace(SIZES, num_layers=1).decoder()
    with pytest.raises(ValueError, match="leaves all attention layers dense"):
        SparseMixer(pattern=("attention", "block_sparse")).apply(one)


def test_a_cache_with_slots_of_its_own_selects_by_itself(params):
    """A two-level cache moves left-padded rows to its slot 0; its budgets here cover them."""
    kinds = {
        "dense": Dense(12),
        "two_level": TwoLevelAttention(
            block=4, k_blocks=3, k_tokens=10, channels=2, min_len=0
        ).kind(12, None),
    }
    tokens, lengths = TOKENS[:, :8], np.array([8, 5])

    def run(config, kind):
        decoder = Decoder(config)

        def call(method, *arguments):
            return decoder.apply({"params": params}, *arguments, method=method)

        _, cache = call("prefill", tokens, lengths, kind)
        _, cache = call("extend", TOKENS[:, 8:9], cache)
        return call("extend", TOKENS[:, 9:10], cache)[0]

    # With blocks of 16 tokens block-sparse prefill is dense, and only decoding can differ.
    wide = SparseMixer(block_size=16).apply(SIZES.decoder())
    expected = jax.jit(lambda: run(dense(CONFIG), kinds["dense"]))()
    found = jax.jit(lambda: run(wide, kinds["two_level"]))()
    np.testing.assert_allclose(found, expected, atol=3e-5)


def test_chunks_of_a_prompt_are_not_read_densely_without_a_word(params):
    kind = TwoLevelAttention(block=4, channels=2).kind(12, None, calibrated=True)
    start = Cache(
        reading(empty_caches(CONFIG, 2, kind)), jnp.zeros((), jnp.int32), jnp.zeros(2, int)
    )
    with pytest.raises(ValueError, match=r"prefill_chunk: block-sparse layers .* leave it None"):
        Decoder(CONFIG).apply({"params": params}, TOKENS[:, :4], start, method="extend")


def test_a_model_without_attention_cannot_be_sparse():
    delta = {"rule": "fg2", "num_heads": 1, "head_dim": 8}
    sizes = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_layers": 1,
             "pattern": ["delta"], "delta": delta}  # fmt: skip
    spec = config_lib.build(
        models.Model, {"sizes": sizes, "mixer": {"name": "block_sparse"}}, "model"
    )
    with pytest.raises(config_lib.ConfigError, match=r"student\.mixer: the model has no attention"):
        models.find(spec, "student", vocab_size=None, seed=0)


def test_one_layer_is_profiled():
    lines = []
    table = LatencyTable.profile(CONFIG, [8], [2, 1], repeats=1, progress=lines.append)
    assert table.layers == 2
    assert table.model == "hidden 12, 4/2 heads of 6, block 4, mlp 20, float32"
    assert 0 < table.predict(8, 1) < 100
    with pytest.raises(ValueError, match=r"no block_sparse layer \(its mixers: attention\)"):
        LatencyTable.profile(SIZES, [8], [1])
    assert isinstance(CONFIG.layers[0].mixer, BlockSparse)
