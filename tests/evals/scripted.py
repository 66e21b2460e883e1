"""Models that follow a script, for tests of the harness."""

import asyncio

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessageAssistant,
    ModelOutput,
    ModelUsage,
    get_model,
)


def model(answer, seconds=0.0, stop="stop"):
    """A model whose reply to a prompt and a seed is `answer(prompt, seed)`, after a while."""

    async def reply(messages, tools, tool_choice, config):
        await asyncio.sleep(seconds)
        text = answer(messages[-1].text, config.seed)
        if isinstance(text, ModelOutput):
            return text
        message = ChatMessageAssistant(content=text)
        # Without it the harness would fetch another tokenizer to count tokens.
        usage = ModelUsage(input_tokens=3, output_tokens=len(text), total_tokens=3 + len(text))
        choice = ChatCompletionChoice(message=message, stop_reason=stop)
        return ModelOutput(model="scripted", choices=[choice], usage=usage)

    return get_model("mockllm/model", custom_outputs=reply, memoize=False)
