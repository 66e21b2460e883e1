"""Config of decoders with gated-delta layers, for transformers with trust_remote_code=True."""

from typing import Any

from transformers import PretrainedConfig


class FG2GDNConfig(PretrainedConfig):
    """Sizes and switches of a decoder whose layers are gated delta rules or softmax attention.

    Attributes:
        vocab_size: rows of the embedding table.
        hidden_size: width of the residual stream.
        intermediate_size: of the feed-forward layers; 0 means layers without one.
        num_hidden_layers: layers.
        layer_types: of each layer, "linear_attention" (the delta rule) or "full_attention".
        delta: of the linear layers: head_dim, num_heads, num_value_heads, expand_value, conv_size,
            form ("symmetric", "left", "gdn2"), decay ("none", "head", "channel"), decay_rank,
            decay_lower_bound, erase ("head", "channel"), erase_rank, write ("same", "head",
            "channel"), write_rank, negative_eigenvalues, output_gate ("none", "sigmoid", "swish"),
            output_gate_rank (ranks of 0 are full), and rule, the name of the whole.
        num_attention_heads: query heads of the full-attention layers.
        num_key_value_heads: their key and value heads.
        head_dim: the size of these heads.
        use_rope: whether they have rotary positions.
        rope_parameters: which, as `transformers.modeling_rope_utils` has them.
        attention_bias: whether their query, key and value projections have biases.
        attention_output_bias: whether their output projection has one.
        qk_norm: RMSNorm on their query and key heads.
        mlp_bias: whether the feed-forward layers have biases.
        norm_eps: of every RMSNorm.
        max_position_embeddings: context length in tokens.
    """

    model_type = "fg2_gdn"
    keys_to_ignore_at_inference = ("past_key_values",)

    def __init__(
        self,
        vocab_size: int = 32_000,
        hidden_size: int = 1024,
        intermediate_size: int = 2816,
        num_hidden_layers: int = 24,
        layer_types: list[str] | None = None,
        delta: dict[str, Any] | None = None,
        num_attention_heads: int = 0,
        num_key_value_heads: int = 0,
        head_dim: int | None = None,
        use_rope: bool = True,
        rope_parameters: dict[str, Any] | None = None,
        attention_bias: bool = False,
        attention_output_bias: bool = False,
        qk_norm: bool = False,
        mlp_bias: bool = False,
        norm_eps: float = 1e-6,
        hidden_act: str = "silu",
        max_position_embeddings: int = 8192,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.layer_types = layer_types or ["linear_attention"] * num_hidden_layers
        self.delta = delta or {}
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads
        self.head_dim = head_dim
        self.use_rope = use_rope
        self.rope_parameters = rope_parameters or {"rope_type": "default", "rope_theta": 10_000.0}
        self.attention_bias = attention_bias
        self.attention_output_bias = attention_output_bias
        self.qk_norm = qk_norm
        self.mlp_bias = mlp_bias
        self.norm_eps = norm_eps
        self.hidden_act = hidden_act
        self.max_position_embeddings = max_position_embeddings
        super().__init__(**kwargs)
