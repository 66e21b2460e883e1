"""How mathematical problems are put to a model."""

from typing import Literal

from jaxlab.grading.prompts import fill

Style = Literal["gsm8k", "boxed", "bare"]

# "gsm8k" is for models that continue text, "boxed" for those that follow instructions.
TEMPLATES: dict[Style, str] = {
    "gsm8k": "Question: {question}\nAnswer:\n",
    "boxed": "{question}\nReason step by step and put the final answer into \\boxed{}.",
    "bare": "{question}",
}


def prompt(question: str, style: Style) -> str:
    """The text that the model reads."""
    return fill(TEMPLATES[style], question)
