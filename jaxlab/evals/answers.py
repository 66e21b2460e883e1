"""Where a text says what its answer is, and the one spelling in which answers are compared.

All of it takes time linear in the text, whatever a model has written.
"""

import re
from decimal import Decimal
from typing import Literal

_MAX_NUMBER = 64
# ASCII digits, plain or grouped by threes: "1,2" is a pair, not twelve.
_NUMBER = re.compile(
    r"([+-]?)\$?((?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)(%?)\.?"
)
_LEADING_NUMBER = re.compile(r"[-+$.]*[0-9]")
BOX = "\\boxed{"
_THINKING_ENDS = re.compile(r"</(?:longcat_)?think(?:ing)?>")

# What a text is looked through for: boxes; or what it says the answer is, too; or everything.
Anchor = Literal["boxed", "stated", "anywhere"]
# "the answer is 5", "Answer: 5", "answer is $x = 5$", and not "the answer is not 5".
_STATED = re.compile(
    r"\banswer\s{0,20}(?:is|:)\s{0,20}:?\s{0,20}(?=[-+.\d$\\(\[{]|[A-Za-z]\s?=)", re.IGNORECASE
)
# Not the powers of 2**3**4.
_EMPHASIS = re.compile(r"(?<![\w)])\*\*([^*\n]*)\*\*(?![\w(])|`([^`\n]*)`")
# Not before a number, which math-verify would take for the next three digits.
_FULL_STOP = re.compile(r"(?<=[\d)])\s?\.(?=\s+[^\s\d]|\s*$)")
# "5 or 6", and not "0.75 (or 3/4)" nor "1/6 or about 17 %".
_ALTERNATIVES = re.compile(r"(?<!\()\bor\s+[-+.\d(\[]", re.IGNORECASE)
# Before words: "[0, 3) minutes", which math-verify would read as a number with a comma.
_BRACKETED = re.compile(r"([\[(][^\[\]()\n]{1,99}[\])])\s+(?=[A-Za-z(])")
_COMMAND, _WORD = re.compile(r"\\[A-Za-z]+"), re.compile(r"[^\W\d_]{2}")
_MATH_MARKS = re.compile(r"\$|\\[()\[\]]")
# The forms of ASCII in full width, as NFKC has them; NFKC itself would read x² as x2 and ½ as 1⁄2.
_FULL_WIDTH = {code + 0xFEE0: code for code in range(0x21, 0x7F)} | {0x3000: 0x20}
_SIGNS = {0x2212: "-", 0x221E: "\\infty "}
_ROOT = re.compile(r"\u221a\s?(?:\{([^{}]{1,99})\}|\(([^()]{1,99})\)|([0-9]+|[a-z]))")
_EMPTY_BOX, _BOX_AND_SPACE = re.compile(r"\\boxed\s*\{\s*\}"), re.compile(r"\\boxed\s+\{")
# 12\,345 and 12{,}345, which math-verify reads as two factors, or two elements.
_SPACED_NUMBER = re.compile(r"(?<![\d.])\d{1,3}(?:(?:\\[,;:! ]|\{,\}|,\\!)\d{3})+(?!\d)", re.ASCII)
_SPACE_IN_NUMBER = re.compile(r"\D+")


def without_thinking(text: str) -> str:
    """What follows the last </think>; the whole text where there is no such mark."""
    ends = list(_THINKING_ENDS.finditer(text))
    return text[ends[-1].end() :].lstrip() if ends else text


def normalized(text: str) -> str:
    """The text in the one spelling that is compared.

    ASCII in place of its forms in full width, which Chinese models write, and of the typographic
    minus; LaTeX in place of the signs of infinity and of roots; no empty box, which comes of a
    prompt that is repeated; no space between a box and its brace, nor in the thousands of a number.
    """
    if not text.isascii():
        text = _ROOT.sub(r"\\sqrt{\1\2\3}", text.translate(_FULL_WIDTH).translate(_SIGNS))
    text = _BOX_AND_SPACE.sub(r"\\boxed{", _EMPTY_BOX.sub("", text))
    return _SPACED_NUMBER.sub(lambda number: _SPACE_IN_NUMBER.sub("", number[0]), text)


def stated(text: str) -> str | None:
    """What follows the last "answer is" or "answer:" on its line; None where nothing does."""
    text = _without_emphasis(text)
    found = list(_STATED.finditer(text))
    if not found:
        return None
    return text[found[-1].end() :].partition("\n")[0].strip().removesuffix(".")


def anchored(text: str, anchor: Anchor) -> str | None:
    """The part of a text that says what the answer is, as math-verify reads it; None without one.

    That is its boxes; failing those, under "stated", what it says the answer is (`stated`), or the
    whole of a text that is one line without words. An expression elsewhere is none: "It is not 5",
    nor is one of two: "the answer is 5 or 6".
    """
    if BOX in text:
        return text
    if anchor == "boxed":
        return None
    text = _without_emphasis(text)
    answer, line = stated(text), text.strip().removesuffix(".")
    if not answer and "\n" not in line and _wordless(line):
        answer = line
    if not answer:
        return None
    if _wordless(answer):
        return f"\\boxed{{{_MATH_MARKS.sub('', answer)}}}"
    bracketed = _BRACKETED.match(answer)
    if bracketed and _wordless(bracketed[1]):
        return f"\\boxed{{{bracketed[1]}}}"
    if _ALTERNATIVES.search(answer) and not _MATH_MARKS.search(answer):
        return None  # between $, math-verify reads both
    return f"The final answer is {answer}."


def unmarked(text: str) -> str:
    """A text for math-verify, which would read "**2/3**." as a power, and "14/3." as a float."""
    return _FULL_STOP.sub("", _without_emphasis(text))


def _without_emphasis(text: str) -> str:
    """Without the marks of Markdown around bold words and code."""
    return _EMPHASIS.sub(r"\1\2", text)


def _wordless(text: str) -> bool:
    return _WORD.search(_COMMAND.sub("", text)) is None


def hash_answer(text: str) -> str | None:
    """The line after '####', as GSM8K marks its answers; None where there is no such mark.

    The first such line that is a plain number; failing that, in texts without \\boxed{, the first
    that begins with a number ("18 eggs"), so that headings ("#### Step 1") do not count. Takes time
    linear in the text.
    """
    lines = [part.partition("\n")[0].strip() for part in text.split("####")[1:]]
    plain = next((line for line in lines if number(line) is not None), None)
    if plain is not None or BOX in text:
        return plain
    return next((line for line in lines if _LEADING_NUMBER.match(line)), None)


def number(text: str) -> Decimal | None:
    """The number `text` is, without currency, percent, grouping and final full stop."""
    text = text.strip()
    match = _NUMBER.fullmatch(text) if len(text) <= _MAX_NUMBER else None
    return match and Decimal(match[1] + match[2].replace(",", ""))
