"""Verdicts of judges, read strictly."""

import re

# The official form; digits are ASCII, and nothing but spaces may stand inside.
_VERDICT = re.compile(r"Response:\s*\[([^\[\]\n]{0,20})\]", re.IGNORECASE)


def parse(text: str) -> bool | None:
    """The verdict "Response: [0]" or "Response: [1]" of a reply; None where there is none.

    A reply that says both is no verdict, and neither is one with anything else in the brackets:
    a judge that quotes the instruction or hedges has not decided.
    """
    found = {match.strip() for match in _VERDICT.findall(text)}
    return found == {"1"} if found in ({"0"}, {"1"}) else None


def given(text: str) -> bool:
    """Whether a reply has the line of a verdict, whatever it says."""
    return _VERDICT.search(text) is not None
