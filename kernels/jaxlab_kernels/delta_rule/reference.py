"""The recurrence, one token after another: the definition that the other forms are held to."""

import jax
import jax.numpy as jnp

from jaxlab_kernels.delta_rule.rule import Inputs, Rule, log_decays, operands


def recurrence(
    rule: Rule, inputs: Inputs, *, scale: float, chunk_size: int | None = None
) -> tuple[jax.Array, jax.Array]:
    """Gated delta rule by `lax.scan` over time, in float32 (float64 if given).

    For every token: decay the state, read it along a, write the difference to z along b, read
    the result along q (order of Gated DeltaNet and Kimi Delta Attention):

        S' = diag(exp(log_decay)) S,  u = z - a^T S',  S = S' + b u^T,  out = scale S^T q.

    Args:
        rule: gives a, b and z.
        inputs: see `Inputs`.
        scale: factor of the output.
        chunk_size: has no meaning here.

    Returns:
        out [B, T, HV, Dv] in the dtype of v, and the last state [B, HV, Dk, Dv].
    """
    del chunk_size
    dtype = inputs.initial_state.dtype
    q, a, b, z = operands(rule, dtype, inputs.q, inputs.k, inputs.v, inputs.erase, inputs.write)
    decay = jnp.exp(log_decays(dtype, inputs.log_decay, inputs.v))

    def token(state, inputs_t):
        q_t, a_t, b_t, z_t, decay_t = inputs_t
        state = decay_t[..., None] * state
        u_t = z_t - jnp.einsum("bhk,bhkv->bhv", a_t, state, precision="highest")
        state = state + b_t[..., None] * u_t[..., None, :]
        return state, scale * jnp.einsum("bhk,bhkv->bhv", q_t, state, precision="highest")

    time_major = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), (q, a, b, z, decay))
    state, out = jax.lax.scan(token, inputs.initial_state, time_major)
    return jnp.moveaxis(out, 0, 1).astype(inputs.v.dtype), state
