"""Qwen3, dense: Llama's layers with RMSNorm on each query and key head."""

from jaxlab.interop.families import flat, llama

TABLE = llama.TABLE | {
    "layer/mixer/query_norm/scale": "model.layers.{}.self_attn.q_norm.weight",
    "layer/mixer/key_norm/scale": "model.layers.{}.self_attn.k_norm.weight",
}

QWEN3 = flat.family("qwen3", lambda config: TABLE)
