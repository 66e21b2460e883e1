"""Generators of texts for heavy thinking, made of inspect_ai's models."""

import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageUser,
    ContentReasoning,
    GenerateConfig,
    Model,
    ModelOutput,
    get_model,
)

from jaxlab import config as config_lib
from jaxlab.agents.heavy import Completion, Generate, Heavy
from jaxlab.agents.heavy_cache import Tokenizer
from jaxlab.agents.heavy_options import Sampling
from jaxlab.evals.grader_errors import text_of


def load(name: str, **arguments: Any) -> Model:
    """The model of a directory, read anew, or of a name of inspect_ai such as openai/gpt-4.1.

    Args:
        name: a HuggingFace directory, a work directory of training, or PROVIDER/NAME.
        arguments: of the provider, for directories.

    Raises:
        ConfigError: there is no such model, or its package, key or files are missing.
    """
    try:
        # The first model makes inspect_ai tell of its hooks, which is no part of an answer.
        with contextlib.redirect_stdout(sys.stderr):
            if Path(name).is_dir():
                return get_model(f"jaxlab/{name}", memoize=False, **arguments)
            if name.startswith((".", "/", "~")):
                raise config_lib.ConfigError(f"model {name}: there is no such directory")
            return get_model(name, memoize=False)
    except config_lib.ConfigError:
        raise
    except Exception as error:  # providers raise what they like
        raise config_lib.ConfigError(f"model {name}: {text_of(error)}") from error


def is_ours(model: Model) -> bool:
    """Whether it is decoded in this process, several texts of one prompt together."""
    return hasattr(model.api, "prompt_length")


def tokenizer(model: Model) -> Tokenizer | None:
    """The model's tokenizer; None where the model is not in process."""
    return getattr(model.api, "tokenizer", None) if is_ours(model) else None


def fitted(
    options: Heavy, thinker: Model, judge: Model, sampling: Sampling, system: Sequence[ChatMessage]
) -> Heavy:
    """The options, with what the models decide where an option is None.

    Where both models are in process, they are asked for all texts of a prompt in one call; where
    either is not, both are asked for one per call. The prompt of a deliberator in process ends
    where its context leaves room for a reply, a quarter of the context at least where replies may
    be longer than that.
    """
    changes: dict[str, Any] = {}
    if options.per_call is None and not (is_ours(thinker) and is_ours(judge)):
        changes["per_call"] = 1
    if options.context_tokens is None and is_ours(judge):
        api: Any = judge.api
        reply = sampling.config("deliberate")["max_tokens"] or api.max_tokens()
        frame = api.prompt_length([*system, ChatMessageUser(content="")])
        changes["context_tokens"] = max(1, api.context - min(reply, api.context // 4) - frame)
    return dataclasses.replace(options, **changes)


def generator(model: Model, sampling: Sampling, system: Sequence[ChatMessage] = ()) -> Generate:
    """A generator for `heavy.think`: the prompt as the user's message, behind `system`."""
    together = is_ours(model)

    async def generate(prompt: str, *, samples: int, seed: int, stage: str) -> list[str]:
        messages = [*system, ChatMessageUser(content=prompt)]
        arguments = sampling.config(stage)
        if together:
            config = GenerateConfig(seed=seed, num_choices=samples, **arguments)
            return _completions(await model.generate(messages, config=config))
        texts: list[str] = []
        for sample in range(samples):
            config = GenerateConfig(seed=(seed + sample) % 2**31, **arguments)
            texts += _completions(await model.generate(messages, config=config))[:1]
        return texts

    return generate


def _completions(output: ModelOutput) -> list[str]:
    """The choices as texts that know what they cost."""
    if output.error:
        raise RuntimeError(output.error)
    about = (output.metadata or {}).get("choices") or [{}] * len(output.choices)
    usage = output.usage
    texts: list[str] = []
    for i, (choice, known) in enumerate(zip(output.choices, about, strict=True)):
        counted = usage.output_tokens if usage and len(output.choices) == 1 else None
        read = usage.input_tokens if usage else None
        texts.append(
            Completion(
                _text(choice),
                finished=choice.stop_reason not in ("max_tokens", "model_length"),
                tokens=known.get("tokens", counted),
                prompt_tokens=read if i == 0 or read is None else 0,
                logprob=known.get("logprob"),
            )
        )
    return texts


def _text(choice: ChatCompletionChoice) -> str:
    """Reply and reasoning, which is the better part of what a thinker has to say."""
    reasoning = [
        part.reasoning
        for part in choice.message.content_list
        if isinstance(part, ContentReasoning) and not part.redacted and part.reasoning
    ]
    text = choice.message.text
    return "<think>\n{}\n</think>\n{}".format("\n".join(reasoning), text) if reasoning else text
