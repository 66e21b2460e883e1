"""Templates of prompts: texts in which {question} stands for the question and nothing else is code.

Braces mean themselves, so that TeX needs no care: "{question} Put it into \\boxed{}."
"""

FIELD = "{question}"
# Spellings of languages in which a brace is doubled to mean itself, or to mark a field.
_DOUBLED = ("{{question}}", "{{}}")


def check(template: object) -> str:
    """The template, if it is one.

    Raises:
        ValueError: it is no text, or has no {question}; or braces are doubled.
    """
    if not isinstance(template, str):
        raise ValueError(f"prompt: a text with {FIELD} is expected, not {template!r:.60}")
    doubled = next((word for word in _DOUBLED if word in template), None)
    if doubled is not None:
        raise ValueError(
            f"prompt: {template!r:.200} has {doubled}: write {doubled[1:-1]}, since braces mean "
            "themselves"
        )
    if FIELD not in template:
        raise ValueError(f"prompt: {template!r:.200} has no {FIELD}, where the question is to go")
    return template


def fill(template: str, question: str) -> str:
    """The template with the question in every place of {question}."""
    return template.replace(FIELD, question)
