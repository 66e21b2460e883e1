"""Where a text says what its answer is.

All of it takes time linear in the text, whatever a model has written.
"""

import re
from decimal import Decimal
from typing import Literal

from jaxlab.grading.characters import listed, normalized
from jaxlab.grading.syntax import joined

__all__ = [
    "Anchor",
    "boxed",
    "boxes",
    "find",
    "hash_answer",
    "normalized",
    "number",
    "without_thinking",
]

_MAX_NUMBER = 64
# ASCII digits, plain or grouped by threes: "1,2" is a pair, not twelve.
_NUMBER = re.compile(
    r"([+-]?)\$?((?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)(%?)\.?"
)
_LEADING_NUMBER = re.compile(r"(?:\\\$|[-+$.(\[ ])*(?:[0-9]|\\[a-z]+)")
BOX = "\\boxed{"
_THINKING_ENDS = re.compile(r"</(?:longcat_)?think(?:ing)?>")

# What a text is looked through for: boxes; or what it says the answer is, too; or everything.
Anchor = Literal["boxed", "stated", "anywhere"]

# What may stand between boxes that are one answer: \boxed{1}, x = \boxed{2} and \boxed{3}.
_SEPARATORS = re.compile(
    r"(?:\s|[,;&$]|\\[()\[\],;:! \\]|\\(?:quad|qquad|lor|land|vee|wedge)\b"
    r"|\\(?:text|mathrm|textrm)\{\s*(?:,?\s*(?:and|or)\s*,?|,|;)\s*\}|\b(?:and|or)\b"
    r"|\\?[A-Za-z]{1,5}(?:_(?:\w|\{\w{1,3}\}))?'?\s?(?:=|:|\\in\b))*"
)
_DENIED = re.compile(
    r"(?:\b(?:can)?not|n't|\bnever|\binstead of|\brather than|\bunlike)\s*(?:be|equal to|equal)?"
    r"[\s$({\\\[]*\Z",
    re.IGNORECASE,
)
_ANSWER = (
    r"(?:answers?|(?:final|end)\sresult|correct\s(?:option|choice)"
    r"|\u7b54\u6848|\u7b54\u590d|\u7b54|\u6700[\u7ec8\u7d42\u540e\u5f8c]\u7ed3\u679c)"
    r"[*_`\s\"\u201d\u300d\u3011\])]{0,9}"
)
_IS = (
    r"(?:(?:\b(?:is|are|as|be|equals?(?:[ \t]to)?|becomes)\b(?!\s{0,9}(?:not|never)\b)"
    r"|[-=]>|[:=\u2192]|\u5927?\u7ea6(?:\u662f|\u4e3a|\u7b49\u4e8e)|\u662f(?!\u5426)|\u4e3a|\u70ba|\u7b49\u4e8e|\u5e94\u4e3a|\u5e94\u8be5\u662f|\u5e94\u662f"
    r"|\u5373)[*_` \t]{0,9}){1,3}"
)
# "the answer is 5", "Answer: 5", "the answer must be 5", and not "the answer is not 5".
_STATED = re.compile(
    rf"(?:\b|(?<=[\u4e00-\u9fff*_])){_ANSWER}"
    r"(?:(?:of|to|for|in)\b[^.:=\n]{0,60}?\s)?(?:\b(?:must|should|would|will|can only)\s{1,9})?"
    rf"{_IS}"
    r"|\u3010\S{0,4}\u7b54\u6848\u3011:?",
    re.IGNORECASE,
)
# Before "answer is": what makes it a supposition, a denial, or somebody else's.
_NOT_STATED = re.compile(
    r"(?:\b(?:not|cannot|never|doubt|nobody|no one|suppose|supposing|assum(?:e|ing)|if|whether|"
    r"unless|false|wrong|incorrect|untrue|unlikely|impossible|first|previous|earlier|initial|old|former|"
    r"naive|obvious|tempting|trap|student['\u2019]s|guess(?:ed)?)\b|n['\u2019]t\b)"
    r"(?:\s+(?:that|think|believe|say|says|claim|know|knows|mean|sure|true|the case|be|to|it is|is|"
    r"the|a|an|my|your|our|its|his|her|their|this|final|correct|right|true))*\s*\Z"
    r"|(?:\A|[.?!\n]\s*)\s*(?:is|could|can|might)\s+(?:the|my|this)\s*(?:final|correct)?\s*\Z",
    re.IGNORECASE,
)
_HEADING = re.compile(
    r"^[ \t>]{0,9}(?:#{1,6}[ \t]{0,9}|\*\*|__)(?:[Tt]he[ \t]{1,9})?"
    r"(?:(?:[Ff]inal|FINAL|[Cc]orrect)[ \t]{1,9})?"
    r"(?:[Aa]nswer|ANSWER|[Rr]esult|\S{0,4}\u7b54\u6848)"
    r"[ \t]{0,9}(?:\*\*|__)?[ \t]{0,9}:?(?:\*\*|__)?",
    re.MULTILINE,
)
# Not the powers of 2**3**4.
_EMPHASIS = re.compile(
    r"(?<![\w)*])(\*\*|__|\*)(?=[^\s*_])([^*\n]*?[^\s*\n]|[^*\s])\1(?![\w(*])|`([^`\n]*)`"
)
_HALF_EMPHASIS = re.compile(r"\*\*(?![\w(])|(?<![\w)])\*\*")
_COMMAND = re.compile(
    r"\\(?:text[a-z]*|mathrm|mbox|operatorname|begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+"
)
_WORD, _LINKS = re.compile(r"[^\W\d_]{2}"), re.compile(r"\b(?:or|and)\b")
_DELIMITERS = re.compile(r"\\\\|\\\$|\$\$?|\\[()\[\]]")
_CLOSING = {"$": "$", "$$": "$$", "\\(": "\\)", "\\[": "\\]"}
# Of a line of prose, and of what is looked at after a heading.
_LONGEST_LINE = 2000


def without_thinking(text: str) -> str:
    """What follows the last </think>; the whole text where there is no such mark."""
    ends = list(_THINKING_ENDS.finditer(text))
    return text[ends[-1].end() :].lstrip() if ends else text


def find(text: str, anchor: Anchor = "anywhere") -> str | None:
    """What a text gives as its answer; None where it gives none.

    The last box, or boxes between which nothing but separators stands. Failing those, unless only
    boxes count: what follows the last "answer is" or "answer:" or such a heading, or the whole of a
    text that is one line without words. Where everything counts, lines after '####' come before
    that (see `hash_answer`), and the last expression after it.

    Args:
        text: `normalized`.
        anchor: what is looked for.
    """
    if anchor == "anywhere":
        marked = hash_answer(text)
        if marked is not None:
            return clause(marked) or marked
    found = boxed(text)
    if found is not None or anchor == "boxed":
        return found
    said = stated(text)
    if said is not None:
        return clause(said)
    text = without_emphasis(_after_suppositions(text))
    line = text.strip().removesuffix(".")
    if line and "\n" not in line and (_wordless(line) or _is_typed(line)):
        return line
    return last_expression(text) if anchor == "anywhere" else None


def boxed(text: str) -> str | None:
    r"""What the last \boxed{...} holds, or the last ones; None where there is no whole box."""
    found = boxes(text)
    if not found:
        return None
    begin, end = found[-1]
    chosen = [text[begin:end]]
    for before, after in zip(found[-2::-1], found[:0:-1], strict=False):
        between = text[before[1] + 1 : after[0] - len(BOX)]
        if len(between) > 200 or _SEPARATORS.fullmatch(between) is None:
            break
        chosen.append(text[before[0] : before[1]])
    return chosen[0] if len(set(chosen)) == 1 else joined(chosen[::-1])


_BRACES = re.compile(r"\\boxed\{|\\.|[{}]", re.DOTALL)


def boxes(text: str) -> list[tuple[int, int]]:
    """Where the contents of boxes begin and end, those that are not denied ("not \\boxed{4}")."""
    open_at: list[int | None] = []
    found = []
    for mark in _BRACES.finditer(text):
        if mark[0] == BOX:
            open_at.append(mark.end())
        elif mark[0] == "{":
            open_at.append(None)
        elif mark[0] == "}" and open_at:
            begin = open_at.pop()
            if begin is not None and text[begin : mark.start()].strip():
                found.append((begin, mark.start()))
    whole = [
        (begin, end)
        for begin, end in found
        if _DENIED.search(text[max(0, begin - len(BOX) - 30) : begin - len(BOX)]) is None
    ]
    # Of boxes in boxes the inner ones alone.
    return [box for i, box in enumerate(whole) if i == 0 or box[0] > whole[i - 1][1]]


def stated(text: str) -> str | None:
    """What follows the last "answer is", "answer:" or heading; None where nothing does."""
    marks = [mark for mark in _STATED.finditer(text) if not _is_supposed(text, mark)]
    marks += _HEADING.finditer(text)
    for mark in sorted(marks, key=lambda mark: mark.end(), reverse=True)[:20]:
        # On the same line, or the next that holds more than the opening of a formula.
        lines = text[mark.end() : mark.end() + _LONGEST_LINE].splitlines()
        line = next((line for line in lines if line.strip(" \t*_:#$.\\[(")), None)
        if line is not None:
            return line.strip(" \t*_:")
    return None


def _is_supposed(text: str, mark: re.Match[str]) -> bool:
    """Whether "the answer is" stands behind "if", "I doubt that", "the wrong" and the like."""
    return _NOT_STATED.search(text[max(0, mark.start() - 80) : mark.start()]) is not None


def _after_suppositions(text: str) -> str:
    """The text after the last sentence with an "answer is" that states nothing; all without one."""
    marks = list(_STATED.finditer(text))
    if not marks or not _is_supposed(text, marks[-1]):
        return text
    end = _SENTENCE.search(text, marks[-1].end())
    return text[end.end() :] if end else ""


_HEDGED_RESTATEMENT = re.compile(
    r"\s*(?:\(?\s*or\s+(?:about|approximately|roughly|equivalently|around)\b"
    r"|\(\s*(?:or|i\.e\.|that is|about|approximately|in)\b|\(?\\approx).*",
    re.IGNORECASE | re.DOTALL,
)
_FILLER = re.compile(
    r"(?:\s*(?:the|simply|just|indeed|thus|therefore|exactly|only|clearly|then|hence|so|now|"
    r"equal(?:s)? to|equals|given by|the number|the value|number|value|about|approximately|roughly|"
    r"around|option|choice|interval|range|set|point|ordered pair|\u7ea6|\u5927\u7ea6|\u9009)"
    r"\b\s*:?)+\s*|\s*(?:\u7ea6|\u5927\u7ea6|\u9009\u9879?)\s*",
    re.IGNORECASE,
)
_SIGN_IN_WORDS = re.compile(r"(?:negative|minus)\s+(?=[a-z]{3})", re.IGNORECASE)
# "the probability is 0.33" and "Tom pays $12" below a heading, and "as follows: 12".
_NAMED_VALUE = re.compile(
    r"(?:[^.?!:\d\n]{1,80}?\b(?:is|are|was|were|will be|equals?|has|have|had|needs?|pays?|paid"
    r"|gets?|got|makes?|made|spends?|spent|sells?|sold|buys?|bought|earns?|earned|saves?|saved|takes?"
    r"|took|costs?|eats?|ate|owes?|uses?|used|receives?|received|collects?|collected)\s*:?"
    r"|(?:as )?follows:)"
    r"\s*(?=[-+\d$\\(\[])"
)
_TOKEN = re.compile(r"\S+")
_LINK = re.compile(r"(?:\s|\$|\\[()\[\]])*,?\s*(?:or|and)(?:\s|\$|\\[()\[\]])*")
_CONNECTIVES = frozenset(
    listed(
        "or and negative minus plus infinity pi sqrt sin cos tan log ln exp about "
        "approximately percent union thousand million billion trillion hundred to "
        "dozen squared cubed factorial"
    )
)
_TAKEN_BACK = re.compile(
    r"\b(?:not|no|nor|neither|wrong|incorrect|wait|actually|rather|instead|but|however|except|"
    r"unless|if|or|perhaps|maybe|possibly|unlikely|less|more|fewer|times|minus|plus|off|false|"
    r"impossible|doubt|unsure|unclear|mistaken?|retract|withdraw|discard|reject|scratch|ignore|"
    r"error|suppos\w+|assum\w+)\b|n't\b|\?|\u4e0d|\u9519|\u6216",
    re.IGNORECASE,
)
# "because 5 is not even" takes nothing back, "because I was wrong, it is 7" does.
_REASON = re.compile(r"[,;(]?\s*\b(?:because|since)\b[^.;?!\n]*(?:\.\d[^.;?!\n]*)*", re.IGNORECASE)
_TAKEN_BACK_IN_REASON = re.compile(
    r"\b(?:wait|actually|rather|instead|but|however|except|unless|perhaps|maybe|possibly|mistaken?|"
    r"doubt|unsure|unclear|I|my|it(?:'s| is| was)|should|would|answer|correct|right)\b"
    r"|\u4e0d|\u9519|\u6216"
)
# What a new sentence may say without taking the answer of the one before back.
_COURTESY = re.compile(
    r"\b(?:there\s(?:is|are)\s)?(?:no\sothers?|not\sany\sothers?)\b[^.?!]*"
    r"|\b(?:let\sme\sknow|feel\sfree|if\syou\s(?:have|need|want|would|like))\b[^.?!]*",
    re.IGNORECASE,
)
_DENIES_ANOTHER = re.compile(r"[,;(]?\s*(?:and\s+)?not\s+[-$\\(]?\d[^A-Za-z]*", re.IGNORECASE)
_SENTENCE = re.compile(r"[.?]\s+(?=\S)|[.?]$|(?<=[a-z]{2})!")  # not 26!
_SOFT = re.compile(r"[,;:(]|\b(?:since|because|as|where|when|for|which|by|so)\b")


def clause(text: str) -> str | None:
    """The answer at the start of a line of prose: "12 minutes", "$5$, since 6-1=5", "yes".

    None where the line takes it back or leaves it open: "5 or rather 6", "5 is wrong".
    """
    text = without_emphasis(text[:_LONGEST_LINE].strip())
    text = _HALF_EMPHASIS.sub("", text).strip("*_").strip()
    filler = _FILLER.match(text)
    text = text[filler.end() :] if filler else text
    text = _HEDGED_RESTATEMENT.sub("", text, count=1) or text
    if _wordless(text):
        return None if "?" in text else _one_sentence(text).rstrip(" ,;:*_.") or None
    sign = _SIGN_IN_WORDS.match(text)
    if sign:
        number = _prose(text[sign.end() :])
        return number and f"-{number}"
    end, depth, ended = len(text), 0, False
    for token in _TOKEN.finditer(text):
        if depth <= 0 and _is_prose(token[0]):
            end = token.start()
            break
        depth += sum(token[0].count(c) for c in "{") - sum(token[0].count(c) for c in "}")
        if depth <= 0 and token[0][-1] in ".?!;:" and token.end() < len(text):
            end, ended = token.end(), True
            break
    head, rest = text[:end], text[end:]
    trimmed = re.sub(r"(?:[\s,;:($]|\b(?:or|and|to)\b|\\(?:text)\{\s*(?:or|and)\s*\})*$", "", head)
    open_end = re.search(r"\bor\b", head[len(trimmed) :]) is not None
    if not trimmed.strip(" .$\\()[]"):
        named = _NAMED_VALUE.match(text)
        if named is None:
            return _prose(text)
        return None if _TAKEN_BACK.search(named[0]) else clause(text[named.end() :])
    if open_end or head.rstrip().endswith("?") or _takes_back(rest, ended):
        return None
    if head.count("$") % 2:
        trimmed += "$"
    return trimmed.strip().rstrip(".;:").strip() or None


def without_reasons(text: str) -> str:
    """Without clauses such as "because 5 is not even", whose words say nothing about an answer."""
    return _REASON.sub(
        lambda reason: reason[0] if _TAKEN_BACK_IN_REASON.search(reason[0]) else "", text
    )


def _takes_back(rest: str, new_sentence: bool) -> bool:
    rest = without_reasons(_DENIES_ANOTHER.sub("", rest))
    if new_sentence:
        rest = _COURTESY.sub("", rest)
    if _TAKEN_BACK.search(rest):
        return True
    if new_sentence:
        return False
    # "12 minutes and 30 seconds", whose second number belongs to the answer.
    soft = _SOFT.search(rest)
    first = _one_sentence(rest[: soft.start()] if soft else rest)
    return re.search(r"\d", re.sub(r"\^\s*\{?\s*-?\d", "", first)) is not None


def _one_sentence(text: str) -> str:
    found = _SENTENCE.search(text)
    return text if found is None else text[: found.start()]


def _prose(text: str) -> str | None:
    """An answer in words, up to the end of its clause."""
    first = re.split(r"\.(?!\d)|[;!\n]|,\s|\s(?:since|because|as)\s", text, maxsplit=1)[0]
    rest = text[len(first) :]
    if re.search(r"\b(?:wrong|incorrect|wait|actually|rather|but|unlikely|maybe|perhaps)\b", rest):
        return None
    return first.strip(" $*_\"'") or None


def _is_prose(token: str) -> bool:
    """Whether a word of a line is no part of an expression."""
    bare = token.strip(".,;:!?()[]$*_\"'")
    if bare.lower() in _CONNECTIVES or not _WORD.search(_COMMAND.sub("", bare)):
        return False
    return (
        not re.search(r"[\d\\^=<>]", bare) or re.fullmatch(r"[^\W\d_]+-[^\W_]+", bare) is not None
    )


def last_expression(text: str) -> str | None:
    """The last formula between dollar signs, or the last number with what belongs to it."""
    formulae = _formulae(text)
    if formulae:
        begin, end = formulae[-1]
        if _DENIED.search(text[max(0, begin - 40) : begin]):
            return None
        if len(formulae) > 1 and _LINK.fullmatch(text[formulae[-2][1] : begin][:40]):
            return f"{text[slice(*formulae[-2])]} \\lor {text[begin:end]}"
        return text[begin:end].strip()
    for line in reversed(text[-20_000:].splitlines()):
        answer = _last_run(line)
        if answer is not None:
            return answer or None
    short = text.strip()
    words = short.split(maxsplit=4)
    return short if 0 < len(words) < 4 and "\n" not in short else None


def _formulae(text: str) -> list[tuple[int, int]]:
    """Where the formulae between dollar signs, or \\( and \\), begin and end."""
    found: list[tuple[int, int]] = []
    opening: re.Match[str] | None = None
    for mark in _DELIMITERS.finditer(text):
        if opening is not None and mark[0] == _CLOSING[opening[0]]:
            if text[opening.end() : mark.start()].strip():
                found.append((opening.end(), mark.start()))
            opening = None
        elif mark[0] in _CLOSING and (opening is None or mark[0] != "$"):
            opening = mark
    return found


def _last_run(line: str) -> str | None:
    """The last run of words that are formulae and hold a number; "" where it is denied."""
    end = None
    begin = 0
    tokens = list(_TOKEN.finditer(line))
    for token in reversed(tokens):
        mathematical = not _is_prose(token[0]) and token[0].lower() not in ("a", "i", "or", "and")
        if end is None:
            if re.search(r"\d|\\[a-z]", token[0]) and not _is_prose(token[0]):
                begin, end = token.start(), token.end()
        elif mathematical and token[0][-1] not in ".,;:?!":
            begin = token.start()
        else:
            break
    if end is None:
        return None
    if _DENIED.search(line[max(0, begin - 40) : begin]):
        return ""
    if line[end - 1] == "?" or line[end : end + 1] == "?":
        return ""
    following = re.match(r"\s+(?:thousand|million|billion|trillion|percent|%)", line[end:])
    return line[begin : end + (following.end() if following else 0)].strip().rstrip(".,;:!?")


def without_emphasis(text: str) -> str:
    """Without the marks of Markdown around bold words and code."""
    return _EMPHASIS.sub(lambda mark: mark[2] if mark[2] is not None else mark[3], text)


def _wordless(text: str) -> bool:
    return _WORD.search(_LINKS.sub("", _COMMAND.sub("", text))) is None


def _is_typed(line: str) -> bool:
    """Whether a line in ASCII is an expression with connectives in words: "minus 5"."""
    return line.isascii() and not any(map(_is_prose, line.split()))


def hash_answer(text: str) -> str | None:
    """The line after '####', as GSM8K marks its answers; None where there is no such mark.

    The first such line that is a plain number; failing that, in texts without \\boxed{, the first
    that begins with a number or a formula ("18 eggs", "2x"), so that headings ("#### Step 1") do
    not count; failing that, the last line of the text if it is of one word. Takes time linear in
    the text.
    """
    lines = [part.partition("\n")[0].strip() for part in text.split("####")[1:]]
    plain = next((line for line in lines if number(line) is not None), None)
    if plain is not None or BOX in text:
        return plain
    first = next((line for line in lines if _LEADING_NUMBER.match(line) or _formula(line)), None)
    if (
        first is None
        and lines
        and text.rstrip().endswith(lines[-1])
        and len(lines[-1].split()) == 1
    ):
        return lines[-1].strip("#") or None
    return first


def _formula(line: str) -> bool:
    return 0 < len(line) <= 200 and _wordless(line) and line.strip(" #*_:.") != ""


def number(text: str) -> Decimal | None:
    """The number `text` is, without currency, percent, grouping and final full stop."""
    text = text.strip()
    match = _NUMBER.fullmatch(text) if len(text) <= _MAX_NUMBER else None
    return match and Decimal(match[1] + match[2].replace(",", ""))
