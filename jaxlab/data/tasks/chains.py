"""Step chains: HeavySkill in small, with thinkers whose vote is systematically wrong.

A question is a digit and L operations, each of which is one of six bijections of the digits that
are fixed for the whole task: "3 b f a =". A thinker writes the digit after each operation and then
the answer: "7 0 4 # 4". Two of the operations are traps: a noisy thinker slips on them more often
than not, and always to the same wrong digit. So on questions with traps most thinkers agree on a
wrong answer, and each step can be checked by itself. With `shown` a chain repeats the question's
words, "3 b 7 f 0 a 4 # 4", so that whoever checks a step finds all of it in one place. The task is
ours, not the paper's (arXiv 2605.02396). No jax.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import tokenizers
from tokenizers import models, pre_tokenizers

from jaxlab import ranges
from jaxlab.data.tasks.types import Example, Grade, Split
from jaxlab.text.tokenizer import Tokenizer

PAD, EOS = "<pad>", "<eos>"
OPERATIONS = "abcdef"
# Between attempts in a deliberator's prompt.
NEXT = "|"


@dataclass(frozen=True)
class Chains:
    """Questions are drawn uniformly, independently of each other.

    Attributes:
        shortest: fewest operations of a question.
        longest: most operations.
        slip: probability that a noisy thinker slips on a trap.
        noise: probability that it writes a uniformly wrong digit after any other operation.
        answer_only: the target of a question is "# 4" instead of the whole chain.
        shown: chains begin with the question's digit and name each step's operation.
        noisy: the target of a training question is a noisy thinker's chain, for a model that is to
            slip as they do.
        seed: in [0, 2**63); fixes the operations, the traps and every example.
        train_size: examples of the split "train".
        test_size: examples of the split "test".
    """

    shortest: int = 3
    longest: int = 6
    slip: float = 0.6
    noise: float = 0.05
    answer_only: bool = False
    shown: bool = False
    noisy: bool = False
    seed: int = 0
    train_size: int = 1 << 20
    test_size: int = 800

    def __post_init__(self) -> None:
        """Check the ranges."""
        ranges.check_counts(self, "shortest", "longest")
        ranges.check(self, "slip", "noise", least=0, most=1)
        ranges.check(self, "train_size", "test_size", least=1, below=1 << 62)
        if self.shortest > self.longest or not 0 <= self.seed < 1 << 63:
            raise ValueError(
                f"shortest <= longest and 0 <= seed < 2**63 are needed, got {self.shortest}, "
                f"{self.longest} and {self.seed}"
            )

    @cached_property
    def tables(self) -> np.ndarray:
        """int64 [6, 10]: the digit after each operation on each digit."""
        rng = self._rng(0, stream=2)
        return np.stack([rng.permutation(10) for _ in OPERATIONS])

    @cached_property
    def slips(self) -> np.ndarray:
        """int64 [6, 10]: the wrong digit to which a slip leads; -1 for operations without trap."""
        rng = self._rng(0, stream=3)
        wrong = np.full_like(self.tables, -1)
        for trap in rng.choice(len(OPERATIONS), 2, replace=False):
            wrong[trap] = (self.tables[trap] + rng.integers(1, 10, size=10)) % 10
        return wrong

    @property
    def traps(self) -> str:
        """The letters of the two operations that are traps."""
        return "".join(op for op, row in zip(OPERATIONS, self.slips, strict=True) if row[0] >= 0)

    def num_examples(self, split: Split) -> int:
        """Examples in `split`."""
        return {"train": self.train_size, "test": self.test_size}[split]

    def example(self, i: int, split: Split) -> Example:
        """Example `i`; the splits are drawn independently of each other."""
        rng = self._rng(i, stream=("train", "test").index(split))
        length = int(rng.integers(self.shortest, self.longest + 1))
        letters = [OPERATIONS[n] for n in rng.integers(len(OPERATIONS), size=length)]
        question = " ".join([str(rng.integers(10)), *letters, "="])
        digits = self.steps(question)
        target = self._chain(question, digits)
        if self.noisy and split == "train":
            target = self.thinker(question, seed=i)
        if self.answer_only:
            target = f"# {answer(target)}"
        return Example(question, target=target, answer=str(digits[-1]))

    def steps(self, question: str) -> list[int]:
        """The digit after each operation of a question."""
        start, operations = _parts(question)
        digits = [start]
        for operation in operations:
            digits.append(int(self.tables[operation, digits[-1]]))
        return digits[1:]

    def thinker(self, question: str, seed: int) -> str:
        """A noisy chain, a function of question and seed; it goes on from what it has written."""
        start, operations = _parts(question)
        rng = np.random.default_rng([self.seed, seed, *question.encode()])
        digits = [start]
        for operation in operations:
            right, wrong = (int(t[operation, digits[-1]]) for t in (self.tables, self.slips))
            if wrong >= 0:
                digits.append(wrong if rng.random() < self.slip else right)
            else:
                off = int(rng.integers(1, 10)) if rng.random() < self.noise else 0
                digits.append((right + off) % 10)
        return self._chain(question, digits[1:])

    def first_error(self, question: str, text: str) -> int | None:
        """The number, from 1, of the first step that does not follow from the one before it.

        None where every step follows; a chain that is too short, too long or malformed has its
        error at the first step that is missing or none.
        """
        digit, operations = _parts(question)
        words = text.partition("#")[0].split()
        if self.shown:  # an operation that is not the question's makes its step none
            start, *words = words or [""]
            if start != str(digit):
                return 1
            told = zip(words[::2], question.split()[1:-1], strict=False)
            words = [
                word if name == asked else ""
                for word, (name, asked) in zip(words[1::2], told, strict=False)
            ] + words[2 * len(operations) :]
        for number, operation in enumerate(operations, start=1):
            right = int(self.tables[operation, digit])
            if len(words) < number or words[number - 1] != str(right):
                return number
            digit = right
        return None if len(words) == len(operations) else len(operations) + 1

    def grade_batch(self, examples: Sequence[Example], texts: Sequence[str]) -> list[Grade]:
        """Reward 1 if a text ends in its only '#' and the right answer, whatever stands before."""
        pairs = zip(examples, texts, strict=True)
        return [Grade(float(answer(text) == example.answer)) for example, text in pairs]

    def tokenizer(self) -> Tokenizer:
        """One token per word: 21 of them."""
        words = (PAD, EOS, "=", "#", NEXT, *OPERATIONS, *map(str, range(10)))
        backend = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        backend.add_special_tokens([PAD, EOS])
        return Tokenizer(backend, {"pad_token": PAD, "eos_token": EOS})

    def _chain(self, question: str, digits: Sequence[int]) -> str:
        words = [str(digit) for digit in digits]
        if self.shown:
            start, *operations = question.split()[:-1]
            pairs = zip(operations, words, strict=True)
            words = [start, *(word for pair in pairs for word in pair)]
        return " ".join([*words, "#", str(digits[-1])])

    def _rng(self, i: int, stream: int) -> np.random.Generator:
        key = np.array([self.seed, 4 * i + stream], np.uint64)
        return np.random.Generator(np.random.Philox(key=key))


@dataclass(frozen=True)
class Attempts:
    """How attempts at a chain become a deliberator's prompt: they stand before the question.

    It has the methods of `jaxlab.agents.heavy_prompts.Prompts`.
    """

    cut_mark: str = ""

    def thinking(self, question: str) -> str:
        """The question."""
        return question

    def attempt(self, kind: str, number: int, text: str, fence: str) -> str:
        """The text and the word that ends it: experts are not told from thinkers."""
        return f"{text} {NEXT}".strip()

    def deliberation(self, question: str, attempts: Sequence[str]) -> str:
        """All attempts, then the question."""
        return " ".join([*attempts, question])

    def continuation(self, question: str, thought: str) -> str:
        """One attempt, then the question again."""
        return self.deliberation(question, [self.attempt("", 1, thought, "")] if thought else [])

    def answer(self, text: str) -> str | None:
        """See `answer`."""
        return answer(text)

    def final(self, found: str) -> str:
        """The shortest text that gives this answer."""
        return f"# {found}"


def answer(text: str) -> str | None:
    """The digit behind a text's only '#', if nothing follows it."""
    words = text.split()
    if words.count("#") != 1 or words[-2:-1] != ["#"] or len(words[-1]) != 1:
        return None
    return words[-1] if words[-1] in "0123456789" else None


def _parts(question: str) -> tuple[int, list[int]]:
    """The first digit and the operations' numbers.

    Raises:
        ValueError: it is no question.
    """
    words = question.split()
    known = all(len(word) == 1 and word in OPERATIONS for word in words[1:-1])
    if len(words) < 3 or words[-1] != "=" or not known or words[0] not in map(str, range(10)):
        raise ValueError(f"{question!r:.60} is no question such as '3 b f a ='")
    return int(words[0]), [OPERATIONS.index(word) for word in words[1:-1]]
