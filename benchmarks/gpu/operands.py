"""Random arguments as PyTorch tensors, the recurrence in float64, and distances."""

from typing import NamedTuple

import torch
from jaxlab_kernels.delta_rule.launches import Operands

# Relative Euclidean distance from the float64 recurrence on the same (rounded) arguments. float32
# is three TF32 products of 2^-11 each; bfloat16 rounds every operand of a product by 2^-9, a
# handful of products deep. Under the interpreter bfloat16 is cut off, not rounded.
TOLERANCES = {"float32": 2e-5, "bfloat16": 2e-2}


class Given(NamedTuple):
    """Arguments of FG2-GDN+: q and k of norm 1 (q over the root of K), gates in [0.05, 1).

    The gradient of a gate divides by its root: near 0 one number would outweigh all others.

    q, k, erase [B, T, H, K], v, write [B, T, H, V], g [B, T, H, K] and state [B, H, K, V] float32.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    g: torch.Tensor
    erase: torch.Tensor
    write: torch.Tensor
    state: torch.Tensor


def random_given(length: int, heads: int, dim: int, device: str, dtype: str = "bfloat16") -> Given:
    """Of one sequence, with decays in [-0.5, 0]."""
    torch.manual_seed(0)
    shape, kind = (1, length, heads, dim), {"device": device, "dtype": torch.float32}

    def unit() -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(shape, **kind), dim=-1)

    def gate() -> torch.Tensor:
        return 0.05 + 0.95 * torch.rand(shape, **kind)

    wide = (unit() * dim**-0.5, unit(), torch.randn(shape, **kind), gate(), gate())
    q, k, v, erase, write = (x.to(getattr(torch, dtype)) for x in wide)
    g = -0.5 * torch.rand(shape, **kind)
    return Given(q, k, v, g, erase, write, torch.randn(1, heads, dim, dim, **kind))


def random_operands(
    sizes: tuple[int, int, int, int, int], dtype: str, device: str, *,
    decays: str = "mild", head_decay: bool = False, seed: int = 0,
) -> Operands:  # fmt: skip
    """What the kernels take, of sizes (B, T, H, K, V).

    q and keys of norm 1; a = b = sqrt(gate) k, z = sqrt(gate) v as in FG2-GDN+.
    """
    batch, length, heads, key_dim, value_dim = sizes
    torch.manual_seed(seed)
    kind = {"dtype": torch.float32, "device": device}
    front = (batch, length, heads)

    def unit(*shape):
        return torch.nn.functional.normalize(torch.randn(*shape, **kind), dim=-1)

    wide = front if head_decay else (*front, key_dim)
    g = -0.5 * torch.rand(*wide, **kind)
    if decays == "mixed":
        g = torch.where(torch.rand(*wide, **kind) < 0.1, -20.0 + 0 * g, g)
    keys = torch.rand(*front, key_dim, **kind).sqrt() * unit(*front, key_dim)
    target = torch.rand(*front, value_dim, **kind).sqrt() * torch.randn(*front, value_dim, **kind)
    narrow = getattr(torch, dtype)
    q, a, z = (x.to(narrow) for x in (unit(*front, key_dim) * key_dim**-0.5, keys, target))
    state = torch.randn(batch, heads, key_dim, value_dim, **kind)
    return Operands(q, a, a.clone(), z, g, state)


def recurrence(x: Operands) -> tuple[torch.Tensor, torch.Tensor]:
    """The definition, token by token."""
    state, out = x.state, []
    decay = torch.exp(x.g if x.g.ndim == 4 else x.g[..., None])
    for t in range(x.q.shape[1]):
        state = decay[:, t, :, :, None] * state
        u = x.z[:, t] - torch.einsum("bhk,bhkv->bhv", x.a[:, t], state)
        state = state + x.b[:, t, :, :, None] * u[:, :, None, :]
        out.append(torch.einsum("bhk,bhkv->bhv", x.q[:, t], state))
    return torch.stack(out, 1), state


def distance(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative Euclidean distance; infinite where something is not finite."""
    expected = expected.detach().double()
    actual = actual.detach().to(expected.device).double()
    if actual.shape != expected.shape or not torch.isfinite(actual).all():
        return float("inf")
    far = float(torch.linalg.norm(actual - expected) / torch.linalg.norm(expected))
    return far if far == far else float("inf")
