"""The decoder against transformers' own models, on tiny random checkpoints."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.interop import hf, rope_json, torch_check
from jaxlab.models import presets
from jaxlab.models.decoder import Decoder
from jaxlab.nn.rope import frequencies

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.interop

# Largest difference of a float32 logit. Frequencies one rounding off give 3e-4 at position 30,000.
TOLERANCE = 5e-5

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "max_position_embeddings": 256,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}
DEFAULT = {"rope_type": "default", "rope_theta": 1e6}

CASES = {
    "llama-groups1-untied-biases": (
        "Llama",
        {"num_key_value_heads": 8, "attention_bias": True, "mlp_bias": True},
    ),
    "llama-groups4-tied-llama3": (
        "Llama",
        {"num_key_value_heads": 2, "tie_word_embeddings": True, "rope_parameters": LLAMA3},
    ),
    "llama-groups8-head_dim-yarn": (
        "Llama",
        {"num_key_value_heads": 1, "head_dim": 6, "rope_parameters": YARN | {"truncate": False}},
    ),
    "qwen2-groups4-yarn": (
        "Qwen2",
        {"num_key_value_heads": 2, "rope_parameters": YARN},
    ),
    "qwen2-groups8-tied-yarn-attention_factor": (
        "Qwen2",
        {
            "num_key_value_heads": 1,
            "tie_word_embeddings": True,
            "rope_parameters": YARN | {"attention_factor": 1.3, "beta_fast": 8, "beta_slow": 2},
        },
    ),
    "qwen2-groups1-linear": (
        "Qwen2",
        {"num_key_value_heads": 8, "rope_parameters": LINEAR},
    ),
    "qwen3-groups4-tied-head_dim": (
        "Qwen3",
        {
            "num_key_value_heads": 2,
            "head_dim": 16,
            "tie_word_embeddings": True,
            "rope_parameters": DEFAULT,
        },
    ),
    "qwen3-groups8-bias-llama3": (
        "Qwen3",
        {
            "num_key_value_heads": 1,
            "head_dim": 8,
            "attention_bias": True,
            "rope_parameters": LLAMA3,
        },
    ),
    "qwen3-groups1-yarn": (
        "Qwen3",
        {"num_key_value_heads": 8, "head_dim": 16, "rope_parameters": YARN},
    ),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    torch.set_num_threads(1)


def build(family, overrides, seed=0):
    """A random model in which no parameter is trivially zero or one."""
    torch.manual_seed(seed)
    config = getattr(transformers, f"{family}Config")(**SIZES | overrides)
    config._attn_implementation = "eager"
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, 0.15)
            if "norm" in name:
                parameter.add_(1.0)
    return model


def tokens_and_positions(length=300, seed=0):
    """Two rows: one from position 0, one from 30,000."""
    tokens = np.random.default_rng(seed).integers(0, SIZES["vocab_size"], (2, length))
    positions = np.arange(length) + np.array([[0], [30_000]])
    return tokens.astype(np.int32), positions.astype(np.int32)


def torch_logits(model, tokens, positions):
    with torch.no_grad():
        output = model(
            torch.from_numpy(tokens).long(), position_ids=torch.from_numpy(positions).long()
        )
    return output.logits.float().numpy()


def our_logits(config, params, tokens, positions):
    return np.asarray(jax.jit(Decoder(config).apply)({"params": params}, tokens, positions))


@pytest.mark.parametrize("name", CASES)
def test_logits_both_ways(name, tmp_path):
    model = build(*CASES[name])
    model.save_pretrained(tmp_path / "theirs")
    config, params = hf.load(tmp_path / "theirs")
    tokens, positions = tokens_and_positions()
    expected = torch_logits(model, tokens, positions)
    assert expected.std() > 0.3
    actual = our_logits(config, params, tokens, positions)
    difference = np.abs(actual - expected).max()
    print(f"{name}: {difference:.1e}")
    assert difference < TOLERANCE

    hf.save(tmp_path / "ours", config, params, like=tmp_path / "theirs")
    again = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", attn_implementation="eager"
    )
    assert type(again) is type(model)
    np.testing.assert_array_equal(torch_logits(again, tokens, positions), expected)


@pytest.mark.parametrize("family", ["llama-3.2-1b", "qwen2.5-0.5b", "qwen3-0.6b"])
def test_a_minimal_save_runs_in_transformers(family, tmp_path):
    """Without `like`: config.json is ours alone, params come from our initialiser."""
    config = presets.decoder(
        family,
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
    )
    tokens, positions = tokens_and_positions(16)
    params = jax.jit(Decoder(config).init)(jax.random.key(0), tokens)["params"]
    hf.save(tmp_path, config, params, eos_token_id=[5, 7], bos_token_id=3)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.config.eos_token_id == [5, 7]
    assert model.config.bos_token_id == 3
    actual = torch_logits(model, tokens, positions)
    assert np.abs(actual - our_logits(config, params, tokens, positions)).max() < 1e-5


def test_our_sharded_files_and_theirs(tmp_path):
    model = build(*CASES["qwen3-groups4-tied-head_dim"])
    model.save_pretrained(tmp_path / "theirs", max_shard_size="10KB")
    assert len(list((tmp_path / "theirs").glob("model-*-of-*.safetensors"))) > 2
    config, params = hf.load(tmp_path / "theirs")
    hf.save(tmp_path / "ours", config, params, max_shard_bytes=10_000)
    assert len(list((tmp_path / "ours").glob("model-*-of-*.safetensors"))) > 2
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    for (name, mine), (_, other) in zip(
        again.state_dict().items(), model.state_dict().items(), strict=True
    ):
        assert torch.equal(mine, other), name


def test_bfloat16_files(tmp_path):
    build(*CASES["qwen2-groups4-yarn"]).bfloat16().save_pretrained(tmp_path / "theirs")
    # Read back rather than cast back: .bfloat16() also rounds the frequencies.
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "theirs", dtype=torch.float32
    )
    tokens, positions = tokens_and_positions(40)
    config, params = hf.load(tmp_path / "theirs")
    assert params["embed"]["embedding"].dtype == jnp.float32
    expected = torch_logits(model, tokens, positions)
    full = our_logits(config, params, tokens, positions)
    assert np.abs(full - expected).max() < TOLERANCE

    # Compute in bfloat16: 8 bits of mantissa, so a relative error of about 2^-8 in every product,
    # summed over 2 layers; a wrong layer or a lost bias gives a difference near 1.
    rough = our_logits(
        dataclasses.replace(config, dtype="bfloat16"), params, tokens[:1], positions[:1]
    )
    relative = np.sqrt(np.mean((rough - expected[:1]) ** 2) / np.mean(expected[:1] ** 2))
    print(f"bfloat16 compute: relative error {relative:.1e}")
    assert 1e-4 < relative < 0.05

    config, params = hf.load(tmp_path / "theirs", dtype=None)
    assert config.param_dtype == "bfloat16"
    hf.save(tmp_path / "ours", config, params, like=tmp_path / "theirs")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype="auto")
    assert again.dtype == torch.bfloat16
    for (name, mine), (_, other) in zip(
        again.state_dict().items(), model.state_dict().items(), strict=True
    ):
        assert torch.equal(mine.float(), other), name


def test_scanned_layers(tmp_path):
    model = build(*CASES["qwen3-groups8-bias-llama3"])
    model.save_pretrained(tmp_path / "theirs")
    config, params = hf.load(tmp_path / "theirs", scan_layers=True)
    tokens, positions = tokens_and_positions(40)
    expected = torch_logits(model, tokens, positions)
    assert np.abs(our_logits(config, params, tokens, positions) - expected).max() < TOLERANCE


@pytest.mark.parametrize(
    ("theta", "original"),
    # The last two put the ramp wholly below the first pair, and wholly above the last.
    [(1e6, 32_768), (1e4, 64), (1e4, 4), (1e2, 1_000_000)],
)
@pytest.mark.parametrize("rule", ["default", "linear", "llama3", "yarn"])
def test_frequencies(rule, theta, original):
    head_dim = 64
    parameters = {"rope_type": rule, "rope_theta": theta, "factor": 4.0}
    if rule in ("llama3", "yarn"):
        parameters["original_max_position_embeddings"] = original
    if rule == "llama3":
        parameters |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    if rule == "default":
        del parameters["factor"]
    config = transformers.LlamaConfig(
        hidden_size=128,
        num_attention_heads=2,
        head_dim=head_dim,
        max_position_embeddings=4 * original,
        rope_parameters=parameters,
    )
    embedding = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(config)
    rope = rope_json.read({"rope_parameters": parameters, "max_position_embeddings": 4 * original})
    ours, factor = frequencies(rope, head_dim)
    np.testing.assert_allclose(ours, embedding.inv_freq.numpy(), rtol=2e-7)
    assert factor == embedding.attention_scaling


class TestCompare:
    @pytest.fixture
    def saved(self, tmp_path):
        config = presets.decoder("tiny")
        params = jax.jit(Decoder(config).init)(jax.random.key(1), jnp.zeros((1, 1), jnp.int32))[
            "params"
        ]
        hf.save(tmp_path, config, params)
        return tmp_path, config, params

    def test_same_weights_pass_and_the_report_is_written(self, saved):
        path, config, params = saved
        prompts = [[1, 2, 3, 4], [5], [250, 0, 9]]
        report = torch_check.compare(path, config, params, prompts, max_difference=1e-5)
        assert report["passed"]
        assert report["positions"] == 8
        assert report["argmax_agreement"] == 1.0
        assert report["mean_abs_difference"] <= report["max_abs_difference"] < 1e-5
        assert json.loads((path / "parity.json").read_text()) == report
        hf.save(path, config, params)

    def test_other_weights_do_not(self, saved):
        path, config, params = saved
        other = jax.tree.map(lambda x: x, params)
        other["layer_1"]["mlp"]["up"]["kernel"] = params["layer_1"]["mlp"]["up"]["kernel"] * 1.1
        report = torch_check.compare(path, config, other, [[1, 2, 3]], max_difference=1e-5)
        assert not report["passed"]

    @pytest.mark.parametrize(
        ("prompts", "message"),
        [
            ([], "at least one prompt"),
            ([[1], []], "a token in each"),
            ([[1, 256]], "token 256, outside"),
            ([[-1]], "token -1, outside"),
        ],
    )
    def test_bad_prompts(self, saved, prompts, message):
        with pytest.raises(ValueError, match=message):
            torch_check.compare(*saved, prompts, max_difference=1e-5)
