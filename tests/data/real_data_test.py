"""The text path on real files."""

import pytest

from jaxlab.data.tasks.gsm8k import Gsm8k
from jaxlab.text.tokenizer import train_bpe


@pytest.fixture(scope="module")
def gsm8k(real_data):
    with Gsm8k(real_data("gsm8k/train.jsonl"), real_data("gsm8k/test.jsonl")) as task:
        yield task


def test_every_gsm8k_reference_is_graded_right(gsm8k):
    assert gsm8k.num_examples("train") == 7473
    assert gsm8k.num_examples("test") == 1319
    examples = [gsm8k.example(i, "test") for i in range(1319)]
    assert not any("<<" in example.target for example in examples)
    right = gsm8k.grade_batch(examples, [example.target for example in examples])
    assert all(grade.reward == 1.0 for grade in right)
    # The next problem's solution is right only where the two answers happen to be equal.
    others = [*examples[1:], examples[0]]
    wrong = gsm8k.grade_batch(examples, [other.target for other in others])
    same = [a.answer == b.answer for a, b in zip(examples, others, strict=True)]
    assert [grade.reward == 1.0 for grade in wrong] == same


def test_bpe_on_gsm8k_round_trips(gsm8k):
    texts = [gsm8k.example(i, "test").target for i in range(200)]
    tokenizer = train_bpe(texts, vocab_size=600)
    assert tokenizer.vocab_size == 600
    assert tokenizer.decode_batch(tokenizer.encode_batch(texts)) == texts
    # Merges must pay: below one token per byte by far.
    tokens = sum(map(len, tokenizer.encode_batch(texts)))
    assert tokens < 0.5 * sum(len(text.encode()) for text in texts)


@pytest.mark.interop
def test_transformers_gives_the_same_ids_on_gsm8k(gsm8k, tmp_path):
    transformers = pytest.importorskip("transformers")
    examples = [gsm8k.example(i, "train") for i in range(300)]
    ours = train_bpe([example.target for example in examples], vocab_size=600)
    ours.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    texts = [example.prompt + example.target for example in examples]
    assert theirs(texts, add_special_tokens=False).input_ids == ours.encode_batch(texts)
