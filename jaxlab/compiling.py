"""The flag --compile_only of the doors: programs compiled for devices that are not there.

Neither data nor weights are read. What each program takes is printed and, with --workdir, written
to `ahead.json`. A program that does not fit ends the door with code 1, after all were looked at.
"""

import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from absl import flags
from jaxlab_kernels import dispatch

from jaxlab import doors
from jaxlab.config import ConfigError, build
from jaxlab.evals.settings import Run
from jaxlab.interop.models import Model
from jaxlab.runtime import ahead
from jaxlab.runtime.mesh import make_mesh
from jaxlab.runtime.settings import Mesh
from jaxlab.sampling import SamplingConfig
from jaxlab.trainers import ahead as programs

COMPILE_ONLY = flags.DEFINE_bool(
    "compile_only",
    False,
    "Compile the programs for --topology, say what they take of its memory and time, and end; "
    "without data, weights, or the devices.",
)
TOPOLOGY = flags.DEFINE_string(
    "topology",
    None,
    "With --compile_only: v5p:4x4x4 and the like (TPUs, by libtpu), h100:64 or v5p:64 (fake ones "
    "with a chip's numbers), cpu:8 (fake devices).",
)
TRACE_ONLY = flags.DEFINE_bool(
    "trace_only",
    False,
    "With --compile_only: trace the programs and do not compile them, in seconds; bytes of "
    "arguments are exact and FLOPs too unless a note says that they are too few; temporaries and "
    "messages are unknown.",
)
FILE = "ahead.json"

Found = Iterator[ahead.Report]


def wanted() -> bool:
    """Whether --compile_only is given.

    Raises:
        ValueError: it is given without --topology, or the other way round.
    """
    if COMPILE_ONLY.value and TOPOLOGY.value is None:
        raise ValueError("--topology is missing: name the devices, such as v5p:4x4x4 or cpu:8")
    for flag in (TOPOLOGY, TRACE_ONLY):
        if flag.value and not COMPILE_ONLY.value:
            raise ValueError(f"--{flag.name} is of use with --compile_only alone")
    return bool(COMPILE_ONLY.value)


def trained(stages: Mapping[str, Any]) -> None:
    """Compiles the programs of runs by name, as their trainers' dataclasses."""

    def found(name: str, target: ahead.Topology) -> Found:
        where = f"stages.{name}" if name else "config"
        return programs.reports(stages[name], where, target, trace=TRACE_ONLY.value)

    _report(list(stages), found)


def decoded(config: Any) -> None:
    """Compiles the decoding of an evaluation's batch."""
    _report([""], lambda _, target: _decoding(config, target))


def described(config: dict[str, Any], stages: Mapping[str, Any]) -> dict[str, Any]:
    """A stage with every model of "@NAME" as the stage NAME describes its own."""
    found = dict(config)
    for key in ("model", "student", "teacher", "reference"):
        section = config.get(key) or {}
        path = section.get("path")
        if not (isinstance(path, str) and path.startswith("@")):
            continue
        stage = described(stages[path[1:]], stages)
        model = stage.get("student") or stage["model"]
        own = {name: value for name, value in section.items() if name != "path" and value}
        sizes = {**(model.get("sizes") or {}), **(section.get("sizes") or {})}
        found[key] = {**model, **own, "sizes": sizes}
    return found


def _report(names: list[str], found: Any) -> None:
    """Prints and writes the reports; ends the program if something does not fit."""
    written: dict[str, list[dict[str, Any]]] = {}
    problems = []
    with doors.reading_input():
        assert TOPOLOGY.value is not None
        workdir = None if doors.WORKDIR.value is None else doors.workdir()
        target = ahead.topology(TOPOLOGY.value)
        for name in names:
            if name:
                print(f"== {name}", flush=True)
            try:
                for report in found(name, target):
                    print("\n".join(report.lines()), flush=True)
                    written.setdefault(name, []).append(report.json())
                    if not report.fits:
                        problems.append(f"{name}: {report.problem()}" if name else report.problem())
            except ahead.DoesNotFitError as error:
                problems.append(f"{name}: {error}" if name else str(error))
        if workdir is not None:
            _write(workdir, {"topology": target.name, "programs": written, "problems": problems})
    for problem in problems[:-1]:
        print(problem)
    if problems:
        doors.failed(RuntimeError(problems[-1]))


def _write(workdir: pathlib.Path, found: dict[str, Any]) -> None:
    workdir.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=1, ensure_ascii=False)
    (workdir / FILE).write_text(text + "\n", encoding="utf-8")


def _decoding(config: Any, target: ahead.Topology) -> Found:
    """What one batch of an evaluation takes to decode."""
    notes: tuple[str, ...] = ()
    if isinstance(config, Run):
        if config.model.path is None:
            raise ConfigError("model.path: a model behind an API has nothing to be compiled")
        decoder = programs.decoder_of(Model(path=config.model.path), "model", None)
        prompts, settings = config.eval.batch, build(Mesh, config.mesh, "config.mesh")
        longest = decoder.max_position - config.eval.max_new_tokens
        notes = (f"prompts of {longest} tokens, the longest that the model takes",)
        sampling = SamplingConfig(
            max_new_tokens=config.eval.max_new_tokens,
            temperature=config.eval.temperature,
            top_k=config.eval.top_k,
            top_p=config.eval.top_p,
            stop_ids=programs.STOP,
            prompt_multiple=config.eval.prompt_multiple,
        )
    elif hasattr(config, "data"):
        vocab_size = programs.words_of(config.model, "model", config.data)
        decoder = programs.decoder_of(config.model, "model", vocab_size)
        prompts, settings = min(config.eval.batch, config.eval.prompts), config.mesh
        longest = config.data.max_prompt
        if config.eval.attention.calibration == "checkpoint":
            raise ConfigError(
                "eval.attention.calibration: the channels are not read here: set it to prompt"
            )
        sampling = config.eval.sampling(stop_ids=programs.STOP, vocab_size=vocab_size)
    else:
        raise ConfigError("--compile_only: a panel of probes decodes nothing")
    mesh = make_mesh(settings.shape, devices=target.devices)
    shards = mesh.shape["data"]
    # As the evaluation does with a batch that the devices cannot share evenly.
    prompts = -(-prompts // shards) * shards
    width = sampling.prompt_width(longest)
    work = programs.sample(decoder, sampling, settings, mesh, prompts, width)
    with dispatch.compiling_for(target.platform):
        work = work._replace(notes=notes)
        if TRACE_ONLY.value:
            yield ahead.traced(work, target, mesh)
        else:
            yield ahead.compiled(work, target, mesh)[0]
