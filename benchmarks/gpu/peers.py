"""Peers of the gated delta rule that are installed, called so that ours can be compared with them.

Nothing of a peer is imported before it is called for: a package that is absent or broken takes no
other with it. This file needs PyTorch alone.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

Arrays = tuple[torch.Tensor, ...]


@dataclasses.dataclass(frozen=True)
class Peer:
    """One function of another package.

    Attributes:
        forward: (q, k, v, g, erase, write) -> output.
        operands: the same arguments -> q, a, b, z, g, state, with which our kernels compute the
            same function.
        backward: it has gradients.
    """

    forward: Callable[..., torch.Tensor]
    operands: Callable[..., Arrays]
    backward: bool = True


def prescaled(k: torch.Tensor, v: torch.Tensor, erase: torch.Tensor, write: torch.Tensor) -> Arrays:
    """What FG2-GDN+ does before any kernel of this family can run; timed with each of them."""
    return erase.sqrt() * k, write.sqrt() * v


def fg2_plus(state: torch.Tensor) -> Callable[..., Arrays]:
    """Arguments of FG2-GDN+ -> q, a, b, z, g, state of the kernels."""

    def operands(q, k, v, g, erase, write):
        a, z = prescaled(k, v, erase, write)
        return q, a, a, z, g, state

    return operands


def chunk_kda(given: Any, **options: Any) -> Peer:
    """flash-linear-attention's KDA, which is FG2-GDN+ on scaled keys and values with beta = 1."""
    from fla.ops.kda import chunk_kda as kernel

    ones = torch.ones(given.q.shape[:3], device=given.q.device, dtype=given.q.dtype)

    def forward(q, k, v, g, erase, write):
        a, z = prescaled(k, v, erase, write)
        return kernel(q=q, k=a, v=z, g=g, beta=ones, scale=1.0, initial_state=given.state,
                      output_final_state=True, **options)[0]  # fmt: skip

    return Peer(forward, fg2_plus(given.state))


def chunk_kda_safe_gate(given: Any) -> Peer:
    """The same with sub-chunks on tensor cores, for decays that the caller knows to be bounded."""
    least = float(given.g.min())
    if least < -5:
        raise ValueError(f"decays go down to {least:.1f}; safe_gate=True takes [-5, 0]")
    return chunk_kda(given, safe_gate=True)


def chunk_gdn2(given: Any) -> Peer:
    """flash-linear-attention's Gated DeltaNet-2: as fine, but not symmetric."""
    from fla.ops.gdn2 import chunk_gdn2 as kernel

    def forward(q, k, v, g, erase, write):
        return kernel(q=q, k=k, v=v, g=g, b=erase, w=write, scale=1.0, initial_state=given.state,
                      output_final_state=True)[0]  # fmt: skip

    def operands(q, k, v, g, erase, write):
        return q, erase * k, k, write * v, g, given.state

    return Peer(forward, operands)


def flash_kda(given: Any) -> Peer:
    """FlashKDA: forwards only, with norms, the sigmoid of beta and the decay's gate within.

    It normalises what it gets, so ours does so beforehand, and takes the decay that its gate makes
    of g: the same work, other numbers than FG2-GDN+.
    """
    from flash_kda import fwd

    heads, dim = given.q.shape[2:]
    kind = {"device": given.q.device, "dtype": torch.float32}
    a_log, bias = torch.zeros(heads, **kind), torch.zeros(heads, dim, **kind)
    beta = torch.full(given.q.shape[:3], 20.0, device=given.q.device, dtype=given.q.dtype)
    least = -5.0

    def forward(q, k, v, g, erase, write):
        a, z = prescaled(k, v, erase, write)
        out = torch.empty_like(z)
        fwd(q, a, z, g.to(q.dtype), beta, 1.0, out, A_log=a_log, dt_bias=bias, lower_bound=least,
            initial_state=None, final_state=None, cu_seqlens=None)  # fmt: skip
        return out

    def operands(q, k, v, g, erase, write):
        a, z = prescaled(k, v, erase, write)
        q, a = (torch.nn.functional.normalize(x.float(), dim=-1).to(x.dtype) for x in (q, a))
        decay = least * torch.sigmoid(g.to(q.dtype).float())
        return q, a, a, z, decay, torch.zeros_like(given.state)

    return Peer(forward, operands, backward=False)


PEERS: dict[str, Callable[[Any], Peer]] = {
    "fla chunk_kda": chunk_kda,
    "fla chunk_kda, safe gate": chunk_kda_safe_gate,
    "fla chunk_gdn2": chunk_gdn2,
    "FlashKDA": flash_kda,
}
PACKAGES = {"FlashKDA": "flash_kda"}
