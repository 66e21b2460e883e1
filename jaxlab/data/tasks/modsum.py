"""The order-free modular sum: a task small enough to learn on a CPU, with countable solutions.

The prompt lists addends, "3 7 10 =". The response visits them in any order, each time naming the
addend and writing the running sum, then the answer: "x2 7 x1 10 x3 9 # 9" at modulus 11. The
grader looks only at the answer, so each of the `addends!` orders is right, and the number of
distinct correct orders among the samples for one prompt measures diversity directly.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tokenizers
from tokenizers import models, pre_tokenizers

from jaxlab import ranges
from jaxlab.data.tasks.types import Example, Grade, Split
from jaxlab.text.tokenizer import Tokenizer

PAD, EOS = "<pad>", "<eos>"


@dataclass(frozen=True)
class ModSum:
    """Addends are drawn uniformly from [0, modulus), independently in every example.

    Attributes:
        modulus: at least 2.
        addends: numbers in a prompt, at least 1.
        seed: in [0, 2**63); fixes every example.
        train_size: examples of the split "train".
        test_size: examples of the split "test".
    """

    modulus: int = 11
    addends: int = 3
    seed: int = 0
    train_size: int = 1 << 20
    test_size: int = 96

    def __post_init__(self):
        if self.modulus < 2 or self.addends < 1 or not 0 <= self.seed < 1 << 63:
            raise ValueError(
                f"modulus >= 2, addends >= 1 and 0 <= seed < 2**63 are needed, got {self}"
            )
        ranges.check(self, "train_size", "test_size", least=1, below=1 << 62)

    @property
    def prompt_length(self) -> int:
        """Tokens in every prompt."""
        return self.addends + 1

    @property
    def response_length(self) -> int:
        """Tokens in every well-formed response, its end of sequence included."""
        return 2 * self.addends + 3

    def num_examples(self, split: Split) -> int:
        """Examples in `split`."""
        return {"train": self.train_size, "test": self.test_size}[split]

    def example(self, i: int, split: Split) -> Example:
        """Example `i`; its target visits the addends in one uniformly drawn order.

        The splits are drawn independently, so a test prompt may also occur in training.
        """
        key = np.array([self.seed, 2 * i + ("train", "test").index(split)], np.uint64)
        rng = np.random.Generator(np.random.Philox(key=key))
        numbers = rng.integers(self.modulus, size=self.addends)
        return Example(
            prompt=" ".join(map(str, numbers)) + " =",
            target=self.chain(numbers.tolist(), rng.permutation(self.addends).tolist()),
            answer=str(int(numbers.sum()) % self.modulus),
        )

    def chain(self, numbers: Sequence[int], order: Sequence[int]) -> str:
        """The response that visits `numbers` in `order`."""
        words, total = [], 0
        for index in order:
            total = (total + numbers[index]) % self.modulus
            words += [_name(index), total]
        return " ".join(map(str, [*words, "#", total]))

    def grade(self, example: Example, text: str) -> Grade:
        """Reward 1 if `text` ends in its only '#' and the right answer, whatever stands before.

        `solution` is the order, such as "x2 x1 x3", if moreover each addend is visited once.
        """
        words = text.split()
        if words.count("#") != 1 or words[-2:] != ["#", example.answer]:
            return Grade(reward=0.0)
        order = words[:-2:2]
        if sorted(order) != sorted(map(_name, range(self.addends))):
            return Grade(reward=1.0)
        return Grade(reward=1.0, solution=" ".join(order))

    def grade_batch(self, examples: Sequence[Example], texts: Sequence[str]) -> list[Grade]:
        """`grade` of each pair."""
        return [self.grade(example, text) for example, text in zip(examples, texts, strict=True)]

    def tokenizer(self) -> Tokenizer:
        """One token per word: padding, end, '=', '#', the addends' names and the numbers.

        At modulus 11 with 3 addends that makes 18.
        """
        names, numbers = map(_name, range(self.addends)), map(str, range(self.modulus))
        vocabulary = {word: i for i, word in enumerate((PAD, EOS, "=", "#", *names, *numbers))}
        backend = tokenizers.Tokenizer(models.WordLevel(vocabulary))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        backend.add_special_tokens([PAD, EOS])
        return Tokenizer(backend, {"pad_token": PAD, "eos_token": EOS})


def _name(index: int) -> str:
    return f"x{index + 1}"
