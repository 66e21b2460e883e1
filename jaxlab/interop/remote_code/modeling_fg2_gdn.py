"""Decoders with gated-delta layers in PyTorch, for transformers with trust_remote_code=True.

B batch, T tokens, H heads of queries and keys of size Dk, HV heads of values of size Dv; value head
i goes with key head i // (HV / H). The delta rule runs in float32 as a recurrence over tokens, on
any device. Where flash-linear-attention is installed and the tensors are on a GPU, the symmetric
rules (DeltaNet, GDN, KDA, FG2-GDN, FG2-GDN+) run on its KDA kernel.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from .configuration_fg2_gdn import FG2GDNConfig

try:
    from fla.ops.kda import chunk_kda
except ImportError:
    chunk_kda = None

# Queries and keys are divided by sqrt(|x|^2 + this).
L2_EPS = 1e-6


class FG2GDNCache:
    """What decoding keeps of the tokens so far: a tuple of tensors per layer, batch first.

    Attributes:
        layers: (query tail, key tail, value tail, state) of a delta layer, the state float32
            [B, HV, Dk, Dv]; (keys, values), each [B, KV, S, D], of an attention layer; None before
            the first token.
        length: tokens seen, padding included.
    """

    is_compileable = False

    def __init__(self, num_layers: int) -> None:
        self.layers: list[tuple[torch.Tensor, ...] | None] = [None] * num_layers
        self.length = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens seen so far."""
        return self.length

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Row i becomes what row beam_idx[i] was."""
        self.layers = [
            None if layer is None else tuple(x.index_select(0, beam_idx) for x in layer)
            for layer in self.layers
        ]


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight, the quotient in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., d] -> [..., d]."""
        wide = x.float()
        inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * (wide * inverse).to(x.dtype)


class ShortConv(nn.Conv1d):
    """Causal convolution over time, each channel by itself; its weight is [C, 1, W]."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(channels, channels, width, groups=channels, bias=False)

    def forward(self, x: torch.Tensor, tail: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, T, C] behind the tail [B, W - 1, C]: float32 [B, T, C], and the next tail."""
        seen = torch.cat([tail, x], 1)
        y = F.conv1d(seen.float().transpose(1, 2), self.weight.float(), groups=self.groups)
        return y.transpose(1, 2), seen[:, x.shape[1] :]


def projection(size: int, features: int, rank: int, bias: bool = False) -> nn.Module:
    """A linear layer for rank 0, else one through `rank` channels, with the bias behind both."""
    if not rank:
        return nn.Linear(size, features, bias=bias)
    return nn.Sequential(nn.Linear(size, rank, bias=False), nn.Linear(rank, features, bias=bias))


def recurrent_delta(
    q: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    z: torch.Tensor,
    log_decay: torch.Tensor,
    state: torch.Tensor,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """S' = diag(exp(log_decay)) S;  S = S' + b (z - a^T S')^T;  out = scale S^T q.

    Args:
        q: [B, T, HV, Dk], as are a and b.
        a: what the decayed state is read along.
        b: what is written along.
        z: [B, T, HV, Dv], what the reading should be.
        log_decay: [B, T, HV, Dk or 1].
        state: [B, HV, Dk, Dv].
        scale: factor of the output.

    Returns:
        out [B, T, HV, Dv], and the last state.
    """
    outputs = []
    decay = log_decay.exp()
    for t in range(q.shape[1]):
        state = decay[:, t, :, :, None] * state
        error = z[:, t] - torch.einsum("bhk,bhkv->bhv", a[:, t], state)
        state = state + b[:, t, :, :, None] * error[:, :, None]
        outputs.append(scale * torch.einsum("bhk,bhkv->bhv", q[:, t], state))
    return torch.stack(outputs, 1), state


class GatedDelta(nn.Module):
    """Projections, short convolutions, gates, delta rule, gated norm, output projection."""

    def __init__(self, config: FG2GDNConfig) -> None:
        super().__init__()
        c = self.config = dict(config.delta)
        size = config.hidden_size
        self.heads, self.value_heads = c["num_heads"], c["num_value_heads"]
        self.key_dim = c["head_dim"]
        self.value_dim = round(c["expand_value"] * c["head_dim"])
        self.widths = (self.heads * self.key_dim,) * 2 + (self.value_heads * self.value_dim,)
        self.q_proj, self.k_proj, self.v_proj = (
            nn.Linear(size, width, bias=False) for width in self.widths
        )
        if c["conv_size"]:
            self.q_conv1d, self.k_conv1d, self.v_conv1d = (
                ShortConv(width, c["conv_size"]) for width in self.widths
            )
        if c["decay"] != "none":
            features = self.value_heads * (self.key_dim if c["decay"] == "channel" else 1)
            if c["decay"] == "channel":
                self.f_proj = projection(size, features, c["decay_rank"])
            else:
                self.a_proj = nn.Linear(size, features, bias=False)
            self.A_log = nn.Parameter(torch.zeros(self.value_heads))
            self.dt_bias = nn.Parameter(torch.zeros(features))
        channels = self.key_dim if c["erase"] == "channel" else 1
        self.b_proj = projection(size, self.value_heads * channels, c["erase_rank"])
        if c["write"] != "same":
            channels = self.value_dim if c["write"] == "channel" else 1
            self.w_proj = projection(size, self.value_heads * channels, c["write_rank"])
        if c["output_gate"] != "none":
            rank = c["output_gate_rank"]
            self.g_proj = projection(size, self.widths[2], rank, bias=rank > 0)
        self.o_norm = RMSNorm(self.value_dim, config.norm_eps)
        self.o_proj = nn.Linear(self.widths[2], size, bias=False)

    def forward(
        self, x: torch.Tensor, valid: torch.Tensor | None, cache: tuple[torch.Tensor, ...] | None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """[B, T, d] behind what the cache holds -> [B, T, d], and the cache with it.

        Where `valid`, bool [B, T], is False, a token leaves the state alone.
        """
        if valid is not None:
            x = x.masked_fill(~valid[..., None], 0)
        cache = cache or self._empty(x)
        (q, k, v), tails = self._inputs(x, cache[:3])
        q, a, b, z = self._operands(x, q, k, v)
        log_decay = self._log_decay(x)
        if valid is not None:
            log_decay = log_decay.masked_fill(~valid[..., None, None], 0)
        if self.runs_on_fla(x):
            y, state = chunk_kda(**self.kda_arguments(q, a, z, log_decay, cache[3], x.dtype))
        else:
            y, state = recurrent_delta(q, a, b, z, log_decay, cache[3], self.key_dim**-0.5)
        y = self.o_norm(y.to(x.dtype))
        if self.config["output_gate"] != "none":
            activation = {"sigmoid": torch.sigmoid, "swish": F.silu}[self.config["output_gate"]]
            gate = self.g_proj(x).float().unflatten(-1, (-1, self.value_dim))
            y = (activation(gate) * y).to(x.dtype)
        return self.o_proj(y.flatten(-2)), (*tails, state)

    def runs_on_fla(self, x: torch.Tensor) -> bool:
        """Whether the rule of an input like this one runs on flash-linear-attention's kernel."""
        return chunk_kda is not None and x.is_cuda and self.config["form"] == "symmetric"

    def kda_arguments(
        self,
        q: torch.Tensor,
        a: torch.Tensor,
        z: torch.Tensor,
        log_decay: torch.Tensor,
        state: torch.Tensor,
        dtype: torch.dtype,
    ) -> dict[str, Any]:
        """What makes KDA's kernel compute a symmetric rule: scaled keys and values, beta = 1."""
        return {
            "q": q.to(dtype),
            "k": a.to(dtype),
            "v": z.to(dtype),
            "g": log_decay.expand_as(a).contiguous(),
            "beta": torch.ones_like(a[..., 0], dtype=dtype),
            "scale": self.key_dim**-0.5,
            "initial_state": state.contiguous(),
            "output_final_state": True,
            "use_qk_l2norm_in_kernel": False,
        }

    def _empty(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        kept = max(self.config["conv_size"] - 1, 0)
        tails = (x.new_zeros(x.shape[0], kept, width) for width in self.widths)
        shape = (x.shape[0], self.value_heads, self.key_dim, self.value_dim)
        return (*tails, x.new_zeros(shape, dtype=torch.float32))

    def _inputs(
        self, x: torch.Tensor, tails: tuple[torch.Tensor, ...]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Query and key [B, T, H, Dk], value [B, T, HV, Dv]; and the tails behind them."""
        inputs = [self.q_proj(x), self.k_proj(x), self.v_proj(x)]
        next_tails = list(tails)
        if self.config["conv_size"]:
            convs = (self.q_conv1d, self.k_conv1d, self.v_conv1d)
            for i, conv in enumerate(convs):
                inputs[i], next_tails[i] = conv(inputs[i], tails[i])
        sizes = (self.key_dim, self.key_dim, self.value_dim)
        split = [
            F.silu(y).to(x.dtype).unflatten(-1, (-1, size))
            for y, size in zip(inputs, sizes, strict=True)
        ]
        return split, next_tails

    def _operands(
        self, x: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """(q, a, b, z) of the rule in float32, each on the HV heads of values."""
        q, k, v = q.float(), k.float(), v.float()
        q, k = (x * torch.rsqrt(x.square().sum(-1, keepdim=True) + L2_EPS) for x in (q, k))
        groups = self.value_heads // self.heads
        q, k = q.repeat_interleave(groups, 2), k.repeat_interleave(groups, 2)
        form, doubled = self.config["form"], self.config["negative_eigenvalues"]
        erase = self._logits(self.b_proj(x))
        write = erase if self.config["write"] == "same" else self._logits(self.w_proj(x))
        factor = 2.0 if doubled else 1.0
        if form == "symmetric":
            a = (factor * torch.sigmoid(erase)).sqrt() * k
            return q, a, a, (factor * torch.sigmoid(write)).sqrt() * v
        gate = factor * torch.sigmoid(erase)
        if form == "left":
            return q, k, gate * k, v
        # Gated DeltaNet-2, which doubles the erase gate alone.
        return q, gate * k, k, torch.sigmoid(write) * v

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        """Float32 [B, T, HV, channels]."""
        return x.float().unflatten(-1, (self.value_heads, -1))

    def _log_decay(self, x: torch.Tensor) -> torch.Tensor:
        """Float32 [B, T, HV, Dk or 1], at most 0."""
        if self.config["decay"] == "none":
            return x.new_zeros((*x.shape[:2], self.value_heads, 1), dtype=torch.float32)
        project = self.f_proj if self.config["decay"] == "channel" else self.a_proj
        step = self._logits(project(x)) + self.dt_bias.float().view(self.value_heads, -1)
        rate, lower_bound = self.A_log.float().exp()[:, None], self.config["decay_lower_bound"]
        if lower_bound is None:
            return -rate * F.softplus(step)
        return lower_bound * torch.sigmoid(rate * step)


class Attention(nn.Module):
    """Grouped-query softmax attention, with or without rotary positions."""

    def __init__(self, config: FG2GDNConfig) -> None:
        super().__init__()
        self.config = config
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        size, bias = config.hidden_size, config.attention_bias
        self.dim = config.head_dim or size // heads
        self.q_proj = nn.Linear(size, heads * self.dim, bias=bias)
        self.k_proj = nn.Linear(size, kv_heads * self.dim, bias=bias)
        self.v_proj = nn.Linear(size, kv_heads * self.dim, bias=bias)
        self.o_proj = nn.Linear(heads * self.dim, size, bias=config.attention_output_bias)
        if config.qk_norm:
            self.q_norm = RMSNorm(self.dim, config.norm_eps)
            self.k_norm = RMSNorm(self.dim, config.norm_eps)

    def forward(
        self,
        x: torch.Tensor,
        positions: torch.Tensor,
        seen: torch.Tensor,
        cache: tuple[torch.Tensor, ...] | None,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """[B, T, d] at positions [B, T], of S keys those that are seen, bool [B, 1, T, S]."""
        q, k, v = (
            project(x).unflatten(-1, (-1, self.dim)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.config.use_rope:
            q, k = self._rotate(q, positions), self._rotate(k, positions)
        if cache is not None:
            k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
        groups = q.shape[1] // k.shape[1]
        keys, values = (heads.repeat_interleave(groups, 1) for heads in (k, v))
        y = F.scaled_dot_product_attention(q, keys, values, attn_mask=seen)
        return self.o_proj(y.transpose(1, 2).flatten(-2)), (k, v)

    def _rotate(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Rotate the pairs (x[i], x[i + D/2]) of [B, heads, T, D], in float32."""
        frequencies, factor = self._frequencies(x.device)
        angles = positions[:, None, :, None].float() * frequencies
        cos, sin = angles.cos() * factor, angles.sin() * factor
        first, second = x.float().chunk(2, -1)
        turned = torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
        return turned.to(x.dtype)

    def _frequencies(self, device: torch.device) -> tuple[torch.Tensor, float]:
        parameters = self.config.rope_parameters
        rule = parameters["rope_type"]
        if rule != "default":
            return ROPE_INIT_FUNCTIONS[rule](self.config, device)
        exponents = torch.arange(0, self.dim, 2, device=device).float() / self.dim
        return 1.0 / parameters["rope_theta"] ** exponents, 1.0


class MLP(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: FG2GDNConfig) -> None:
        super().__init__()
        size, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = nn.Linear(size, inner, bias=bias)
        self.up_proj = nn.Linear(size, inner, bias=bias)
        self.down_proj = nn.Linear(inner, size, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., d] -> [..., d]."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """x + attn(norm(x)), then x + mlp(norm(x)) where there is an mlp."""

    def __init__(self, config: FG2GDNConfig, kind: str) -> None:
        super().__init__()
        self.is_delta = kind == "linear_attention"
        self.attn_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.attn = GatedDelta(config) if self.is_delta else Attention(config)
        if config.intermediate_size:
            self.mlp_norm = RMSNorm(config.hidden_size, config.norm_eps)
            self.mlp = MLP(config)
        self.has_mlp = config.intermediate_size > 0

    def forward(
        self,
        x: torch.Tensor,
        positions: torch.Tensor,
        valid: torch.Tensor | None,
        seen: torch.Tensor,
        cache: tuple[torch.Tensor, ...] | None,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """[B, T, d] -> [B, T, d], and the layer's cache."""
        normed = self.attn_norm(x)
        if self.is_delta:
            y, cache = self.attn(normed, valid, cache)
        else:
            y, cache = self.attn(normed, positions, seen, cache)
        x = x + y
        return (x + self.mlp(self.mlp_norm(x)) if self.has_mlp else x), cache


class FG2GDNPreTrainedModel(PreTrainedModel):
    """What the model and the language model have in common."""

    config_class = FG2GDNConfig
    base_model_prefix = "model"
    _no_split_modules = ("Layer",)
    _keep_in_fp32_modules_strict = ("A_log", "dt_bias")
    _supports_sdpa = True


class FG2GDNModel(FG2GDNPreTrainedModel):
    """Embeddings, layers and the last norm."""

    def __init__(self, config: FG2GDNConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, kind) for kind in config.layer_types)
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The embedding table."""
        return self.embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put another table in its place."""
        self.embeddings = value

    def forward(
        self,
        x: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        cache: FG2GDNCache,
    ) -> torch.Tensor:
        """Normed hidden states [B, T, d] of embedded tokens [B, T, d]; the cache moves on.

        Args:
            x: embedded tokens.
            attention_mask: [B, S], 0 for padding, over the tokens in the cache and these.
            position_ids: [B, T]; by default each row counts its tokens without the padding.
            cache: changed in place.
        """
        tokens, past = x.shape[1], cache.length
        total = past + tokens
        own = torch.arange(past, total, device=x.device)
        slots = torch.arange(total, device=x.device)
        seen = (slots <= own[:, None])[None, None]
        positions, valid = own[None], None
        if attention_mask is not None:
            kept = attention_mask.bool()
            positions = (kept.long().cumsum(1) - 1).clamp(min=0)[:, past:]
            valid = kept[:, past:]
            # Padding sees itself: a softmax over nothing would be NaN.
            seen = (seen & kept[:, None, None]) | (slots == own[:, None])
        if position_ids is not None:
            positions = position_ids
        for i, layer in enumerate(self.layers):
            x, cache.layers[i] = layer(x, positions, valid, seen, cache.layers[i])
        cache.length = total
        return self.norm(x)


class FG2GDNForCausalLM(FG2GDNPreTrainedModel, GenerationMixin):
    """The model and its unembedding matrix."""

    _tied_weights_keys = {"lm_head.weight": "model.embeddings.weight"}  # noqa: RUF012

    def __init__(self, config: FG2GDNConfig) -> None:
        super().__init__(config)
        self.model = FG2GDNModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        # forward makes the cache.
        return False

    def get_input_embeddings(self) -> nn.Module:
        """The embedding table."""
        return self.model.embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put another table in its place."""
        self.model.embeddings = value

    def get_output_embeddings(self) -> nn.Module:
        """The unembedding matrix."""
        return self.lm_head

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        past_key_values: FG2GDNCache | None = None,
        attention_mask: torch.Tensor | None = None,
        use_cache: bool = True,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The arguments of the next call: the tokens that the cache has not seen."""
        past = past_key_values.length if past_key_values is not None else 0
        return {
            "input_ids": input_ids[:, past:],
            "past_key_values": past_key_values,
            "attention_mask": attention_mask,
            "use_cache": use_cache,
        }

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: FG2GDNCache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Float32 logits [B, T, V] of tokens [B, T], or of the last `logits_to_keep` of them."""
        x = self.model.embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        cache = past_key_values
        if cache is None:
            cache = FG2GDNCache(self.config.num_hidden_layers)
        x = self.model(x, attention_mask, position_ids, cache)
        logits = self.lm_head(x[:, -logits_to_keep:]).float()
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=cache if use_cache is not False else None
        )
