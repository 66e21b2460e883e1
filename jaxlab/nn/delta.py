"""The gated-delta layer: DeltaNet, GDN, KDA, FG2-GDN, FG2-GDN+ and Gated DeltaNet-2.

A mixer with a state of fixed size instead of a cache that grows. Parameters, [in, out], with H Dk
and HV Dv as in `DeltaConfig`:

    query, key/kernel [d, H Dk]     value/kernel [d, HV Dv]     {query,key,value}_conv/taps [W, .]
    decay/project/...  [d, HV] or [d, HV Dk]     decay/A_log [HV]     decay/dt_bias [HV or HV Dk]
    erase/...  [d, HV] or [d, HV Dk]     write/...  [d, HV] or [d, HV Dv]     gate/...  [d, HV Dv]
    output_norm/scale [Dv]          output/kernel [HV Dv, d]

where "..." is kernel, or reduce/kernel [d, rank] and expand/kernel [rank, out] (and expand/bias).
"""

from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike
from jaxlab_kernels import gated_delta_from_logits, gated_delta_step
from jaxlab_kernels.delta_rule import Rule

from jaxlab.nn.context import CacheKind, Context, repeat_rows
from jaxlab.nn.delta_config import DeltaConfig
from jaxlab.nn.gates import LogDecay, projection
from jaxlab.nn.linear import Linear
from jaxlab.nn.norm import RMSNorm
from jaxlab.nn.short_conv import ShortConv
from jaxlab.runtime.sharding import dividing, shard_call

# Queries and keys are divided by sqrt(|x|^2 + this), as in the released GDN and KDA.
NORM_EPS = 1e-6


class DeltaCache(NamedTuple):
    """What the layer keeps of the tokens so far.

    Attributes:
        query: [B, W - 1, H Dk], inputs of the query's convolution; nothing where W is 0.
        key: [B, W - 1, H Dk].
        value: [B, W - 1, HV Dv].
        state: [B, HV, Dk, Dv], float32 whatever the compute dtype.
    """

    query: jax.Array
    key: jax.Array
    value: jax.Array
    state: jax.Array

    def repeat(self, times: int) -> "DeltaCache":
        """Returns the cache with each row `times` times in succession."""
        return repeat_rows(self, times)


class GatedDelta(nn.Module):
    """Projections, short convolutions, gates, gated delta rule, gated norm, output projection.

    Attributes:
        config: sizes and switches.
        model_dim: d.
        norm_eps: of the output's RMSNorm.
        output_init_scale: of the output projection.
        dtype: compute dtype; convolutions, decays, gates and the state are float32.
        param_dtype: storage dtype.
    """

    config: DeltaConfig
    model_dim: int
    norm_eps: float = 1e-6
    output_init_scale: float = 1.0
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Create the parts that the config asks for."""
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        c, s = self.config.resolved(self.model_dim), self.config.switches
        self.switches, self.sizes = s, c.sizes(self.model_dim)
        heads, value_heads, key_dim, value_dim = self.sizes
        key_width, value_width = heads * key_dim, value_heads * value_dim
        self.query = Linear(key_width, **types)
        self.key = Linear(key_width, **types)
        self.value = Linear(value_width, **types)
        self.query_conv = ShortConv(key_width, c.conv_size, self.param_dtype)
        self.key_conv = ShortConv(key_width, c.conv_size, self.param_dtype)
        self.value_conv = ShortConv(value_width, c.conv_size, self.param_dtype)
        if s.decay != "none":
            channels = key_dim if s.decay == "channel" else 1
            rank = cast(int, c.decay_rank)
            self.decay = LogDecay(value_heads, channels, rank, c.decay_lower_bound, **types)
        channels = key_dim if s.erase == "channel" else 1
        self.erase = projection(value_heads * channels, c.erase_rank, **types)
        if s.write != "same":
            channels = value_dim if s.write == "channel" else 1
            self.write = projection(value_heads * channels, c.write_rank, **types)
        if s.output_gate != "none":
            rank = cast(int, c.output_gate_rank)
            self.gate = projection(value_width, rank, use_bias=rank > 0, **types)
        self.output_norm = RMSNorm(self.norm_eps, self.param_dtype)
        self.output = Linear(self.model_dim, False, self.output_init_scale, **types)
        gate_scale = 2.0 if c.negative_eigenvalues else 1.0
        self.rule = Rule(s.form, logits=True, gate_scale=gate_scale, norm_eps=NORM_EPS)

    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        """[B, T, d] -> [B, T, d]; positions do not matter.

        A segment begins with an empty state and sees no token of another. Segment 0 is padding:
        what stands there reaches nothing, not even as NaN, and its output is 0.
        """
        return self._mix(x, context.segment_ids)[0]

    def empty_cache(self, batch: int, kind: CacheKind) -> DeltaCache:
        """Returns an empty state and empty windows of the convolutions; `kind` is for attention."""
        # Called without parameters, so that nothing of `setup` is there.
        heads, value_heads, key_dim, value_dim = self.config.sizes(self.model_dim)
        seen = max(self.config.conv_size - 1, 0)
        widths = (heads * key_dim, heads * key_dim, value_heads * value_dim)
        query, key, value = (jnp.zeros((batch, seen, width), self.dtype) for width in widths)
        state = jnp.zeros((batch, value_heads, key_dim, value_dim), jnp.float32)
        return DeltaCache(query, key, value, state)

    def prefill(
        self, x: jax.Array, context: Context, cache: DeltaCache
    ) -> tuple[jax.Array, DeltaCache]:
        """As `__call__`, and the cache behind the last token."""
        return self._mix(x, context.segment_ids)

    def extend(
        self, x: jax.Array, context: Context, cache: DeltaCache
    ) -> tuple[jax.Array, DeltaCache]:
        """Reads N more tokens per row, [B, N, d] -> [B, N, d], into the cache."""
        query, query_tail = self.query_conv.step(self.query(x), cache.query)
        key, key_tail = self.key_conv.step(self.key(x), cache.key)
        value, value_tail = self.value_conv.step(self.value(x), cache.value)
        y, state = self._rule(x, query, key, value, initial_state=cache.state)
        return self._read(x, y), DeltaCache(query_tail, key_tail, value_tail, state)

    def _mix(self, x: jax.Array, segment_ids: jax.Array | None) -> tuple[jax.Array, DeltaCache]:
        if segment_ids is not None:
            # Here and not only in the rule: else the projections' gradients would meet the padding.
            x = jnp.where(segment_ids[..., None] == 0, 0, x)
        query, key, value = self.query(x), self.key(x), self.value(x)
        y, state = self._rule(
            x,
            self.query_conv(query, segment_ids),
            self.key_conv(key, segment_ids),
            self.value_conv(value, segment_ids),
            segment_ids=segment_ids,
        )
        cache = DeltaCache(
            self.query_conv.tail(query), self.key_conv.tail(key), self.value_conv.tail(value), state
        )
        return self._read(x, y), cache

    def _rule(
        self,
        x: jax.Array,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        segment_ids: jax.Array | None = None,
        initial_state: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Output [B, T, HV, Dv] and last state, from the input and what the convolutions gave."""
        arrays = (*self._heads(query, key, value), *self._gates(x))
        one = x.shape[1] == 1 and initial_state is not None
        # Rows and heads do not know of each other: each device computes its own.
        rows = dividing("data", x.shape[0])
        heads = dividing("model", self.sizes.heads, self.sizes.value_heads)
        call = shard_call(
            self._one_token if one else self._tokens,
            ((rows, None, heads), (rows, heads), (rows,)),
            (PartitionSpec(rows, None, heads), PartitionSpec(rows, heads)),
        )
        return call(arrays, initial_state, segment_ids)

    def _tokens(self, arrays, initial_state, segment_ids):
        return gated_delta_from_logits(
            *arrays,
            gate_scale=self.rule.gate_scale,
            norm_eps=self.rule.norm_eps,
            form=self.rule.form,
            initial_state=initial_state,
            segment_ids=segment_ids,
        )

    def _one_token(self, arrays, state, _):
        arrays = jax.tree.map(lambda x: x[:, 0], arrays)
        y, state = gated_delta_step(*arrays, state=state, rule=self.rule)
        return y[:, None], state

    def _heads(
        self, query: jax.Array, key: jax.Array, value: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Query and key [B, T, H, Dk], value [B, T, HV, Dv], from what the convolutions gave."""
        query, key, value = (nn.silu(x).astype(self.dtype) for x in (query, key, value))
        if self.switches.form == "gdn2" and self.config.negative_eigenvalues:
            # The rule doubles both gates, and only the erase gate is to be.
            value = value * 0.5
        _, _, key_dim, value_dim = self.sizes
        return _split(query, key_dim), _split(key, key_dim), _split(value, value_dim)

    def _gates(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """Log decay, and logits of the erase and the write gate, if there is one.

        Each [B, T, HV, .] where it is per channel and [B, T, HV] where it is per head.
        """
        s = self.switches
        erase, write = self.erase(x), None
        if s.write != "same":
            write = self.write(x)
            write = _split(write, self.sizes.value_dim) if s.write == "channel" else write
        if s.decay == "none":
            decay = jnp.zeros_like(erase[..., : self.sizes.value_heads], jnp.float32)
        else:
            decay = self.decay(x)
            decay = decay if s.decay == "channel" else decay[..., 0]
        erase = _split(erase, self.sizes.key_dim) if s.erase == "channel" else erase
        return decay, erase, write

    def _read(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """The rule's output [B, T, HV, Dv], normed, gated and projected -> [B, T, d]."""
        y = self.output_norm(y)
        if self.switches.output_gate != "none":
            activation = {"sigmoid": nn.sigmoid, "swish": nn.silu}[self.switches.output_gate]
            gate = _split(self.gate(x).astype(jnp.float32), y.shape[-1])
            y = (activation(gate) * y).astype(y.dtype)
        return self.output(y.reshape(*y.shape[:2], -1))


def _split(x: jax.Array, dim: int) -> jax.Array:
    """[..., N dim] -> [..., N, dim]."""
    return x.reshape(*x.shape[:-1], -1, dim)
