"""GRPO with a second comparison: of steps that stood before the same state."""

from dataclasses import dataclass
from typing import Literal

from jaxlab import ranges
from jaxlab.losses.methods.grpo import ADVANTAGES, Grpo
from jaxlab.losses.types import Credit, Group


@dataclass(frozen=True)
class Gigpo(Grpo):
    """Group-in-group policy optimisation (Feng et al. 2025): A = A^E + w A^S.

    A^E compares the episodes of a task, A^S the steps of those episodes that were taken from one
    state, by their discounted returns (`credit.steps`). Of completions of one turn every prompt is
    a state, and A^S compares the same rewards.

    Attributes:
        step_weight: w.
        discount: of the returns.
        step_normalised: divide A^S by the standard deviation, as A^E; False: by 1.
    """

    source = "Feng et al. 2025 (2505.10978) Eq. 5 to 8"

    step_weight: float = 1.0
    discount: float = 0.95
    step_normalised: bool = True
    name: Literal["gigpo"] = "gigpo"  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Check weight and discount."""
        super().__post_init__()
        ranges.check(self, "step_weight", least=0)
        ranges.check(self, "discount", least=0, most=1)

    def credit(self, group: Group) -> Credit:
        """A^E + w A^S, for completions of one turn."""
        credit = super().credit(group)
        assert credit.advantage is not None
        assert group.reward is not None
        steps = ADVANTAGES["group" if self.step_normalised else "centred"](group.reward)
        return credit._replace(advantage=credit.advantage + self.step_weight * steps)
