"""The inspect_ai model provider "jaxlab": a checkpoint of ours, in process.

    inspect eval jaxlab/general365 -T path=rows.jsonl --model jaxlab/runs/aopd

The name behind "jaxlab/" is a work directory of training or a HuggingFace directory. Requests that
are under way at the same time are decoded together (`rollouts.batcher`). Arguments of the model
(`-M batch=128`) are those of `Settings`. In a program that trains on, ask inspect_ai for the model
with `get_model(..., memoize=False)`: it keeps those that it has made.
"""

import asyncio
import dataclasses
import secrets
from collections.abc import Sequence
from typing import Any, Literal

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    Logprob,
    Logprobs,
    ModelAPI,
    ModelInfo,
    ModelOutput,
    ModelUsage,
    StopReason,
    set_model_info,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from jaxlab import config as config_lib
from jaxlab.grading.rows import sample_seed
from jaxlab.interop import models
from jaxlab.interop.models import Model
from jaxlab.models.decoder import Decoder
from jaxlab.rollouts.batcher import Batcher, Reply
from jaxlab.runtime import mesh as mesh_lib
from jaxlab.runtime.settings import Mesh
from jaxlab.sampling import SamplingConfig
from jaxlab.text.tokenizer import Tokenizer
from jaxlab.text.tokenizer import load as load_tokenizer

# Options of a request that change what is sampled, and that the sampler does not have.
UNSUPPORTED = (
    "best_of",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "top_logprobs",
    "prompt_logprobs",
    "response_schema",
)

# Completions that the context cuts short have lengths in steps of this many tokens, since every
# length is a program of its own.
_LENGTH_STEP = 64


@dataclasses.dataclass(frozen=True)
class Settings:
    """Arguments of the model.

    Attributes:
        batch: requests decoded together. Inspect_ai keeps twice as many under way, so that one
            batch is decoded while it works on the replies of the other.
        padding: "full" decodes every batch with `batch` rows, so that the same checkpoint gives
            the same greedy answers at any concurrency; "power_of_two" saves work when few
            requests are under way.
        prompt_multiple: prompts are padded to a multiple of this many tokens, each by its own
            length; requests of one width share a batch.
        max_tokens: longest completion where the request does not say.
        chat: render messages with the tokenizer's chat template; None: if it has one.
        tokenizer: directory with tokenizer.json; None means the model's own.
        dtype: compute dtype; None means the model's own.
        mesh: devices and sharding rules, as in a training config.
    """

    batch: int = 64
    padding: Literal["full", "power_of_two"] = "full"
    prompt_multiple: int = 128
    max_tokens: int = 512
    chat: bool | None = None
    tokenizer: str | None = None
    dtype: str | None = None
    mesh: Mesh = dataclasses.field(default_factory=Mesh)


class JaxlabAPI(ModelAPI):
    """A decoder and its tokenizer behind inspect_ai's interface."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008
        **model_args: Any,
    ):
        """Load the model.

        Raises:
            ConfigError: an argument is unknown, or the directory holds no model or no tokenizer.
            CheckpointError: the checkpoint cannot be read.
        """
        super().__init__(model_name, base_url, api_key, [], config)
        self._settings = config_lib.build(Settings, model_args, "model_args")
        sizes = {} if self._settings.dtype is None else {"dtype": self._settings.dtype}
        spec = Model(path=model_name, sizes=sizes)
        self.tokenizer = _tokenizer(spec, self._settings)
        source = models.find(spec, "model", vocab_size=self.tokenizer.vocab_size, seed=0)
        mesh_lib.start(decode_devices=self._settings.mesh.decode_devices)
        mesh = mesh_lib.make_mesh(self._settings.mesh.shape)
        self._context = source.config.max_position
        # Inspect_ai looks this up, and would make a second model to ask it for its name.
        set_model_info(f"jaxlab/{model_name}", ModelInfo(context_length=self._context))
        self._batcher = Batcher(
            Decoder(source.config),
            source.load(mesh, self._settings.mesh.rules),
            mesh,
            self.tokenizer.pad_id,
            rows=self._settings.batch,
            padding=self._settings.padding,
            rules=self._settings.mesh.decode_rules,
        )

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        """Complete one conversation, `num_choices` times; it is read once for all of them.

        `metadata["choices"]` of the output has "tokens" and "logprob", the mean in nats, of each.

        Without a seed each call draws anew. With one, the completion is a function of seed,
        messages and sampling options, whatever else is under way.

        Raises:
            ValueError: messages have parts that are no text, or tools or another option that this
                provider does not have are asked for.
        """
        del tool_choice
        _refuse(input, tools, config)
        prompt = self.tokenizer.encode_prompt(self._render(input))
        wanted = self._settings.max_tokens if config.max_tokens is None else config.max_tokens
        budget = _budget(wanted, self._context - len(prompt))
        choices = config.num_choices or 1
        if budget < 1:
            return self._output(prompt, [("", [], [], "model_length")] * choices, False)
        sampling = SamplingConfig(
            max_new_tokens=budget,
            temperature=1.0 if config.temperature is None else config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
            stop_ids=tuple(self.tokenizer.eos_ids),
            pad_id=self.tokenizer.pad_id,
            vocab_size=self.tokenizer.vocab_size,
            prompt_multiple=self._settings.prompt_multiple,
        )
        if config.seed is None:
            seeds = [secrets.randbits(31) for _ in range(choices)]
        else:  # one seed for a whole run must not mean the same draws for every prompt
            seeds = [sample_seed(config.seed, repr(prompt), j) for j in range(choices)]
        replies = await asyncio.wrap_future(self._batcher.submit_group(prompt, sampling, seeds))
        parts: list[_Part] = []
        for reply in replies:
            text, count, hit = self._cut(reply, config.stop_seqs or [])
            stop: StopReason = "stop"
            if not (reply.stopped or hit):
                stop = "max_tokens" if budget == wanted else "model_length"
            parts.append((text, reply.tokens[:count], reply.logprobs[:count], stop))
        return self._output(prompt, parts, bool(config.logprobs))

    def prompt_length(self, messages: Sequence[ChatMessage]) -> int:
        """Tokens of the messages as the model reads them."""
        return len(self.tokenizer.encode_prompt(self._render(messages)))

    @property
    def context(self) -> int:
        """Most tokens of a prompt and its completion."""
        return self._context

    @property
    def prefilled(self) -> int:
        """Tokens of prompts that were read so far, see `Batcher`."""
        return self._batcher.prefilled

    def max_tokens(self) -> int | None:
        """Longest completion where the request does not say."""
        return self._settings.max_tokens

    def max_connections(self) -> int:
        """Requests that inspect_ai keeps under way: two batches."""
        return 2 * self._batcher.rows

    def connection_key(self) -> str:
        """Requests to one model share its limit."""
        return self.model_name

    def close(self) -> None:
        """End the decoding thread."""
        self._batcher.close()

    def _render(self, messages: Sequence[ChatMessage]) -> str:
        chat = self._settings.chat
        if self.tokenizer.chat_template is not None if chat is None else chat:
            turns = [{"role": message.role, "content": message.text} for message in messages]
            return self.tokenizer.apply_chat_template(turns)
        return "\n".join(message.text for message in messages)

    def _cut(self, reply: Reply, stops: Sequence[str]) -> tuple[str, int, bool]:
        """Text up to the first stop sequence, the tokens it took, and whether there was one."""
        text = self.tokenizer.decode(reply.tokens)
        places = [place for stop in stops if (place := text.find(stop)) >= 0]
        if not places:
            return text, len(reply.tokens), False
        # The fewest tokens whose text holds a stop sequence.
        low, high = 1, len(reply.tokens)
        while low < high:
            middle = (low + high) // 2
            part = self.tokenizer.decode(reply.tokens[:middle])
            low, high = (low, middle) if any(stop in part for stop in stops) else (middle + 1, high)
        return text[: min(places)], low, True

    def _output(
        self, prompt: Sequence[int], parts: Sequence["_Part"], with_logprobs: bool
    ) -> ModelOutput:
        written = sum(len(tokens) for _, tokens, _, _ in parts)
        usage = ModelUsage(
            input_tokens=len(prompt), output_tokens=written, total_tokens=len(prompt) + written
        )
        about = [
            {"tokens": len(tokens), "logprob": sum(logprobs) / len(logprobs) if logprobs else None}
            for _, tokens, logprobs, _ in parts
        ]
        choices = [self._choice(part, with_logprobs) for part in parts]
        return ModelOutput(
            model=self.model_name, choices=choices, usage=usage, metadata={"choices": about}
        )

    def _choice(self, part: "_Part", with_logprobs: bool) -> ChatCompletionChoice:
        text, tokens, logprobs, stop = part
        content = [
            Logprob(
                token=self.tokenizer.decode([token], skip_special_tokens=False), logprob=logprob
            )
            for token, logprob in zip(tokens, logprobs, strict=True)
            if with_logprobs
        ]
        return ChatCompletionChoice(
            message=ChatMessageAssistant(content=text, model=self.model_name, source="generate"),
            stop_reason=stop,
            logprobs=Logprobs(content=content) if content else None,
        )


# Text, tokens and their log-probabilities, and why it ended.
_Part = tuple[str, Sequence[int], Sequence[float], StopReason]


def _tokenizer(spec: Model, settings: Settings) -> Tokenizer:
    if settings.tokenizer is not None:
        return load_tokenizer(settings.tokenizer)
    found = models.tokenizer_at(spec, "model")
    if found is None:
        raise config_lib.ConfigError(
            f"{spec.path} has no tokenizer.json: name a directory that has one, -M tokenizer=DIR"
        )
    return found


def _budget(wanted: int, room: int) -> int:
    """Tokens that a completion may have where the context has room for `room` more."""
    if room >= wanted:
        return wanted
    return room if room < _LENGTH_STEP else room - room % _LENGTH_STEP


def _refuse(
    messages: Sequence[ChatMessage], tools: Sequence[ToolInfo], config: GenerateConfig
) -> None:
    """Say no to what would otherwise be silently left out."""
    for message in messages:
        calls = isinstance(message, ChatMessageAssistant) and message.tool_calls
        if calls or message.role == "tool":
            raise ValueError("the jaxlab provider has no tool calls: evaluate without tools")
        for part in message.content_list:
            if part.type != "text":
                raise ValueError(
                    f"a message of the {message.role} has a part of type {part.type!r}; the "
                    "jaxlab provider's models read text alone: leave such parts or samples out"
                )
    if tools:
        raise ValueError("the jaxlab provider has no tool calls: evaluate without tools")
    for name in UNSUPPORTED:
        if getattr(config, name) not in (None, False):
            raise ValueError(f"the jaxlab provider does not support {name}: leave it unset")
    if config.num_choices is not None and config.num_choices < 1:
        raise ValueError(f"num_choices must be at least 1, not {config.num_choices}")
    if "" in (config.stop_seqs or []):
        raise ValueError("stop_seqs has an empty string, at which every reply would end: drop it")
    if config.max_tokens is not None and config.max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, not {config.max_tokens}")
