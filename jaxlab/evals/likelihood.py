"""Log-likelihoods of given continuations, in batches of few shapes."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxlab.losses import chunked_vocab
from jaxlab.losses.aggregate import per_token
from jaxlab.models.decoder import Decoder, Params, unembedding
from jaxlab.runtime.mesh import put_global
from jaxlab.runtime.sharding import ambient


class Score(NamedTuple):
    """What a decoder says to a continuation.

    Attributes:
        logprob: sum over its tokens, in nats.
        greedy: whether each of its tokens is the most likely one.
    """

    logprob: float
    greedy: bool


class Likelihood:
    """Scores continuations under a decoder.

    Every batch has the same number of rows, and a row's width follows from its own length, so that
    a score does not depend on what else is asked.
    """

    def __init__(
        self,
        decoder: Decoder,
        params: Params,
        mesh: Mesh,
        *,
        rows: int = 32,
        multiple: int = 64,
        vocab_size: int | None = None,
    ):
        """Compile nothing yet; one program for each width that occurs.

        Args:
            decoder: the model.
            params: its parameters.
            mesh: where; the rows of a batch are split over its "data" axis, in one process.
            rows: of a batch; rounded up to a multiple of the devices that share them.
            multiple: rows are padded to the next multiple of this many tokens.
            vocab_size: number of leading rows of the decoder's table that are words; None: all.

        Raises:
            ValueError: no row, or no token.
        """
        if rows < 1 or multiple < 1:
            raise ValueError(f"rows >= 1 and multiple >= 1 are needed, got {rows} and {multiple}")
        self._params, self._mesh, self._multiple = params, mesh, multiple
        shares = mesh.shape["data"]
        self.rows = -(-rows // shares) * shares
        self.context = decoder.config.max_position

        def score(params: Params, tokens: Any, targets: Any, mask: Any) -> tuple[Any, Any]:
            hidden: Any = decoder.apply({"params": params}, tokens, method="hidden")
            _, stats = chunked_vocab.cross_entropy(
                hidden,
                unembedding(params),
                targets,
                mask,
                vocab_size=vocab_size,
                summary=per_token,
            )
            logprobs = -(stats["nll"] * mask).sum(1)
            return logprobs, ((stats["accuracy"] > 0) | ~mask).all(1)

        self._score = jax.jit(ambient(mesh)(score))

    def __call__(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]
    ) -> Iterator[tuple[int, Score]]:
        """Score each continuation behind its context; contexts lose what does not fit, in front.

        Args:
            pairs: token ids of (context, continuation), neither empty.

        Yields:
            The pair's number and its score, batch by batch, the longest first.

        Raises:
            ValueError: one of the two is empty, or the continuation alone does not fit.
        """
        by_width: dict[int, list[tuple[int, list[int], int]]] = defaultdict(list)
        for i, (context, continuation) in enumerate(pairs):
            if not context or not 0 < len(continuation) <= self.context:
                raise ValueError(
                    f"pair {i}: a context of {len(context)} and a continuation of "
                    f"{len(continuation)} tokens; neither may be empty, nor the continuation "
                    f"longer than the model's {self.context}"
                )
            # The last token is predicted and not read.
            tokens = [*context, *continuation][-self.context - 1 :]
            width = -(-(len(tokens) - 1) // self._multiple) * self._multiple
            by_width[width].append((i, tokens, len(continuation)))
        for width in sorted(by_width, reverse=True):
            group = by_width[width]
            for begin in range(0, len(group), self.rows):
                yield from self._batch(group[begin : begin + self.rows], width)

    def _batch(
        self, items: Sequence[tuple[int, list[int], int]], width: int
    ) -> Iterator[tuple[int, Score]]:
        tokens, targets = np.zeros((2, self.rows, width), np.int32)
        mask = np.zeros((self.rows, width), bool)
        for row, (_, ids, scored) in enumerate(items):
            end = len(ids) - 1
            tokens[row, :end], targets[row, :end] = ids[:-1], ids[1:]
            mask[row, end - scored : end] = True
        batch = put_global((tokens, targets, mask), self._mesh)
        logprobs, greedy = jax.device_get(self._score(self._params, *batch))
        for row, (i, _, _) in enumerate(items):
            yield i, Score(float(logprobs[row]), bool(greedy[row]))
