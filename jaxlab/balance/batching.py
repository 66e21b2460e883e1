"""Which sequence goes to which rank and microbatch: sparsity-aware batching (SAB) and others.

Costs are predicted seconds, tokens, or anything else that adds up.
"""

import heapq
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from jaxlab.balance.budget import Memory, bucket_of
from jaxlab.balance.latency import Latency

Method = Literal["lpt", "karmarkar_karp", "first_fit"]
Cost = Literal["latency", "length", "dense"]
Packer = Literal["offline", "in_batch", "buffer", "global_batch"]
# The sequences that karmarkar_karp divides by differencing; its time is linear in their number.
_MANY = 10_000
# [rank][microbatch][indices]
Bins = list[list[list[int]]]


def pack(
    costs: Sequence[float] | np.ndarray,
    *,
    ranks: int,
    microbatches: int,
    method: Method = "lpt",
    equal_size: bool = False,
    lengths: Sequence[int] | None = None,
    max_tokens: int | None = None,
) -> Bins:
    """Deals sequences to ranks so that costs are even, then each rank's to its microbatches.

    Every index occurs exactly once; the result depends on the arguments alone. With fewer sequences
    than bins some bins are empty lists, without sequences all are.

    Args:
        costs: of each sequence, finite and at least 0.
        ranks: R, data-parallel ranks.
        microbatches: M, per rank.
        method: "lpt", the largest cost left to the least loaded bin (Graham 1969);
            "karmarkar_karp", largest differencing, whose bins are evener and which takes longer;
            "first_fit", in the order given, each to the first bin that stays within an even share.
        equal_size: no bin has more sequences than an even share, rounded up: where that divides
            evenly, all have as many.
        lengths: tokens of each sequence, where max_tokens is given.
        max_tokens: most tokens of a microbatch, for lpt and first_fit.

    Returns:
        [rank][microbatch][indices], indices ascending.

    Raises:
        ValueError: a cost is no finite number from 0, a sequence is longer than a microbatch, they
            do not fit together, or the options exclude each other.
    """
    values = _checked(costs, ranks, microbatches, method)
    tokens = _checked_lengths(lengths, max_tokens, len(values), method)
    if max_tokens is None:
        room = None
    else:
        room = microbatches * max_tokens
    try:
        outer = _divide(values, ranks, method, equal_size, tokens, room)
        return [
            _within(members, values, microbatches, method, equal_size, tokens, max_tokens)
            for members in outer
        ]
    except _Full:
        # A rank's share can fit its tokens in all and yet not each of its microbatches.
        try:
            flat = _divide(values, ranks * microbatches, method, equal_size, tokens, max_tokens)
        except _Full as full:
            raise ValueError(
                f"{len(values)} sequences of {int(tokens.sum())} tokens do not fit {ranks} ranks x "
                f"{microbatches} microbatches of {max_tokens} tokens: sequence {full.index} of "
                f"{int(tokens[full.index])} finds no room; give more microbatches or tokens"
            ) from None
        return [flat[r * microbatches : (r + 1) * microbatches] for r in range(ranks)]


def estimate(
    lengths: Sequence[int] | np.ndarray, latency: Latency, memory: Memory, cost: Cost = "latency"
) -> np.ndarray:
    """What each sequence is expected to cost, for `pack`.

    Args:
        lengths: tokens of each sequence.
        latency: of a layer, by length and budget.
        memory: of the budgets that lengths got before.
        cost: "latency", predicted at the remembered budget (SAB); "length", tokens (LBB); or
            "dense", their square, the cost of attention without sparsity.
    """
    tokens = np.asarray(lengths, np.float64)
    if cost == "length":
        return tokens
    if cost == "dense":
        return tokens**2
    if cost != "latency":
        raise ValueError(f"cost is {cost!r}: expected latency, length or dense")
    if not len(tokens):
        return tokens
    buckets = np.asarray([bucket_of(length) for length in lengths])
    # The average of a bucket's budgets is no bucket itself: latencies are read between them.
    budgets = np.asarray([memory.budget(1 << b) for b in buckets])
    return np.asarray(latency.predict(tokens, budgets))


def batches(
    costs: Sequence[float] | np.ndarray,
    *,
    global_batch: int,
    ranks: int,
    microbatches: int,
    packer: Packer = "global_batch",
    buffer: int = 8,
    method: Method = "lpt",
) -> Iterator[Bins]:
    """Steps of a data set, packed within windows of it; indices are those of `costs`.

    Args:
        costs: of each sequence, in the order of the data.
        global_batch: sequences of a step. A last, shorter step is made of what is left.
        ranks: see `pack`.
        microbatches: see `pack`.
        packer: what may be exchanged, by the names that Megatron-Bridge gave: "in_batch", nothing:
            sequences are dealt in turn; "global_batch", the sequences of one step, which keeps the
            order of the data by steps; "buffer", those of `buffer` steps; "offline", the whole set.
        buffer: steps per window of "buffer".
        method: see `pack`.

    Raises:
        ValueError: see `pack`; or a size is below 1.
    """
    if global_batch < 1 or buffer < 1:
        raise ValueError(f"global_batch is {global_batch} and buffer {buffer}: expected at least 1")
    values = _checked(costs, ranks, microbatches, method)
    steps = {"in_batch": 1, "global_batch": 1, "buffer": buffer, "offline": None}
    if packer not in steps:
        raise ValueError(f"packer is {packer!r}: expected one of {', '.join(steps)}")
    window = global_batch * (steps[packer] or max(1, math.ceil(len(values) / global_batch)))
    for start in range(0, len(values), window):
        part = values[start : start + window]
        count = math.ceil(len(part) / global_batch)
        if packer == "in_batch":
            bins = deal(len(part), ranks=ranks, microbatches=microbatches)
        else:
            bins = pack(part, ranks=ranks * count, microbatches=microbatches, method=method)
            # Ranks of like load make a step: the step lasts as long as its slowest.
            bins.sort(key=lambda rank: sum(part[i] for bin_ in rank for i in bin_))
        for step in range(count):
            yield [
                [[start + i for i in bin_] for bin_ in rank]
                for rank in bins[step * ranks : (step + 1) * ranks]
            ]


def deal(count: int, *, ranks: int, microbatches: int) -> Bins:
    """Indices 0 to count - 1 in turn to ranks and then to their microbatches: no balancing."""
    return [
        [list(range(r + m * ranks, count, ranks * microbatches)) for m in range(microbatches)]
        for r in range(ranks)
    ]


class _Full(Exception):
    """No bin has room for a sequence."""

    def __init__(self, index: int):
        super().__init__(index)
        self.index = index


def _checked(
    costs: Sequence[float] | np.ndarray, ranks: int, microbatches: int, method: str
) -> np.ndarray:
    if ranks < 1 or microbatches < 1:
        raise ValueError(
            f"ranks is {ranks} and microbatches {microbatches}: expected at least 1 of each"
        )
    if method not in _METHODS:
        raise ValueError(f"method is {method!r}: expected one of {', '.join(_METHODS)}")
    values = np.asarray(costs, np.float64)
    if values.ndim != 1:
        raise ValueError(f"costs have shape {values.shape}: expected one number per sequence")
    bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if len(bad):
        raise ValueError(
            f"the cost of sequence {bad[0]} is {values[bad[0]]}: expected a finite number from 0"
        )
    return values


def _checked_lengths(
    lengths: Sequence[int] | None, max_tokens: int | None, count: int, method: str
) -> np.ndarray:
    if max_tokens is None:
        return np.zeros(count)
    if lengths is None or len(lengths) != count:
        found = "no lengths" if lengths is None else f"{len(lengths)} lengths"
        raise ValueError(f"max_tokens is given with {found} for {count} sequences")
    if method == "karmarkar_karp":
        raise ValueError("karmarkar_karp knows no max_tokens: choose lpt or first_fit")
    tokens = np.asarray(lengths)
    long = np.flatnonzero(tokens > max_tokens)
    if len(long):
        raise ValueError(
            f"sequence {long[0]} has {tokens[long[0]]} tokens, a microbatch at most {max_tokens} "
            f"({len(long)} such sequences): raise max_tokens, or cut or drop them beforehand"
        )
    return tokens


def _within(members, values, microbatches, method, equal_size, tokens, room) -> list[list[int]]:
    own = np.asarray(members, int)
    try:
        parts = _divide(values[own], microbatches, method, equal_size, tokens[own], room)
    except _Full as full:
        raise _Full(members[full.index]) from None
    return [[members[i] for i in part] for part in parts]


def _divide(
    costs: np.ndarray,
    bins: int,
    method: str,
    equal_size: bool,
    tokens: np.ndarray,
    room: float | None,
) -> list[list[int]]:
    """Ascending indices of each bin."""
    size = math.ceil(len(costs) / bins) if equal_size else math.inf
    limit = math.inf if room is None else room
    found = _METHODS[method](costs.tolist(), bins, size, tokens.tolist(), limit)
    return [sorted(part) for part in found]


def _lpt(costs, bins, size, tokens, room) -> list[list[int]]:
    return _fill([[] for _ in range(bins)], _descending(costs), costs, size, tokens, room)


def _fill(found, order, costs, size, tokens, room) -> list[list[int]]:
    """Puts sequences in this order into the least loaded bins, on top of what they hold."""
    used = [sum(tokens[i] for i in part) for part in found]
    # (load, sequences, bin): of equally loaded bins the one of fewest sequences.
    heap = [(sum(costs[i] for i in part), len(part), b) for b, part in enumerate(found)]
    heap = [each for each in heap if each[1] < size]
    heapq.heapify(heap)
    for i in order:
        aside = []
        while heap and used[heap[0][2]] + tokens[i] > room:
            aside.append(heapq.heappop(heap))
        if not heap:
            raise _Full(i)
        load, count, b = heap[0]
        found[b].append(i)
        used[b] += tokens[i]
        if count + 1 < size:
            heapq.heapreplace(heap, (load + costs[i], count + 1, b))
        else:
            heapq.heappop(heap)
        for each in aside:
            heapq.heappush(heap, each)
    return found


def _first_fit(costs, bins, size, tokens, room) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in range(bins)]
    loads, used = [0.0] * bins, [0] * bins
    share = max(sum(costs) / bins, max(costs, default=0.0)) * (1 + 1e-12)
    smallest, first = min(costs, default=0.0), 0
    for i, cost in enumerate(costs):
        # Bins at the front that are too full for any sequence are passed over for good.
        while first < bins and (loads[first] + smallest > share or len(found[first]) >= size):
            first += 1
        open_ = (b for b in range(first, bins) if len(found[b]) < size)
        fits = (b for b in open_ if loads[b] + cost <= share and used[b] + tokens[i] <= room)
        b = next(fits, None)
        if b is None:
            # Beyond every share, to the least loaded that is open.
            left = [b for b in range(bins) if len(found[b]) < size and used[b] + tokens[i] <= room]
            if not left:
                raise _Full(i)
            b = min(left, key=loads.__getitem__)
        found[b].append(i)
        loads[b] += cost
        used[b] += tokens[i]
    return found


def _descending(costs: list[float]) -> list[int]:
    """Indices by falling cost; equal ones in their order."""
    return np.argsort(-np.asarray(costs), kind="stable").tolist()


def _karmarkar_karp(costs, bins, size, tokens, room) -> list[list[int]]:
    """Largest differencing: the two most uneven partial divisions are joined, large with small.

    A state is its loads in descending order and, for each, a tree of indices: pairs of trees, so
    that joining copies nothing. Only the `_MANY` largest are divided so; the others level what
    they left, each in the least loaded bin.
    """
    order = _descending(costs)
    step = 1 if size is math.inf else bins
    most = _MANY - _MANY % step
    heap: list[Any] = []
    for serial, start in enumerate(range(0, len(order[:most]), step)):
        group: list[int | None] = list(order[start : start + step])
        group += [None] * (bins - len(group))
        state = [(0.0 if i is None else costs[i], i) for i in group]
        heap.append((state[-1][0] - state[0][0], serial, state))
    heapq.heapify(heap)
    serial = len(heap)
    while len(heap) > 1:
        _, _, one = heapq.heappop(heap)
        _, _, other = heapq.heappop(heap)
        joined = [
            (a + b, y if x is None else x if y is None else (x, y))
            for (a, x), (b, y) in zip(one, reversed(other), strict=True)
        ]
        joined.sort(key=lambda each: -each[0])
        heapq.heappush(heap, (joined[-1][0] - joined[0][0], serial, joined))
        serial += 1
    trees = [tree for _, tree in heap[0][2]] if heap else [None] * bins
    return _fill([list(_leaves(tree)) for tree in trees], order[most:], costs, size, tokens, room)


def _leaves(tree) -> Iterator[int]:
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, tuple):
            stack += node
        elif node is not None:
            yield node


_METHODS = {"lpt": _lpt, "karmarkar_karp": _karmarkar_karp, "first_fit": _first_fit}
