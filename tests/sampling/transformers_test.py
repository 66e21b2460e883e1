"""Greedy generation beside PyTorch's transformers, on tiny random models with ragged prompts."""

import jax
import numpy as np
import pytest

from jaxlab.models.decoder import Decoder
from jaxlab.models.sizes import Sizes
from jaxlab.sampling import SamplingConfig, generate

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.interop

SIZES = {
    "vocab_size": 199,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 4,
    "num_kv_heads": 2,
    "num_layers": 3,
    "head_dim": 8,
}


def torch_model(family):
    renamed = {
        "num_heads": "num_attention_heads",
        "num_kv_heads": "num_key_value_heads",
        "num_layers": "num_hidden_layers",
    }
    config = getattr(transformers, f"{family}Config")(
        **{renamed.get(name, name): size for name, size in SIZES.items()},
        initializer_range=0.3,  # logits far apart: no near-ties for rounding to decide
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    return getattr(transformers, f"{family}ForCausalLM")(config).eval()


def converted(model):
    """Parameters of jaxlab's decoder from a torch model's state."""
    names = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "output"}
    names |= {"gate_proj": "gate", "up_proj": "up", "down_proj": "down", "self_attn": "mixer"}
    names |= {"q_norm": "query_norm", "k_norm": "key_norm", "input_layernorm": "mixer_norm"}
    names |= {"post_attention_layernorm": "mlp_norm", "norm": "final_norm"}
    names |= {"embed_tokens": "embed", "lm_head": "unembed"}
    params = {}
    for name, tensor in model.state_dict().items():
        path = name.removeprefix("model.").removesuffix(".weight").split(".")
        if path[0] == "layers":
            path = [f"layer_{path[1]}", *path[2:]]
        path = [names.get(part, part) for part in path]
        value = tensor.numpy()
        leaf = "scale" if value.ndim == 1 else "kernel"
        if path[0] in ("embed", "unembed"):
            leaf = "embedding"
        node = params
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = value.T if leaf == "kernel" else value
    return params


@pytest.mark.parametrize("family", ["Qwen3", "Llama"])
def test_greedy_equals_transformers_token_for_token(family):
    theirs = torch_model(family)
    ours = Decoder(Sizes(**SIZES, qk_norm=family == "Qwen3").decoder())
    rng = np.random.default_rng(0)
    lengths = np.asarray([9, 1, 5, 3])
    prompts = rng.integers(1, SIZES["vocab_size"], (4, 9))
    left = np.stack([np.roll(row, 9 - n) for row, n in zip(prompts, lengths, strict=True)])
    mask = np.arange(9) >= 9 - lengths[:, None]

    with torch.inference_mode():
        expected = theirs.generate(
            torch.from_numpy(np.where(mask, left, 0)),
            attention_mask=torch.from_numpy(mask.astype(np.int64)),
            max_new_tokens=20,
            do_sample=False,
        )[:, 9:].numpy()
    sampling = SamplingConfig(max_new_tokens=20, temperature=0.0)
    out = generate(ours, converted(theirs), prompts, lengths, jax.random.key(0), sampling)
    np.testing.assert_array_equal(out.tokens, expected)
    assert len(np.unique(expected)) > 20  # the models do not merely repeat one token


@pytest.mark.parametrize(
    "options",
    [{"top_k": 7}, {"top_p": 0.7}, {"min_p": 0.1}, {"top_k": 20, "top_p": 0.8, "min_p": 0.05}],
    ids=str,
)
def test_truncation_keeps_the_tokens_that_transformers_keeps(options):
    from jaxlab.sampling.sample import _truncated

    logits = np.random.default_rng(1).normal(size=(5, 300)).astype(np.float32) * 2
    warpers = {
        "top_k": transformers.TopKLogitsWarper,
        "top_p": transformers.TopPLogitsWarper,
        "min_p": transformers.MinPLogitsWarper,
    }
    scores = torch.from_numpy(logits) / 0.8
    for name, value in options.items():
        scores = warpers[name](value)(None, scores)
    scaled = logits / 0.8
    weights = np.exp(scaled - scaled.max(1, keepdims=True))
    kept = _truncated(weights, SamplingConfig(max_new_tokens=1, **options))
    np.testing.assert_array_equal(np.asarray(kept) > 0, torch.isfinite(scores).numpy())
