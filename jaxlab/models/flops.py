"""Model FLOPs of a decoder, from its sizes alone."""

from typing import Any

import jax
import numpy as np

from jaxlab.models.decoder import DecoderConfig
from jaxlab.nn.attention import Attention
from jaxlab.nn.mla import MLA
from jaxlab.nn.moe import MoE
from jaxlab.nn.sparse import BlockSparse


def forward(config: DecoderConfig, params: Any, context: int) -> float:
    """FLOPs of one token's forward pass among `context` tokens; with the backward pass thrice that.

    See `decoder_flops` for what is counted. Of experts a token's own count; a block-sparse layer's
    context is its budget; states of delta layers, hundredths of their projections, are left out.

    Args:
        config: of the decoder.
        params: arrays or shapes.
        context: tokens per row.
    """
    layers = [layer for repeat, group in config.stacks for layer in repeat * group]
    attention_dim = sum(_attention_dim(layer.mixer, context) for layer in layers)
    return decoder_flops(_multiplied(config, params), attention_dim=attention_dim, context=context)


def decoder_flops(params: float, *, attention_dim: float = 0, context: int = 0) -> float:
    """Model FLOPs of one token's forward pass through a decoder; its backward pass costs twice.

    2 N (Kaplan et al. 2020, arXiv:2001.08361, section 2.1), plus attention's 4 x attention_dim x
    context (Chowdhery et al. 2022, arXiv:2204.02311, appendix B), which counts the full square and
    not its causal half.

    Args:
        params: N, the parameters that each token is multiplied with: without the input embedding,
            and of the experts only the active ones.
        attention_dim: heads x head size, summed over the attention layers.
        context: the sequence length.
    """
    return 2.0 * params + 4.0 * attention_dim * context


def _attention_dim(mixer: Any, context: int) -> float:
    """Heads x head size of the scores and the values, which PaLM takes to be equal."""
    match mixer:
        case MLA():
            return mixer.num_heads * (mixer.nope_dim + mixer.rope_dim + mixer.value_dim) / 2
        case BlockSparse():
            share = min(1.0, mixer.budget * mixer.block_size / context)
            return mixer.num_heads * mixer.head_dim * share
        case Attention():
            return mixer.num_heads * mixer.head_dim
        case _:
            return 0.0


def _multiplied(config: DecoderConfig, params: Any) -> float:
    """Parameters that each token is multiplied with."""
    mlps = [layer.mlp for _, group in config.stacks for layer in group]
    routers = [mlp.router for mlp in mlps if isinstance(mlp, MoE)]
    share = routers[0].top_k / routers[0].num_experts if routers else 1.0
    total = 0.0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names = [str(getattr(key, "key", key)) for key in path]
        size = float(np.prod(np.shape(leaf)))
        if names[0] == "embed" and not config.tie_embeddings:
            continue  # looked up, not multiplied
        total += share * size if "experts" in names else size
    return total
