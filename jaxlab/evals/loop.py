"""The evaluation inside training: n completions of fixed test prompts, graded."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxlab import ranges
from jaxlab.data.tasks.types import Grade
from jaxlab.evals import metrics
from jaxlab.losses import chunked_vocab
from jaxlab.models.decoder import Decoder, Params, empty_caches, unembedding
from jaxlab.rollouts.policy import Policy, Rollout, response_hidden, to_host
from jaxlab.rollouts.text import TextTask
from jaxlab.runtime.sharding import Rules, ambient
from jaxlab.sampling import SamplingConfig
from jaxlab.sampling import offload as offload_lib
from jaxlab.sampling.caches import Attention, DenseAttention
from jaxlab.sampling.caches.channels import Channels, check_channels


@dataclasses.dataclass(frozen=True)
class Eval:
    """What to sample and how.

    Attributes:
        prompts: test prompts, always the first ones.
        samples: n, completions per prompt.
        max_new_tokens: longest completion.
        temperature: of the sampler; 0 is greedy.
        top_k: of the sampler.
        top_p: of the sampler.
        batch: prompts decoded together, rounded up to a multiple of the devices that share them.
        prompt_multiple: prompts are padded to a multiple of this many tokens.
        save_samples: completions kept for samples.jsonl.
        attention: of the sampler.
        prefill_chunk: of the sampler.
    """

    prompts: int = 96
    samples: int = 16
    max_new_tokens: int = 64
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    batch: int = 96
    prompt_multiple: int = 16
    save_samples: int = 8
    attention: Attention = dataclasses.field(default_factory=DenseAttention)
    prefill_chunk: int | None = None

    def __post_init__(self) -> None:
        """Check that counts are positive; the sampler checks its options."""
        ranges.check_counts(
            self, "prompts", "samples", "max_new_tokens", "top_k", "batch", "prompt_multiple"
        )
        ranges.check(self, "save_samples", least=0, below=ranges.COUNTS)
        self.sampling()

    def sampling(self, **more: Any) -> SamplingConfig:
        """These options of the sampler, and `more` of them.

        Raises:
            ValueError: a value is out of range.
        """
        return SamplingConfig(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            num_samples=self.samples,
            prompt_multiple=self.prompt_multiple,
            attention=self.attention,
            prefill_chunk=self.prefill_chunk,
            **more,
        )


class Evaluator:
    """Avg@n, pass@n, distinct solutions and entropy of a decoder on a task's test split."""

    def __init__(
        self,
        decoder: Decoder,
        text: TextTask,
        config: Eval,
        mesh: Mesh,
        rules: Rules | None = None,
        channels: Channels | None = None,
    ):
        """Encode the prompts once; `rules` lay out the params for decoding, as in `Policy`.

        Raises:
            ValueError: a prompt and its completion would not fit into the decoder's context, or
                the attention does not suit its layers, or wants other `channels` than these.
        """
        sampling = config.sampling(
            stop_ids=tuple(text.tokenizer.eos_ids),
            pad_id=text.tokenizer.pad_id,
            vocab_size=text.tokenizer.vocab_size,
        )
        self._text, self._config = text, config
        self._policy = Policy(decoder, sampling, mesh, text.tokenizer.pad_id, rules, channels)
        count = min(config.prompts, text.num_examples("test"))
        self._examples, self._prompts = zip(
            *(text.prompt(i, "test") for i in range(count)), strict=True
        )
        longest, context = max(map(len, self._prompts)), decoder.config.max_position
        if longest + config.max_new_tokens > context:
            raise ValueError(
                f"eval.max_new_tokens: a test prompt of {longest} tokens and a completion of "
                f"{config.max_new_tokens} exceed the context of {context}"
            )
        kind = sampling.attention.kind(1, sampling.cache_dtype)
        try:
            jax.eval_shape(lambda: empty_caches(decoder.config, 1, kind))
            if config.attention.calibration == "checkpoint":
                check_channels(decoder.config, channels, config.attention.channels)
        except ValueError as error:
            raise ValueError(f"eval.attention: {error}") from None
        # Every batch has the same shape, which the devices share evenly.
        shares = mesh.shape["data"]
        self._batch = -(-min(config.batch, count) // shares) * shares
        self._entropy = _entropy(
            decoder, config.samples, config.temperature or 1.0, text.tokenizer.vocab_size, mesh
        )

    def __call__(self, params: Params, key: jax.Array) -> tuple[dict[str, float], list[dict]]:
        """Sample and grade.

        Args:
            params: of the decoder.
            key: the same key gives the same completions.

        Returns:
            Metrics, and the first `save_samples` completions as rows of samples.jsonl:
            - avg@n: mean reward;
            - pass@n: share of prompts with a right completion;
            - distinct@n: mean number of distinct right solutions of a prompt, where the task tells
              solutions apart;
            - entropy: mean entropy of the policy at the sampled positions, in nats;
            - response_length in tokens; truncated_share of completions without an end;
            - offload/hit_rate and the like, see `jaxlab.sampling.offload.summary`.
        """
        n = self._config.samples
        grades: list[Grade] = []
        texts: list[str] = []
        lengths, stops, entropies, moved = [], [], [], []
        for begin in range(0, len(self._prompts), self._batch):
            prompts = list(self._prompts[begin : begin + self._batch])
            examples = [e for e in self._examples[begin : begin + self._batch] for _ in range(n)]
            # The rows that fill the last batch are dropped.
            filler = self._batch - len(prompts)
            rollout = self._policy(
                params, prompts + [prompts[0]] * filler, jax.random.fold_in(key, begin)
            )
            response, mask, stopped = (x[: len(examples)] for x in to_host(rollout))
            entropy = multihost_utils.process_allgather(self._entropy(params, rollout), tiled=True)
            batch_texts = self._text.texts(response, mask)
            grades += self._text.grade(examples, batch_texts, stopped)
            texts += batch_texts
            lengths.append(mask.sum(1))
            stops.append(stopped)
            entropies.append(entropy[: len(examples)])
            if rollout.offload is not None:
                # The rows that fill the last batch are moved as all others.
                moved.append(multihost_utils.process_allgather(rollout.offload, tiled=True))
        rewards = np.array([grade.reward for grade in grades]).reshape(-1, n)
        result = {
            f"avg@{n}": metrics.avg_at_n(rewards),
            f"pass@{n}": float(np.mean(rewards.max(1))),
            "entropy": float(np.sum(np.concatenate(entropies)) / np.sum(np.concatenate(lengths))),
            "response_length": float(np.mean(np.concatenate(lengths))),
            "truncated_share": float(1 - np.mean(np.concatenate(stops))),
        }
        solutions = [grade.solution for grade in grades]
        if any(solution is not None for solution in solutions):
            rows = [solutions[i : i + n] for i in range(0, len(solutions), n)]
            result[f"distinct@{n}"] = float(np.mean(metrics.distinct_solutions(rows)))
        if moved:
            every = offload_lib.Stats(*(np.concatenate(x) for x in zip(*moved, strict=True)))
            summary = offload_lib.summary(every)
            result |= {f"offload/{name}": value for name, value in summary.items()}
        return result, self._rows(texts, grades)

    def _rows(self, texts: list[str], grades: list[Grade]) -> list[dict[str, Any]]:
        """The first completion of each of the first prompts."""
        n = self._config.samples
        return [
            {
                "prompt": self._examples[i].prompt,
                "answer": self._examples[i].answer,
                "completion": texts[i * n],
                "reward": grades[i * n].reward,
            }
            for i in range(min(self._config.save_samples, len(self._examples)))
        ]


# The methods and seeds of a study follow each other, with one model.
@functools.lru_cache(maxsize=4)
def _entropy(
    decoder: Decoder, samples: int, temperature: float, vocab_size: int, mesh: Mesh
) -> Callable[[Params, Rollout], jax.Array]:
    """A function of params and rollout: each completion's sum of the policy's entropy, [B] nats."""

    def entropy(params: Params, rollout: Rollout) -> jax.Array:
        _, entropy = chunked_vocab.token_logp(
            response_hidden(decoder, params, rollout, samples=samples),
            unembedding(params),
            rollout.response,
            temperature,
            vocab_size=vocab_size,
        )
        return (entropy * rollout.mask).sum(1)

    return jax.jit(ambient(mesh)(entropy))
