"""The programs of a training config, with shapes in the place of data and weights.

What they are is the trainers' own affair (`lm.step_of`, `distill.steps_of` and so on): here they
get arguments without values, to be compiled by `jaxlab.runtime.ahead`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxlab_kernels import dispatch

from jaxlab.balance.settings import Balance
from jaxlab.config import ConfigError
from jaxlab.data.packing import Line
from jaxlab.data.settings import Data
from jaxlab.data.tasks.tokens import TokenBatch
from jaxlab.data.text import TRAINED, Text
from jaxlab.interop import models
from jaxlab.interop.models import Model
from jaxlab.models.decoder import Decoder, DecoderConfig, abstract_params, empty_caches
from jaxlab.rollouts.experience import Experience
from jaxlab.rollouts.policy import Rollout
from jaxlab.runtime import sharding
from jaxlab.runtime.ahead import (
    Argument,
    Report,
    Topology,
    Work,
    check_batch,
    compiled,
    placed,
    traced,
)
from jaxlab.runtime.mesh import make_mesh
from jaxlab.runtime.settings import Rules
from jaxlab.sampling import SamplingConfig
from jaxlab.sampling.decode import program as decoding
from jaxlab.text.tokenizer import Tokenizer
from jaxlab.trainers import agent, balanced, distill, lm, sft

# Compiles a program and hands back what was compiled.
Compile = Callable[[Work], Any]
# Ids of the end: which they are changes no shape.
STOP = (0,)


def reports(config: Any, where: str, target: Topology, *, trace: bool = False) -> Iterator[Report]:
    """Compiles the programs of a step, one after the other.

    Args:
        config: of one of the trainers `PROGRAMS`.
        where: the config's key, for errors.
        target: the devices; they fill the free axis of the config's mesh.
        trace: only trace them (`ahead.traced`), which takes seconds.

    Raises:
        ConfigError, ValueError: the config has no such programs, says too little of its model, or
            does not divide over the devices; names the key.
    """
    make = PROGRAMS.get(config.trainer)
    if make is None:
        raise ConfigError(
            f"{where}.trainer: {config.trainer} is not compiled ahead, only "
            f"{', '.join(PROGRAMS)}: choose others with --stages"
        )
    mesh = make_mesh(config.mesh.shape, devices=target.devices)
    found: list[Report] = []

    def compile_one(work: Work) -> Any:
        if trace:
            found.append(traced(work, target, mesh))
            return None
        report, executable = compiled(work, target, mesh)
        found.append(report)
        return executable

    with dispatch.compiling_for(target.platform):
        for _ in make(config, mesh, compile_one):
            yield from found
            found.clear()


def decoder_of(spec: Model, where: str, vocab_size: int | None) -> DecoderConfig:
    """The decoder of a model's section; no weights are read.

    vocab_size: the tokenizer's, where that is known.

    Raises:
        ConfigError: it says too little.
    """
    from_scratch = spec.path is None and spec.preset is None
    sized = set(spec.sizes) - set(models.EXECUTION_FIELDS)
    if from_scratch and sized and vocab_size is None and "vocab_size" not in sized:
        raise ConfigError(
            f"{where}.sizes.vocab_size: without a tokenizer the vocabulary is not known: give it, "
            "or a preset or a path"
        )
    return models.find(spec, where, vocab_size=vocab_size, seed=0).config


def _other(spec: Model | None, where: str, vocab_size: int | None) -> DecoderConfig | None:
    return None if spec is None else decoder_of(spec, where, vocab_size)


def words_of(spec: Model, where: str, data: Data, *others: Tokenizer | None) -> int | None:
    """The vocabulary of a task's own or a named tokenizer, where there is one."""
    from jaxlab.data import settings

    try:
        return settings.tokenizer(data, models.tokenizer_at(spec, where), *others).vocab_size
    except ConfigError:
        return None


def _state(abstract: Any) -> Argument:
    return Argument("state", abstract)


def _rows(mesh: Mesh, *shape: int, dtype: Any = jnp.int32) -> Any:
    where = NamedSharding(mesh, PartitionSpec("data"))
    return jax.ShapeDtypeStruct(shape, dtype, sharding=where)


def _cures(decoder: DecoderConfig, rules: Rules, mesh: Mesh, temporaries: str) -> dict[str, str]:
    """What makes each kind of a training step's memory smaller."""
    split = any(spec for _, spec in rules)
    axes = f"(now {', '.join(f'{name} {size}' for name, size in mesh.shape.items())})"
    more = f"more chips on the axis data or model {axes}"
    if not split:
        more = "mesh.rules, which now put all of it on every chip (configs/common.py: SHARDED)"
    remat = "" if decoder.remat else "remat=True of the model's sizes, or "
    narrow = "" if decoder.param_dtype == "bfloat16" else ", or param_dtype=bfloat16"
    return {"params": more + narrow, "optimiser": more, "temporaries": remat + temporaries}


def _microbatch(key: str, rows: int, parts: int, mesh: Mesh) -> tuple[str, tuple[str, ...]]:
    """How microbatches would become smaller, and what is odd about theirs."""
    now, shards = rows // parts, mesh.shape["data"]
    smaller = max(shards, now // 2)
    cure = f"{key}={smaller} (now {now})"
    if now <= shards:
        cure = "more chips on the axis model, or shorter rows: a microbatch has a row per shard"
    if now % shards:
        note = f"{key}: {now} rows do not divide by data = {shards}: some chips idle or repeat"
        return cure, (note,)
    return cure, ()


def of_lm(config: lm.Lm, mesh: Mesh, build: Compile) -> Iterator[Any]:
    """`update`, on the longest rows that the config trains on; or those of balanced steps."""
    data = [config.data.settings(part.options, "data") for part in config.data.mixture]
    data = data or [config.data.settings({}, "data.options")]
    known = models.tokenizer_at(config.model, "model")
    vocab_size = known.vocab_size if known else _token_words(data[0])
    given = config.model.preset is not None or "vocab_size" in config.model.sizes
    if given and isinstance(data[0], Text) and data[0].tokenizer in (None, *TRAINED):
        vocab_size = None  # the model's own: the tokenizer is to be named, or trained on the text
    decoder = decoder_of(config.model, "model", vocab_size)
    words = vocab_size or decoder.vocab_size
    if config.balance is not None:
        run = balanced.of(config, decoder, words, mesh, z_loss=config.z_loss)
        yield from _balanced(config, config.balance, run, decoder, mesh, build)
        return
    check_batch(config.batch_size, "batch_size", mesh)
    step = lm.step_of(config, decoder, words, mesh)
    shape = (config.batch_size, max(one.length for one in data))
    packed = isinstance(data[0], Text) and data[0].documents
    ids, mask = _rows(mesh, *shape), _rows(mesh, *shape, dtype=jnp.bool_)
    batch = TokenBatch(ids, ids, mask, ids if packed else None)
    yield build(_update(config, decoder, mesh, step.update, step.abstract, batch))


def of_sft(config: sft.Sft, mesh: Mesh, build: Compile) -> Iterator[Any]:
    """`update`, on rows of the greatest length; or the programs of balanced steps."""
    vocab_size = words_of(config.model, "model", config.data)
    decoder = decoder_of(config.model, "model", vocab_size)
    words = vocab_size or decoder.vocab_size
    if config.balance is not None:
        run = balanced.of(config, decoder, words, mesh)
        yield from _balanced(config, config.balance, run, decoder, mesh, build)
        return
    check_batch(config.batch_size, "batch_size", mesh)
    step = sft.step_of(config, decoder, words, mesh)
    shape = (config.batch_size, config.max_length)
    batch = (_rows(mesh, *shape), _rows(mesh, *shape, dtype=jnp.bool_))
    yield build(_update(config, decoder, mesh, step.update, step.abstract, *batch))


def _update(
    config: Any, decoder: DecoderConfig, mesh: Mesh, function: Any, abstract: Any, *batch: Any
) -> Work:
    parts = config.train.parts(config.batch_size)
    cure, notes = _microbatch("train.microbatch", config.batch_size, parts, mesh)
    arguments = (_state(abstract), *(Argument("batch", one) for one in batch))
    cures = _cures(decoder, config.mesh.rules, mesh, cure)
    return Work("update", function, arguments, cures=cures, notes=notes)


def _balanced(
    config: Any,
    balance: Balance,
    run: balanced.Balanced,
    decoder: DecoderConfig,
    mesh: Mesh,
    build: Compile,
) -> Iterator[Any]:
    """`add` of a microbatch of the widest rows, as often as a step has it, and `finish`."""
    programs, ranks, width = run.compiled, mesh.shape["data"], balance.widths[-1]
    ids, mask = _rows(mesh, ranks, width), _rows(mesh, ranks, width, dtype=jnp.bool_)
    part = balanced.Part(Line(ids, ids, mask, ids, ids), _rows(mesh, ranks))
    by_rank, whole = (
        NamedSharding(mesh, spec) for spec in (PartitionSpec("data"), PartitionSpec())
    )
    sums = placed(jax.eval_shape(programs.zeros), by_rank)
    params = placed(programs.abstract.params, whole)
    targets = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
    cures = _cures(decoder, config.mesh.rules, mesh, "shorter rows (balance.widths)")
    cures |= {"sums": "param_dtype=bfloat16 does not help: they are float32 on every rank"}
    notes = (f"a microbatch of {width} tokens, of which a step has {balance.microbatches} a rank",)
    arguments = (
        *(Argument(kind, tree) for kind, tree in (("params", params), ("sums", sums))),
        *(Argument("batch", tree) for tree in (part, targets)),
    )
    held = (Argument("optimiser", programs.abstract.opt_state),)
    yield build(Work("add", programs.add, arguments, held, cures=cures, notes=notes))
    arguments = (_state(programs.abstract), Argument("sums", sums), Argument("batch", targets))
    yield build(Work("finish", programs.finish, arguments, cures=cures))


def of_distill(config: distill.Distill, mesh: Mesh, build: Compile) -> Iterator[Any]:
    """`sample`, `score` and `update`, on the longest prompts and completions."""
    if config.teacher is not None and config.teacher_model is None:
        raise ConfigError("teacher.logprobs: what a file's teacher says is not compiled ahead")
    tokenizer = models.tokenizer_at(config.teacher_model, "teacher")
    vocab_size = words_of(config.student, "student", config.data, tokenizer)
    student = decoder_of(config.student, "student", vocab_size)
    teacher = _other(config.teacher_model, "teacher", vocab_size)
    reference = _other(config.reference, "reference", vocab_size)
    if config.loss.needs.reference and reference is None:
        reference = student
    tables = [one.vocab_size for one in (student, teacher, reference) if one is not None]
    words = vocab_size or min(tables)
    check_batch(config.rollout.prompts, "rollout.prompts", mesh)
    steps = distill.steps_of(config, student, teacher, reference, words, mesh)
    frozen = [_frozen(one, config.mesh.rules, mesh) for one in (teacher, reference)]
    rollout = config.rollout
    sampling = SamplingConfig(
        max_new_tokens=rollout.max_new_tokens,
        temperature=rollout.temperature,
        stop_ids=STOP,
        vocab_size=words,
        num_samples=rollout.samples,
        prompt_multiple=rollout.prompt_multiple,
    )
    width = sampling.prompt_width(config.data.max_prompt)
    held = (_state(steps.abstract), *_named(frozen))
    if rollout.source == "student" or rollout.student_share:
        yield build(
            sample(
                *(student, sampling, config.mesh, mesh, rollout.prompts, width, held),
                resident_as="params",
            )
        )
    if rollout.source == "teacher":
        assert teacher is not None
        work = sample(
            *(teacher, sampling, config.mesh, mesh, rollout.prompts, width, held),
            resident_as="teacher",
        )
        yield build(work._replace(name="sample of the teacher"))
    rows = rollout.prompts * rollout.samples
    batch = _experience(mesh, rows, width, rollout.max_new_tokens)
    if config.loss.needs.reward:
        batch = batch._replace(reward=_rows(mesh, rows, dtype=jnp.float32))
    parts = config.train.parts(rows // rollout.updates)
    cure, notes = _microbatch("train.microbatch", rows // rollout.updates, parts, mesh)
    cures = _cures(student, config.mesh.rules, mesh, cure) | dict.fromkeys(
        ("teacher", "reference"), "param_dtype=bfloat16, or more chips on the axis data or model"
    )
    yield from _learned(steps.learner, steps.abstract, frozen, batch, mesh, build, cures, notes)


def of_agent(config: agent.Agent, mesh: Mesh, build: Compile) -> Iterator[Any]:
    """`sample` of the longest replies, `score` and `update` on a batch of turns."""
    known = models.tokenizer_at(config.model, "model")
    vocab_size = None if known is None else known.vocab_size
    decoder = decoder_of(config.model, "model", vocab_size)
    words = vocab_size or decoder.vocab_size
    reference = _other(config.reference, "reference", vocab_size)
    if config.loss.needs.reference and reference is None:
        reference = decoder
    rollout = config.rollout
    learner, abstract, _ = agent.steps_of(config, decoder, reference, words, mesh)
    frozen = [None, _frozen(reference, config.mesh.rules, mesh)]
    longest = max(dataclasses.asdict(rollout.new_tokens).values())
    sampling = SamplingConfig(
        max_new_tokens=longest,
        temperature=rollout.temperature,
        stop_ids=STOP,
        vocab_size=words,
        prompt_multiple=rollout.prompt_multiple,
    )
    width = sampling.prompt_width(rollout.max_prompt)
    check_batch(rollout.episodes, "rollout.tasks x rollout.samples", mesh)
    held = (_state(abstract), *_named(frozen))
    yield build(
        sample(
            *(decoder, sampling, config.mesh, mesh, rollout.episodes, width, held),
            resident_as="params",
        )
    )
    rows = rollout.turn_multiple
    check_batch(rows, "rollout.turn_multiple", mesh)
    longest = -(-longest // rollout.response_multiple) * rollout.response_multiple
    batch = _experience(mesh, rows, width, longest)._replace(
        valid=_rows(mesh, rows, dtype=jnp.bool_),
        advantage=_rows(mesh, rows, dtype=jnp.float32),
        weight=_rows(mesh, rows, dtype=jnp.float32),
    )
    update = rows // rollout.updates
    cure, notes = _microbatch("rows per part (rollout.parts)", update, rollout.parts, mesh)
    notes += (f"one batch of {rows} turns (rollout.turn_multiple), each of the greatest length",)
    cures = _cures(decoder, config.mesh.rules, mesh, cure)
    cures["reference"] = "param_dtype=bfloat16, or more chips on the axis data or model"
    yield from _learned(learner, abstract, frozen, batch, mesh, build, cures, notes)


def _learned(
    learner: Any,
    abstract: Any,
    frozen: list[Any],
    batch: Experience,
    mesh: Mesh,
    build: Compile,
    cures: dict[str, str],
    notes: tuple[str, ...],
) -> Iterator[Any]:
    """`score` and `update` of a learner; the latter reads what the former leaves, as it lies."""
    teacher, reference = frozen
    scalar = jax.ShapeDtypeStruct((), jnp.int32)
    arguments = (
        Argument("params", abstract.params),
        *(Argument(*pair) for pair in zip(("teacher", "reference"), frozen, strict=True)),
        Argument("batch", batch),
        Argument("batch", scalar),
    )
    held: tuple[Argument, ...] = (Argument("optimiser", abstract.opt_state),)
    score = build(Work("score", learner.score, arguments, held, cures=cures, notes=notes))
    yield score
    shapes, _ = jax.eval_shape(learner.score, abstract.params, teacher, reference, batch, scalar)
    by_row = NamedSharding(mesh, PartitionSpec("data"))
    where = by_row if score is None else score.output_shardings[0]
    arguments = (
        _state(abstract), Argument("teacher", teacher), Argument("scored", placed(shapes, where))
    )  # fmt: skip
    held = () if reference is None else (Argument("reference", reference),)
    yield build(Work("update", learner.update, arguments, held, cures=cures, notes=notes))


def sample(
    decoder: DecoderConfig,
    sampling: SamplingConfig,
    settings: Any,
    mesh: Mesh,
    prompts: int,
    width: int,
    resident: tuple[Argument, ...] = (),
    *,
    resident_as: str | None = None,
    channels: Any = None,
) -> Work:
    """A batch's decoding loop, to its greatest length.

    Args:
        decoder: the model.
        sampling: how completions are drawn.
        settings: the section `mesh`.
        mesh: where.
        prompts: of a batch.
        width: of the longest prompt.
        resident: what lies on the devices meanwhile.
        resident_as: the kind of the params among it, "params" (the state's) or that of an
            argument; None: they are not among it.
        channels: abstract, where the attention wants calibrated ones.
    """
    own = _frozen(decoder, settings.rules, mesh)
    params, kind_of = own, resident_as or "params"
    if settings.decode_rules is not None:
        params = _frozen(decoder, settings.decode_rules, mesh)
    if _shardings(params) != _shardings(own):
        # A copy, beside those that were loaded or are trained.
        kind_of = "params for decoding"
        resident = resident if resident_as else (*resident, Argument("params", own))
    elif resident_as == "params":
        resident = tuple(
            Argument("optimiser", one.tree.opt_state) if one.kind == "state" else one
            for one in resident
        )
    else:
        resident = tuple(one for one in resident if one.kind != resident_as)
    keys = jax.eval_shape(
        lambda: jax.random.split(jax.random.key(0), (prompts, sampling.num_samples))
    )
    kind = sampling.attention.kind(
        width + sampling.max_new_tokens - 1, sampling.cache_dtype,
        new=sampling.max_new_tokens - 1, samples=sampling.num_samples,
        calibrated=channels is not None,
    )  # fmt: skip
    rows = prompts * sampling.num_samples
    caches = jax.eval_shape(functools.partial(empty_caches, decoder, rows, kind))
    held = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(caches))
    everywhere = NamedSharding(mesh, PartitionSpec())
    arguments = (
        *(Argument("", static) for static in (Decoder(decoder), sampling)),
        Argument(kind_of, params),
        *(Argument("batch", one) for one in (_rows(mesh, prompts, width), _rows(mesh, prompts))),
        Argument("batch", placed(keys, everywhere)),
        Argument("batch", channels),
    )
    more = "mesh.decode_rules that split it over more of the axis model (configs/common.py)"
    cures = {
        "temporaries": "fewer rows or tokens at once, prefill_chunk, or more chips on data",
        "cache": "sampling's cache_dtype=bfloat16, fewer rows or tokens, or more chips on data",
        "params": f"param_dtype=bfloat16, or {more}",
        "params for decoding": f"param_dtype=bfloat16, or {more}",
        "optimiser": "more chips on the axis data",
        "teacher": "param_dtype=bfloat16, or more chips",
    }
    function = _Ambient(decoding, mesh)
    cache = (float(held), mesh.shape["data"])
    return Work("sample", function, arguments, resident, cache, sampling.max_new_tokens, cures)


class _Ambient:
    """A jitted function that is traced with the mesh for `sharding.shard_call`."""

    def __init__(self, function: Any, mesh: Mesh):
        self._function, self._mesh = function, mesh

    def trace(self, *arguments: Any) -> Any:
        with sharding.ambient(self._mesh):
            return self._function.trace(*arguments)


def _frozen(decoder: DecoderConfig | None, rules: Rules, mesh: Mesh) -> Any:
    if decoder is None:
        return None
    params = abstract_params(decoder)
    return placed(params, sharding.infer(params, rules, mesh))


def _shardings(tree: Any) -> list[Any]:
    return [leaf.sharding for leaf in jax.tree.leaves(tree)]


def _named(frozen: list[Any]) -> Iterator[Argument]:
    for kind, tree in zip(("teacher", "reference"), frozen, strict=True):
        if tree is not None:
            yield Argument(kind, tree)


def _experience(mesh: Mesh, rows: int, width: int, length: int) -> Experience:
    def of(*shape: int, dtype: Any = jnp.int32) -> Any:
        return _rows(mesh, rows, *shape, dtype=dtype)

    rollout = Rollout(
        tokens=of(width + length),
        lengths=of(),
        response=of(length),
        mask=of(length, dtype=jnp.bool_),
        logprobs=of(length, dtype=jnp.float32),
        stopped=of(dtype=jnp.bool_),
    )
    return Experience(rollout)


def _token_words(data: Any) -> int | None:
    """The vocabulary of a token task, or of a text's named or trained tokenizer."""
    if not isinstance(data, Text):
        found: int = data.vocab_size
        return found
    if data.tokenizer is not None and data.tokenizer not in TRAINED:
        from jaxlab.text.tokenizer import load

        return load(data.tokenizer).vocab_size
    return None if data.tokenizer == "char" else data.vocab_size


PROGRAMS: dict[str, Callable[[Any, Mesh, Compile], Iterator[Any]]] = {
    "lm": of_lm,
    "sft": of_sft,
    "distill": of_distill,
    "agent": of_agent,
}
