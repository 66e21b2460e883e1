"""Families with experts against transformers' own models, on tiny random checkpoints."""

import filecmp

import jax
import numpy as np
import pytest

from jaxlab.interop import hf
from jaxlab.models.decoder import Decoder
from jaxlab.sampling import SamplingConfig, generate

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tests.interop.parity_test import YARN, tokens_and_positions, torch_logits  # noqa: E402

pytestmark = pytest.mark.interop

# Largest difference of a float32 logit, as for dense models.
TOLERANCE = 5e-5

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
}
LATENT = {
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
}
MSCALE = YARN | {"mscale": 1.0, "mscale_all_dim": 0.7}
CASES = {
    "qwen3_moe-dense_layer-tied": (
        "Qwen3Moe",
        {"num_key_value_heads": 2, "head_dim": 16, "num_experts": 6, "num_experts_per_tok": 2}
        | {"mlp_only_layers": [1], "tie_word_embeddings": True, "norm_topk_prob": True},
    ),
    "qwen3_moe-sparse_step-bias": (
        "Qwen3Moe",
        {"num_key_value_heads": 1, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 4}
        | {"decoder_sparse_step": 2, "attention_bias": True, "rope_parameters": YARN},
    ),
    "deepseek_v3-groups-yarn": (
        "DeepseekV3",
        LATENT | {"n_group": 4, "topk_group": 2, "first_k_dense_replace": 1}
        | {"rope_parameters": MSCALE},
    ),
    "deepseek_v3-half_split-shared2-bias": (
        "DeepseekV3",
        LATENT | {"n_group": 2, "topk_group": 1, "first_k_dense_replace": 0, "q_lora_rank": None}
        | {"rope_interleave": False, "attention_bias": True, "n_shared_experts": 2}
        | {"norm_topk_prob": False, "tie_word_embeddings": True},
    ),
    "glm4_moe_lite-types": (
        "Glm4MoeLite",
        LATENT | {"mlp_layer_types": ["dense", "sparse", "dense"], "num_experts_per_tok": 1},
    ),
    "glm4_moe_lite": ("Glm4MoeLite", LATENT),
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    torch.set_num_threads(1)


def build(family, overrides):
    """A random model in which no parameter is trivially zero or one, corrections included."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SIZES | overrides)
    config._attn_implementation = "eager"
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, 0.15)
            if "norm" in name:
                parameter.add_(1.0)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.normal_(0.0, 0.3)
    return model


@pytest.mark.parametrize("name", CASES)
def test_logits_both_ways_and_greedy_completions(name, tmp_path):
    model = build(*CASES[name])
    model.save_pretrained(tmp_path / "theirs")
    config, params = hf.load(tmp_path / "theirs", scan_layers=True)
    tokens, positions = tokens_and_positions(90)
    expected = torch_logits(model, tokens, positions)
    assert expected.std() > 0.3
    decoder = Decoder(config)
    actual = np.asarray(jax.jit(decoder.apply)({"params": params}, tokens, positions))
    difference = np.abs(actual - expected).max()
    print(f"{name}: {difference:.1e}")
    assert difference < TOLERANCE

    prompts, count = tokens[:, :20], 24
    sampling = SamplingConfig(max_new_tokens=count, temperature=0.0)
    ours = generate(decoder, params, prompts, np.array([20, 20]), jax.random.key(0), sampling)
    theirs = model.generate(
        torch.from_numpy(prompts).long(), max_new_tokens=count, do_sample=False,
        attention_mask=torch.ones(2, 20, dtype=torch.long), eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    np.testing.assert_array_equal(np.asarray(ours.tokens).reshape(2, -1), theirs[:, 20:].numpy())

    hf.save(tmp_path / "ours", config, params, like=tmp_path / "theirs")
    again = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", attn_implementation="eager"
    )
    assert type(again) is type(model)
    np.testing.assert_array_equal(torch_logits(again, tokens, positions), expected)
    twice = hf.save(tmp_path / "twice", *hf.load(tmp_path / "ours"), like=tmp_path / "ours")
    for file in ("config.json", "model.safetensors"):
        assert filecmp.cmp(tmp_path / "ours" / file, twice / file, shallow=False)
