"""Decoders whose layers are alike, or alternate by a pattern, by one flat list of sizes."""

import dataclasses
from typing import Any, Literal

from jaxlab import ranges
from jaxlab.models.decoder import DecoderConfig
from jaxlab.models.stacking import shortest_period
from jaxlab.nn.attention import Attention
from jaxlab.nn.delta_config import DeltaConfig
from jaxlab.nn.layers import Layer, Mlp
from jaxlab.nn.mla import MLA
from jaxlab.nn.mlp import SwiGLU
from jaxlab.nn.moe import MoE
from jaxlab.nn.rope import Rope

Kind = Literal["attention", "delta"]


# How a decoder is run, stored and begun, which no HuggingFace checkpoint records.
UNRECORDED = ("dtype", "param_dtype", "scan_layers", "remat", "embedding_std")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The keys `model.sizes` of a config: one attention, one delta layer, one feed-forward width.

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
        mla: latent attention in the place of the attention layers', whose own sizes (num_heads to
            head_dim, rope, and switches) are then not read.
        moe: experts in the place of the feed-forward layers, but for the first `first_dense`.
        first_dense: layers that have a feed-forward layer of intermediate_size all the same; a
            multiple of the pattern's length. Of use with moe alone.
        rope: rotary frequencies of the attention layers; None means none (NoPE).
        norm_eps: of every RMSNorm.
        qkv_bias: see `Attention`, as for output_bias and qk_norm.
        output_bias: see `Attention`.
        mlp_bias: whether the feed-forward layers have biases.
        qk_norm: see `Attention`.
        tie_embeddings: see `DecoderConfig`, as for all that follow.
        max_position: see `DecoderConfig`.
        dtype: see `DecoderConfig`.
        param_dtype: see `DecoderConfig`.
        scan_layers: see `DecoderConfig`.
        remat: see `DecoderConfig`.
        embedding_std: see `DecoderConfig`.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int = 0
    num_kv_heads: int = 0
    head_dim: int | None = None
    pattern: tuple[Kind, ...] = ("attention",)
    delta: DeltaConfig | None = None
    mla: MLA | None = None
    moe: MoE | None = None
    first_dense: int = 0
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
    embedding_std: float = 0.02

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
        self._check_experts()
        if "attention" in self.pattern and self.mla is None:
            self._check_attention()
        if "attention" not in self.pattern and self.mla is not None:
            raise ValueError(f"mla is given, but the pattern {self.pattern} has no attention")
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

    def _check_experts(self) -> None:
        ranges.check(self, "first_dense", least=0, below=ranges.COUNTS)
        if self.first_dense and self.moe is None:
            raise ValueError(f"first_dense is {self.first_dense}, but there is no moe: give one")
        if self.first_dense % len(self.pattern) or self.first_dense > self.num_layers:
            raise ValueError(
                f"first_dense {self.first_dense} must be a multiple of the pattern's "
                f"{len(self.pattern)} layers, and at most num_layers {self.num_layers}"
            )

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

    def decoder(self) -> DecoderConfig:
        """Returns the decoder of these sizes."""
        mlp = SwiGLU(self.intermediate_size, self.mlp_bias) if self.intermediate_size else None
        stacks = []
        mlps: list[tuple[int, Mlp | None]] = [(self.num_layers, mlp)]
        if self.moe is not None:
            mlps = [(self.first_dense, mlp), (self.num_layers - self.first_dense, self.moe)]
        for count, one in mlps:
            layers = tuple(Layer(self._mixer(kind), one) for kind in self.pattern)
            if count:
                stacks.append((count // len(layers), layers))
        return DecoderConfig(
            stacks=tuple(stacks),
            **{name: getattr(self, name) for name in _SHARED},
        )

    @classmethod
    def of(cls, config: DecoderConfig) -> "Sizes":
        """Returns the sizes whose decoder this is.

        Raises:
            ValueError: its layers are not of one pattern, or not of one attention, one delta layer
                and one feed-forward width.
        """
        layers = config.layers
        period = shortest_period(layers)
        odd: set[str] = {layer.mixer.name for layer in layers if isinstance(layer.mixer, MLA)}
        odd |= {layer.mlp.name for layer in layers if isinstance(layer.mlp, MoE)}
        if odd:
            raise ValueError(f"the layers have {' and '.join(sorted(odd))}")
        mlp: Any = _only("mlp", {layer.mlp for layer in layers})
        fields: dict[str, Any] = {
            "num_layers": len(layers),
            "intermediate_size": 0 if mlp is None else mlp.intermediate_size,
            "mlp_bias": mlp is not None and mlp.use_bias,
            "pattern": tuple(layer.mixer.name for layer in period),
        }
        mixers = {layer.mixer for layer in period}
        attention = [mixer for mixer in mixers if isinstance(mixer, Attention)]
        delta = [mixer for mixer in mixers if isinstance(mixer, DeltaConfig)]
        if attention:
            one = _only("attention", set(attention))
            fields |= {name: getattr(one, name) for name in _ATTENTION}
        if delta:
            fields["delta"] = _only("delta", set(delta))
        return cls(**fields, **{name: getattr(config, name) for name in _SHARED})

    def _mixer(self, kind: Kind) -> Attention | DeltaConfig | MLA:
        if kind == "delta":
            assert self.delta is not None
            return self.delta
        if self.mla is not None:
            return self.mla
        return Attention(**{name: getattr(self, name) for name in _ATTENTION})


_SHARED = tuple(
    field.name
    for field in dataclasses.fields(DecoderConfig)
    if field.name not in ("stacks", "family")
)
_ATTENTION = (
    *("num_heads", "num_kv_heads", "head_dim", "rope", "qkv_bias", "output_bias", "qk_norm"),
)


def _only(part: str, found: set) -> Any:
    if len(found) > 1:
        raise ValueError(f"the layers have {len(found)} kinds of {part}, and flat sizes one")
    return next(iter(found))
