import asyncio
import dataclasses
import logging

import pytest

from jaxlab.agents import heavy
from jaxlab.config import ConfigError
from jaxlab.data import settings
from jaxlab.data.settings import Data
from jaxlab.data.tasks import chains
from jaxlab.data.tasks.chains import Attempts, Chains
from jaxlab.rollouts import cached, trajectories
from jaxlab.rollouts.cached import CachedTask, Thinkers
from jaxlab.rollouts.text import text_task
from jaxlab.rollouts.trajectories import Store, Text

TASK = Chains(shortest=3, longest=3, answer_only=True)
TOKENIZER = TASK.tokenizer()
# Right texts among the four of each training question.
RIGHT = (0, 1, 2, 3, 4, 4)


def texts(example, right, count=4):
    """So many right texts, then wrong ones, each of another answer."""
    true = int(example.answer)
    answers = [true] * right + [(true + 1 + i) % 10 for i in range(count - right)]
    return {i: Text(f"{i} {i} {a} # {a}", tokens=5) for i, a in enumerate(answers)}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Six training questions, and two of the test split; nothing is graded."""
    store = Store(tmp_path_factory.mktemp("cached") / trajectories.NAME)
    for row, right in enumerate(RIGHT):
        example = TASK.example(row, "train")
        store.add(("train", row), example.prompt, texts(example, right))
    for row in range(2):
        example = TASK.example(row, "test")
        store.add(("test", row), example.prompt, texts(example, 2))
    store.close()
    return store._file.name


def task(path, max_prompt=64, **options):
    options = {"width": 4, "easy_share": 0.0} | options
    return CachedTask(TASK, Attempts(), Thinkers(str(path), **options), TOKENIZER, max_prompt)


def test_a_prompt_is_what_the_workflow_gives_its_deliberators(path):
    made = task(path, width=3)
    seen = []

    async def generate(prompt, *, samples, seed, stage):
        seen.append(prompt)
        return ["# 4"] * samples

    question = made.questions["test"][1]
    options = made.context(question, seed=0).options
    for view in range(3):
        # The view's own seed, which its prompt has been drawn with.
        seed = cached.sample_seed(0, "test/1", view)
        asyncio.run(
            heavy.think(
                question.example.prompt,
                generate,
                dataclasses.replace(options, seed=seed),
                TOKENIZER,
                thinkers=question.texts,
                prompts=Attempts(),
            )
        )
        assert made.example(1 + 2 * view, "test").prompt == seen[-1]
    assert len(set(seen)) > 1
    assert all(prompt.count("|") == 3 for prompt in seen)
    assert all(prompt.endswith(f"| {question.example.prompt}") for prompt in seen)


def test_training_questions_lie_within_the_range_and_easy_ones_are_replayed(path, caplog):
    caplog.set_level(logging.INFO, "jaxlab")

    def rows(**options):
        return [question.key[1] for question in task(path, **options).questions["train"]]

    # Pass rates are 0, 1/4, 1/2, 3/4, 1 and 1.
    assert rows() == [0, 1, 2]
    assert rows(min_pass_rate=0.25) == [1, 2]
    assert "2 with a pass rate from 0.25 to 0.625, and 0 easier ones" in caplog.text
    assert "left out: 3 easier, 1 harder" in caplog.text
    assert rows(max_pass_rate=0.75) == [0, 1, 2, 3]
    # A quarter of four is one, beside three hard ones.
    one = rows(easy_share=0.25)
    assert one[:3] == [0, 1, 2]
    assert set(one[3:]) < {3, 4, 5}
    assert len(one) == 4
    two = rows(easy_share=0.4)
    assert two[:4] == one
    assert len(two) == 5
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
    assert sorted(rows(easy_share=0.8)) == [0, 1, 2, 3, 4, 5]
    assert "12 easy questions would be a share of 0.8, and there are 3" in caplog.text
    # The test split is whole, whatever its pass rates are.
    assert len(task(path, max_pass_rate=0.3).questions["test"]) == 2
    with pytest.raises(ConfigError, match=r"none of 6 training questions .* from 0\.1 to 0\.2"):
        rows(min_pass_rate=0.1, max_pass_rate=0.2)


def test_views_are_other_selections_and_examples_repeat(path):
    made = task(path, width=2, views=8)
    assert made.num_examples("train") == 24
    assert made.num_examples("test") == 2
    views = {made.example(1 + 3 * view, "train").prompt for view in range(8)}
    assert len(views) > 1
    assert made.example(4, "train") == task(path, width=2).example(4, "train")
    assert made.example(4, "train").pass_rate == 0.25
    assert {made.example(i, "train").prompt.count("|") for i in range(24)} == {2}
    other = task(path, width=2, views=8, seed=1)
    assert [other.example(i, "train") for i in range(24)] != [
        made.example(i, "train") for i in range(24)
    ]


def test_controls_read_answers_alone_or_nothing(path):
    short = task(path, prune="answer_only").example(0, "test")
    answers = [answer for answer in short.prompt.split() if answer.isdigit()][:4]
    assert short.prompt.split("|")[:4] == [
        f"{' ' * (i > 0)}{answer} " for i, answer in enumerate(answers)
    ]
    assert not short.cut
    alone = task(path, width=0).example(0, "test")
    assert alone.prompt == TASK.example(0, "test").prompt


@pytest.mark.parametrize("width", [0, 2])
def test_targets_are_of_a_random_text(path, width):
    reference = task(path, width=width).example(0, "train")
    assert reference.target == f"# {reference.answer}"
    made = task(path, width=width, target="answer", views=40)
    found = [made.example(2 + 3 * view, "train") for view in range(40)]
    assert {text.target for text in found} == {
        f"# {chains.answer(text.text)}" for text in texts(found[0], 2).values()
    }
    # Of those that are read, where any are.
    assert all(not width or f"{one.target} |" in one.prompt for one in found)
    whole = task(path, width=width, target="thinker", views=40).example(2, "train")
    assert whole.target in {text.text for text in texts(whole, 2).values()}


def test_texts_without_an_answer_are_imitated_only_where_nobody_gives_one(tmp_path):
    store = Store(tmp_path / trajectories.NAME)
    example = TASK.example(0, "train")
    store.add(("train", 0), example.prompt, {0: Text("1 2"), 1: Text("3 # 4")})
    store.add(("train", 1), TASK.example(1, "train").prompt, {0: Text("5 6"), 1: Text("")})
    store.add(("test", 0), TASK.example(0, "test").prompt, {0: Text("7 # 7")})
    store.close()
    made = task(tmp_path, target="answer", views=8)
    assert {made.example(2 * view, "train").target for view in range(8)} == {"# 4"}
    assert made.example(1, "train").target == "5 6"  # an empty text is not read


def test_metrics_say_what_prompts_lost_and_how_hard_they_are(path):
    made = task(path, max_prompt=27)
    found = [made.example(i, "train") for i in range(3)]
    assert all(len(TOKENIZER.encode(one.prompt)) <= 27 for one in found)
    assert made.measures(found) == {"cache_cut_share": 1.0, "thinkers_pass_rate": 0.25}
    whole = task(path)
    assert whole.measures([whole.example(0, "train")])["cache_cut_share"] == 0.0


def test_rewards_of_the_file_count_and_what_it_does_not_grade_is_graded(tmp_path):
    store = Store(tmp_path / trajectories.NAME)
    example = TASK.example(0, "train")
    right = f"# {example.answer}"
    given = {0: Text(right, reward=0.0), 1: Text(right), 2: Text(right, finished=False)}
    store.add(("train", 0), example.prompt, given)
    store.add(("test", 0), TASK.example(0, "test").prompt, {0: Text("1")})
    store.close()
    assert task(tmp_path).questions["train"][0].rewards == (0.0, 1.0, 0.0)


def test_other_data_and_prompts_without_room_are_refused(path):
    thinkers = Thinkers(str(path), width=4)
    with pytest.raises(ConfigError, match="was written for other data: train/0 is"):
        CachedTask(Chains(), Attempts(), thinkers, TOKENIZER, 64)
    with pytest.raises(ConfigError, match=r"train/0 has 9 tokens before any text of 4 thinkers"):
        task(path, max_prompt=8)
    with pytest.raises(FileNotFoundError, match="there are no thinkers"):
        task("nowhere.jsonl")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prune": "all"}, "prune"),
        ({"width": -1}, "width must be at least 0"),
        ({"easy_share": 1.0}, "easy_share must be"),
        ({"min_pass_rate": 0.7}, "min_pass_rate 0.7 is above max_pass_rate 0.625"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        Thinkers("x", **options)


def test_a_task_seen_through_a_tokenizer(path):
    options = {"shortest": 3, "longest": 3, "answer_only": True}
    data = Data("chains", options, max_prompt=24, num_train=6)
    text = text_task(data, TOKENIZER, thinkers=Thinkers(str(path), width=4, easy_share=0.0))
    example, ids = text.prompt(0, "train")
    assert TOKENIZER.decode(ids) == example.prompt
    assert len(ids) <= 24
    assert text.target(example) == [*TOKENIZER.encode(f"# {example.answer}"), TOKENIZER.eos_id]
    assert text.measures([example])["cache_cut_share"] == 1.0
    assert text_task(data, TOKENIZER).measures([example]) == {}


def test_english_prompts_for_other_tasks(gsm8k, tmp_path):
    data = Data("gsm8k", max_prompt=3000, **gsm8k)
    tokenizer, inner = settings.tokenizer(data), settings.task(data)
    store = Store(tmp_path / trajectories.NAME)
    for split in ("train", "test"):
        example = inner.example(3, split)
        store.add((split, 3), example.prompt, {0: Text("It is 6.\n#### 6"), 1: Text("#### 5")})
    store.close()
    thinkers = Thinkers(str(tmp_path), width=2, target="answer")
    example, ids = text_task(data, tokenizer, thinkers=thinkers).prompt(0, "train")
    assert "=== Thinker #1 [" in example.prompt
    assert inner.example(3, "train").prompt in example.prompt
    assert example.pass_rate == 0.5
    assert example.target in ("\\boxed{6}", "\\boxed{5}")
    assert len(ids) < 3000
