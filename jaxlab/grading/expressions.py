"""One mathematical expression, in LaTeX or as one types it, as a sympy expression.

The reader is strict: what it does not know is an error, never left out. (Readers made to find
formulae in prose drop what they cannot place, a prime or half of an expression, and what was
dropped then equals anything.)
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import sympy

from jaxlab.grading.characters import listed

_TOKEN = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)"
    r"|(?P<command>\\(?:[A-Za-z]+|.))"
    r"|(?P<other>[^\W\d_]|[-+*/^_!|'(){}\[\]])"
)
_FUNCTION_NAMES = listed(
    "arcsinh arccosh arctanh arcsin arccos arctan arcsec arccsc arccot sinh cosh tanh "
    "coth sin cos tan sec csc cot asin acos atan exp sqrt ln log"
)
# Names that are typed without a backslash, "sqrt(3)" and "2pi".
_BARE = re.compile(
    rf"(?<![A-Za-z\\])(?:np\.|math\.)?({'|'.join(_FUNCTION_NAMES)}|pi|infty)(?![A-Za-z])"
)
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: getattr(sympy, name)
    for name in listed("sinh cosh tanh coth sin cos tan sec csc cot asin acos atan exp")
} | {
    "arcsinh": sympy.asinh,
    "arccosh": sympy.acosh,
    "arctanh": sympy.atanh,
    "arcsin": sympy.asin,
    "arccos": sympy.acos,
    "arctan": sympy.atan,
    "arcsec": sympy.asec,
    "arccsc": sympy.acsc,
    "arccot": sympy.acot,
}
_INVERSE = {
    name: _FUNCTIONS["arc" + name]
    for name in ("sin", "cos", "tan", "sec", "csc", "cot", "sinh", "cosh", "tanh")
}
_CONSTANTS = {"pi": sympy.pi, "infty": sympy.oo, "emptyset": sympy.Symbol("emptyset")}
_SYMBOLS = frozenset(
    listed(
        "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa "
        "lambda mu nu xi rho varrho sigma tau upsilon phi varphi chi psi omega Gamma "
        "Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega hbar ell odot partial nabla "
        "aleph"
    )
)
_ACCENTS = frozenset(
    listed(
        "dot ddot vec hat widehat bar overline tilde overrightarrow angle triangle measuredangle"
    )
)
_CLOSING = {"(": ")", "[": "]", "{": "}", "|": "|", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil"}
_LARGEST_EXPONENT = 100_000


class UnreadableError(ValueError):
    """The text is no expression that is understood in full."""


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    spaced: bool


@dataclass(frozen=True)
class Expression:
    """An expression and how it was written.

    Attributes:
        value: of sympy; numbers are exact, 0.1 is 1/10.
        decimal: whether a number in it has a decimal point or an exponent, and may be rounded.
    """

    value: Any
    decimal: bool


def read(text: str, log_base: Any = sympy.E) -> Expression:
    r"""Read all of a text.

    Args:
        text: without spelling variants, see `spelling.canonical`.
        log_base: of a \log without base.

    Raises:
        UnreadableError: some of it is not understood.
    """
    reader = _Reader(_tokens(text), log_base)
    try:
        value = reader.sum()
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UnreadableError(f"{text[:80]!r}: {error}") from None
    if reader.next is not None:
        raise UnreadableError(f"{text[:80]!r}: {reader.next.text!r} is out of place")
    return Expression(value, reader.decimal)


def _tokens(text: str) -> list[_Token]:
    text = _BARE.sub(r"\\\1 ", text.replace("**", "^"))
    found, spaced, end = [], False, 0
    while end < len(text):
        match = _TOKEN.match(text, end)
        if match is None:
            raise UnreadableError(f"{text[:80]!r}: {text[end]!r} is not understood")
        if match.lastgroup != "space":
            found.append(_Token(str(match.lastgroup), match[0], spaced))
        spaced, end = match.lastgroup == "space", match.end()
    return found


class _Reader:
    """Recursive descent over tokens."""

    def __init__(self, tokens: list[_Token], log_base: Any):
        self._tokens, self._at, self._log_base = tokens, 0, log_base
        self.decimal = False

    @property
    def next(self) -> _Token | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _sees(self, *texts: str) -> bool:
        return self.next is not None and self.next.text in texts

    def _take(self) -> _Token:
        if self.next is None:
            raise UnreadableError("it ends too early")
        self._at += 1
        return self._tokens[self._at - 1]

    def _expect(self, text: str) -> None:
        if self._take().text != text:
            raise UnreadableError(f"{text!r} is missing")

    def sum(self) -> Any:
        total = self._signed()
        while self._sees("+", "-"):
            sign = -1 if self._take().text == "-" else 1
            total = total + sign * self._term()
        return total

    def _signed(self) -> Any:
        if self._sees("+", "-"):
            return (-1 if self._take().text == "-" else 1) * self._signed()
        return self._term()

    def _term(self) -> Any:
        value = self._product(stop_at_space=False)
        while self._sees("*", "/") or self._starts_atom():
            divides = self._sees("/")
            if self._sees("*", "/"):
                self._take()
            # 1/2x is 1/(2x), but 1/2 x is x/2.
            factor = self._product(stop_at_space=divides)
            value = value / factor if divides else value * factor
        return value

    def _product(self, stop_at_space: bool) -> Any:
        if self._sees("-", "+"):  # 2 * -3
            return (-1 if self._take().text == "-" else 1) * self._product(stop_at_space)
        number = self.next is not None and self.next.kind == "number"
        value = self._power()
        while self.next is not None and self._starts_atom():
            if stop_at_space and (self.next.spaced or self.next.text == "\\sqrt"):
                break
            if self.next.kind == "number":
                raise UnreadableError("two numbers stand side by side")
            mixed = number and value.is_Integer and self.next.text == "\\frac"
            factor = self._power()
            # 3\frac{1}{2} is 3 1/2.
            part = mixed and factor.is_Rational and 0 < factor < 1
            value, number = (value + factor if part else value * factor), False
        return value

    def _starts_atom(self) -> bool:
        token = self.next
        if token is None:
            return False
        if token.kind == "command":
            return token.text not in ("\\rfloor", "\\rceil", "\\}")
        if token.text == "|":
            return "|" not in self._open
        return token.kind == "number" or token.text in "([{" or token.text.isalpha()

    def _power(self) -> Any:
        value = self._postfix(self._atom())
        if not self._sees("^"):
            return value
        self._take()
        return value ** self._exponent()

    def _exponent(self) -> Any:
        if self._sees("-", "+"):
            return (-1 if self._take().text == "-" else 1) * self._exponent()
        return self._power()

    def _postfix(self, value: Any) -> Any:
        while self._sees("!"):
            self._take()
            value = sympy.factorial(value)
        return value

    _open: tuple[str, ...] = ()

    def _group(self, opening: str) -> Any:
        before, self._open = self._open, (*self._open, opening)
        value = self.sum()
        self._expect(_CLOSING[opening])
        self._open = before
        return value

    def _argument(self) -> Any:
        """What a command is applied to: braces, or one digit or token, as TeX has it."""
        token = self._take()
        if token.text in ("{", "("):
            return self._group(token.text)
        if token.kind == "number":
            if len(token.text) > 1:
                self._at -= 1
                self._tokens[self._at] = _Token("number", token.text[1:], False)
            return sympy.Integer(token.text[0])
        self._at -= 1
        return self._atom()

    def _raw(self) -> str:
        """The spelling of a subscript or of what an accent stands over."""
        if not self._sees("{"):
            return self._take().text
        begin, depth = self._at + 1, 0
        while True:
            token = self._take()
            depth += {"{": 1, "}": -1}.get(token.text, 0)
            if depth == 0:
                return "".join(part.text for part in self._tokens[begin : self._at - 1])

    def _atom(self) -> Any:
        token = self._take()
        if token.kind == "number":
            return self._number(token.text)
        if token.text in _CLOSING:
            value = self._group(token.text)
            wrap: Mapping[str, Any] = {
                "|": sympy.Abs,
                "\\lfloor": sympy.floor,
                "\\lceil": sympy.ceiling,
            }
            return wrap[token.text](value) if token.text in wrap else value
        if token.kind == "command":
            return self._command(token.text[1:])
        if not token.text.isalpha():
            raise UnreadableError(f"{token.text!r} is out of place")
        return self._symbol(token.text)

    def _number(self, text: str) -> Any:
        if "." in text and self._sees("\\overline"):  # 0.1\overline{6}
            self._take()
            period = self._raw()
            places = len(text.partition(".")[2])
            repeated = sympy.Rational(int(period), (10 ** len(period) - 1) * 10**places)
            return sympy.Rational(text.rstrip(".")) + repeated
        self.decimal |= not text.isdigit()
        digits, _, exponent = text.lower().partition("e")
        if abs(int(exponent or 0)) > _LARGEST_EXPONENT:
            raise UnreadableError("the exponent is too large")
        return sympy.Rational(digits.rstrip(".")) * sympy.Integer(10) ** int(exponent or 0)

    def _symbol(self, name: str) -> Any:
        plain = name
        while self._sees("_", "'") or self._sees_prime():
            mark = self._take().text
            raw = "" if mark == "'" else self._raw()
            name += f"_{raw}" if mark == "_" else "'" * max(1, raw.count("prime"))
        if name == "i":
            return sympy.I
        if name == "e":
            return sympy.E
        if self._sees("(") and self._is_call(plain):
            begin = self._at
            self._take()
            self._group("(")
            name += "".join(part.text for part in self._tokens[begin : self._at])
        return sympy.Symbol(name)

    def _sees_prime(self) -> bool:
        following = [token.text for token in self._tokens[self._at : self._at + 3]]
        return following[:2] == ["^", "\\prime"] or following == ["^", "{", "\\prime"]

    def _is_call(self, name: str) -> bool:
        """Of f(x+1), I(0) and u(t), not of a(b+c)."""
        inside = self._tokens[self._at + 1 : self._at + 3]
        short = len(inside) == 2 and inside[1].text == ")"
        return name == "f" or (short and (inside[0].kind == "number" or inside[0].text.isalpha()))

    def _command(self, name: str) -> Any:
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        if name in _SYMBOLS:
            return self._symbol(f"\\{name}")
        if name in _ACCENTS:
            return self._symbol(f"\\{name}({self._raw()})")
        if name == "frac":
            return self._fraction()
        if name == "binom":
            top = self._argument()
            return sympy.binomial(top, self._argument())
        if name == "sqrt":
            return self._root()
        if name in ("ln", "log"):
            return self._log(name)
        if name in _FUNCTIONS:
            return self._call(name)
        raise UnreadableError(f"\\{name} is not understood")

    def _fraction(self) -> Any:
        begin = self._at
        top = self._argument()
        middle = self._at
        bottom = self._argument()
        over, under = self._tokens[begin:middle], self._tokens[middle : self._at]
        if [t.text for t in over[:2]] == ["{", "d"] and [t.text for t in under[:2]] == ["{", "d"]:
            # dx/dt, whose letters d do not cancel.
            return sympy.Symbol("".join(token.text for token in (*over, *under)))
        return top / bottom

    def _root(self) -> Any:
        degree: Any = 2
        if self._sees("["):
            self._take()
            degree = self._group("[")
        return sympy.root(self._argument(), degree)

    def _log(self, name: str) -> Any:
        base = sympy.E if name == "ln" else self._log_base
        if self._sees("_"):
            self._take()
            base = self._argument()
        power = self._function_power()
        value = sympy.log(self._operand())
        value = value if base == sympy.E else value / sympy.log(base)
        return value if power is None else value**power

    def _call(self, name: str) -> Any:
        function = _FUNCTIONS[name]
        power = self._function_power()
        if power == -1:
            function, power = _INVERSE[name], None
        value = function(self._operand())
        return value if power is None else value**power

    def _function_power(self) -> Any:
        if not self._sees("^"):
            return None
        self._take()
        return self._argument()

    def _operand(self) -> Any:
        r"""Of a function: (x), {x}, or the factors up to the next function, \sin 2x \cos x."""
        if self._sees("(", "{", "["):
            return self._group(self._take().text)
        value = self._signed_factor()
        while (
            self.next is not None
            and self._starts_atom()
            and self.next.text[1:] not in (*_FUNCTIONS, "ln", "log")
            and self.next.text not in ("(", "[")
        ):
            value = value * self._power()
        return value

    def _signed_factor(self) -> Any:
        if self._sees("-"):
            self._take()
            return -self._power()
        return self._power()
