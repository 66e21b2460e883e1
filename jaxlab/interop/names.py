"""Name tables: which tensor of a HuggingFace checkpoint is which parameter of the decoder.

PyTorch stores a linear layer as [out, in], the decoder as [in, out]: kernels are transposed.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxlab.interop.families import Family, family_of
from jaxlab.models.decoder import Decoder, DecoderConfig, Params

_LLAMA = {
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
_QWEN2 = {path: name for path, name in _LLAMA.items() if not name.endswith("o_proj.bias")}
_QWEN3 = _LLAMA | {
    "layer/mixer/query_norm/scale": "model.layers.{}.self_attn.q_norm.weight",
    "layer/mixer/key_norm/scale": "model.layers.{}.self_attn.k_norm.weight",
}
TABLES: dict[Family, dict[str, str]] = {"llama": _LLAMA, "qwen2": _QWEN2, "qwen3": _QWEN3}

EMBEDDING, UNEMBEDDING = _LLAMA["embed/embedding"], _LLAMA["unembed/embedding"]


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One parameter array and the checkpoint tensors that make it up.

    Attributes:
        path: in params, joined by "/".
        shape: of the array; with a leading axis over layers where they are stacked.
        names: of the tensors, one per layer where layers are stacked, otherwise one.
        stacked: whether the leading axis runs over `names`.
        transposed: whether the checkpoint has a tensor's two axes in the other order.
    """

    path: str
    shape: tuple[int, ...]
    names: tuple[str, ...]
    stacked: bool
    transposed: bool

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of each of the tensors in the checkpoint."""
        shape = self.shape[1:] if self.stacked else self.shape
        return shape[::-1] if self.transposed else shape


def leaves(config: DecoderConfig) -> list[Leaf]:
    """Every parameter of the decoder, in the order in which files hold them.

    The order is that of the kinds of parameter, then of the layers, and so does not depend on
    whether layers are stacked.
    """
    table = TABLES[family_of(config)]
    one = dataclasses.replace(config, num_layers=1, scan_layers=False, remat=False)
    shapes = flatten(
        jax.eval_shape(Decoder(one).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    )
    layers, found = range(config.num_layers), []
    for path, leaf in shapes.items():
        shape, transposed = tuple(leaf.shape), path.endswith("/kernel")
        top, _, rest = path.partition("/")
        if top != "layer_0":
            found.append(Leaf(path, shape, (table[path],), False, transposed))
            continue
        names = tuple(table[f"layer/{rest}"].format(i) for i in layers)
        if config.scan_layers:
            stacked = (config.num_layers, *shape)
            found.append(Leaf(f"layers/block_0/{rest}", stacked, names, True, transposed))
        else:
            found += [
                Leaf(f"layer_{i}/{rest}", shape, (names[i],), False, transposed) for i in layers
            ]
    return found


def flatten(params: Params) -> dict[str, Any]:
    """Nested dict -> {"a/b/c": leaf}, sorted by path."""
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    return {"/".join(str(key.key) for key in path): leaf for path, leaf in flat}


def nest(flat: dict[str, Any]) -> Params:
    """{"a/b/c": leaf} -> nested dict."""
    nested: Params = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return nested
