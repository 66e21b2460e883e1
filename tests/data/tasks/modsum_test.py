from collections import Counter
from itertools import permutations, product

import pytest

from jaxlab.data.tasks.modsum import ModSum
from jaxlab.data.tasks.types import Example

# x2 first: 7; then x1: 7 + 3 = 10; then x3: 10 + 10 = 20 = 9 mod 11.
EXAMPLE = Example("3 7 10 =", "x2 7 x1 10 x3 9 # 9", "9")


def test_the_documented_example():
    task = ModSum()
    assert task.chain([3, 7, 10], [1, 0, 2]) == EXAMPLE.target
    grade = task.grade(EXAMPLE, EXAMPLE.target)
    assert (grade.reward, grade.solution) == (1.0, "x2 x1 x3")


def test_exactly_the_six_orders_are_solutions():
    """All 3**3 * 5**3 chains over the addends' names and the sums that occur."""
    task = ModSum(modulus=5)
    example = Example("2 4 4 =", None, "0")
    found = set()
    for names in product(("x1", "x2", "x3"), repeat=3):
        for sums in product(range(5), repeat=3):
            chain = " ".join(f"{name} {s}" for name, s in zip(names, sums, strict=True))
            grade = task.grade(example, f"{chain} # 0")
            assert grade.reward == 1.0
            if grade.solution is not None:
                assert grade.solution == " ".join(names)
                found.add(grade.solution)
    assert found == {" ".join(order) for order in permutations(("x1", "x2", "x3"))}
    # Worked by hand for the order 3 1 2: 4, 4 + 2 = 6 = 1, 1 + 4 = 5 = 0.
    assert task.chain([2, 4, 4], [2, 0, 1]) == "x3 4 x1 1 x2 0 # 0"


@pytest.mark.parametrize(
    ("text", "reward", "solution"),
    [
        ("# 9", 1.0, None),  # the answer alone counts
        ("x1 0 x1 0 x1 0 # 9", 1.0, None),
        ("x2 7 x1 10 x3 8 # 9", 1.0, "x2 x1 x3"),  # a wrong sum, the right answer
        ("x2 7 x1 10 # 9", 1.0, None),
        ("x2 7 x1 10 x3 9 # 8", 0.0, None),
        ("x2 7 x1 10 x3 9 9", 0.0, None),
        ("x2 7 x1 10 x3 9 # 9 9", 0.0, None),
        ("x2 7 x1 10 x3 9 # 9 # 9", 0.0, None),
        ("x2 7 x1 10 x3 9 #", 0.0, None),
        ("", 0.0, None),
        ("  x2 7 x1\n10 x3 9   # 9 ", 1.0, "x2 x1 x3"),
        ("x02 7 x1 10 x3 9 # 9", 1.0, None),
        ("x٢ 7 x1 10 x3 9 # 9", 1.0, None),
        ("x" * 10**6 + " # 9", 1.0, None),
    ],
)
def test_grades(text, reward, solution):
    grade = ModSum().grade(EXAMPLE, text)
    assert (grade.reward, grade.solution) == (reward, solution)


def test_examples_are_fixed_and_their_targets_solve_them():
    task = ModSum(seed=1)
    examples = [task.example(i, "train") for i in range(300)]
    assert examples == [ModSum(seed=1).example(i, "train") for i in range(300)]
    assert len({e.prompt for e in examples}) > 200  # 300 draws from 1331 prompts give 269
    grades = task.grade_batch(examples, [e.target for e in examples])
    assert all(grade.reward == 1.0 for grade in grades)
    for example in examples:
        numbers = [int(word) for word in example.prompt.split()[:-1]]
        assert example.answer == str(sum(numbers) % 11)
    # Each order is drawn with probability 1/6: 50 of 300, standard deviation 6.5.
    orders = Counter(grade.solution for grade in grades)
    assert len(orders) == 6
    assert min(orders.values()) > 50 - 4 * 6.5
    assert max(orders.values()) < 50 + 4 * 6.5


def test_seed_split_and_number_matter():
    prompts = [
        [task.example(i, split).prompt for i in range(5)]
        for task in (ModSum(seed=0), ModSum(seed=1))
        for split in ("train", "test")
    ]
    assert len({tuple(p) for p in prompts}) == 4
    assert ModSum().num_examples("test") == 96


def test_the_tokenizer_knows_every_word():
    task = ModSum()
    tokenizer = task.tokenizer()
    assert tokenizer.vocab_size == 18
    assert tokenizer.pad_id != tokenizer.eos_id
    for i in range(20):
        example = task.example(i, "train")
        prompt, target = tokenizer.encode(example.prompt), tokenizer.encode(example.target)
        assert len(prompt) == task.prompt_length == 4
        assert len(target) + 1 == task.response_length == 9
        assert tokenizer.decode([*target, tokenizer.eos_id]) == example.target


def test_more_addends_than_numbers():
    task = ModSum(modulus=2, addends=4)
    example = task.example(0, "test")
    assert task.grade(example, example.target).solution is not None
    assert task.tokenizer().decode(task.tokenizer().encode(example.target)) == example.target


@pytest.mark.interop
def test_the_saved_tokenizer_serves_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    task = ModSum()
    ours = task.tokenizer()
    ours.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert len(theirs) == 18
    assert (theirs.eos_token_id, theirs.pad_token_id) == (ours.eos_id, ours.pad_id)
    ids = ours.encode(EXAMPLE.target)
    assert theirs(EXAMPLE.target, add_special_tokens=False).input_ids == ids
    assert theirs.decode([*ids, ours.eos_id], skip_special_tokens=True) == EXAMPLE.target


@pytest.mark.parametrize("bad", [{"modulus": 1}, {"addends": 0}, {"seed": -1}])
def test_bad_settings(bad):
    with pytest.raises(ValueError, match="are needed, got ModSum"):
        ModSum(**bad)
