import pytest

from jaxlab.config import ConfigError
from jaxlab.data.tasks.modsum import ModSum
from jaxlab.text.tokenizer import train_bpe
from jaxlab.trainers import setup


def test_a_teacher_with_other_words_is_refused():
    ours = ModSum().tokenizer()
    setup.check_same_words(ours, "teacher", None)
    setup.check_same_words(ours, "teacher", ModSum().tokenizer())
    # Fewer addends: the same words at other ids.
    with pytest.raises(ConfigError, match=r"teacher\.path: its tokenizer has '0' as token 6"):
        setup.check_same_words(ours, "teacher", ModSum(addends=2).tokenizer())


def test_a_longer_vocabulary_of_the_same_words_is_accepted():
    texts = ["three times two is six, and six times two is twelve"] * 3
    short, long = train_bpe(texts, 262), train_bpe(texts, 270)
    assert short.vocab_size < long.vocab_size
    setup.check_same_words(short, "teacher", long)
