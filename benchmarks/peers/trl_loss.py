"""One row of `benchmarks/loss.py`: TRL's chunked divergence, from hidden states, with gradients.

Runs in an environment that holds trl (1.16) and torch; imports nothing of jaxlab. One step for each
request. The function is private in TRL; it is what its DistillationTrainer calls. It computes the
reverse KL over the whole vocabulary (beta = 1) and the entropy.
"""

import argparse
import resource
from typing import Any

import torch
import trl
import turns
from trl.trainer.distillation_trainer import _chunked_divergence_loss


def peak_mib() -> float:
    """Largest resident memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Serve steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("vocab", "tokens", "hidden"):
        parser.add_argument(f"--{name}", type=int, required=True)
    args = parser.parse_args()
    torch.manual_seed(0)
    shape = (1, args.tokens, args.hidden)
    hidden = (torch.randn(shape) / args.hidden**0.5).requires_grad_()
    head = torch.randn(args.vocab, args.hidden, requires_grad=True)
    teacher_hidden = torch.randn(shape) / args.hidden**0.5
    teacher_head = torch.randn(args.vocab, args.hidden)
    mask = torch.ones(shape[:2])

    before = peak_mib()

    def step() -> dict[str, Any]:
        hidden.grad = head.grad = None
        loss, _, _ = _chunked_divergence_loss(
            hidden, teacher_hidden, head, teacher_head, mask, beta=1.0
        )
        loss.backward()
        return {"loss": float(loss), "added_mib": peak_mib() - before}

    turns.serve(step, {"trl": trl.__version__, "torch": torch.__version__})


if __name__ == "__main__":
    main()
