"""Name tables: which tensor of a HuggingFace checkpoint is which parameter of the decoder.

PyTorch stores a linear layer as [out, in], the decoder as [in, out]: kernels are transposed.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.interop.families import Family, family_of, flat
from jaxlab.models.decoder import DecoderConfig, Params, abstract_params
from jaxlab.models.stacking import members

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

# The names of flash-linear-attention, whose attention and delta layers are both "attn". They serve
# its own two families and fg2_gdn, which adds the write gate and norms of queries and keys.
_FLA = {
    path: name.replace("embed_tokens", "embeddings")
    .replace("input_layernorm", "attn_norm")
    .replace("post_attention_layernorm", "mlp_norm")
    .replace("self_attn", "attn")
    for path, name in _QWEN3.items()
}
_LOW_RANK = {
    "/kernel": ".weight",
    "/reduce/kernel": ".0.weight",
    "/expand/kernel": ".1.weight",
    "/expand/bias": ".1.bias",
}
_FG2_GDN = (
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
_FG2_GDN_PER_HEAD = _FG2_GDN | {
    "layer/mixer/decay/project/kernel": "model.layers.{}.attn.a_proj.weight"
}

UNEMBEDDING = _LLAMA["unembed/embedding"]


def table_of(config: DecoderConfig) -> dict[str, str]:
    """Path of a parameter -> name of its tensor, {} for the layer; "layer" is any of them."""
    sizes = flat(config)
    if sizes.delta is not None and sizes.delta.switches.decay == "head":
        return _FG2_GDN_PER_HEAD
    tables: dict[Family, dict[str, str]] = {
        "llama": _LLAMA,
        "qwen2": _QWEN2,
        "qwen3": _QWEN3,
        "fg2_gdn": _FG2_GDN,
    }
    return tables[family_of(sizes)]


Layout = Literal["own", "linear", "conv"]
_LAYOUTS: dict[str, Layout] = {"kernel": "linear", "taps": "conv"}


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One parameter array and the checkpoint tensors that make it up.

    Attributes:
        path: in params, joined by "/".
        shape: of the array; with a leading axis over layers where they are stacked.
        names: of the tensors, one per layer where layers are stacked, otherwise one.
        stacked: whether the leading axis runs over `names`.
        layout: of a tensor in the checkpoint: the array's own; that of a "linear" layer, the two
            axes in the other order; or that of a "conv", [W, C] as [C, 1, W].
        keeps_float32: whether it is float32 whatever dtype the rest is stored in.
    """

    path: str
    shape: tuple[int, ...]
    names: tuple[str, ...]
    stacked: bool
    layout: Layout
    keeps_float32: bool

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of each of the tensors in the checkpoint."""
        shape = self.shape[1:] if self.stacked else self.shape
        if self.layout == "conv":
            return (shape[1], 1, shape[0])
        return shape[::-1] if self.layout == "linear" else shape

    def to_stored(self, value: np.ndarray) -> np.ndarray:
        """One layer's array as the checkpoint has it."""
        return (value if self.layout == "own" else value.T).reshape(self.stored_shape)

    def from_stored(self, tensor: np.ndarray) -> np.ndarray:
        """The inverse of `to_stored`."""
        if self.layout == "conv":
            return tensor[:, 0].T
        return tensor.T if self.layout == "linear" else tensor


def leaves(config: DecoderConfig) -> list[Leaf]:
    """Every parameter of the decoder, in the order in which files hold them.

    The order is that of the kinds of parameter, then of the layers, and so does not depend on
    whether layers are stacked.
    """
    table = table_of(config)
    # One repetition of each stack has all the shapes. Stored in bfloat16, what is float32 all the
    # same shows.
    one = dataclasses.replace(
        config,
        stacks=tuple((1, layers) for _, layers in config.stacks),
        param_dtype="bfloat16",
        scan_layers=False,
        remat=False,
    )
    shapes = flatten(abstract_params(one))
    places = {f"layer_{n}": place for n, place in enumerate(members(config))}
    found = []
    for path, leaf in shapes.items():
        shape = tuple(leaf.shape)
        kind: tuple[Layout, bool] = (
            _LAYOUTS.get(path.rpartition("/")[2], "own"),
            leaf.dtype == jnp.float32,
        )
        top, _, rest = path.partition("/")
        if top not in places:
            found.append(Leaf(path, shape, (table[path],), False, *kind))
            continue
        stack, i, numbers = places[top]
        names = tuple(table[f"layer/{rest}"].format(number) for number in numbers)
        if config.scan_layers:
            stacked = (len(numbers), *shape)
            found.append(Leaf(f"stack_{stack}/layer_{i}/{rest}", stacked, names, True, *kind))
        else:
            found += [
                Leaf(f"layer_{number}/{rest}", shape, (name,), False, *kind)
                for number, name in zip(numbers, names, strict=True)
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
