"""A checkpoint of ours under EleutherAI's lm-evaluation-harness (extra "lm-eval").

    python -m jaxlab.evals.lm_eval_adapter run --model jaxlab --model_args pretrained=DIR \\
        --tasks NAME --include_path FOLDER --batch_size 32

is `lm_eval` with one model more; it has no plugins that would make its own command find it. In
Python, after `import jaxlab.evals.lm_eval_adapter`, "jaxlab" is a model of
`lm_eval.simple_evaluate`. DIR is a HuggingFace directory or a work directory of training.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import as_completed
from typing import Any

from lm_eval.__main__ import cli_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import model_registry
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from jaxlab import config as config_lib
from jaxlab.evals.likelihood import Likelihood
from jaxlab.grading.rows import sample_seed
from jaxlab.interop import models
from jaxlab.interop.models import Model
from jaxlab.models.decoder import Decoder
from jaxlab.rollouts.batcher import Batcher
from jaxlab.runtime import decode_devices
from jaxlab.runtime import mesh as mesh_lib
from jaxlab.runtime.settings import Mesh
from jaxlab.sampling import SamplingConfig
from jaxlab.text.tokenizer import load as load_tokenizer

# Keys of a task's generation_kwargs beside these change what is sampled, in ways not offered here.
SAMPLING = {"until", "max_gen_toks", "do_sample", "temperature", "top_k", "top_p", "min_p"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Arguments of the model, `--model_args`.

    Attributes:
        pretrained: a HuggingFace directory or a work directory of training.
        batch_size: rows computed together; "auto" is 32. lm_eval's command line says 1 where it is
            not told otherwise.
        max_batch_size: of the harness, for "auto"; not used.
        device: of the harness; not used, jax places the model (`mesh`).
        max_length: the context, where it is to be shorter than the model's.
        max_gen_toks: longest completion where a task does not say.
        context_len: tokens of each window of loglikelihood_rolling that are read again from the
            window before, at least 1: the harness' own definition.
        add_bos_token: false leaves out what the tokenizer's post-processor puts in front of a
            text, mostly a beginning of sequence; otherwise it is there once, as in training.
        prefix_token_id: stands before a text without context; None: beginning of sequence, else
            end of sequence.
        multiple: rows are padded to a multiple of this many tokens.
        think_end_token: completions are read from behind the last one of it.
        tokenizer: directory with tokenizer.json; None means the model's own.
        dtype: compute dtype; None means the model's own.
        seed: of tasks that sample.
        mesh: devices and sharding rules, as in a training config.
    """

    pretrained: str
    batch_size: int | str = "auto"
    max_batch_size: int | None = None
    device: str | None = None
    max_length: int | None = None
    max_gen_toks: int = 256
    context_len: int = 1
    add_bos_token: bool | None = None
    prefix_token_id: int | None = None
    multiple: int = 64
    think_end_token: str | None = None
    tokenizer: str | None = None
    dtype: str | None = None
    seed: int = 0
    mesh: Mesh = dataclasses.field(default_factory=Mesh)


class JaxlabLM(TemplateLM):
    """A decoder and its tokenizer behind the harness' three questions."""

    def __init__(self, **arguments: Any):
        """Load the model; arguments are those of `Settings`.

        Raises:
            ConfigError: an argument is unknown, or the directory holds no model or no tokenizer.
            CheckpointError: the checkpoint cannot be read.
            ValueError: a length or a batch that cannot be.
        """
        super().__init__()
        settings = config_lib.build(Settings, arguments, "model_args")
        sizes = {} if settings.dtype is None else {"dtype": settings.dtype}
        spec = Model(path=settings.pretrained, sizes=sizes)
        where = settings.tokenizer
        tokenizer = models.tokenizer_at(spec, "model") if where is None else load_tokenizer(where)
        if tokenizer is None:
            raise config_lib.ConfigError(
                f"{spec.path} has no tokenizer.json: name a directory that has one, tokenizer=DIR"
            )
        source = models.find(spec, "model", vocab_size=tokenizer.vocab_size, seed=0)
        mesh_lib.start(decode_devices=settings.mesh.decode_devices)
        mesh = mesh_lib.make_mesh(settings.mesh.shape)
        params = source.load(mesh, settings.mesh.rules)
        self.settings, self.tokenizer = settings, tokenizer
        automatic = str(settings.batch_size).startswith("auto")
        self.batch_size = 32 if automatic else int(settings.batch_size)
        self.max_length = settings.max_length or source.config.max_position
        if not 1 <= settings.context_len <= self.max_length <= source.config.max_position:
            raise ValueError(
                f"context_len {settings.context_len} <= max_length {self.max_length} <= the "
                f"model's context {source.config.max_position} is needed"
            )
        decoder = Decoder(source.config)
        self._likelihood = Likelihood(
            decoder,
            params,
            mesh,
            rows=self.batch_size,
            multiple=settings.multiple,
            vocab_size=tokenizer.vocab_size,
        )
        self._batcher = Batcher(
            decoder,
            params,
            mesh,
            tokenizer.pad_id,
            rows=self.batch_size,
            rules=settings.mesh.decode_rules,
        )

    @property
    def eot_token_id(self) -> int:
        """The tokenizer's end of sequence."""
        return self.tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        """What a text without context is conditioned on."""
        if self.settings.prefix_token_id is not None:
            return self.settings.prefix_token_id
        if self.tokenizer.prefix:
            return self.tokenizer.prefix[-1]
        return self.eot_token_id if self.tokenizer.bos_id is None else self.tokenizer.bos_id

    @property
    def tokenizer_name(self) -> str:
        """For the harness' cache of prompts."""
        return self.tokenizer.name

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The conversation as one prompt."""
        return self.tokenizer.apply_chat_template(chat_history, add_generation_prompt)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Token ids, with what the tokenizer puts in front once; see `Tokenizer.encode_prompt`."""
        del kwargs
        if add_special_tokens is None:
            add_special_tokens = self.settings.add_bos_token
        if add_special_tokens is False:
            return self.tokenizer.encode(string)
        return self.tokenizer.encode_prompt(string)

    def loglikelihood_rolling(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihood of each whole text, read in windows, every token scored once."""
        pairs, owners = [], []
        for i, request in enumerate(requests):
            windows = get_rolling_token_windows(
                # The prefix token takes the place of what the tokenizer puts in front.
                self.tok_encode(request.args[0], add_special_tokens=False),
                self.prefix_token_id,
                self.max_length,
                self.settings.context_len,
            )
            found = [make_disjoint_window(window) for window in windows]
            pairs += found
            owners += [i] * len(found)
        left, totals = Counter(owners), [0.0] * len(requests)
        for i, score in self._scores(pairs, disable_tqdm):
            owner = owners[i]
            totals[owner] += score[0]
            left[owner] -= 1
            if not left[owner]:
                text = requests[owner].args
                self.cache_hook.add_partial("loglikelihood_rolling", text, totals[owner])
        return totals

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Completions up to the first stop sequence of each request.

        Raises:
            ValueError: a task asks for sampling that there is not, or for more tokens than fit.
        """
        asked: Counter[str] = Counter()
        futures = {}
        for i, request in enumerate(requests):
            text, options = request.args
            sampling, stops = self._sampling(options)
            prompt = self.tok_encode(text) or [self.prefix_token_id]
            prompt = prompt[-(self.max_length - sampling.max_new_tokens) :]
            # The same question asked again is another sample of it.
            asked[repr(prompt)] += 1
            seed = sample_seed(self.settings.seed, repr(prompt), asked[repr(prompt)])
            futures[self._batcher.submit(prompt, sampling, seed)] = i, stops
        texts = [""] * len(requests)
        done = as_completed(futures)
        for future in tqdm(done, "generating", len(futures), disable=disable_tqdm):
            i, stops = futures[future]
            texts[i] = postprocess_generated_text(
                self.tokenizer.decode(future.result().tokens), stops, self.settings.think_end_token
            )
            self.cache_hook.add_partial("generate_until", requests[i].args, texts[i])
        return texts

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        del kwargs
        found: dict[int, tuple[float, bool]] = {}
        pairs = [(context, continuation) for _, context, continuation in requests]
        for i, score in self._scores(pairs, disable_tqdm):
            found[i] = score
            self.cache_hook.add_partial("loglikelihood", requests[i][0], score)
        return [found[i] for i in range(len(requests))]

    def _scores(self, pairs: Sequence[tuple[list[int], list[int]]], disable_tqdm: bool) -> Any:
        """(number, (log-likelihood, greedy)) of each pair, cut in front to `max_length`."""
        fitting = []
        for context, continuation in pairs:
            room = self.max_length + 1 - len(continuation)
            if room < 1:
                raise ValueError(
                    f"a continuation of {len(continuation)} tokens does not fit into the context "
                    f"of {self.max_length}"
                )
            fitting.append((context[-room:], continuation))
        scores = self._likelihood(fitting)
        for i, score in tqdm(scores, "log-likelihoods", len(pairs), disable=disable_tqdm):
            yield i, (score.logprob, score.greedy)

    def _sampling(self, options: dict[str, Any]) -> tuple[SamplingConfig, list[str]]:
        """The sampler's options and the stop sequences of a task's generation_kwargs."""
        wanted: dict[str, Any] = dict(normalize_gen_kwargs(options, self.settings.max_gen_toks))
        unknown = {name for name in wanted.keys() - SAMPLING if wanted[name] is not None}
        if unknown:
            raise ValueError(
                f"generation_kwargs: the jaxlab model does not have {min(unknown)!r}; it has "
                f"{', '.join(sorted(SAMPLING))}"
            )
        longest = wanted["max_gen_toks"]
        if longest >= self.max_length:
            raise ValueError(
                f"max_gen_toks {longest} leaves no room for a prompt in a context of "
                f"{self.max_length}: give a task or a model with a smaller one"
            )
        sampling = SamplingConfig(
            max_new_tokens=longest,
            temperature=wanted.get("temperature", 1.0) if wanted["do_sample"] else 0.0,
            top_k=wanted.get("top_k"),
            top_p=wanted.get("top_p"),
            min_p=wanted.get("min_p"),
            stop_ids=tuple(self.tokenizer.eos_ids),
            pad_id=self.tokenizer.pad_id,
            vocab_size=self.tokenizer.vocab_size,
            prompt_multiple=self.settings.multiple,
        )
        return sampling, [stop for stop in wanted["until"] if stop]


# By name, since run with -m this module is another one.
model_registry.register("jaxlab", target="jaxlab.evals.lm_eval_adapter:JaxlabLM")

if __name__ == "__main__":
    decode_devices.automatically()
    cli_evaluate()
