"""One decoder-only language model, assembled from a layer pattern.

Parameters are a plain nested dict:

    embed/embedding [V, d]
    layer_0 ... layer_{L-1}      or, with scan_layers, layers/block_0 ... with a leading axis
      mixer_norm/scale [d]       mixer/{query,key,value,output}/kernel [in, out] (and bias [out]),
                                 and what else the mixer has (jaxlab.nn.delta)
      mlp_norm/scale [d]         mlp/{gate,up,down}/kernel [in, out]; absent with width 0
    final_norm/scale [d]
    unembed/embedding [V, d]     absent when the embeddings are tied
"""

import dataclasses
import functools
from typing import Any, Literal, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlab import ranges
from jaxlab.nn.attention import Attention, Span
from jaxlab.nn.block import Block
from jaxlab.nn.delta import GatedDelta
from jaxlab.nn.delta_config import DeltaConfig
from jaxlab.nn.linear import Embedding
from jaxlab.nn.mlp import SwiGLU
from jaxlab.nn.norm import RMSNorm
from jaxlab.nn.rope import Rope

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Sizes and switches of a decoder.

    Attributes:
        vocab_size: V, rows of the embedding table.
        hidden_size: d, width of the residual stream.
        intermediate_size: width inside the feed-forward layer; 0 means layers without one.
        num_layers: L.
        num_heads: H, query heads of the attention layers.
        num_kv_heads: KV, their key and value heads; divides H.
        head_dim: D; None means d / H.
        pattern: mixers of consecutive layers, repeated down the stack: softmax "attention", or the
            gated "delta" rule.
        delta: sizes and switches of the delta layers; None where there are none.
        rope: rotary frequencies of the attention layers; None means none (NoPE).
        norm_eps: of every RMSNorm.
        qkv_bias: whether query, key and value projections have biases (Qwen2).
        output_bias: whether the attention's output projection has one.
        mlp_bias: whether the feed-forward layers have biases.
        qk_norm: RMSNorm on each query and key head (Qwen3).
        tie_embeddings: whether the embedding table is also the unembedding matrix.
        max_position: context length in tokens; prompts and completions must fit. Delta layers have
            a state of fixed size, so that without attention a large one costs nothing.
        dtype: compute dtype of the matmuls; logits, softmax and norms are float32.
        param_dtype: storage dtype.
        scan_layers: store the layers stacked and run them with lax.scan: compile time does not grow
            with depth.
        remat: recompute each layer in the backward pass instead of keeping its activations.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int = 0
    num_kv_heads: int = 0
    head_dim: int | None = None
    pattern: tuple[Literal["attention", "delta"], ...] = ("attention",)
    delta: DeltaConfig | None = None
    rope: Rope | None = dataclasses.field(default_factory=Rope)
    norm_eps: float = 1e-6
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    tie_embeddings: bool = False
    max_position: int = 2048
    dtype: Literal["float32", "bfloat16"] = "float32"
    param_dtype: Literal["float32", "bfloat16"] = "float32"
    scan_layers: bool = False
    remat: bool = False

    def __post_init__(self) -> None:
        """Check sizes, and that they fit together; fill in head_dim."""
        ranges.check_counts(
            self, "vocab_size", "hidden_size", "num_layers", "head_dim", "max_position"
        )
        ranges.check(self, "intermediate_size", least=0, below=ranges.COUNTS)
        ranges.check(self, "norm_eps", above=0)
        if not self.pattern or self.num_layers % len(self.pattern):
            raise ValueError(
                f"num_layers {self.num_layers} is no multiple of the pattern's "
                f"{len(self.pattern)} layers"
            )
        if "attention" in self.pattern:
            self._check_attention()
        if "delta" in self.pattern and self.delta is None:
            raise ValueError(
                f"the pattern {self.pattern} has delta layers, but delta is not given: give for "
                "example delta={'rule': 'fg2'}"
            )
        if self.delta is not None:
            if "delta" not in self.pattern:
                raise ValueError(
                    f"delta is given, but the pattern {self.pattern} has no delta layers: add one, "
                    "or drop delta"
                )
            self.delta.sizes(self.hidden_size)

    def _check_attention(self) -> None:
        if self.num_heads < 1 or self.num_kv_heads < 1:
            raise ValueError(
                f"num_heads is {self.num_heads} and num_kv_heads {self.num_kv_heads}: attention "
                "layers need at least one of each"
            )
        if self.head_dim is None:
            if self.hidden_size % self.num_heads:
                raise ValueError(
                    f"hidden_size {self.hidden_size} is no multiple of num_heads "
                    f"{self.num_heads}: give head_dim"
                )
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_heads)
        if self.rope is not None and (self.head_dim or 0) % 2:
            raise ValueError(
                f"head_dim must be even for rotary embeddings, not {self.head_dim}: give another, "
                "or set rope to None"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is no multiple of num_kv_heads {self.num_kv_heads}"
            )


class Cache(NamedTuple):
    """What decoding carries from token to token.

    Attributes:
        layers: each layer's own cache, in order.
        span: where the next token goes: the slot, and each row's first slot.
    """

    layers: tuple[Any, ...]
    span: Span


class Decoder(nn.Module):
    """Decoder(config).apply({"params": params}, tokens) gives float32 logits [B, T, V]."""

    config: DecoderConfig

    def setup(self) -> None:
        """Create the parts that the config asks for."""
        c = self.config
        table = functools.partial(Embedding, c.vocab_size, c.hidden_size, c.dtype, c.param_dtype)
        self.embed = table()
        if c.scan_layers:
            self.layers = _scanned(c)
        else:
            self.blocks = [
                _block(c, c.pattern[i % len(c.pattern)], name=f"layer_{i}")
                for i in range(c.num_layers)
            ]
        self.final_norm = RMSNorm(c.norm_eps, c.param_dtype)
        if not c.tie_embeddings:
            self.unembed = table()

    def __call__(
        self,
        tokens: jax.Array,
        positions: jax.Array | None = None,
        segment_ids: jax.Array | None = None,
    ) -> jax.Array:
        """int32 tokens [B, T] -> float32 logits [B, T, V]; arguments as in `hidden`."""
        return self.logits(self.hidden(tokens, positions, segment_ids))

    def hidden(
        self,
        tokens: jax.Array,
        positions: jax.Array | None = None,
        segment_ids: jax.Array | None = None,
    ) -> jax.Array:
        """Final normed hidden states [B, T, d], which the unembedding matrix turns into logits.

        Args:
            tokens: int32 [B, T].
            positions: int32 [B, T]; None means 0, 1, 2, ... in every row.
            segment_ids: int32 [B, T] for packed or padded rows: tokens attend within their segment.
        """
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        x = self.embed(tokens)
        if self.config.scan_layers:
            x, _ = self.layers(x, positions, segment_ids)
        else:
            for block in self.blocks:
                x = block(x, positions, segment_ids)
        return self.final_norm(x)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """[..., d] -> float32 [..., V]."""
        table = self.embed if self.config.tie_embeddings else self.unembed
        return table.logits(hidden)

    def prefill(
        self, tokens: jax.Array, lengths: jax.Array, cache_length: int
    ) -> tuple[jax.Array, Cache]:
        """Read left-padded prompts and prepare decoding.

        Args:
            tokens: int32 [B, T], each row's last `lengths[b]` columns are its prompt.
            lengths: int32 [B], at least 1.
            cache_length: slots of the cache, at least T.

        Returns:
            Hidden state of each prompt's last token [B, d], and the cache.
        """
        start = tokens.shape[1] - lengths
        positions, segment_ids = left_padded(tokens.shape[1], lengths)
        x = self.embed(tokens)
        caches = []
        for block in self._unrolled():
            x, cache = block.prefill(x, positions, segment_ids, cache_length)
            caches.append(cache)
        span = Span(jnp.asarray(tokens.shape[1], jnp.int32), start)
        return self.final_norm(x[:, -1]), Cache(tuple(caches), span)

    def step(self, tokens: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        """Read one token per row, int32 [B]: its hidden state [B, d] and the next cache."""
        hidden, cache = self.extend(tokens[:, None], cache)
        return hidden[:, 0], cache

    def extend(self, tokens: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        """Read N tokens per row, int32 [B, N]: their hidden states [B, N, d] and the next cache.

        Differentiable, in the params and through the cache.
        """
        span, count = cache.span, tokens.shape[1]
        x = self.embed(tokens)
        positions = span.slot - span.start[:, None] + jnp.arange(count)
        layers = []
        for block, layer in zip(self._unrolled(), cache.layers, strict=True):
            x, layer = block.step(x, positions, layer, span)
            layers.append(layer)
        span = Span(span.slot + count, span.start)
        return self.final_norm(x), Cache(tuple(layers), span)

    def _unrolled(self) -> list[Block]:
        if self.config.scan_layers:
            raise ValueError("decoding wants layers apart: use models.decoder.unscan first")
        return self.blocks


def left_padded(width: int, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Positions and segment ids, int32 [B, width], of rows whose last `lengths` columns count.

    Padding is segment 0 with position 0; the row's tokens are segment 1 with positions from 0.
    """
    offset = jnp.arange(width) - (width - lengths)[:, None]
    return jnp.maximum(offset, 0), (offset >= 0).astype(jnp.int32)


def unembedding(params: Params) -> jax.Array:
    """The matrix [V, d] that turns hidden states into logits."""
    return params["unembed" if "unembed" in params else "embed"]["embedding"]


def unscan(config: DecoderConfig, params: Params) -> tuple[DecoderConfig, Params]:
    """The same model with its layers apart; identity where they already are."""
    if not config.scan_layers:
        return config, params
    rest = {name: value for name, value in params.items() if name != "layers"}
    period = len(config.pattern)
    for i in range(config.num_layers):
        stacked = params["layers"][f"block_{i % period}"]
        rest[f"layer_{i}"] = jax.tree.map(lambda x, n=i // period: x[n], stacked)
    return dataclasses.replace(config, scan_layers=False), rest


def rescan(config: DecoderConfig, params: Params) -> tuple[DecoderConfig, Params]:
    """The same model with its layers stacked; identity where they already are."""
    if config.scan_layers:
        return config, params
    rest = {name: value for name, value in params.items() if not name.startswith("layer_")}
    period = len(config.pattern)
    rest["layers"] = {
        f"block_{kind}": jax.tree.map(
            lambda *layers: jnp.stack(layers),
            *(params[f"layer_{i}"] for i in range(kind, config.num_layers, period)),
        )
        for kind in range(period)
    }
    return dataclasses.replace(config, scan_layers=True), rest


def _block(config: DecoderConfig, kind: str, name: str | None = None) -> Block:
    """One layer of the given kind; a rematerialised one where the config asks for it."""
    c = config
    # parent=None: the block adopts its parts; otherwise whoever calls this would.
    types: dict[str, Any] = {"dtype": c.dtype, "param_dtype": c.param_dtype, "parent": None}
    # Each layer adds so many terms to the residual stream; this keeps its variance near 1 (GPT-2).
    terms = 2 if c.intermediate_size else 1
    scale = (terms * c.num_layers) ** -0.5
    mixers = {
        "attention": lambda: Attention(
            model_dim=c.hidden_size,
            num_heads=c.num_heads,
            num_kv_heads=c.num_kv_heads,
            head_dim=c.head_dim or c.hidden_size // c.num_heads,
            rope=c.rope,
            qkv_bias=c.qkv_bias,
            output_bias=c.output_bias,
            qk_norm=c.qk_norm,
            norm_eps=c.norm_eps,
            output_init_scale=scale,
            **types,
        ),
        "delta": lambda: GatedDelta(
            model_dim=c.hidden_size,
            config=cast(DeltaConfig, c.delta),
            norm_eps=c.norm_eps,
            output_init_scale=scale,
            **types,
        ),
    }
    block = nn.remat(Block) if c.remat and not c.scan_layers else Block
    mlp = None
    if c.intermediate_size:
        mlp = SwiGLU(c.intermediate_size, c.mlp_bias, scale, **types)
    return block(mixers[kind](), mlp, c.norm_eps, c.param_dtype, name=name)


class _Group(nn.Module):
    """One period of the pattern, in the form that lax.scan wants."""

    config: DecoderConfig

    @nn.compact
    def __call__(
        self, x: jax.Array, positions: jax.Array, segment_ids: jax.Array | None
    ) -> tuple[jax.Array, None]:
        for i, kind in enumerate(self.config.pattern):
            x = _block(self.config, kind, name=f"block_{i}")(x, positions, segment_ids)
        return x, None


def _scanned(config: DecoderConfig) -> nn.Module:
    group = nn.remat(_Group, prevent_cse=False) if config.remat else _Group
    return nn.scan(
        group,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(nn.broadcast, nn.broadcast),
        length=config.num_layers // len(config.pattern),
    )(config)
