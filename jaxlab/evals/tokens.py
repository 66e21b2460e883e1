"""The evaluation of next-token models on fixed held-out rows: no sampling, one forward pass."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxlab import ranges
from jaxlab.data.tasks.tokens import TokenSource
from jaxlab.evals import attentions
from jaxlab.evals.attentions import Attentions
from jaxlab.losses import chunked_vocab
from jaxlab.losses.aggregate import per_token
from jaxlab.models.decoder import Decoder, Params, unembedding
from jaxlab.runtime.mesh import host_batch_slice, put_global
from jaxlab.runtime.sharding import ambient

# Positions are told apart on a doubling scale that begins at this fraction of the trained length.
FIRST_POSITIONS = 8


@dataclasses.dataclass(frozen=True)
class TokenEval:
    """What to evaluate on.

    Attributes:
        examples: held-out rows of each setting, always the first ones; all, where there are fewer.
        batch: rows read together, rounded up to a multiple of the devices that share them.
        settings: changes of the data's options, each evaluated apart: longer rows, more pairs.
        by_position: also tell apart where in the row the target stands, in the longest setting.
        attentions: ways to read the cache, by name and budget, that are compared on the longest
            setting when training has ended; see `jaxlab.evals.attentions`.
        decoded: last tokens of a row that are decoded one by one in that comparison.
    """

    examples: int = 256
    batch: int = 64
    settings: tuple[dict[str, Any], ...] = ()
    by_position: bool = False
    attentions: Attentions = dataclasses.field(default_factory=dict)
    decoded: int = 1

    def __post_init__(self) -> None:
        """Check that counts are positive and that no two settings would go by one name."""
        ranges.check_counts(self, "examples", "batch", "decoded")
        labels = [label(setting) for setting in self.settings]
        if "" in labels or len(set(labels)) < len(labels):
            raise ValueError(f"settings must differ, and change something: {self.settings}")
        for name, budgets in self.attentions.items():
            if any(attention.calibration != "prompt" for attention in budgets.values()):
                raise ValueError(
                    f"attentions.{name}: calibration is 'checkpoint', and a model in training has "
                    "no channels: use 'prompt'"
                )


def label(setting: Mapping[str, Any]) -> str:
    """ "num_pairs=8,length=64" for {"num_pairs": 8, "length": 64}."""
    return ",".join(f"{name}={value}" for name, value in setting.items())


class TokenEvaluator:
    """Loss, accuracy and what follows from them, of a decoder on several sources."""

    def __init__(
        self,
        decoder: Decoder,
        sources: Mapping[str, TokenSource],
        config: TokenEval,
        mesh: Mesh,
        vocab_size: int | None = None,
    ):
        """Compile nothing yet.

        Args:
            decoder: whose params are evaluated.
            sources: by the `label` of their setting; "" is that of training.
            config: how many rows.
            mesh: devices.
            vocab_size: number of leading rows of the decoder's table that are words; None: all.
        """
        self._sources, self._config, self._mesh = sources, config, mesh
        self._decoder = decoder
        shares = mesh.shape["data"]
        self._batch = -(-config.batch // shares) * shares
        self._sums = _compiled(decoder, mesh, vocab_size)

    def __call__(self, params: Params) -> dict[str, float]:
        """Read every source's held-out rows.

        Returns:
            Of the training's setting, and as "NAME@SETTING" of each other one:
            - loss: mean over the targets, in nats;
            - accuracy: share of the targets that are the most probable token;
            - sequence_accuracy: share of rows whose targets all are (tasks);
            - perplexity: exp(loss) (texts);
            - bits_per_byte: loss in bits per byte of the held-out text (texts);
            - entropy: mean entropy at the targets, in nats (training's setting alone).
            With `by_position`, loss and accuracy as "NAME@position=P": P is the end of a range of
            positions that begins at P / 2 (the first one: at 0).
        """
        result: dict[str, float] = {}
        longest = max(self._sources, key=lambda name: self._sources[name].length)
        positions: dict[str, float] = {}
        for name, source in self._sources.items():
            sums, right_rows, rows = self._read(params, source)
            scores = self._scores(source, sums, right_rows / rows)
            if name:
                scores = {f"{score}@{name}": value for score, value in scores.items()}
            else:
                scores["entropy"] = float(sums["student_entropy"].sum() / sums["count"].sum())
            result |= scores
            if name == longest and self._config.by_position:
                positions = _by_position(sums, self._sources[""].length)
        return result | positions

    def compare(self, params: Params) -> dict[str, float]:
        """The scores of `attentions.compare` on the longest source; none without attentions."""
        config = self._config
        if not config.attentions:
            return {}
        source = max(self._sources.values(), key=lambda source: source.length)
        return attentions.compare(
            self._decoder, params, source, config.attentions, rows=config.examples,
            batch=min(config.batch, config.examples), decoded=config.decoded,
        )  # fmt: skip

    def _read(
        self, params: Params, source: TokenSource
    ) -> tuple[dict[str, np.ndarray], float, int]:
        """Sums over rows at each position, float64 [T]; rows without a wrong target; rows."""
        rows = min(self._config.examples, source.num_examples("test"))
        sums: dict[str, np.ndarray] = {}
        right_rows = 0.0
        for begin in range(0, rows, self._batch):
            ids = np.arange(begin, begin + self._batch)
            # The rows that fill the last batch count for nothing.
            mine = host_batch_slice(self._batch, self._mesh)
            batch = source.batch(np.minimum(ids, rows - 1)[mine], "test")
            batch = batch._replace(mask=batch.mask & (ids < rows)[mine, None])
            got, right = jax.device_get(self._sums(params, put_global(batch, self._mesh)))
            for name, values in got.items():
                sums[name] = sums.get(name, 0.0) + np.asarray(values, np.float64)
            right_rows += float(right)
        return sums, right_rows, rows

    def _scores(
        self, source: TokenSource, sums: Mapping[str, np.ndarray], right_share: float
    ) -> dict[str, float]:
        count = sums["count"].sum()
        loss = float(sums["nll"].sum() / count)
        scores = {"accuracy": float(sums["accuracy"].sum() / count), "loss": loss}
        per_byte = source.tokens_per_byte("test")
        if per_byte is None:
            return scores | {"sequence_accuracy": right_share}
        # Beyond e^700 there is no float.
        perplexity = math.exp(min(loss, 700.0))
        return scores | {
            "perplexity": perplexity,
            "bits_per_byte": loss / math.log(2) * per_byte,
        }


# Evaluators of one model share it: in a study of several seeds they follow each other.
@functools.lru_cache(maxsize=1)
def _compiled(decoder: Decoder, mesh: Mesh, vocab_size: int | None) -> Any:
    def sums(params: Params, batch: Any) -> tuple[dict[str, jax.Array], jax.Array]:
        """Of a `TokenBatch` of device arrays: see `TokenEvaluator._read`."""
        hidden: Any = decoder.apply(
            {"params": params}, batch.tokens, None, batch.segment_ids, method="hidden"
        )
        _, stats = chunked_vocab.cross_entropy(
            hidden,
            unembedding(params),
            batch.targets,
            batch.mask,
            vocab_size=vocab_size,
            summary=per_token,
        )
        mask = batch.mask.astype(np.float32)
        summed = {name: (values * mask).sum(0) for name, values in stats.items()}
        wrong = ((1 - stats["accuracy"]) * mask).sum(1)
        return summed | {"count": mask.sum(0)}, ((wrong == 0) & batch.mask.any(1)).sum()

    return jax.jit(ambient(mesh)(sums), out_shardings=NamedSharding(mesh, PartitionSpec()))


def _by_position(sums: Mapping[str, np.ndarray], trained: int) -> dict[str, float]:
    """Loss and accuracy of the positions between powers of two, counted in the trained length."""
    scores: dict[str, float] = {}
    begin, end, length = 0, max(1, trained // FIRST_POSITIONS), len(sums["count"])
    while begin < length:
        part = slice(begin, min(end, length))
        count = sums["count"][part].sum()
        if count:
            scores[f"loss@position={part.stop}"] = float(sums["nll"][part].sum() / count)
            scores[f"accuracy@position={part.stop}"] = float(sums["accuracy"][part].sum() / count)
        begin, end = end, 2 * end
    return scores
