"""Named decoder sizes: published models, and some that a CPU trains in seconds.

config = presets.decoder("qwen3-0.6b", dtype="bfloat16", scan_layers=True)
config = presets.decoder("fg2-gdn-340m", delta=DeltaConfig(rule="fg2_plus"))
"""

import dataclasses
import difflib
from typing import Any

from jaxlab.models.decoder import DecoderConfig
from jaxlab.models.sizes import Sizes
from jaxlab.nn.delta_config import DeltaConfig
from jaxlab.nn.mla import MLA
from jaxlab.nn.moe import MoE
from jaxlab.nn.rope import Rope
from jaxlab.nn.routing import Router

_QWEN3: dict[str, Any] = {
    "vocab_size": 151_936,
    "num_kv_heads": 8,
    "head_dim": 128,
    "rope": Rope(theta=1e6),
    "qk_norm": True,
    "max_position": 40_960,
}

_QWEN25: dict[str, Any] = {"rope": Rope(theta=1e6), "qkv_bias": True, "max_position": 32_768}

# Three gated-delta layers, then one of full attention, as the FG2-GDN paper's models alternate; in
# one place it has them the other way round, and this is the way of Kimi Linear and Qwen3-Next. From
# the paper are also the names, the context length and SlimPajama (whose usual tokenizer is Llama
# 2's). Reconstructed, because it does not give them: widths, depth and heads, which are those that
# models called 340M and 1.3B have in flash-linear-attention, and tied embeddings.
_HYBRID: dict[str, Any] = {
    "vocab_size": 32_000,
    "num_layers": 24,
    "head_dim": 128,
    "pattern": ("delta", "delta", "delta", "attention"),
    "tie_embeddings": True,
    "max_position": 8192,
}
_HYBRID_340M: dict[str, Any] = _HYBRID | {
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_heads": 8,
    "num_kv_heads": 8,
}

_HYBRID_TINY: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_layers": 4,
    "num_heads": 2,
    "num_kv_heads": 2,
    "pattern": _HYBRID["pattern"],
    "tie_embeddings": True,
    "max_position": 1024,
}

DECODERS: dict[str, Sizes] = {
    # Qwen3 Technical Report (2025), table 1, and the released config.json files.
    "qwen3-0.6b": Sizes(
        hidden_size=1024,
        intermediate_size=3072,
        num_layers=28,
        num_heads=16,
        tie_embeddings=True,
        **_QWEN3,
    ),
    "qwen3-1.7b": Sizes(
        hidden_size=2048,
        intermediate_size=6144,
        num_layers=28,
        num_heads=16,
        tie_embeddings=True,
        **_QWEN3,
    ),
    "qwen3-4b": Sizes(
        hidden_size=2560,
        intermediate_size=9728,
        num_layers=36,
        num_heads=32,
        tie_embeddings=True,
        **_QWEN3,
    ),
    "qwen3-8b": Sizes(
        hidden_size=4096,
        intermediate_size=12_288,
        num_layers=36,
        num_heads=32,
        **_QWEN3,
    ),
    "qwen3-30b-a3b": Sizes(
        hidden_size=2048,
        intermediate_size=6144,
        num_layers=48,
        num_heads=32,
        moe=MoE(768, Router(num_experts=128, top_k=8)),
        **_QWEN3 | {"num_kv_heads": 4},
    ),
    # DeepSeek-V3 Technical Report (2024), section 4.2, and the released config.json.
    "deepseek-v3": Sizes(
        vocab_size=129_280,
        hidden_size=7168,
        intermediate_size=18_432,
        num_layers=61,
        mla=MLA(
            num_heads=128,
            latent_dim=512,
            nope_dim=128,
            rope_dim=64,
            value_dim=128,
            query_rank=1536,
            rope=Rope(
                theta=1e4,
                rule="yarn",
                factor=40.0,
                original_max_position=4096,
                mscale=1.0,
                mscale_all_dim=1.0,
            ),
        ),
        moe=MoE(
            2048,
            Router(
                num_experts=256,
                top_k=8,
                score="sigmoid",
                correction=True,
                groups=8,
                top_groups=4,
                scale=2.5,
            ),
            shared_size=2048,
        ),
        first_dense=3,
        max_position=163_840,
    ),
    # The released config.json (2026).
    "glm-4.7-flash": Sizes(
        vocab_size=154_880,
        hidden_size=2048,
        intermediate_size=10_240,
        num_layers=47,
        mla=MLA(
            num_heads=20,
            latent_dim=512,
            nope_dim=192,
            rope_dim=64,
            value_dim=256,
            query_rank=768,
            rope=Rope(theta=1e6),
        ),
        moe=MoE(
            1536,
            Router(num_experts=64, top_k=4, score="sigmoid", correction=True, scale=1.8),
            shared_size=1536,
        ),
        first_dense=1,
        norm_eps=1e-5,
        max_position=202_752,
    ),
    "qwen3-32b": Sizes(
        hidden_size=5120,
        intermediate_size=25_600,
        num_layers=64,
        num_heads=64,
        **_QWEN3,
    ),
    # Qwen2.5 Technical Report (2024), table 1, and the released config.json files.
    "qwen2.5-0.5b": Sizes(
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4864,
        num_layers=24,
        num_heads=14,
        num_kv_heads=2,
        rope=Rope(theta=1e6),
        qkv_bias=True,
        tie_embeddings=True,
        max_position=32_768,
    ),
    "qwen2.5-1.5b": Sizes(
        vocab_size=151_936,
        hidden_size=1536,
        intermediate_size=8960,
        num_layers=28,
        num_heads=12,
        num_kv_heads=2,
        tie_embeddings=True,
        **_QWEN25,
    ),
    "qwen2.5-3b": Sizes(
        vocab_size=151_936,
        hidden_size=2048,
        intermediate_size=11_008,
        num_layers=36,
        num_heads=16,
        num_kv_heads=2,
        tie_embeddings=True,
        **_QWEN25,
    ),
    "qwen2.5-7b": Sizes(
        vocab_size=152_064,
        hidden_size=3584,
        intermediate_size=18_944,
        num_layers=28,
        num_heads=28,
        num_kv_heads=4,
        **_QWEN25,
    ),
    # Llama 3.2 model card (2024).
    "llama-3.2-1b": Sizes(
        vocab_size=128_256,
        hidden_size=2048,
        intermediate_size=8192,
        num_layers=16,
        num_heads=32,
        num_kv_heads=8,
        rope=Rope(theta=5e5, rule="llama3", factor=32.0, original_max_position=8192),
        norm_eps=1e-5,
        tie_embeddings=True,
        max_position=131_072,
    ),
    # FG2-GDN, arXiv 2604.19021, at the paper's two sizes: 15 and 100 billion tokens. See above.
    "fg2-gdn-340m": Sizes(delta=DeltaConfig(rule="fg2"), **_HYBRID_340M),
    "fg2-gdn-1.3b": Sizes(
        hidden_size=2048,
        intermediate_size=5632,
        num_heads=16,
        num_kv_heads=16,
        delta=DeltaConfig(rule="fg2"),
        **_HYBRID,
    ),
    # What it is compared with. GDN has 3/4 of the width in keys and twice that in values
    # (arXiv 2412.06464, as in its released layer).
    "kda-340m": Sizes(delta=DeltaConfig(rule="kda"), **_HYBRID_340M),
    "gdn-340m": Sizes(
        delta=DeltaConfig(rule="gdn", head_dim=256, num_heads=3, expand_value=2.0), **_HYBRID_340M
    ),
    # Shaped like Qwen3.
    "tiny": Sizes(
        vocab_size=256,
        hidden_size=32,
        intermediate_size=64,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        qk_norm=True,
        tie_embeddings=True,
        max_position=256,
    ),
    "small": Sizes(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=192,
        num_layers=4,
        num_heads=4,
        num_kv_heads=2,
        qk_norm=True,
        tie_embeddings=True,
        max_position=1024,
    ),
    "fg2-tiny": Sizes(delta=DeltaConfig(rule="fg2", head_dim=16), **_HYBRID_TINY),
    "fg2-plus-tiny": Sizes(delta=DeltaConfig(rule="fg2_plus", head_dim=16), **_HYBRID_TINY),
    "kda-tiny": Sizes(delta=DeltaConfig(rule="kda", head_dim=16), **_HYBRID_TINY),
    "gdn-tiny": Sizes(delta=DeltaConfig(rule="gdn", head_dim=16), **_HYBRID_TINY),
}


def decoder(name: str, **overrides: Any) -> DecoderConfig:
    """Returns the named decoder with some sizes replaced; see `sizes`."""
    return sizes(name, **overrides).decoder()


def sizes(name: str, **overrides: Any) -> Sizes:
    """Returns the named sizes with some fields replaced.

    With another hidden_size or num_heads, a head_dim that was hidden_size / num_heads stays so.

    Raises:
        ValueError: no such name, or no such field; the message lists the nearest.
    """
    if name not in DECODERS:
        raise ValueError(f"no decoder preset {name!r}; {_nearest(name, list(DECODERS))}")
    fields = [field.name for field in dataclasses.fields(Sizes)]
    for field in overrides:
        if field not in fields:
            raise ValueError(f"Sizes has no field {field!r}; {_nearest(field, fields)}")
    named = DECODERS[name]
    resized = {"hidden_size", "num_heads"} & overrides.keys()
    if resized and named.head_dim == named.hidden_size // max(named.num_heads, 1):
        overrides.setdefault("head_dim", None)
    return dataclasses.replace(named, **overrides)


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"nearest: {', '.join(near)}" if near else f"known: {', '.join(known)}"
