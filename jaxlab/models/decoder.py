"""One decoder-only language model: stacks of layers between an embedding and an unembedding.

Parameters are a plain nested dict:

    embed/embedding [V, d]
    layer_0 ... layer_{L-1}      or, with scan_layers, stack_{s}/layer_{i}: layer i of the period of
                                 stack s, with a leading axis over its repetitions
      mixer_norm/scale [d]       mixer/{query,key,value,output}/kernel [in, out] (and bias [out]),
                                 and what else the mixer has (jaxlab.nn.delta)
      mlp_norm/scale [d]         mlp/{gate,up,down}/kernel [in, out]; absent without a mlp
                                 mlp/experts/{gate,up,down}/kernel [E, in, out], mlp/router/kernel
                                 [d, E] and mlp/shared/...: a mixture (jaxlab.nn.moe)
    final_norm/scale [d]
    unembed/embedding [V, d]     absent when the embeddings are tied
"""

import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxlab_kernels.block_sparse import IDS

from jaxlab import ranges
from jaxlab.nn.block import Block
from jaxlab.nn.context import CacheKind, Context, repeat_rows
from jaxlab.nn.layers import Layer
from jaxlab.nn.linear import Embedding
from jaxlab.nn.moe import MoE
from jaxlab.nn.norm import RMSNorm

Params = dict[str, Any]
# Rematerialised layers keep which blocks their queries chose, and nothing else.
_KEPT = jax.checkpoint_policies.save_only_these_names(IDS)
# Also behind a shared prompt, where a completion's layers read a cache, are they differentiated.
_METHODS = ("__call__", "prefill", "extend")
_remat = functools.partial(nn.remat, policy=_KEPT, methods=_METHODS)
# So many repetitions of these consecutive layers.
Stack = tuple[int, tuple[Layer, ...]]


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Layers and switches of a decoder. `jaxlab.models.sizes.Sizes` makes the usual ones.

    Attributes:
        vocab_size: V, rows of the embedding table.
        hidden_size: d, width of the residual stream.
        stacks: (repetitions, layers) pairs, first layers first: ((28, (layer,)),) is 28 equal
            layers, ((1, (dense,)), (26, (routed,))) a dense one before 26 others, and
            ((6, (delta, delta, delta, attention)),) a hybrid of period 4.
        norm_eps: of every RMSNorm.
        tie_embeddings: whether the embedding table is also the unembedding matrix.
        max_position: context length in tokens; prompts and completions must fit. Delta layers have
            a state of fixed size, so that without attention a large one costs nothing.
        dtype: compute dtype of the matmuls; logits, softmax and norms are float32.
        param_dtype: storage dtype.
        scan_layers: store each stack's layers with a leading axis and run them with lax.scan:
            compile time does not grow with depth.
        remat: recompute each layer in the backward pass instead of keeping its activations.
        embedding_std: standard deviation of new embedding tables. Narrow decoders learn to copy
            words sooner from 0.2: at 0.02 the first updates move words by more than what tells
            them apart.
        family: the HuggingFace family that it was read as and is written as, see
            `jaxlab.interop.families`; it says nothing of what is computed.
    """

    vocab_size: int
    hidden_size: int
    stacks: tuple[Stack, ...]
    norm_eps: float = 1e-6
    tie_embeddings: bool = False
    max_position: int = 2048
    dtype: Literal["float32", "bfloat16"] = "float32"
    param_dtype: Literal["float32", "bfloat16"] = "float32"
    scan_layers: bool = False
    remat: bool = False
    embedding_std: float = 0.02
    family: str | None = dataclasses.field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Check sizes, and that there are layers."""
        ranges.check_counts(self, "vocab_size", "hidden_size", "max_position")
        ranges.check(self, "norm_eps", "embedding_std", above=0)
        for repetitions, layers in self.stacks:
            if repetitions < 1 or not layers:
                raise ValueError(
                    f"a stack has {repetitions} times {len(layers)} layers: at least 1"
                )
        if not self.stacks:
            raise ValueError("stacks is empty: a decoder needs at least one layer")

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All layers, first ones first."""
        return tuple(layer for times, layers in self.stacks for layer in layers * times)

    @property
    def routed(self) -> bool:
        """Whether a layer has experts, among which a router chooses."""
        return any(isinstance(layer.mlp, MoE) for layer in self.layers)


class Cache(NamedTuple):
    """What decoding carries from token to token.

    Attributes:
        layers: each layer's own cache; with scan_layers, for each stack those of its period, with a
            leading axis over repetitions.
        slot: int32 scalar, where the next token goes, the same for every row.
        start: int32 [B], the first slot of each row that holds a token: rows are left-padded.
    """

    layers: tuple[Any, ...]
    slot: jax.Array
    start: jax.Array


class Decoder(nn.Module):
    """Decoder(config).apply({"params": params}, tokens) gives float32 logits [B, T, V]."""

    config: DecoderConfig

    def setup(self) -> None:
        """Create the parts that the config asks for."""
        c = self.config
        sizes = c.vocab_size, c.hidden_size
        table = functools.partial(Embedding, *sizes, c.dtype, c.param_dtype, c.embedding_std)
        self.embed = table()
        if c.scan_layers:
            self.parts = [
                _scanned(c, *stack, name=f"stack_{i}") for i, stack in enumerate(c.stacks)
            ]
        else:
            self.parts = [_block(c, layer, name=f"layer_{i}") for i, layer in enumerate(c.layers)]
        self.final_norm = RMSNorm(c.norm_eps, c.param_dtype)
        if not c.tie_embeddings:
            self.unembed = table()

    def __call__(
        self,
        tokens: jax.Array,
        positions: jax.Array | None = None,
        segment_ids: jax.Array | None = None,
        budget: jax.Array | None = None,
    ) -> jax.Array:
        """int32 tokens [B, T] -> float32 logits [B, T, V]; arguments as in `hidden`."""
        return self.logits(self.hidden(tokens, positions, segment_ids, budget))

    def hidden(
        self,
        tokens: jax.Array,
        positions: jax.Array | None = None,
        segment_ids: jax.Array | None = None,
        budget: jax.Array | None = None,
    ) -> jax.Array:
        """Final normed hidden states [B, T, d], which the unembedding matrix turns into logits.

        Args:
            tokens: int32 [B, T].
            positions: int32 [B, T]; None means 0, 1, 2, ... in every row.
            segment_ids: int32 [B, T] for packed or padded rows: tokens attend within their segment.
            budget: int32, scalar or [B]: blocks per query of block-sparse layers; None is theirs.
        """
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        x, context = self.embed(tokens), Context(positions, segment_ids, budget=budget)
        for part in self.parts:
            x = part(x, context, None)[0] if self.config.scan_layers else part(x, context)
        return self.final_norm(x)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """[..., d] -> float32 [..., V]."""
        table = self.embed if self.config.tie_embeddings else self.unembed
        return table.logits(hidden)

    def prefill(
        self, tokens: jax.Array, lengths: jax.Array, kind: CacheKind, empty: Any = None
    ) -> tuple[jax.Array, Cache]:
        """Reads left-padded prompts and prepares decoding.

        Args:
            tokens: int32 [B, T], each row's last `lengths[b]` columns are its prompt.
            lengths: int32 [B], at least 1.
            kind: how attention layers cache, with at least T slots.
            empty: caches of that kind without tokens; None makes them.

        Returns:
            Hidden state of each prompt's last token [B, d], and the cache.
        """
        width = tokens.shape[1]
        if empty is None:
            empty = empty_caches(self.config, tokens.shape[0], kind)
        hidden, layers = self._read("prefill", tokens, Context(*left_padded(width, lengths)), empty)
        slot = jnp.asarray(width, jnp.int32)
        return hidden[:, -1], Cache(layers, slot, width - lengths)

    def step(self, tokens: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        """Reads one token per row, int32 [B]: its hidden state [B, d] and the next cache."""
        hidden, cache = self.extend(tokens[:, None], cache)
        return hidden[:, 0], cache

    def extend(self, tokens: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        """Reads N tokens per row, int32 [B, N]: their hidden states [B, N, d] and the next cache.

        Differentiable, in the params and through the cache.
        """
        count = tokens.shape[1]
        positions = cache.slot - cache.start[:, None] + jnp.arange(count)
        context = Context(positions, slot=cache.slot, start=cache.start)
        hidden, layers = self._read("extend", tokens, context, cache.layers)
        return hidden, Cache(layers, cache.slot + count, cache.start)

    def repeat(self, cache: Cache, times: int) -> Cache:
        """Returns the cache with each row `times` times in succession."""

        def one(layer: Any) -> Any:
            return layer.repeat(times)

        layers = tuple(
            tuple(map(jax.vmap(one), part)) if self.config.scan_layers else one(part)
            for part in cache.layers
        )
        return Cache(layers, cache.slot, repeat_rows(cache.start, times))

    def _read(
        self, method: str, tokens: jax.Array, context: Context, caches: tuple[Any, ...]
    ) -> tuple[jax.Array, tuple[Any, ...]]:
        """Final hidden states [B, T, d] and the layers' caches, by `prefill` or `extend`."""
        x, written = self.embed(tokens), []
        for part, cache in zip(self.parts, caches, strict=True):
            x, cache = getattr(part, method)(x, context, cache)
            written.append(cache)
        return self.final_norm(x), tuple(written)


def left_padded(width: int, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Positions and segment ids, int32 [B, width], of rows whose last `lengths` columns count.

    Padding is segment 0 with position 0; the row's tokens are segment 1 with positions from 0.
    """
    offset = jnp.arange(width) - (width - lengths)[:, None]
    return jnp.maximum(offset, 0), (offset >= 0).astype(jnp.int32)


def unembedding(params: Params) -> jax.Array:
    """Returns the matrix [V, d] that turns hidden states into logits."""
    return params["unembed" if "unembed" in params else "embed"]["embedding"]


def abstract_params(config: DecoderConfig) -> Params:
    """Shapes and dtypes of a decoder's params."""
    return jax.tree.map(lambda leaf: leaf, _abstract_params(config))  # dicts of the caller's own


# A run asks several times, and each answer is a trace of the whole model.
@functools.lru_cache(maxsize=64)
def _abstract_params(config: DecoderConfig) -> Params:
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(Decoder(config).init, key, tokens)["params"]


def _shared(config: DecoderConfig) -> dict[str, Any]:
    """What all parts of a layer are told."""
    # Each layer adds so many terms to the residual stream; this keeps its variance near 1 (GPT-2).
    terms = sum(1 if layer.mlp is None else 2 for layer in config.layers)
    return {
        "model_dim": config.hidden_size,
        "output_init_scale": terms**-0.5,
        "dtype": config.dtype,
        "param_dtype": config.param_dtype,
        # The block adopts its parts; otherwise whoever calls this would.
        "parent": None,
    }


def _block(config: DecoderConfig, layer: Layer, name: str | None = None) -> Block:
    """One layer; a rematerialised one where the config asks for it."""
    shared = _shared(config)
    mixer = layer.mixer.module(norm_eps=config.norm_eps, **shared)
    mlp = None if layer.mlp is None else layer.mlp.module(**shared)
    block = _remat(Block) if config.remat and not config.scan_layers else Block
    return block(mixer, mlp, config.norm_eps, config.param_dtype, name=name)


def empty_caches(config: DecoderConfig, batch: int, kind: CacheKind) -> tuple[Any, ...]:
    """The layers' caches before the first token, in the form of `Cache.layers`.

    Raises:
        ValueError: a layer's sizes do not suit this kind of cache.
    """
    shared = _shared(config)

    def empty(layer: Layer) -> Any:
        return layer.mixer.module(norm_eps=config.norm_eps, **shared).empty_cache(batch, kind)

    if not config.scan_layers:
        return tuple(map(empty, config.layers))
    return tuple(
        jax.tree.map(
            lambda x, times=times: jnp.broadcast_to(x, (times, *x.shape)), tuple(map(empty, layers))
        )
        for times, layers in config.stacks
    )


class _Period(nn.Module):
    """The layers of a stack's period, in the form that lax.scan wants."""

    config: DecoderConfig
    layers: tuple[Layer, ...]

    def setup(self) -> None:
        """Create the layers."""
        self.blocks = [
            _block(self.config, layer, name=f"layer_{i}") for i, layer in enumerate(self.layers)
        ]

    def __call__(self, x: jax.Array, context: Context, _: None) -> tuple[jax.Array, None]:
        """[B, T, d] -> [B, T, d]."""
        for block in self.blocks:
            x = block(x, context)
        return x, None

    def prefill(self, x: jax.Array, context: Context, caches: Any) -> tuple[jax.Array, Any]:
        """Reads left-padded prompts [B, T, d]."""
        return self._through("prefill", x, context, caches)

    def extend(self, x: jax.Array, context: Context, caches: Any) -> tuple[jax.Array, Any]:
        """Reads N more tokens per row, [B, N, d]."""
        return self._through("extend", x, context, caches)

    def _through(self, method, x, context, caches):
        written = []
        for block, cache in zip(self.blocks, caches, strict=True):
            x, cache = getattr(block, method)(x, context, cache)
            written.append(cache)
        return x, tuple(written)


def _scanned(
    config: DecoderConfig, repetitions: int, layers: tuple[Layer, ...], name: str
) -> nn.Module:
    period = _remat(_Period, prevent_cse=False) if config.remat else _Period
    return nn.scan(
        period,
        variable_axes={"params": 0, "aux": 0},
        split_rngs={"params": True},
        in_axes=(nn.broadcast, 0),
        length=repetitions,
        methods=list(_METHODS),
    )(config, layers, name=name)
