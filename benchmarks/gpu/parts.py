"""What `gpu_check.py` computes on accelerator and CPU: decoder, sampling, loss, kernel.

What a part needs beside jax is imported when the part is made.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxlab_kernels import gated_delta
from jaxlab_kernels.delta_rule import cases


@dataclasses.dataclass(frozen=True)
class Part:
    """One computation.

    Attributes:
        call: what runs on the accelerator, a function of the arguments.
        arguments: NumPy arrays and trees of arrays.
        exact: what runs on the CPU in float64 instead of `call` in float32; None: `call`.
    """

    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    exact: Callable[..., Any] | None = None


def decoder_part() -> Part:
    """Logits of a small decoder."""
    decoder, params, tokens = _small_decoder()

    def logits(params: Any, tokens: jax.Array) -> jax.Array:
        return decoder.apply({"params": params}, tokens)

    return Part(jax.jit(logits), (params, tokens))


def decoding_part() -> Part:
    """32 tokens after prompts of different lengths, greedily."""
    from jaxlab.sampling import SamplingConfig, generate

    decoder, params, tokens = _small_decoder()
    lengths = np.random.default_rng(0).integers(1, 129, 8).astype(np.int32)
    greedy = SamplingConfig(max_new_tokens=32, temperature=0.0)

    def decode(params: Any, tokens: jax.Array, lengths: jax.Array) -> dict[str, jax.Array]:
        out = generate(decoder, params, tokens, lengths, jax.random.key(0), greedy)
        return {"tokens": out.tokens, "logprobs": out.logprobs}

    return Part(decode, (params, tokens, lengths))


def loss_part() -> Part:
    """AOPD over 32 768 words in chunks, with both its gradients."""
    from jaxlab.losses import chunked_vocab
    from jaxlab.losses.methods.aopd import Aopd
    from jaxlab.losses.types import Tokens

    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(2, 4, 64, 128)).astype(np.float32)
    tables = rng.normal(size=(2, 32_768, 128)).astype(np.float32) / 8
    targets = rng.integers(0, 32_768, (4, 64)).astype(np.int32)
    mask = np.ones((4, 64), bool)

    def loss(student: jax.Array, table: jax.Array, teacher: jax.Array, other: jax.Array) -> Any:
        def value(student: jax.Array, table: jax.Array) -> jax.Array:
            return chunked_vocab.loss(
                Aopd(), student, table, Tokens(tokens=targets), mask, teacher=(teacher, other)
            )[0]

        value, (d_student, d_table) = jax.value_and_grad(value, argnums=(0, 1))(student, table)
        return {"loss": value, "d_student": d_student, "d_table": d_table}

    return Part(jax.jit(loss), (hidden[0], tables[0], hidden[1], tables[1]))


def _small_decoder() -> tuple[Any, Any, np.ndarray]:
    from jaxlab.models import presets
    from jaxlab.models.decoder import Decoder

    decoder = Decoder(presets.decoder("small", vocab_size=512))
    tokens = np.random.default_rng(1).integers(0, 512, (8, 128)).astype(np.int32)
    params = decoder.init(jax.random.key(0), jnp.asarray(tokens))["params"]
    return decoder, jax.device_get(params), tokens


def gated_delta_part(implementation: str, *, length: int = 200, heads: int = 4, dim: int = 128
                     ) -> Part:  # fmt: skip
    """FG2-GDN+ with all its gradients, against the recurrence in float64.

    The gradients are those of a sum with random weights: of the order of 1, and no two outputs
    count alike.
    """
    case = dataclasses.replace(
        cases.MEMBERS["fg2_plus"], length=length, heads=heads, value_heads=heads, key_dim=dim,
        value_dim=dim,
    )  # fmt: skip
    arguments = cases.make(case, "mixed", dtype=np.float32)
    form = arguments.pop("form")
    rng = np.random.default_rng(1)
    weights = [rng.normal(size=arguments[n].shape).astype(np.float32)
               for n in ("v", "initial_state")]  # fmt: skip

    def with_gradients(implementation: str) -> Callable[..., Any]:
        @jax.jit
        def call(arguments: dict[str, jax.Array], weights: list[jax.Array]) -> Any:
            def run(arguments: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
                return gated_delta(**arguments, form=form, implementation=implementation)

            (out, state), pull = jax.vjp(run, arguments)
            (gradients,) = pull((weights[0].astype(out.dtype), weights[1].astype(state.dtype)))
            return {"out": out, "state": state} | {f"d_{n}": x for n, x in gradients.items()}

        return call

    return Part(with_gradients(implementation), (arguments, weights), with_gradients("reference"))


def block_sparse_part(implementation: str) -> Part:
    """Block-sparse attention of packed rows with all its gradients, against masks in float64."""
    from jaxlab_kernels.block_sparse import block_sparse
    from jaxlab_kernels.block_sparse import cases as sparse

    case = sparse.Case(batch=2, length=500, heads=4, dim=64, value_dim=64, block=32, budget=4,
                       packed=(300, 150, 50))  # fmt: skip
    given = sparse.make(case, dtype=np.float32)
    ids, weights = given["segment_ids"], np.random.default_rng(1).normal(size=given["q"].shape)

    def with_gradients(implementation: str) -> Callable[..., Any]:
        @jax.jit
        def call(q: jax.Array, k: jax.Array, v: jax.Array, weights: jax.Array) -> Any:
            def run(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
                return block_sparse(
                    q, k, v, 4, block_size=32, segment_ids=ids, implementation=implementation
                )[0]

            out, pull = jax.vjp(run, q, k, v)
            return dict(zip(("out", "d_q", "d_k", "d_v"), (out, *pull(weights.astype(out.dtype))),
                            strict=True))  # fmt: skip

        return call

    arguments = (given["q"], given["k"], given["v"], weights.astype(np.float32))
    return Part(with_gradients(implementation), arguments, with_gradients("reference"))


# Made one at a time: what cannot be made is a row that failed, and the rest goes on.
PARTS: dict[str, Callable[[], Part]] = {
    "decoder": decoder_part,
    "greedy decoding": decoding_part,
    "chunked AOPD": loss_part,
    "gated delta, chunked": functools.partial(gated_delta_part, "chunked"),
    "gated delta, triton": functools.partial(gated_delta_part, "triton"),
    "block sparse, xla": functools.partial(block_sparse_part, "xla"),
    "block sparse, triton": functools.partial(block_sparse_part, "triton"),
}
