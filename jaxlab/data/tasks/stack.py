"""Several stacks under one stream of operations (the State Tracking task of Kimi Linear, 2025).

Each operation takes three tokens: "push", a stack, a symbol; or "pop", a stack, and the symbol
that was on top of it, which is asked for at the stack's name:

    tokens   push s0 a   push s1 b   push s0 c   pop s0 c   pop s0 a
    targets                                       .  c  .    .  a  .

Ids: 0 is push, 1 is pop, then come the stacks and then the symbols.
"""

from dataclasses import dataclass

from jaxlab.data.tasks import tokens as tokens_lib
from jaxlab.data.tasks.types import Split

PUSH, POP = 0, 1
OPERATION = 3  # tokens


@dataclass(frozen=True)
class Stacks:
    """Random operations, of which none pops an empty stack.

    Attributes:
        num_stacks: each operation names one of them.
        num_symbols: each push draws one of them uniformly.
        length: T, any number of tokens from 6 on; a last operation that does not fit is cut.
        push_share: probability of a push where a pop is possible too. A pop takes a uniformly drawn
            stack that is not empty.
        max_depth: a push takes a uniformly drawn stack that holds fewer symbols than this.
        seed: fixes every example.
    """

    num_stacks: int = 4
    num_symbols: int = 16
    length: int = 96
    push_share: float = 0.5
    max_depth: int = 1 << 30
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse sizes under which nothing is ever asked."""
        tokens_lib.check_sizes(self, "num_stacks", "max_depth")
        tokens_lib.check_seed(self.seed)
        if self.num_symbols < 2:
            raise ValueError(f"num_symbols must be at least 2, not {self.num_symbols}")
        if self.length < 2 * OPERATION:
            raise ValueError(
                f"length must be at least {2 * OPERATION}, a push and a pop, not {self.length}"
            )
        if not 0 <= self.push_share < 1:
            raise ValueError(f"push_share must be in [0, 1), not {self.push_share}")

    @property
    def vocab_size(self) -> int:
        """The two operations, the stacks and the symbols."""
        return 2 + self.num_stacks + self.num_symbols

    def row(self, i: int, split: Split) -> tokens_lib.Row:
        """Example `i` of `split`."""
        rng = tokens_lib.generator(self.seed, i, split)
        stacks: list[list[int]] = [[] for _ in range(self.num_stacks)]
        operations = -(-self.length // OPERATION)
        row = tokens_lib.blank(operations * OPERATION)
        # The last whole operation is a pop, so that no row asks nothing.
        last = self.length // OPERATION - 1
        for n in range(operations):
            free = [s for s, held in enumerate(stacks) if len(held) < self.max_depth]
            full = [s for s, held in enumerate(stacks) if held]
            push = not full or (n != last and bool(free) and rng.random() < self.push_share)
            at = n * OPERATION
            name = int(rng.choice(free if push else full))
            if push:
                stacks[name].append(2 + self.num_stacks + int(rng.integers(self.num_symbols)))
                row.tokens[at : at + 3] = PUSH, 2 + name, stacks[name][-1]
            else:
                symbol = stacks[name].pop()
                row.tokens[at : at + 3] = POP, 2 + name, symbol
                row.targets[at + 1], row.mask[at + 1] = symbol, True
        return tokens_lib.Row(*(array[: self.length] for array in row))
