"""A layer is a mixer over the sequence and a feed-forward layer: what there is to choose from.

A mixer is one file and a name in `Mixer`: a frozen dataclass of its options, whose method
`module(model_dim=, norm_eps=, output_init_scale=, dtype=, param_dtype=, parent=)` gives a Linen
module with

    __call__(x [B, T, d], context) -> [B, T, d]
    empty_cache(batch, kind) -> cache           a pytree with repeat(times); see `nn.context`
    prefill(x, context, cache) -> y, cache      reads left-padded prompts into an empty cache
    extend(x, context, cache) -> y, cache       reads N more tokens per row

A feed-forward layer is a dataclass in `Mlp`, whose module (without norm_eps) has
`__call__(x, context)`.
What a module sows into the collection "aux" (a router's load, say) is returned by
`Decoder.apply(..., mutable=["aux"])`, with a leading axis over stacked layers.
"""

import dataclasses
from typing import Annotated

from jaxlab.config import by
from jaxlab.nn.attention import Attention
from jaxlab.nn.delta_config import DeltaConfig
from jaxlab.nn.mla import MLA
from jaxlab.nn.mlp import SwiGLU
from jaxlab.nn.moe import MoE
from jaxlab.nn.sparse import BlockSparse

Mixer = Annotated[Attention | BlockSparse | DeltaConfig | MLA, by("name")]
Mlp = Annotated[SwiGLU | MoE, by("name")]


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer of a decoder.

    Attributes:
        mixer: mixes tokens.
        mlp: works on each token by itself; None for a layer of the mixer alone.
    """

    mixer: Mixer
    mlp: Mlp | None = None
