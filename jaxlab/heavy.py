"""Command line of HeavySkill: think about a question in parallel, then deliberate.

    python -m jaxlab.heavy "QUESTION" --model DIR|PROVIDER/NAME [--workdir DIR] [--OPTION VALUE ...]
    python -m jaxlab.heavy --thinkers FILE [--id ID] --model ...  # over texts that were saved
    python -m jaxlab.heavy --mcp --model ...                      # an MCP server on stdin, stdout
    python -m jaxlab.heavy --report LOG [--workdir DIR]           # tables of a run of the solver
    python -m jaxlab.heavy --measure RUN [--workdir DIR]          # a deliberator that was trained
    python -m jaxlab.heavy --skill                                # the skill file for agents

DIR is a HuggingFace directory or a work directory of training; other models are inspect_ai's (extra
"evals"). The reply goes to standard output, progress to standard error. --workdir keeps texts.jsonl
and result.json: the same command again goes on where it was killed. As a solver of benchmarks:
inspect eval jaxlab/gsm8k -T path=ROWS --solver jaxlab/heavy --model ...
"""

import asyncio
import dataclasses
import inspect
import json
import re
import sys
import types
import typing
from pathlib import Path
from typing import Any

from absl import flags

from jaxlab import config as config_lib
from jaxlab import doors
from jaxlab.agents import heavy, heavy_files, heavy_prompts
from jaxlab.agents.heavy import Heavy, Journal, Progress, Result
from jaxlab.agents.heavy_options import Sampling
from jaxlab.evals import fingerprint
from jaxlab.runtime import workdir as workdir_lib

THINKS = "Thinks: a directory, or PROVIDER/NAME of inspect_ai."
# jaxlab.calibrate has a flag of this name; a process runs one door.
MODEL = flags.DEFINE_string("model", None, THINKS, allow_override=True)
DELIBERATOR = flags.DEFINE_string("deliberator", None, "Deliberates; --model by default.")
THINKERS = flags.DEFINE_string("thinkers", None, "Texts to deliberate over: .jsonl or .json.")
ID = flags.DEFINE_string("id", None, "Only the texts of this id in --thinkers.")
MCP = flags.DEFINE_bool("mcp", False, "Serve one tool, think_harder, by MCP.")
REPORT = flags.DEFINE_string("report", None, "A log of inspect_ai, or a folder of logs.")
MEASURE = flags.DEFINE_string(
    "measure", None, "A run whose config names `thinkers`: its deliberations over their test texts."
)
LIMIT = flags.DEFINE_integer("limit", None, "With --measure: only the first questions.", 1)
CONTROLS = flags.DEFINE_bool("controls", True, "With --measure: run the controls too.")
SKILL = flags.DEFINE_bool("skill", False, "Print the skill file.")
flags.declare_key_flag("workdir")

# Decoded alone, a question needs no batch of others' rows.
_IN_PROCESS = {"padding": "power_of_two"}


def _define(cls: type[Any]) -> None:
    """Define a flag for each field, with what the class's docstring says of it."""
    define: dict[Any, Any] = {
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        bool: flags.DEFINE_bool,
    }
    define_enum: Any = flags.DEFINE_enum
    hints, about = typing.get_type_hints(cls), _attributes(cls)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if typing.get_origin(hint) in (typing.Union, types.UnionType):
            hint = next(one for one in typing.get_args(hint) if one is not type(None))
        if typing.get_origin(hint) is typing.Literal:
            choices = list(typing.get_args(hint))
            define_enum(field.name, field.default, choices, about[field.name])
        else:
            define[hint](field.name, field.default, about[field.name])


def _attributes(cls: type[Any]) -> dict[str, str]:
    """What a class's docstring says of each attribute."""
    lines = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:")[2].splitlines()
    entries = re.split(r"(?m)^    (?=\w+:)", "\n".join(lines))
    pairs = (entry.partition(":")[::2] for entry in entries if ":" in entry)
    return {name.strip(): " ".join(text.split()) for name, text in pairs}


def _options(cls: type[Any]) -> Any:
    """The dataclass of its flags' values."""
    values = {field.name: flags.FLAGS[field.name].value for field in dataclasses.fields(cls)}
    return config_lib.build(cls, values, "--")


def main(argv: list[str]) -> None:
    """Do what the flags say."""
    if SKILL.value:
        print(heavy_prompts.skill(), end="")
        return
    if MEASURE.value is not None:
        _measure(Path(MEASURE.value), argv[1:])
        return
    with doors.reading_input():
        with doors.naming_the_extra("heavy thinking"):
            from jaxlab.evals.heavy import generators
        if REPORT.value is not None:
            _report(Path(REPORT.value), argv[1:])
            return
        options: Heavy = _options(Heavy)
        sampling = _options(Sampling)
        if MODEL.value is None:
            raise ValueError(f"--model is missing: {THINKS}")
        question, thinkers = _asked(argv[1:])
        folder = None
        if flags.FLAGS["workdir"].value is not None:
            folder = doors.workdir()
            held = workdir_lib.lock(folder)
        model = generators.load(MODEL.value, **_IN_PROCESS)
        judge = model
        if DELIBERATOR.value is not None:
            judge = generators.load(DELIBERATOR.value, **_IN_PROCESS)
        options = generators.fitted(options, model, judge, sampling, ())
        journal = None
        if folder is not None:
            journal = Journal(folder / "texts.jsonl", _subject(sampling))

    async def think(
        question: str, options: Heavy, progress: Any, thinkers: Any = None, kept: Any = None
    ) -> Result:
        return await heavy.think(
            question,
            generators.generator(model, sampling),
            options,
            generators.tokenizer(judge),
            deliberator=generators.generator(judge, sampling),
            thinkers=thinkers,
            journal=kept,
            progress=progress,
        )

    if MCP.value:
        with doors.reading_input(), doors.naming_the_extra("the MCP server"):
            from jaxlab.agents import heavy_server
        heavy_server.server(think, options).run("stdio")
        return
    try:
        with doors.reading_input():  # a question that is too long is known when it is counted
            result = asyncio.run(think(question, options, _tell, thinkers, journal))
    except KeyboardInterrupt:
        doors.stopped(
            "texts that came are kept, and the same command goes on"
            if journal
            else "nothing is kept without --workdir"
        )
    finally:
        if journal is not None:
            journal.close()
        for one in {id(one): one for one in (model, judge)}.values():
            if generators.is_ours(one):
                typing.cast(Any, one.api).close()
    if folder is not None:
        content = dataclasses.asdict(dataclasses.replace(result, text=str(result.text)))
        text = json.dumps({"question": question, **content}, ensure_ascii=False, indent=1)
        (folder / "result.json").write_text(text, encoding="utf-8")
        held.close()
    _say(result)


def _asked(words: list[str]) -> tuple[str, list[heavy.Completion] | None]:
    """The question of the command line or of the saved texts, and these texts."""
    if len(words) > 1:
        raise ValueError(f"unexpected argument {words[1]!r}: put the question in quotes")
    if MCP.value:
        if words or THINKERS.value is not None:
            raise ValueError("--mcp takes its questions from its client: give none")
        if flags.FLAGS["workdir"].value is not None:
            raise ValueError("--mcp keeps no texts: leave out --workdir")
        return "", None
    if THINKERS.value is None:
        if ID.value is not None:
            raise ValueError("--id chooses texts of --thinkers, which is missing")
        if not words or not words[0].strip():
            raise ValueError("the question is missing: give it in quotes, as the first argument")
        return words[0], None
    saved = heavy_files.read(THINKERS.value, ID.value)
    question = words[0] if words else saved.question
    if not question or not question.strip():
        raise ValueError(f"{THINKERS.value} has no question: give it in quotes")
    return question, saved.thinkers


def _subject(sampling: Any) -> str:
    """Subject of the journal: who answers and how, so that no other's texts are mixed in."""
    found = []
    for name in (MODEL.value, DELIBERATOR.value or MODEL.value):
        held = f" ({fingerprint.of_model(str(name))})" if Path(name or "").is_dir() else ""
        found.append(f"{name}{held}")
    return f"{' and '.join(dict.fromkeys(found))}, {sampling}"


def _tell(progress: Progress) -> None:
    """Print a line of progress to standard error."""
    fault = f"  {progress.error}" if progress.error else ""
    round_ = f" of round {progress.round}" if progress.round > 1 else ""
    print(
        f"{progress.stage}{round_} {progress.done}/{progress.wanted}  {progress.tokens:,} tokens  "
        f"{progress.seconds:.1f} s{fault}",
        file=sys.stderr,
        flush=True,
    )


def _say(result: Result) -> None:
    """The reply, and what happened; code 1 where there is none."""
    manifest = result.manifest
    if manifest["answer_from"] == "none":
        errors = [error for call in manifest["calls"].values() for error in call["errors"]]
        why = errors[-1] if errors else "no text gives an answer"
        doors.failed(RuntimeError(f"there is no answer: {why}"))
    print(result.text)
    if result.answer is not None and result.answer.strip() != result.text.strip():
        print(f"\nanswer: {result.answer}")
    told = manifest["rounds"][manifest["round"] - 1]["samples"] if manifest["round"] else []
    agree = sum(sample["answer"] == result.answer for sample in told)
    verdict = f"{agree} of {len(told)} deliberations give this one"
    if manifest["answer_from"] == "vote":
        verdict = "no deliberation gives an answer: this is the thinkers' vote"
    elif result.answer is None:
        verdict = "no deliberation has an answer in this form: this is the text of one"
    notes = [
        f"{len(result.thinkers)} of {manifest['wanted']} thinkers",
        f"{manifest['distinct_answers']} distinct answers",
        verdict,
        f"{manifest['tokens']:,} tokens",
        f"{manifest['seconds']:.1f} s",
    ]
    print(", ".join(notes), file=sys.stderr)


def _report(path: Path, words: list[str]) -> None:
    """Print the tables of a log, and write them to --workdir."""
    if words:
        raise ValueError(f"unexpected argument {words[0]!r}: --report takes a log alone")
    from jaxlab.evals.heavy import logs, report

    title, questions = logs.read(path)
    print(f"# {title}\n")
    for table in report.tables(questions):
        print("\n".join(table.markdown()))
    if flags.FLAGS["workdir"].value is not None:
        for made in report.write(doors.workdir(), questions, title):
            print(f"wrote {made}", file=sys.stderr)


def _measure(run: Path, words: list[str]) -> None:
    """Print the tables of a trained deliberator on cached thinkers; write them to --workdir."""
    from jaxlab.evals.heavy import report, runs
    from jaxlab.runtime import mesh

    with doors.reading_input():
        if words:
            raise ValueError(f"unexpected argument {words[0]!r}: --measure takes a run alone")
        given = [
            field.name for field in dataclasses.fields(Heavy) if flags.FLAGS[field.name].present
        ]
        changes = {name: flags.FLAGS[name].value for name in given if name != "seed"}
        folder = None if flags.FLAGS["workdir"].value is None else doors.workdir()
        of = runs.subject(run, None if MODEL.value is None else Path(MODEL.value))
        mesh.start()
        seed = int(flags.FLAGS["seed"].value or 0)
        questions = runs.measure(of, changes, limit=LIMIT.value, controls=CONTROLS.value, seed=seed)
    title = " ".join([str(run), *(f"{name}={value}" for name, value in changes.items())])
    print(f"# {title}\n")
    for table in report.tables(questions):
        print("\n".join(table.markdown()))
    if folder is not None:
        for made in report.write(folder, questions, title):
            print(f"wrote {made}", file=sys.stderr)


_define(Heavy)
_define(Sampling)

if __name__ == "__main__":
    doors.run(main, required=[], positional=True)
