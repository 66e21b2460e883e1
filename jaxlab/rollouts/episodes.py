"""Many episodes of Skill1 at once: all that wait in one phase are answered by one call.

An episode is a coroutine that asks for text (`agents.skill1.play`). `together` runs all of them to
their next question and answers the questions of the earliest phase there is, so that a phase, or a
turn of acting, is one batch, and those who end early wait for the others before they distil. The
numbers of rows and columns are rounded up, so that few programs are compiled.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Coroutine, Generator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxlab import ranges
from jaxlab.agents.skill1 import PHASES, Generate, Phase, Played
from jaxlab.data.batch import bucket
from jaxlab.models.decoder import Decoder, Params
from jaxlab.rollouts.policy import Policy, to_host
from jaxlab.rollouts.turns import CHOICES, Asked, Turn
from jaxlab.runtime.sharding import Rules
from jaxlab.sampling import SamplingConfig
from jaxlab.text.tokenizer import Tokenizer

# The questions of one phase -> their answers, in order.
Answer = Callable[[Phase, Sequence[Asked]], Sequence[Turn]]


class _Question:
    """What an episode awaits: the driver is handed the question and gives the reply."""

    def __init__(self, asked: Asked):
        self._asked = asked

    def __await__(self) -> Generator[Asked, str, str]:
        return (yield self._asked)


def together(
    episodes: Sequence[Callable[[Generate], Coroutine[Any, Any, Played]]], answer: Answer
) -> tuple[list[Played], list[Turn]]:
    """Play episodes side by side.

    Args:
        episodes: each is handed the function that it asks by.
        answer: is called with all questions that wait in the earliest phase.

    Returns:
        What came of each episode; and all turns, by episode and in their order there.
    """

    def asking(number: int) -> Generate:
        calls = iter(range(1 << 30))

        async def ask(phase: Phase, prompt: str, choices: Sequence[str]) -> str:
            return await _Question(Asked(number, next(calls), phase, prompt, tuple(choices)))

        return ask

    running = [episode(asking(i)) for i, episode in enumerate(episodes)]
    waiting: dict[int, Asked] = {}
    played: dict[int, Played] = {}
    turns: list[list[Turn]] = [[] for _ in episodes]

    def go_on(i: int, reply: str | None) -> None:
        try:
            waiting[i] = running[i].send(reply)
        except StopIteration as end:
            played[i] = end.value

    try:
        for i in range(len(running)):
            go_on(i, None)
        while waiting:
            phase = min((asked.phase for asked in waiting.values()), key=PHASES.index)
            asked = [waiting.pop(i) for i in sorted(waiting) if waiting[i].phase == phase]
            for turn in answer(phase, asked):
                turns[turn.asked.episode].append(turn)
                go_on(turn.asked.episode, turn.reply)
    finally:
        for episode in running:
            if inspect.getcoroutinestate(episode) != inspect.CORO_CLOSED:
                episode.close()
    return [played[i] for i in range(len(episodes))], [turn for each in turns for turn in each]


@dataclasses.dataclass(frozen=True)
class Lengths:
    """The most tokens of a reply in each phase."""

    query: int = 512
    rank: int = 512
    act: int = 512
    distil: int = 1024

    def __post_init__(self) -> None:
        """Check that they are positive."""
        ranges.check_counts(self, *PHASES)


@dataclasses.dataclass(frozen=True)
class Speech:
    """How questions become tokens and tokens replies.

    Attributes:
        new_tokens: the most tokens of a reply.
        max_prompt: the most tokens of a prompt; the middle of a longer one is left out, and
            counted.
        prompt_multiple: prompts are padded to a multiple of so many tokens.
        row_multiple: a batch of fewer questions than episodes is padded to a multiple of so many.
        temperature: of the sampler; 0: the likeliest token.
        top_p: of the sampler; below 1 its distribution is not the one that is learnt from.
        actions: "text": any text may come; "choice": of the replies that can be read, where those
            can be listed.
        chat: prompts are one user message in the tokenizer's chat template.
    """

    new_tokens: Lengths = dataclasses.field(default_factory=Lengths)
    max_prompt: int = 4096
    prompt_multiple: int = 64
    row_multiple: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    actions: Literal["text", "choice"] = "text"
    chat: bool = False

    def __post_init__(self) -> None:
        """Check the numbers, and what actions are."""
        ranges.check_counts(self, "max_prompt", "prompt_multiple", "row_multiple")
        ranges.check(self, "temperature", least=0)
        ranges.check(self, "top_p", above=0, most=1)
        ranges.check_choices(self)


class Speaker:
    """A decoder that answers the questions of episodes."""

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Tokenizer,
        speech: Speech,
        mesh: Mesh,
        rules: Rules | None = None,
    ):
        """Fix everything but params and questions; `rules` as in `Policy`."""
        self.tokenizer, self.speech = tokenizer, speech
        self._policies = {
            phase: Policy(
                decoder,
                SamplingConfig(
                    max_new_tokens=getattr(speech.new_tokens, phase),
                    temperature=speech.temperature,
                    top_p=None if speech.top_p == 1 else speech.top_p,
                    stop_ids=tuple(tokenizer.eos_ids),
                    pad_id=tokenizer.pad_id,
                    vocab_size=tokenizer.vocab_size,
                    prompt_multiple=speech.prompt_multiple,
                ),
                mesh,
                tokenizer.pad_id,
                rules,
            )
            for phase in PHASES
        }
        self._ids = functools.lru_cache(maxsize=65536)(self._encoded)

    def prompt_ids(self, text: str) -> tuple[list[int], bool]:
        """Token ids of a prompt, and whether its middle had to be left out."""
        # Half a surrogate pair is no text that could be encoded.
        text = text.encode("utf-8", "replace").decode()
        if self.speech.chat:
            text = self.tokenizer.apply_chat_template([{"role": "user", "content": text}])
        ids = self.tokenizer.encode_prompt(text)
        most = self.speech.max_prompt
        if len(ids) <= most:
            return ids, False
        return [*ids[: most // 2], *ids[len(ids) - (most - most // 2) :]], True

    def turn(self, asked: Asked, reply: str) -> Turn:
        """The turn of an author whose reply is text: what a decoder would have had to write."""
        prompt, cut = self.prompt_ids(asked.prompt)
        most = getattr(self.speech.new_tokens, asked.phase)
        response = self._ids(reply)[:most]
        among = self._among(response, self._listed(asked))
        none = (0.0,) * len(response)
        stopped = response[-1] in self.tokenizer.eos_ids
        return Turn(asked, reply, tuple(prompt), response, none, stopped, among, cut)

    def answer(
        self, params: Params, key: jax.Array, rows: int, phase: Phase, asked: Sequence[Asked]
    ) -> list[Turn]:
        """Answer questions of one phase.

        Args:
            params: of the decoder.
            key: question `call` of episode `e` has randomness of its own under it, whatever else
                is asked beside it.
            rows: episodes of the batch, the most questions that there can be.
            phase: of all questions.
            asked: the questions.
        """
        read = [self.prompt_ids(one.prompt) for one in asked]
        listed = [self._listed(one) for one in asked]
        multiple = self.speech.row_multiple
        count = rows if len(asked) > rows // 2 else bucket(len(asked), multiple)
        count = max(min(count, rows), len(asked))
        # Rows that fill the batch are copies of the first, and are dropped.
        filler = [0] * (count - len(asked))
        prompts = [read[i][0] for i in [*range(len(asked)), *filler]]
        numbers = [(asked[i].episode, asked[i].call) for i in [*range(len(asked)), *filler]]
        keys = _keys(key, np.array(numbers, np.int32))
        choices = None
        if self.speech.actions == "choice" and phase in ("rank", "act"):
            most = getattr(self.speech.new_tokens, phase)
            choices = _as_choices([listed[i] for i in [*range(len(asked)), *filler]], most)
        rollout = self._policies[phase](params, prompts, keys, choices)
        response, mask, stopped = to_host(rollout)
        logprobs = np.asarray(jax.device_get(rollout.logprobs))
        ids = [tuple(row[m].tolist()) for row, m in zip(response, mask, strict=True)]
        texts = self.tokenizer.decode_batch(ids[: len(asked)])
        return [
            Turn(
                one,
                texts[i],
                tuple(read[i][0]),
                ids[i],
                tuple(logprobs[i][mask[i]].tolist()),
                bool(stopped[i]),
                self._among(ids[i], listed[i]),
                read[i][1],
            )
            for i, one in enumerate(asked)
        ]

    def _encoded(self, text: str) -> tuple[int, ...]:
        text = text.encode("utf-8", "replace").decode()
        return (*self.tokenizer.encode(text), self.tokenizer.eos_id)

    def _listed(self, asked: Asked) -> list[tuple[int, ...]]:
        """The token sequences that may be written; none: any."""
        if self.speech.actions == "text" or not asked.choices:
            return []
        most = getattr(self.speech.new_tokens, asked.phase)
        found = [self._ids(choice) for choice in asked.choices]
        # What does not fit cannot be chosen; where nothing fits, anything may be written.
        return [ids for ids in dict.fromkeys(found) if len(ids) <= most]

    def _among(
        self, response: Sequence[int], listed: Sequence[Sequence[int]]
    ) -> tuple[tuple[int, ...], ...]:
        if not listed or tuple(response) not in listed:
            return ()
        found, left = [], list(listed)
        for t, token in enumerate(response):
            left = [ids for ids in left if len(ids) > t]
            found.append(tuple(sorted({ids[t] for ids in left})))
            left = [ids for ids in left if ids[t] == token]
        return tuple(found)


@jax.jit
def _keys(key: jax.Array, numbers: jax.Array) -> jax.Array:
    def one(pair: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(key, pair[0]), pair[1])

    return jax.vmap(one)(jnp.asarray(numbers))


def _as_choices(rows: Sequence[Sequence[Sequence[int]]], length: int) -> np.ndarray:
    """int32 [B, A, length], -1 where there is nothing."""
    most = bucket(max(1, max(map(len, rows))), CHOICES)
    found = np.full((len(rows), most, length), -1, np.int32)
    for b, row in enumerate(rows):
        for a, ids in enumerate(row):
            found[b, a, : len(ids)] = ids
    return found
