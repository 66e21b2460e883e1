"""A feed-forward layer of experts, of which a router chooses some for each token."""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxlab import ranges
from jaxlab.nn.context import Context
from jaxlab.nn.experts import experts
from jaxlab.nn.mlp import SwiGLU, SwiGLULayer
from jaxlab.nn.routing import Router, load, route
from jaxlab.runtime.sharding import dividing, shard_call


@dataclasses.dataclass(frozen=True)
class MoE:
    """A mixture of experts, each a gated feed-forward layer (`jaxlab.nn.mlp.SwiGLU`).

    Attributes:
        intermediate_size: f, inner width of each expert.
        router: how many there are, and how they are chosen.
        shared_size: inner width of the experts that read every token; 0 is none.
        implementation: of `jaxlab.nn.experts`; None is the platform's.
        name: the tag of this layer in a config.
    """

    intermediate_size: int
    router: Router
    shared_size: int = 0
    implementation: str | None = None
    name: Literal["moe"] = "moe"

    def __post_init__(self) -> None:
        """Check the widths."""
        ranges.check_counts(self, "intermediate_size")
        ranges.check(self, "shared_size", least=0, below=ranges.COUNTS)

    def module(self, **shared: Any) -> nn.Module:
        """Returns the layer; see `jaxlab.nn.layers.Mlp` for what all of them share."""
        return MoELayer(self, **shared)


class _Gate(nn.Module):
    """Logits [N, E] of a router, in float32, and its correction [E] or None."""

    router: Router
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        shape = (x.shape[-1], self.router.num_experts)
        init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        kernel = self.param("kernel", init, shape, self.param_dtype)
        correction = None
        if self.router.correction:
            # A bias by name: no weight decay draws it to zero.
            correction = self.param(
                "correction_bias", nn.initializers.zeros, shape[1:], jnp.float32
            )
        wide = jnp.promote_types(x.dtype, jnp.float32)
        return x.astype(wide) @ kernel.astype(wide), correction


class _Matrices(nn.Module):
    """One matrix [in, out] for each expert."""

    shape: tuple[int, int, int]
    param_dtype: DTypeLike
    init_scale: float = 1.0

    @nn.compact
    def __call__(self) -> jax.Array:
        init = nn.initializers.variance_scaling(
            self.init_scale**2, "fan_in", "normal", batch_axis=(0,)
        )
        return self.param("kernel", init, self.shape, self.param_dtype)


class _Experts(nn.Module):
    """All experts' matrices gate and up [E, d, f] and down [E, f, d]."""

    num_experts: int
    model_dim: int
    intermediate_size: int
    output_init_scale: float
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        e, d, f = self.num_experts, self.model_dim, self.intermediate_size
        return (
            _Matrices((e, d, f), self.param_dtype, name="gate")(),
            _Matrices((e, d, f), self.param_dtype, name="up")(),
            _Matrices((e, f, d), self.param_dtype, self.output_init_scale, name="down")(),
        )


class MoELayer(nn.Module):
    """sum_j w_j expert_j(x) + shared(x); no token is dropped.

    Sows into the collection "aux" its `load`, a `jaxlab.nn.routing.Load` over the tokens that are
    no padding.

    Attributes:
        config: sizes and switches.
        model_dim: d.
        output_init_scale: of the last projections.
        dtype: compute dtype; the router's is float32.
        param_dtype: storage dtype.
    """

    config: MoE
    model_dim: int
    output_init_scale: float = 1.0
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, context: Context | None = None) -> jax.Array:
        """[B, T, d] -> [B, T, d]; padding, segment 0 of the context, reads shared experts alone."""
        c = self.config
        flat = x.reshape(-1, self.model_dim)
        routed = route(*_Gate(c.router, self.param_dtype, name="router")(flat), c.router)
        segments = None if context is None else context.segment_ids
        counts = None if segments is None else segments.reshape(-1) > 0
        self.sow("aux", "load", load(routed, counts))
        ids = routed.ids if counts is None else jnp.where(counts[:, None], routed.ids, -1)
        matrices = _Experts(
            c.router.num_experts, self.model_dim, c.intermediate_size, self.output_init_scale,
            self.param_dtype, name="experts",
        )()  # fmt: skip
        front = x.shape[:-1]
        y = _over_devices(
            x.astype(self.dtype), ids.reshape(*front, -1), routed.weights.reshape(*front, -1),
            matrices, c.implementation,
        )  # fmt: skip
        if not c.shared_size:
            return y
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        shared = SwiGLULayer(
            SwiGLU(c.shared_size), self.model_dim, self.output_init_scale, name="shared", **types
        )
        return y + shared(x)


def _over_devices(
    x: jax.Array,
    ids: jax.Array,
    weights: jax.Array,
    matrices: tuple[jax.Array, jax.Array, jax.Array],
    implementation: str | None,
) -> jax.Array:
    """`experts` on each device's rows and experts of the ambient mesh, [B, T, d].

    A device of the axis "expert" has E / n experts and computes their part of every token of its
    rows; one of the axis "model" a slice of each expert's inner width. The parts are added up.
    """
    count, _, width = matrices[0].shape
    rows = dividing("data", x.shape[0])
    by_expert, by_width = dividing("expert", count), dividing("model", width)
    parts = tuple(axis for axis in (by_expert, by_width) if axis) or None

    def call(x, ids, weights, gate, up, down):
        if gate.shape[0] < count:
            # Others' experts have numbers outside this device's.
            ids = ids - jax.lax.axis_index("expert") * gate.shape[0]
        shape = x.shape
        x, ids, weights = (array.reshape(-1, array.shape[-1]) for array in (x, ids, weights))
        y = experts(x, ids, weights, gate, up, down, among=count, implementation=implementation)
        return y.reshape(1, *shape)

    inner = jax.P(by_expert, None, by_width)
    specs = (*(jax.P(rows),) * 3, inner, inner, jax.P(by_expert, by_width))
    return jnp.sum(shard_call(call, specs, jax.P(parts, rows))(x, ids, weights, *matrices), axis=0)
