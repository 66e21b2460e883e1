"""fg2_gdn: any decoder with gated-delta layers, in a directory that carries its PyTorch code."""

from jaxlab.interop.families import flat, qwen3
from jaxlab.models.decoder import DecoderConfig

# The names of flash-linear-attention, whose attention and delta layers are both "attn". They serve
# its own two families and fg2_gdn, which adds the write gate and norms of queries and keys.
_FLA = {
    path: name.replace("embed_tokens", "embeddings")
    .replace("input_layernorm", "attn_norm")
    .replace("post_attention_layernorm", "mlp_norm")
    .replace("self_attn", "attn")
    for path, name in qwen3.TABLE.items()
}
_LOW_RANK = {
    "/kernel": ".weight",
    "/reduce/kernel": ".0.weight",
    "/expand/kernel": ".1.weight",
    "/expand/bias": ".1.bias",
}
_TABLE = (
    _FLA
    | {
        "layer/mixer/query_conv/taps": "model.layers.{}.attn.q_conv1d.weight",
        "layer/mixer/key_conv/taps": "model.layers.{}.attn.k_conv1d.weight",
        "layer/mixer/value_conv/taps": "model.layers.{}.attn.v_conv1d.weight",
        "layer/mixer/decay/A_log": "model.layers.{}.attn.A_log",
        "layer/mixer/decay/dt_bias": "model.layers.{}.attn.dt_bias",
        "layer/mixer/output_norm/scale": "model.layers.{}.attn.o_norm.weight",
    }
    | {
        f"layer/mixer/{part}{path}": f"model.layers.{{}}.attn.{name}{suffix}"
        for part, name in {
            "decay/project": "f_proj",
            "erase": "b_proj",
            "write": "w_proj",
            "gate": "g_proj",
        }.items()
        for path, suffix in _LOW_RANK.items()
    }
)
# The decay of Gated DeltaNet, one per head, has another name than that of Kimi Delta Attention.
_PER_HEAD = _TABLE | {"layer/mixer/decay/project/kernel": "model.layers.{}.attn.a_proj.weight"}


def table(config: DecoderConfig) -> dict[str, str]:
    """Path of a parameter -> name of its tensor."""
    delta = flat.flat(config).delta
    return _PER_HEAD if delta is not None and delta.switches.decay == "head" else _TABLE


FG2_GDN = flat.family("fg2_gdn", table)
