"""Qwen2 and Qwen2.5: Llama's layers with biases on query, key and value."""

from jaxlab.interop.families import flat, llama

TABLE = {path: name for path, name in llama.TABLE.items() if not name.endswith("o_proj.bias")}

QWEN2 = flat.family("qwen2", lambda config: TABLE)
