import asyncio
import itertools

import numpy as np
import pytest

from jaxlab.agents import heavy
from jaxlab.data.tasks import chains
from jaxlab.data.tasks.chains import Attempts, Chains
from jaxlab.data.tasks.types import Example

TASK = Chains(noise=0.0)


def question(letters, start=3):
    return " ".join([str(start), *letters, "="])


def plain():
    """The operations without a trap."""
    return [letter for letter in chains.OPERATIONS if letter not in TASK.traps]


def test_operations_are_bijections_and_two_are_traps_with_one_wrong_digit_each():
    assert [sorted(row) for row in TASK.tables.tolist()] == [list(range(10))] * 6
    assert len(TASK.traps) == 2
    trapped = TASK.slips >= 0
    assert trapped.sum(axis=1).tolist() == [10 * (op in TASK.traps) for op in chains.OPERATIONS]
    assert not np.any(TASK.slips == TASK.tables)
    assert Chains(seed=1).tables.tolist() != TASK.tables.tolist()
    assert Chains(seed=0).tables.tolist() == TASK.tables.tolist()


def test_targets_are_right_steps_follow_and_examples_repeat():
    for i in range(50):
        example = TASK.example(i, "test")
        words = example.prompt.split()
        assert 3 <= len(words) - 2 <= 6
        digit = int(words[0])
        for letter, written in zip(words[1:-1], example.target.split(), strict=False):
            digit = int(TASK.tables[chains.OPERATIONS.index(letter), digit])
            assert int(written) == digit
        assert example.answer == str(digit)
        assert TASK.grade_batch([example], [example.target])[0].reward == 1
        assert TASK.first_error(example.prompt, example.target) is None
        assert Chains(noise=0.0).example(i, "test") == example
        short = Chains(answer_only=True).example(i, "test")
        assert short.target == f"# {digit}"
    streams = [TASK.example(i, split) for i in range(3) for split in ("train", "test")]
    assert len(set(streams)) == 6
    lengths = [len(TASK.example(i, "train").prompt.split()) - 2 for i in range(400)]
    assert set(lengths) == {3, 4, 5, 6}


def test_thinkers_without_a_slip_are_right_and_with_one_wrong_at_the_trap_alone():
    a, b = plain()[:2]
    trap = TASK.traps[0]
    sure, sly = Chains(slip=0.0, noise=0.0), Chains(slip=1.0, noise=0.0)
    asked = question([a, trap, b])
    right = sure.thinker(asked, seed=0)
    assert right == " ".join([*map(str, TASK.steps(asked)), "#", str(TASK.steps(asked)[-1])])
    wrong = {sly.thinker(asked, seed) for seed in range(5)}
    assert len(wrong) == 1  # all slip to the same digit
    text = wrong.pop()
    assert sly.first_error(asked, text) == 2
    # It goes on rightly from its wrong digit, and the bijection keeps it wrong.
    first, second, third = map(int, text.split()[:3])
    assert second == TASK.slips[chains.OPERATIONS.index(trap), first]
    assert third == TASK.tables[chains.OPERATIONS.index(b), second]
    assert third != TASK.steps(asked)[-1]


def test_votes_are_wrong_where_there_is_a_trap_and_right_elsewhere():
    trapped, free = question([plain()[0], TASK.traps[1]]), question(plain()[:3])
    right = {q: str(TASK.steps(q)[-1]) for q in (trapped, free)}
    seeds = range(1000)
    share = np.mean([chains.answer(TASK.thinker(trapped, s)) == right[trapped] for s in seeds])
    # Right with 1 - slip = 0.4; four standard errors of 1000 draws.
    assert abs(share - 0.4) < 4 * np.sqrt(0.4 * 0.6 / 1000)
    assert all(chains.answer(TASK.thinker(free, s)) == right[free] for s in range(50))
    noisy = Chains(noise=0.2)
    share = np.mean([noisy.first_error(free, noisy.thinker(free, s)) is None for s in seeds])
    assert abs(share - 0.8**3) < 4 * np.sqrt(0.512 * 0.488 / 1000)
    assert noisy.thinker(free, 1) == noisy.thinker(free, 1)


@pytest.mark.parametrize("text", ["# 4", "1 2 # 4", "9 9 9 # 4"])
def test_right_answers(text):
    example = Example("3 a =", target=None, answer="4")
    assert TASK.grade_batch([example], [text])[0].reward == 1


@pytest.mark.parametrize("text", ["# 5", "4", "# 4 4", "", "# # 4", "#4", "# ٤", "# 44", "# 4 #"])
def test_wrong_answers(text):
    example = Example("3 a =", target=None, answer="4")
    assert TASK.grade_batch([example], [text])[0].reward == 0


def test_first_errors():
    asked = question(plain()[:2])
    first, second = TASK.steps(asked)
    assert TASK.first_error(asked, f"{first} {second} # {second}") is None
    assert TASK.first_error(asked, f"{(first + 1) % 10} {second}") == 1
    assert TASK.first_error(asked, f"{first} x") == 2
    assert TASK.first_error(asked, f"{first}") == 2
    assert TASK.first_error(asked, f"{first} {second} 1 # 1") == 3


@pytest.mark.parametrize("text", ["", "3 =", "x a =", "3 z =", "3 a", "3 ab =", "10 a ="])
def test_what_is_no_question(text):
    with pytest.raises(ValueError, match="is no question"):
        TASK.steps(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shortest": 4, "longest": 3}, "shortest <= longest"),
        ({"slip": 1.5}, "slip"),
        ({"seed": -1}, "seed"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        Chains(**options)


def test_the_workflow_runs_on_chains_and_its_context_is_tokens_of_the_task():
    tokenizer, prompts = TASK.tokenizer(), Attempts()
    assert tokenizer.vocab_size == 21
    asked = question([plain()[0], TASK.traps[0], plain()[1]])
    count = itertools.count()
    seen = []

    async def generate(prompt, *, samples, seed, stage):
        if stage == "think":
            return [TASK.thinker(prompt, next(count)) for _ in range(samples)]
        # A deliberator that believes the first attempt in which every step follows.
        seen.append(prompt)
        *attempts, own = prompt.split(" | ")
        good = [text for text in attempts if TASK.first_error(own, text) is None]
        return [f"# {chains.answer(good[0])}"] * samples

    options = heavy.Heavy(width=8, samples=2)
    result = asyncio.run(heavy.think(asked, generate, options, tokenizer, prompts=prompts))
    assert result.answer == str(TASK.steps(asked)[-1])
    assert len(tokenizer.encode(seen[0])) == 8 * (3 + 2 + 1) + 5
    assert result.manifest["rounds"][0]["caches"][0]["tokens"] == 8 * 6


def test_chains_that_show_their_operations_can_be_checked_in_one_place():
    shown = Chains(noise=0.0, shown=True)
    asked = question(plain()[:2])
    a, b = plain()[:2]
    first, second = TASK.steps(asked)
    assert shown._chain(asked, [first, second]) == f"3 {a} {first} {b} {second} # {second}"
    for i in range(20):
        example = shown.example(i, "train")
        assert shown.first_error(example.prompt, example.target) is None
        assert shown.grade_batch([example], [example.target])[0].reward == 1
        assert example.prompt == TASK.example(i, "train").prompt
    sly = Chains(slip=1.0, noise=0.0, shown=True)
    trapped = question([a, TASK.traps[0], b])
    assert sly.first_error(trapped, sly.thinker(trapped, 0)) == 2


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("", 1),
        ("4 {a} {x} {b} {y} # {y}", 1),
        ("3 {b} {x} {b} {y} # {y}", 1),
        ("3 {a} {x} {b} {x} # {x}", 2),
        ("3 {a} {x} # {x}", 2),
        ("3 {a} {x} {b} {y} {a} 1 # 1", 3),
    ],
)
def test_first_errors_of_chains_that_show_their_operations(text, step):
    a, b = plain()[:2]
    asked = question([a, b])
    x, y = TASK.steps(asked)
    assert x != y
    written = text.format(a=a, b=b, x=x, y=y)
    assert Chains(shown=True).first_error(asked, written) == step


def test_noisy_targets_are_for_training_and_slip_as_thinkers_do():
    noisy = Chains(noisy=True)
    texts = {}
    for i in range(60):
        example = noisy.example(i, "train")
        assert example.target == noisy.thinker(example.prompt, seed=i)
        assert example.answer == Chains().example(i, "train").answer
        texts[i] = noisy.grade_batch([example], [example.target])[0].reward
    assert 0 < sum(texts.values()) < 40
    right = noisy.example(0, "test")
    assert noisy.first_error(right.prompt, right.target) is None
    short = Chains(noisy=True, answer_only=True).example(0, "train")
    assert short.target == f"# {chains.answer(noisy.example(0, 'train').target)}"
