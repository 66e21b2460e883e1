"""Llama, and what is built like it: grouped-query attention and a gated feed-forward layer."""

from jaxlab.interop.families import flat

TABLE = {
    "embed/embedding": "model.embed_tokens.weight",
    "layer/mixer_norm/scale": "model.layers.{}.input_layernorm.weight",
    "layer/mixer/query/kernel": "model.layers.{}.self_attn.q_proj.weight",
    "layer/mixer/query/bias": "model.layers.{}.self_attn.q_proj.bias",
    "layer/mixer/key/kernel": "model.layers.{}.self_attn.k_proj.weight",
    "layer/mixer/key/bias": "model.layers.{}.self_attn.k_proj.bias",
    "layer/mixer/value/kernel": "model.layers.{}.self_attn.v_proj.weight",
    "layer/mixer/value/bias": "model.layers.{}.self_attn.v_proj.bias",
    "layer/mixer/output/kernel": "model.layers.{}.self_attn.o_proj.weight",
    "layer/mixer/output/bias": "model.layers.{}.self_attn.o_proj.bias",
    "layer/mlp_norm/scale": "model.layers.{}.post_attention_layernorm.weight",
    "layer/mlp/gate/kernel": "model.layers.{}.mlp.gate_proj.weight",
    "layer/mlp/gate/bias": "model.layers.{}.mlp.gate_proj.bias",
    "layer/mlp/up/kernel": "model.layers.{}.mlp.up_proj.weight",
    "layer/mlp/up/bias": "model.layers.{}.mlp.up_proj.bias",
    "layer/mlp/down/kernel": "model.layers.{}.mlp.down_proj.weight",
    "layer/mlp/down/bias": "model.layers.{}.mlp.down_proj.bias",
    "final_norm/scale": "model.norm.weight",
    "unembed/embedding": "lm_head.weight",
}

LLAMA = flat.family("llama", lambda config: TABLE)
