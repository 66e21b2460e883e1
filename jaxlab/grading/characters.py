r"""One character for each that looks the same, in the LaTeX that stands for it.

`normalized` is for whole texts and takes time linear in them.
"""

import re
import unicodedata


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
