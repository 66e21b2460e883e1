r"""One spelling for the many in which an answer is written.

`canonical` is for one answer: one name for each command, words as \text{...}, "or" and "and" as \or
and \and. `syntax` cuts it into parts.
"""

import itertools
import re

from jaxlab.grading.characters import listed, normalized
from jaxlab.grading.syntax import UNIT_FRACTION

_DASH_IN_FORMULA = re.compile(r"(?<=[\w)}])\s?[\u2013\u2014]\s?(?=[\w(\\])")
_RENAMED = {
    "dfrac": "\\frac",
    "tfrac": "\\frac",
    "cfrac": "\\frac",
    "dbinom": "\\binom",
    "tbinom": "\\binom",
    "leq": "\\le",
    "leqslant": "\\le",
    "leqq": "\\le",
    "lt": "<",
    "geq": "\\ge",
    "geqslant": "\\ge",
    "geqq": "\\ge",
    "gt": ">",
    "neq": "\\ne",
    "approx": "=",
    "simeq": "=",
    "cdot": "*",
    "times": "*",
    "ast": "*",
    "div": "/",
    "lbrace": "\\{",
    "rbrace": "\\}",
    "lbrack": "[",
    "rbrack": "]",
    "lvert": "|",
    "rvert": "|",
    "vert": "|",
    "mid": "|",
    "colon": ":",
    "land": "\\and",
    "wedge": "\\and",
    "lor": "\\or",
    "vee": "\\or",
    "varnothing": "\\emptyset",
    "backslash": "\\setminus",
    "infin": "\\infty",
    "R": "\\mathbb{R}",
    "reals": "\\mathbb{R}",
    "degree": "^\\circ",
    "tg": "\\tan",
    "ctg": "\\cot",
    "lg": "\\log_{10}",
    "arctg": "\\arctan",
    "sinh": "\\sinh",
    "bmod": "\\text{mod}",
    "imath": "i",
    "quad": " ",
    "qquad": " ",
    "thinspace": " ",
    "enspace": " ",
    "space": " ",
}
_DROPPED = frozenset(
    listed(
        "left right middle big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr "
        "displaystyle textstyle scriptstyle limits nolimits rm bf it sf tt em cal "
        "mathstrut strut phantom hfill mathopen mathclose mathrel mathbin mathord"
    )
)
_COMMAND = re.compile(
    r"\\(?:\\(?:\s?\[[^\]]{0,9}\])?|(?:left|right)\s*\.|([A-Za-z]+)|(.))", re.DOTALL
)
_TEXT = re.compile(
    r"\\(?:text[a-z]*|math(?:rm|bf|it|sf|tt|cal|bb|scr|frak|normal)|operatorname\*?|boldsymbol|bm"
    r"|mbox|hbox|emph|underline|mathop|ensuremath|smash)\s*\{([^{}]*)\}"
)
_SET_LETTER = re.compile(r"\\(?:mathbb|mathbf|Bbb)\s*\{?\s*([RZNQC])\s*\}?(?![A-Za-z])")
_CIRCLE = re.compile(r"\^\s*(?:\\circ|\{\s*\\circ\s*\})\s*(?:\\text\{[CF]\}|[CF](?![A-Za-z]))?")
_KEPT_OR_WORD = re.compile(
    r"(\\(?:begin|end)\s*\{[^{}]*\}|\\text\{[^{}]*\}|\\[A-Za-z]+|\\.|(?<=[\d.])[eE][-+]?\d+)"
    r"|([^\W\d_]{2,})"
)
_FUNCTIONS = frozenset(
    listed(
        "arcsinh arccosh arctanh arcsin arccos arctan arcsec arccsc arccot sinh cosh tanh "
        "coth sin cos tan sec csc cot asin acos atan exp sqrt ln log pi infty np math"
    )
)
_NAMED = {
    "infinity": "\\infty",
    "inf": "\\infty",
    "percent": "%",
    "negative": "-",
    "minus": "-",
    "plus": "+",
    "positive": "",
    "or": "\\or",
    "and": "\\and",
    "union": "\\cup",
    "theta": "\\theta",
    "alpha": "\\alpha",
    "beta": "\\beta",
    "gamma": "\\gamma",
    "lambda": "\\lambda",
    "omega": "\\omega",
    "phi": "\\phi",
}
_HEDGES = frozenset(
    listed(
        "about approximately approx roughly exactly precisely only simply just around "
        "circa equals nearly total respectively both either"
    )
)
_SCALES = {
    "hundred": 2,
    "thousand": 3,
    "million": 6,
    "billion": 9,
    "trillion": 12,
    "hundreds": 2,
    "thousands": 3,
    "millions": 6,
    "billions": 9,
    "\u4e07": 4,
    "\u4ebf": 8,
}
_SHORT_WORDS = frozenset(
    listed(
        "cm mm km kg mg ml ft mi lb oz hr am pm sq no in is it if hz pa nm ms ns ev kw mw gb mb of"
    )
)
# Whole answers in words.
_PHRASES = {
    word: str(number)
    for number, word in enumerate(
        listed(
            "zero one two three four five six seven eight nine ten eleven twelve thirteen "
            "fourteen fifteen sixteen seventeen eighteen nineteen twenty"
        )
    )
} | {
    "half": "\\frac{1}{2}",
    "one half": "\\frac{1}{2}",
    "one third": "\\frac{1}{3}",
    "two thirds": "\\frac{2}{3}",
    "one quarter": "\\frac{1}{4}",
    "one fourth": "\\frac{1}{4}",
    "three quarters": "\\frac{3}{4}",
    "empty set": "\\emptyset",
    "the empty set": "\\emptyset",
    "real numbers": "\\mathbb{R}",
    "all real numbers": "\\mathbb{R}",
    "all reals": "\\mathbb{R}",
}
# "m/s^2", "kg m"
_UNITS = re.compile(r"\s*[A-Za-z]{1,3}(?:\^-?\d)?(?:\s*[/* ]\s*[A-Za-z]{1,3}(?:\^-?\d)?)+\s*")
_UNIT_LETTERS = frozenset("mshgLlJNWVK")
_SCALED = re.compile(r"(?<=[\d.)}])\s*\\text\{(" + "|".join(_SCALES) + r")\}")
_APPLIED = {"dozen": "*12", "squared": "^2", "cubed": "^3", "factorial": "!"}
_APPLIED_WORD = re.compile(r"(?<=[\d)}])\s*\\text\{(" + "|".join(_APPLIED) + r")\}")
_MIXED = re.compile(r"(?<![\d.,/^_}])(?<!\d )(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d.]|\s*/)")
_TIMES_TEN = re.compile(r"(?<=\d)\s*[xX]\s*10\s*(?=\^)|(?<=\d)\s*\*\s*10\s*\*\*\s*")
_GROUPED = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?!\d)(?!,\d)", re.ASCII)
_ELLIPSIS = re.compile(r"(?<=\d)\s*(?:\\(?:ldots|dots|cdots)|\.{2,}|\u2026)")
# (0, 1) cup (2, 3), but not 1 cup.
_CUP = re.compile(r"(?<=[])}[(])\s*(?:\\text\{\s*cup\s*\}|\bcup\b)\s*(?=[](\[\\])")
_SIGNS_TYPED = (("<=", "\\le "), (">=", "\\ge "), ("!=", "\\ne "), (":=", "="), ("==", "="))
_CHINESE_OR, _CHINESE_AND = re.compile("\u6216\u8005?"), re.compile("[\u548c\u4e0e]|\u4ee5\u53ca")
_CHINESE_MINUS = re.compile(r"\u8d1f\s*(?=\d)")
_CHINESE_UNIT = re.compile("(?<=[\\d%)}])\\s*([\u4e00-\u9fff]+)")


def canonical(text: str) -> str:
    """One answer in the one spelling that is compared."""
    text = re.sub(r",\s*\\!\s*", ",", normalized(text)).replace("{,}", ",").replace("~", " ")
    if not text.isascii():
        text = _CHINESE_OR.sub(r" \\or ", _CHINESE_AND.sub(r" \\and ", text))
        text = _CHINESE_MINUS.sub("-", text)
        text = _CHINESE_UNIT.sub(" \\\\\0text{\\1}", text)
    text = _CUP.sub(r" \\cup ", text)
    text = re.sub(r"\b([apAP])\.\s?([mM])\.", r"\1\2", text)
    text = text.replace("\\$", " ").replace("\\%", "%").replace("\\dots", "\\ldots")
    text = _ELLIPSIS.sub("", text)
    for typed, sign in _SIGNS_TYPED:
        text = text.replace(typed, sign)
    text = _SET_LETTER.sub(r"\\mathbb{\1}", _COMMAND.sub(_command, text))
    text = text.replace("\\mathbb{", "\\mathbb\0{")
    for _ in range(4):  # inner ones first
        changed = _TEXT.sub(_text, text)
        if changed == text:
            break
        text = changed
    text = text.replace("\0", "").replace("$", " ").replace("`", " ")
    text = _CIRCLE.sub(r" \\text{degree}", text)
    text = _DASH_IN_FORMULA.sub("-", text)
    text = _KEPT_OR_WORD.sub(_word, text).replace("\0", "")
    text = _SCALED.sub(lambda word: f"*10^{{{_SCALES[word[1]]}}}", text)
    text = _APPLIED_WORD.sub(lambda word: _APPLIED[word[1]], text)
    text = _TIMES_TEN.sub("*10", text)
    text = _MIXED.sub(r"(\1+\2/\3)", text)
    text = _ungrouped(re.sub(r"\s+", " ", text)).strip()
    text = re.sub(
        r"^\\text\{(?:rs|usd|eur|gbp|inr)\}\.?\s*(?=[\d.])", "", text, flags=re.IGNORECASE
    )
    text = UNIT_FRACTION.sub(r"\1/\2", text)
    phrase = " ".join(re.findall(r"[a-z]+", text.replace("\\text", "").lower()))
    if phrase in _PHRASES and re.fullmatch(r"-?(?:[-\s]*\\text\{[^{}]*\})+", text):
        return "-" * text.startswith("-") + _PHRASES[phrase]
    return text


def _command(found: re.Match[str]) -> str:
    name, sign = found[1], found[2]
    if name is None:
        if sign is None:  # a line's end, or the missing half of a pair of brackets
            return "" if found[0][1] in "lr" else "\\\\ "
        return {"(": " ", ")": " ", "[": " ", "]": " ", "!": "", "|": "|"}.get(
            sign, " " if sign in ",;: /" or sign.isspace() else found[0]
        )
    if name in _DROPPED:
        return ""
    new = _RENAMED.get(name)
    return found[0] if new is None else f"{new} " if new[-1:].isalpha() else new


def _text(found: re.Match[str]) -> str:
    """What a text command holds, words marked, and single letters where they are units."""
    inside = found[1]
    if re.fullmatch(r"\s*[A-Za-z]\s*", inside):
        letter = inside.strip()
        before = found.string[: found.start()].rstrip()
        unit = before[-1:].isdigit() or before.endswith(("}", "/", "*", "\\frac{", "}{"))
        if letter in _UNIT_LETTERS and unit and not before.endswith(("^{", "_{")):
            return f" \\\0text{{{letter}}}"
        return f" {letter} " if found[0].startswith("\\text") else letter
    if _UNITS.fullmatch(inside) and found.string[: found.start()].rstrip()[-1:].isdigit():
        return re.sub(r"[A-Za-z]+", lambda name: f"\\\0text{{{name[0]}}}", inside)
    return f" {_KEPT_OR_WORD.sub(_word, inside.replace('-', ' - ' if ' ' in inside else '-'))} "


def _word(found: re.Match[str]) -> str:
    """A word, marked as such; functions and connectives by their commands."""
    if found[1] is not None:
        return found[1]
    word = found[2]
    low = word.lower()
    if low in _HEDGES:
        return " "
    if low in _NAMED:
        return f" {_NAMED[low]} "
    if word in _FUNCTIONS or not _is_word(word):
        return word
    return f" \\\0text{{{word}}} "


def _is_word(word: str) -> bool:
    """Whether letters are a word, not a product such as xy, abc or mgh."""
    low = word.lower()
    if low in _SHORT_WORDS or low in ("mph", "lbs", "sqft", "yrs", "hrs", "cents"):
        return True
    run = all(ord(b) - ord(a) == 1 for a, b in itertools.pairwise(low))
    if word.endswith("pi") or any(word.endswith(name) for name in ("sqrt", "sin", "cos", "tan")):
        return False
    if not low.isascii():
        return True
    return len(word) > 2 and not run and any(c in "aeiou" for c in low)


def _ungrouped(text: str) -> str:
    """Without the commas in 1,234 where they separate thousands: not inside of brackets."""
    if "," not in text:
        return text

    def joined(number: re.Match[str]) -> str:
        before = text[: number.start()]
        depth = sum(before.count(c) for c in "([") + before.count("\\{")
        return number[0] if depth else number[0].replace(",", "")

    return _GROUPED.sub(joined, text)
