r"""One spelling for the many in which an answer is written.

`normalized` is for whole texts and takes time linear in them: characters that look alike, spaces
and signs of Unicode, in the LaTeX that stands for them. `canonical` is for one answer: one name for
each command, words as \text{...}, "or" and "and" as \or and \and. The rest cuts a canonical answer
into parts.
"""

import itertools
import re
import unicodedata
from collections.abc import Sequence


def listed(names: str) -> list[str]:
    """Names that are written in one string."""
    return names.split()


# The forms of ASCII in full width, as NFKC has them; NFKC itself would read x² as x2 and ½ as 1⁄2.
_FULL_WIDTH = {code + 0xFEE0: chr(code) for code in range(0x21, 0x7F)}
_SPACES = dict.fromkeys(
    [0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000, 0x2028, 0x2029], " "
)
# Marks without width: joiners, marks of direction, soft hyphens, invisible operators, variants.
_NOTHING = dict.fromkeys(
    [
        *[0xAD, 0x200B, 0x200C, 0x200D, 0x200E, 0x200F, 0xFEFF],
        *[*range(0x202A, 0x202F), *range(0x2060, 0x2065), *range(0x2066, 0x206A)],
        *range(0xFE00, 0xFE10),
    ]
)
_GREEK = {
    ord(unicodedata.lookup(f"GREEK SMALL LETTER {name.upper()}")): f"\\{name} "
    for name in listed(
        "alpha beta gamma delta epsilon zeta eta theta iota kappa mu nu xi pi rho sigma "
        "tau upsilon phi chi psi omega"
    )
} | {
    ord(unicodedata.lookup(f"GREEK CAPITAL LETTER {name.upper()}")): f"\\{name} "
    for name in ["Gamma", "Delta", "Theta", "Xi", "Pi", "Sigma", "Upsilon", "Phi", "Psi", "Omega"]
}
_SIGNS = {
    ord(sign): latex
    for sign, latex in {
        "\u2212": "-",
        "\ufe63": "-",
        "\u2010": "-",
        "\u2011": "-",
        "\u2012": "-",
        "\u221e": "\\infty ",
        "\u00d7": "\\times ",
        "\u2715": "\\times ",
        "\u00b7": "\\cdot ",
        "\u22c5": "\\cdot ",
        "\u2219": "\\cdot ",
        "\u00f7": "\\div ",
        "\u2215": "/",
        "\u2044": "/",
        "\u2264": "\\le ",
        "\u2a7d": "\\le ",
        "\u2265": "\\ge ",
        "\u2a7e": "\\ge ",
        "\u2260": "\\ne ",
        "\u2248": "\\approx ",
        "\u2245": "\\approx ",
        "\u00b1": "\\pm ",
        "\u2213": "\\mp ",
        "\u2208": "\\in ",
        "\u222a": "\\cup ",
        "\u2229": "\\cap ",
        "\u2205": "\\emptyset ",
        "\u00d8": "\\emptyset ",
        "\u2216": "\\setminus ",
        "\u2223": "|",
        "\u2227": "\\land ",
        "\u2228": "\\lor ",
        "\u00b0": "^\\circ ",
        "\u2032": "'",
        "\u2019": "'",
        "\u2220": "\\angle ",
        "\u211d": "\\mathbb{R}",
        "\u2124": "\\mathbb{Z}",
        "\u2115": "\\mathbb{N}",
        "\u2148": "i",
        "\u2147": "e",
        "\u00a3": "",
        "\u20ac": "",
        "\u00a5": "",
        "\u20b9": "",
        "\u3001": ",",
        "\u3002": ".",
        "\u2103": "^\\circ C",
        "\u2109": "^\\circ F",
    }.items()
}
_TRANSLATED = _FULL_WIDTH | _SPACES | _NOTHING | _GREEK | _SIGNS
_SUPER = "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207a\u207b\u207f\u2071"
_SUB = "\u2080\u2081\u2082\u2083\u2084\u2085\u2086\u2087\u2088\u2089\u208a\u208b"
_RAISED = re.compile(f"[{_SUPER}]+")
_LOWERED = re.compile(f"[{_SUB}]+")
_RAISED_AS = str.maketrans(_SUPER, "0123456789+-ni")
_LOWERED_AS = str.maketrans(_SUB, "0123456789+-")
_VULGAR = re.compile("[\u00bc-\u00be\u2150-\u215e]")
_ROOT = re.compile(r"\u221a\s?(?:\{([^{}]{1,99})\}|\(([^()]{1,99})\)|([0-9]+(?:\.[0-9]+)?|[a-z]))")
# Dashes before a number that are no range, "3-5".
_DASH = re.compile(r"(?<![\w\s)}])\s?[\u2013\u2014](?=\s?[\d.(\\$])|(?<!\S)[\u2013\u2014](?=\s?\d)")
_DASH_IN_FORMULA = re.compile(r"(?<=[\w)}])\s?[\u2013\u2014]\s?(?=[\w(\\])")
_EMPTY_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{\s*\}")
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{")
_BRACELESS_BOX = re.compile(r"\\boxed\s+([A-Za-z0-9])(?![A-Za-z0-9])")
# 12\,345 and 12{,}345, two factors or two elements to a reader.
_SPACED_NUMBER = re.compile(
    r"(?<![\d.,;:!~}])(?<!\d )(?<!\\ )\d{1,3}"
    r"(?:(?:(?:\\[,;:! ]|\{,\}|,\\!|\\,\\!|\{\\,\}|~|\{ \}) ?\d{3})+|(?: \d{3})+)(?! ?\d)(?!,\d)",
    re.ASCII,
)
_SPACE_IN_NUMBER = re.compile(r"\D+")


def normalized(text: str) -> str:
    """The text with one character for each that looks the same, in linear time.

    ASCII in place of its forms in full width, which Chinese models write, and of the typographic
    minus and spaces; nothing in place of marks without width; LaTeX in place of signs, Greek
    letters, raised digits and roots; no empty box, which comes of a prompt that is repeated; no
    space between a box and its brace, nor in the thousands of a number.
    """
    if not text.isascii():
        text = _RAISED.sub(lambda run: f"^{{{run[0].translate(_RAISED_AS)}}}", text)
        text = _LOWERED.sub(lambda run: f"_{{{run[0].translate(_LOWERED_AS)}}}", text)
        text = _VULGAR.sub(_fraction, text).translate(_TRANSLATED)
        text = _DASH.sub(lambda dash: " -" if dash[0][0].isspace() else "-", text)
        text = _ROOT.sub(r"\\sqrt{\1\2\3}", text)
    text = _BRACELESS_BOX.sub(r"\\boxed{\1}", _BOX.sub(r"\\boxed{", _EMPTY_BOX.sub("", text)))
    return _SPACED_NUMBER.sub(lambda number: _SPACE_IN_NUMBER.sub("", number[0]), text)


def _fraction(sign: re.Match[str]) -> str:
    top, _, bottom = unicodedata.normalize("NFKC", sign[0]).partition("\u2044")
    return f"\\frac{{{top}}}{{{bottom}}}"


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
_SQUEEZED = re.compile(r"(?<!\d)\s+|\s+(?!\d)")
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
    text = _UNIT_FRACTION.sub(r"\1/\2", text)
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


def squeezed(text: str) -> str:
    """Without spaces, but between digits, and without a final full stop."""
    return _SQUEEZED.sub("", text.strip().rstrip(".").strip())


_PIECE = re.compile(r"\\(?:[A-Za-z]+|.)|.", re.DOTALL)
_OPENING = {"(": ")", "[": "]", "{": "}", "\\{": "\\}", "\\begin": "\\end", "\\langle": "\\rangle"}
_CLOSING = frozenset(_OPENING.values())


def split(text: str, mark: str) -> list[str]:
    """The parts between marks that stand outside of all brackets.

    Square and round brackets are not counted where sets are joined, for ]0, 1[ has them reversed.
    """
    counted = "{" if mark in ("\\cup", "\\setminus", "\\or") else "([{"
    parts, begin, depth = [], 0, 0
    for piece in _PIECE.finditer(text):
        token = piece[0]
        if token == mark and depth == 0:
            parts.append(text[begin : piece.start()])
            begin = piece.end()
        elif token in _OPENING and (len(token) > 1 or token in counted):
            depth += 1
        elif token in _CLOSING and (
            len(token) > 1 or {")": "(", "]": "[", "}": "{"}[token] in counted
        ):
            depth = max(0, depth - 1)
    return [*parts, text[begin:]]


def relations(text: str) -> tuple[list[str], list[str]]:
    """The sides of a relation, and the signs between them."""
    sides, signs, begin, depth = [], [], 0, 0
    for piece in _PIECE.finditer(text):
        token = piece[0]
        if token in ("=", "<", ">", "\\le", "\\ge", "\\ne", "\\in") and depth == 0:
            sides.append(text[begin : piece.start()])
            signs.append(token)
            begin = piece.end()
        elif token in _OPENING:
            depth += 1
        elif token in _CLOSING:
            depth = max(0, depth - 1)
    return [*sides, text[begin:]], signs


def inside(text: str, opening: str, closing: str) -> str | None:
    """What stands between brackets around the whole text; None where there are none."""
    if not (text.startswith(opening) and text.endswith(closing)):
        return None
    if len(text) < len(opening) + len(closing):
        return None
    inner = text[len(opening) : len(text) - len(closing)]
    return inner if _balanced(inner) else None


def _balanced(text: str) -> bool:
    depth = 0
    for piece in _PIECE.finditer(text):
        depth += (piece[0] in _OPENING) - (piece[0] in _CLOSING)
        if depth < 0:
            return False
    return depth == 0


def pair(text: str) -> tuple[str, str] | None:
    """The two parts on either side of the one comma or semicolon; None where there are not two."""
    if not _balanced(text):
        return None
    for mark in (",", ";"):
        parts = split(text, mark)
        if len(parts) == 2 and all(part.strip() for part in parts):
            return parts[0], parts[1]
    return None


_MATRIX = re.compile(
    r"\\begin\s*\{((?:[pbB]|small)?matrix|array)\}(?:\s*\{[lcr| ]*\})?(.*)\\end\s*\{\1\}", re.DOTALL
)


def matrix(text: str) -> list[list[str]] | None:
    """The cells of a matrix; None where it is none."""
    found = _MATRIX.fullmatch(text.strip())
    if found is None or "\\begin" in found[2]:
        return None
    rows = [row for row in split(found[2], "\\\\") if row.strip()]
    return [split(row, "&") for row in rows]


_POWER = r"\s*(?:\^\s*\{?\s*-?\d\s*\}?)?"
_NAMED_UNIT = rf"\\text\{{[^{{}}]*\}}{_POWER}"
_UNIT = rf"{_NAMED_UNIT}(?:\s*/\s*[a-zA-Z](?![a-zA-Z]){_POWER})?"
_WITH_UNIT = re.compile(rf"(.*?[^\s/*])\s*((?:[/*]?\s*{_UNIT}\s*)+)")
_LETTER_UNIT = re.compile(
    r"([-+\d.,/() ]*\d[)]?)\s+([msghLlJNWVKA](?:\^\{?-?\d\}?)?(?:/[a-z](?:\^\{?\d\}?)?)?)"
)
_UNIT_FRACTION = re.compile(rf"\\frac\s*\{{\s*({_NAMED_UNIT})\s*\}}\s*\{{\s*({_NAMED_UNIT})\s*\}}")
_BASE = re.compile(r"(-?\d+)\s*_\s*\{?\s*(?:\\text\{\w+\})?\s*(\d+)\s*\}?")
_SYNONYMS = {
    "centimeter": "cm",
    "centimetre": "cm",
    "millimeter": "mm",
    "millimetre": "mm",
    "kilometer": "km",
    "kilometre": "km",
    "meter": "m",
    "metre": "m",
    "gram": "g",
    "kilogram": "kg",
    "second": "s",
    "sec": "s",
    "minute": "min",
    "hour": "h",
    "hr": "h",
    "inche": "in",
    "inch": "in",
    "foot": "ft",
    "feet": "ft",
    "mile": "mi",
    "pound": "lb",
    "ounce": "oz",
    "liter": "l",
    "litre": "l",
    "deg": "degree",
    "usd": "dollar",
    "buck": "dollar",
    "cent": "cent",
    "sq": "square",
    "yr": "year",
}
_FILLERS = frozenset(["unit", "of", "per", "the", "in", "a"])


def unit(text: str) -> tuple[str, str]:
    """A quantity and its unit in one spelling; "" where it has none. Percent is one."""
    text = text.strip()
    if text.endswith("%"):
        return text[:-1].strip(), "%"
    base = _BASE.fullmatch(text)
    if base is not None:
        return base[1], f"base {base[2]}"
    found = _WITH_UNIT.fullmatch(text) or _LETTER_UNIT.fullmatch(text)
    if found is None:
        return text, ""
    words = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", found[2])
    spelled: list[str] = []
    power = ""
    for word in re.findall(r"[^\W\d_]+|\^\s*\{?\s*-?\d|[/*]", words):
        low = word.lower()
        low = low[:-1] if len(low) > 2 and low.endswith("s") else low
        low = _SYNONYMS.get(low, low)
        if low in ("square", "cubic"):
            power = "^2" if low == "square" else "^3"
        elif low not in _FILLERS and low != "*":
            mark = "".join(c for c in low if c not in "{ ") if low[0] == "^" else low
            spelled.append(mark + power)
            power = ""
    return found[1].strip(), "".join(spelled)


_LABEL = r"(?:\\text\{(?:option|choice|answer|Option|Choice|Answer)\}\s*)?"
_OPTION = re.compile(
    _LABEL + r"(?:\(\s*([A-J])\s*\)|([A-J])\s*[).:])"
    r"(?!\s*(?:[-+*/^=<>(,;&|_]|\\(?:and|or)\b|[A-J]\)))\s*(.*)",
    re.DOTALL,
)
_CHOICES = re.compile(
    _LABEL
    + r"[({]*\s*[A-J]\s*[)}]*(?:(?:\s*(?:,|;|\\and\b|,\s*\\and\b)\s*|\s+)\(?\s*[A-J]\s*[)}]*)*"
)
_RUN = re.compile(r"(?:\\text\{)?([A-J]{2,6})\}?")


def option(text: str) -> tuple[str, str] | None:
    """The letter and the text of an option, "(B) 12"; None where it is none."""
    found = _OPTION.fullmatch(text.strip())
    return None if found is None else (found[1] or found[2], (found[3] or "").strip())


def choices(text: str) -> frozenset[str]:
    """The letters of "A, C" or "AC" or "(A) and (C)"; none where it is something else."""
    text = text.strip().rstrip(".").strip()
    run = _RUN.fullmatch(text)
    if run is not None:
        return frozenset(run[1]) if len(set(run[1])) == len(run[1]) else frozenset()
    if _CHOICES.fullmatch(text) is None:
        return frozenset()
    return frozenset(re.findall(r"(?<![A-Za-z])[A-J](?![A-Za-z])", text))


def words(text: str) -> str:
    """Words in lower case without articles; the rest as it is."""
    text = re.sub(r"\\text\{([^{}]*)\}", lambda word: f" {word[1].lower()} ", text)
    parts = re.sub(r"[.,;:!?\"'()]", " ", text).split()
    return " ".join(part for part in parts if part not in ("the", "a", "an")) or " ".join(parts)


_SUBSCRIPT = r"(?:_(?:\w|\{[^{}]*\}|\\[A-Za-z]+))?"
_NAME = re.compile(
    rf"(?:\\text\{{[^{{}}]*\}})+{_SUBSCRIPT}"
    rf"|(?:[^\W\d_]|\\(?!sin|cos|tan|log|ln|exp|sqrt|frac)[A-Za-z]+){_SUBSCRIPT}'*(?:\^\{{-1\}})?"
    r"(?:\([^()]*\)){0,2}"
    r"|[A-Z]{2,4}|\|[A-Z]{1,2}\|"
    rf"|\\[a-z]+\{{[A-Za-z]+\}}{_SUBSCRIPT}"
    r"|\\(?:angle|triangle|overline)[A-Z]+"
    r"|\\frac\{d[^{}]*\}\{d[^{}]*\}"
    r"|\([^\W\d_](?:,[^\W\d_])*\)"
)


def is_name(text: str) -> bool:
    """Whether a side of an equation names what the other side is: y, f(x), AB, S_n, (x, y)."""
    return _NAME.fullmatch(squeezed(text)) is not None


def joined(answers: Sequence[str]) -> str:
    """Several answers, of which equal ones are one."""
    return " \\lor ".join(f"{{{answer}}}" if "," not in answer else answer for answer in answers)
