import json

import hypothesis
import hypothesis.strategies as st
import pytest

from jaxlab.grading.unicode import well_formed


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("plain", "plain"),
        ("\ud800", "\ufffd"),
        ("a\udc00b", "a\ufffdb"),
        ("\ud83d\ude00", "\U0001f600"),  # two halves of one
        ("\ufeffx", "\ufeffx"),
        ("caf\u00e9 \U0001f600", "caf\u00e9 \U0001f600"),
    ],
)
def test_halves_are_replaced_and_nothing_else(text, wanted):
    assert well_formed(text) == wanted
    assert well_formed({text: [text, 1, None, 0.5, True]}) == {wanted: [wanted, 1, None, 0.5, True]}


@hypothesis.given(st.text(st.characters(exclude_categories=())))
def test_any_text_can_be_written(text):
    written = well_formed(json.loads(json.dumps(text))).encode()
    if not any("\ud800" <= sign <= "\udfff" for sign in text):
        assert written == text.encode()
