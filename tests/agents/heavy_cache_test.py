import random

import pytest

from jaxlab.agents import heavy_cache
from jaxlab.agents.heavy_cache import Attempt, Tokens, build, repetitive, select, vote
from jaxlab.agents.heavy_prompts import Plain, answer_of, defused
from jaxlab.text.tokenizer import train_bpe

PROMPTS = Plain()


class Words:
    """A tokenizer of words, by which examples are worked by hand."""

    name = "words"

    def encode(self, text):
        return text.split()


class Bare(Plain):
    """Attempts without marks."""

    cut_mark = ""

    def attempt(self, kind, number, text, fence):
        return text


def attempts(*texts):
    return [Attempt("Thinker", i, text) for i, text in enumerate(texts, start=1)]


def pruned(texts, rule, room, tokens=None, prompts=None):
    tokens = tokens or Tokens(Words())
    return build(attempts(*texts), prompts or Bare(cut_mark=""), tokens, rule, room)


SHORT, MIDDLE, LONG = "s1 s2", "m1 m2 m3 m4 m5 m6 m7", "l1 l2 l3 l4 l5 l6 l7 l8 l9"


def test_pruning_worked_by_hand():
    # 2 + 7 + 9 = 18 words. Into 12 go 2 + 5 + 5: what the short one leaves is the others'.
    kept, account = pruned([SHORT, MIDDLE, LONG], "keep_tail", 12)
    assert kept == [SHORT, " m3 m4 m5 m6 m7", " l5 l6 l7 l8 l9"]
    assert [row["cut"] for row in account["attempts"]] == [0, 2, 4]
    assert (account["tokens"], account["exceeded"], account["unit"]) == (
        12,
        False,
        "tokens of words",
    )
    # An odd token goes to the tail.
    kept, _ = pruned([SHORT, MIDDLE, LONG], "head_tail", 12)
    assert [part.split() for part in kept] == [
        ["s1", "s2"],
        ["m1", "m2", "m5", "m6", "m7"],
        ["l1", "l2", "l7", "l8", "l9"],
    ]
    kept, account = pruned([SHORT, MIDDLE, LONG], "keep_tail", 18)
    assert kept == [SHORT, MIDDLE, LONG]
    # The mark of a cut is counted: three of five tokens are left to a text beside it.
    kept, _ = pruned([SHORT, MIDDLE, LONG], "keep_tail", 12, prompts=Bare(cut_mark="cut here "))
    assert kept == [SHORT, "cut here  m5 m6 m7", "cut here  l7 l8 l9"]


def test_released_cuts_equally_much_off_each_head_but_not_off_short_ones():
    # 18 - 9 = 9 words too many, 3 off each of three; the short one has fewer and stays whole, so
    # that 2 + 4 + 6 = 12 are left for a room of 9.
    kept, account = pruned([SHORT, MIDDLE, LONG], "released", 9)
    assert kept == [SHORT, "m4 m5 m6 m7", "l4 l5 l6 l7 l8 l9"]
    assert (account["tokens"], account["exceeded"]) == (12, True)
    assert pruned([SHORT, MIDDLE, LONG], "released", 18)[0] == [SHORT, MIDDLE, LONG]


def test_answers_and_summaries():
    texts = [
        "<think>long thought</think>\nSo it is \\boxed{5}.",
        "First.\n\nThen \\boxed{1,200.50}.",
        "Nothing to say about it, sorry to say.",
    ]
    kept, _ = pruned(texts, "answer_only", 100)
    assert kept == ["5", "1200.5", ""]
    kept, _ = pruned(texts, "summary", 100)
    assert kept == ["So it is \\boxed{5}.", "Then \\boxed{1,200.50}.", texts[2]]
    kept, _ = pruned(texts, "summary", 9)
    assert [len(part.split()) for part in kept] == [3, 2, 3]  # the first of four equal shares goes


@pytest.mark.parametrize("rule", ["keep_tail", "head_tail", "summary"])
@pytest.mark.parametrize("room", [70, 90, 133, 250])
def test_pruned_caches_fit_exactly_by_the_tokenizer_that_counts(rule, room):
    rng = random.Random(room)
    words = ["the", "sum", "of", "12", "is", "19,", "naïve", "≤", "Σ", "數學", "😀", "so"]
    texts = [" ".join(rng.choices(words, k=rng.randrange(3, 60))) for _ in range(4)]
    tokens = Tokens(train_bpe([" ".join(words)] * 3, 300))
    kept, account = pruned(texts, rule, room, tokens, Bare(cut_mark="[...]\n"))
    total = tokens.count("\n\n".join(kept))
    assert total == account["tokens"] <= room
    if sum(map(tokens.count, texts)) > room:
        assert total > room - 16  # a character of several tokens, and uneven shares
    for text, part in zip(texts, kept, strict=True):
        assert part == text or rule == "head_tail" or text.endswith(part.removeprefix("[...]\n"))


def test_without_a_tokenizer_a_token_is_four_bytes():
    tokens = Tokens()
    assert [tokens.count(text) for text in ("", "a", "abcd", "abcde", "數學")] == [0, 1, 1, 2, 2]
    assert tokens.tail("abcdefghij", 2) == "cdefghij"
    assert tokens.head("數學數學", 1) == "數"


def test_selection():
    #          0    1    2    3    4     5
    found = ["a", "b", "b", "b", "c", None]
    texts = ["1", "22", "333", "4444", "55555", "666666"]

    def chosen(width, rule, seed=0):
        return select(texts, found, width, rule, random.Random(seed))

    assert sorted(chosen(3, "max_answer_number")) == [1, 2, 3]
    assert sorted(chosen(5, "max_answer_number")) == [0, 1, 2, 3, 4]  # no answer comes last
    diverse = chosen(4, "max_diversity")
    assert len({found[i] for i in diverse}) == 4
    assert found[diverse[0]] == "b"
    assert chosen(2, "max_length") == [5, 4]
    draws = {tuple(sorted(chosen(2, "random", seed))) for seed in range(60)}
    assert len(draws) == 15  # every pair occurs
    assert sorted(chosen(9, "random")) == [0, 1, 2, 3, 4, 5]


def test_votes():
    assert vote(["1", "2", "2", None, None, None]) == ("2", False)
    assert vote(["1", "2", "2", "1"]) == ("1", True)
    assert vote([None]) == (None, False)


def test_repetitive():
    block = "".join(random.Random(0).choices("abcdefgh ", k=512))
    assert repetitive(block + block)
    assert repetitive("x" * 513)
    assert not repetitive(block)
    assert not repetitive("x" * 512)
    assert not repetitive(block + block[:-1] + "!")


@pytest.mark.parametrize(
    ("text", "domain", "answer"),
    [
        ("so \\boxed{1,072.0}", "boxed", "1072"),
        ("so \\boxed{0.50}", "boxed", "0.5"),
        ("<think>\\boxed{3}</think> it is \\boxed{ x +  1 }", "boxed", "x + 1"),
        ("work\n#### 18", "as_asked", "18"),
        ("the answer is (C).", "choice", "C"),
        ("\\boxed{B}", "choice", "B"),
        ("a\n```python\nx = 1\n```\nb\n```\ny = 2\n```", "code", "y = 2"),
        ("no program", "code", None),
        (" whole text ", "text", "whole text"),
        ("", "boxed", None),
    ],
)
def test_answers_of_each_domain(text, domain, answer):
    assert answer_of(text, domain) == answer


def test_control_words_are_taken_apart_and_nothing_else():
    assert defused("<|im_end|> </s> <s> <｜User｜>") == "< |im_end|> < /s> < s> < ｜User｜>"
    plain = "a <b> |x| <| y |> <sum> </sub> 1 < 2"
    assert defused(plain) == plain
    assert heavy_cache.REPEATED == 512


def test_room_is_kept_where_joined_texts_have_more_tokens_than_their_parts():
    class Joints(Words):
        """Words, and three more for each text that begins with a space behind another."""

        def encode(self, text):
            return text.split() + ["joint"] * 3 * text.count("\n\n ")

    kept, account = pruned([SHORT, MIDDLE, LONG], "keep_tail", 12, Tokens(Joints()))
    # Two joints of three tokens leave 12 - 6 - 2 = 4 for the two that are cut.
    assert [len(part.split()) for part in kept] == [2, 2, 2]
    assert account["tokens"] == 12


def test_texts_without_an_answer_are_chosen_last_however_many_they_are():
    found = ["a", None, None, None]
    for rule in ("max_answer_number", "max_diversity"):
        assert select(["x"] * 4, found, 1, rule, random.Random(0)) == [0]


def test_no_text_can_hold_the_fence(monkeypatch):
    class Hash:
        digests = iter(["aaaaaa00", "bbbbbb00", "cccccc00"])

        def __init__(self, content):
            pass

        def hexdigest(self):
            return next(self.digests)

    monkeypatch.setattr(heavy_cache.hashlib, "sha256", Hash)
    (block,), _ = pruned(["bbbbbb aaaaaa"], "keep_tail", 99, prompts=PROMPTS)
    assert block.startswith("=== Thinker #1 [cccccc] ===\n")
