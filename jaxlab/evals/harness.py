"""A benchmark over a model from beginning to report, run by inspect_ai.

A run that was killed goes on where it was: finished samples are in the logs below the work
directory and are not generated again.
"""

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import inspect_ai
import inspect_ai.model
import pydantic
from inspect_ai import Task, task_with
from inspect_ai.log import EvalLog
from inspect_ai.scorer import Score, Scorer, Target, value_to_float
from inspect_ai.solver import TaskState

from jaxlab import config as config_lib
from jaxlab.evals import benchmark_report, logs, progress, results, task_file, tasks
from jaxlab.evals import options as options_lib
from jaxlab.evals.ajbench import metrics as ajbench_metrics
from jaxlab.evals.general365 import metrics as general365_metrics
from jaxlab.evals.general365 import options as general365_options
from jaxlab.evals.grader_errors import accounted, fault, is_setup, kinds, text_of
from jaxlab.evals.household import metrics as household_metrics
from jaxlab.evals.math import metrics as math_metrics
from jaxlab.evals.options import OPTIONS, Asked
from jaxlab.evals.settings import Benchmark, Run
from jaxlab.evals.tables import Table
from jaxlab.evals.webshop import metrics as webshop_metrics
from jaxlab.grading.graders import MathVerifier
from jaxlab.grading.math import grade as math_grade
from jaxlab.grading.rows import Panel, Row
from jaxlab.grading.unicode import well_formed
from jaxlab.runtime import workdir as workdir_lib

TABLES: dict[str, Callable[[Sequence[results.Result]], list[Table]]] = {
    "gsm8k": math_metrics.tables,
    "math": math_metrics.tables,
    "general365": general365_metrics.tables,
    "household": household_metrics.tables,
    "webshop": webshop_metrics.tables,
}
# Every so many seconds the answers that are not in the log yet, up to a twentieth of the run, are
# written beside it. Otherwise they are in this machine's home, and a run that is killed and goes on
# on another machine has to do without them.
SHARED_S = 10


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        scores: by name.
        files: that were written.
        failures: "id: error" of samples that did not finish; the same run again tries them again.
        ungraded: "id: error" of answers on which the grader failed, and which count as wrong;
            grading again tries them again.
        grader_errors: how many of these there are of each kind of error.
        ended: where the run ended before all was asked, after how many answers and why.
    """

    scores: dict[str, float]
    files: list[Path]
    failures: list[str]
    ungraded: list[str] = dataclasses.field(default_factory=list)
    grader_errors: dict[str, int] = dataclasses.field(default_factory=dict)
    ended: str | None = None


def evaluate(
    run: Run,
    workdir: Path,
    *,
    again: bool = False,
    model: inspect_ai.model.Model | None = None,
) -> Outcome:
    """The whole of it, for programs and notebooks.

    Args:
        run: the config.
        workdir: where the logs and the report go, and where a run that was killed goes on.
        again: grade the finished run's completions by the config's grader, without generating.
        model: instead of the config's.

    Raises:
        ConfigError, ValueError, FileNotFoundError: something in the config or the rows is wrong, or
            another process is at work in the directory.
        RuntimeError: no sample has finished.
    """
    run = resolved(run)
    task = prepare(run, workdir, regrade=again)
    with workdir_lib.lock(workdir):
        log = regrade(run, workdir) if again else None
        config_lib.save_json(run, workdir / "config.json")
        return finish(run, task, log or generate(run, task, workdir, model), workdir)


def prepare(run: Run, workdir: Path, regrade: bool) -> Task:
    """Read the rows and check that the work directory is this run's.

    Raises:
        ConfigError, ValueError, FileNotFoundError: something in the config or the rows is wrong.
    """
    run = resolved(run)
    wanted = run.benchmark
    if wanted.path is None:
        raise config_lib.ConfigError("benchmark.path: name a file of rows, or AJ-Bench's folder")
    if (run.model.path is None) == (run.model.name is None):
        raise config_lib.ConfigError("model: give path, or name, and not both")
    options = None if wanted.own else _options(run)
    if isinstance(options, general365_options.Options) and options.grader != "rule":
        if not options.judge:
            raise config_lib.ConfigError(
                "benchmark.options.judge: name a model that judges, such as openai/gpt-4.1, or set "
                "benchmark.options.grader=rule"
            )
        _model("benchmark.options.judge", options.judge)
    if wanted.name in ("gsm8k", "math", "general365") and not find_spec("sympy"):
        raise ImportError("grading needs sympy; install it with: pip install jaxlab[evals]")
    logs.check_config(run, workdir, regrade)
    task = _task(run)
    task = task_with(task, scorer=_scorers(run, task), metadata=logs.metadata(run, task))
    logs.check_answers(task, workdir, regrade)
    return task


def generate(
    run: Run, task: Task, workdir: Path, model: inspect_ai.model.Model | None = None
) -> EvalLog:
    """Ask what has not been asked yet, and return the log of everything.

    Args:
        run: the config.
        task: of `prepare`.
        workdir: has the logs.
        model: instead of the config's.

    Raises:
        KeyboardInterrupt: Ctrl-C; what was finished is in the log.
        RuntimeError: the grader lacks something without which it can grade no answer.
    """
    if model is None:
        model = subject(run)
        try:
            return generate(run, task, workdir, model)
        finally:
            if run.model.path is not None:
                cast(Any, model.api).close()
    sampling = run.eval
    # One batch is decoded while the harness works on the other's replies.
    under_way = sampling.batch if run.model.path is None else 2 * sampling.batch
    counts, broken = _counts(run.benchmark), _Broken()
    before = progress.finished(logs.newest(workdir, header_only=True), counts)
    remaining = progress.Remaining(len(task.dataset) * (task.epochs or 1), before)
    watched: Any = task.scorer
    task = task_with(task, scorer=[broken.noticed(scoring) for scoring in watched])
    with progress.shown(remaining, counts), _watched(model, broken):
        _, found = inspect_ai.eval_set(
            task,
            log_dir=str(workdir / "logs"),
            model=model,
            display="rich" if sys.stderr.isatty() else "plain",
            log_level="warning",
            # Its figure is that of a while ago; `remaining` shows one.
            score_display=False,
            max_samples=under_way,
            max_connections=under_way,
            max_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            stop_seqs=list(sampling.stop) or None,
            # A sample that fails does not end the others, and the next start tries it again.
            continue_on_fail=True,
            retry_on_error=1,
            retry_attempts=0,
            retry_immediate=False,
            ctl_server=False,
            log_shared=SHARED_S,
        )
    if not found:  # how it says that it was interrupted
        raise KeyboardInterrupt
    if broken.error is not None:
        raise RuntimeError(f"the grader cannot work: {text_of(broken.error)}") from broken.error
    log = logs.whole(found[0])
    remaining.end(progress.answers(log, counts))
    return log


def subject(run: Run) -> inspect_ai.model.Model:
    """The model that answers."""
    if run.model.name is not None:
        return _model("model.name", run.model.name)
    sampling = run.eval
    arguments: dict[str, Any] = {"mesh": run.mesh} if run.mesh else {}
    for name in ("batch", "padding", "prompt_multiple", "tokenizer", "chat"):
        arguments[name] = getattr(sampling, name)
    # Not the one from before: by now the directory may hold a later checkpoint.
    return inspect_ai.model.get_model(f"jaxlab/{run.model.path}", memoize=False, **arguments)


def _model(where: str, name: str) -> inspect_ai.model.Model:
    """A model by inspect_ai's name.

    Raises:
        ConfigError: there is no such provider, or its package, its key or its files are missing.
    """
    try:
        return inspect_ai.model.get_model(name)
    except Exception as error:  # providers raise what they like
        raise config_lib.ConfigError(f"{where}={name}: {text_of(error)}") from error


class _Broken:
    """Whether the grader lacks something without which it can grade no answer."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def noticed(self, scoring: Scorer) -> Scorer:
        """The scorer, whose errors of set-up are kept here."""

        @functools.wraps(scoring)
        async def score(state: TaskState, target: Target) -> Score | None:
            try:
                return await scoring(state, target)
            except Exception as error:
                if is_setup(error):
                    self.error = self.error or error
                raise

        return score


@contextlib.contextmanager
def _watched(model: inspect_ai.model.Model, broken: _Broken) -> Iterator[None]:
    """Replies can be written down (see `unicode`), and none is asked for that cannot be graded."""
    generate = model.api.generate

    def clean(value: Any) -> Any:
        if not isinstance(value, pydantic.BaseModel):
            return value
        content = value.model_dump()
        cleaned = well_formed(content)
        return value if cleaned == content else type(value).model_validate(cleaned)

    @functools.wraps(generate)
    async def generate_clean(*args: Any, **kwargs: Any) -> Any:
        if broken.error is not None:
            raise RuntimeError("not asked: the grader cannot work")
        reply = await generate(*args, **kwargs)
        return tuple(map(clean, reply)) if isinstance(reply, tuple) else clean(reply)

    model.api.generate = generate_clean  # type: ignore[method-assign]
    try:
        yield
    finally:
        model.api.generate = generate  # type: ignore[method-assign]


def _counts(benchmark: Benchmark) -> progress.Counts:
    """Whether a score counts towards the accuracy, as in the report."""
    drops = benchmark.options.get("on_parse_fail") == "drop" and benchmark.name == "ajbench"
    return lambda score: not drops or score.answer is not None


def regrade(run: Run, workdir: Path) -> EvalLog:
    """The finished answers of a run under the config's grader, in place of their former scores.

    Answers that are still to be given, or failed, are given by the same run without regrading.

    Raises:
        FileNotFoundError: the work directory has no finished answer.
    """
    run = resolved(run)
    log = logs.answered(workdir)
    answered = [sample for sample in (log and log.samples) or [] if sample.error is None]
    if log is None or not answered:
        raise FileNotFoundError(f"{workdir} holds no finished answer to grade again")
    failed = [sample for sample in log.samples or [] if sample.error is not None]
    log.samples = answered
    try:
        log = inspect_ai.score(
            log,
            _scorers(run, _task(run)),
            # Else the model that answered would be loaded again.
            model=None if run.benchmark.own else "none/none",
            action="overwrite",
            display="rich" if sys.stderr.isatty() else "plain",
            copy=False,
        )
    except Exception as error:
        if is_setup(error):
            raise RuntimeError(f"the grader cannot work: {text_of(error)}") from error
        raise
    log.samples = [*answered, *failed]
    log.eval.metadata = {**(log.eval.metadata or {}), "grading": logs.grading(run)}
    logs.replace(log, workdir)
    return logs.whole(log)


def finish(run: Run, task: Task, log: EvalLog, workdir: Path) -> Outcome:
    """Write samples.jsonl and the report.

    Raises:
        RuntimeError: no sample has finished; names the first error.
    """
    run = resolved(run)
    graded = graded_samples(log)
    failures = [
        f"{sample.id}: {sample.error.message}" for sample in log.samples or [] if sample.error
    ]
    if not graded:
        cause = failures[0] if failures else log.error.message if log.error else log.status
        raise RuntimeError(f"no sample has finished: {cause}")
    ungraded = [
        (sample.id, why)
        for sample in log.samples or []
        # Of several scorers the first one's count.
        for score in list((sample.scores or {}).values())[:1]
        if not sample.error and (why := fault(score)) is not None
    ]
    errors = kinds(why for _, why in ungraded)
    named = [f"{row}: {why}" for row, why in ungraded]
    results.write(workdir / "samples.jsonl", graded)
    facts = _facts(run, task, graded, failures)
    retried = [
        f"{sample.id}: {sample.error_retries[0].message}"
        for sample in log.samples or []
        if sample.error_retries and not sample.error
    ]
    if retried:
        # They are a choice among answers: those on which nothing failed.
        facts["answers that were asked for again after an error"] = retried
    if failures:
        facts["samples that failed, and why"] = failures
    if ungraded:
        facts["answers on which the grader failed"] = named
    asked, all_of_it = len(log.samples or []), len(task.dataset) * (task.epochs or 1)
    ended = None
    if asked < all_of_it:
        cause = log.error.message if log.error else "it was stopped"
        ended = f"after {asked} of {all_of_it} answers: {cause}"
        facts["the run ended early"] = ended
    title = f"{Path(run.benchmark.name).stem}: {run.model.name or run.model.path}"
    scores, files = benchmark_report.write(
        workdir, title, facts, graded, _tables(run.benchmark), errors
    )
    return Outcome(scores, files, failures, named, errors, ended)


def graded_samples(log: EvalLog) -> list[results.Result]:
    """The finished samples of a log, each once."""
    found = {}
    for sample in log.samples or []:
        if sample.error is not None or not sample.scores:
            continue
        scorer, score = next(iter(sample.scores.items()))
        notes = score.metadata or {}
        correct = value_to_float()(score.value) == 1.0
        meta = {key: value for key, value in sample.metadata.items() if key != "question"}
        usage = sample.output.usage
        found[sample.id, sample.epoch] = results.Result(
            id=str(sample.id),
            sample=sample.epoch,
            correct=correct,
            answer=score.answer,
            # A file's own scorer may say neither.
            reason="grader_error"
            if fault(score)
            else notes.get("reason", "match" if correct else "mismatch"),
            grader=notes.get("grader", scorer),
            cluster=meta.pop("cluster", str(sample.id)),
            # Judges with tools count over all their turns.
            input_tokens=meta.pop("input_tokens", usage.input_tokens if usage else 0),
            output_tokens=meta.pop("output_tokens", usage.output_tokens if usage else 0),
            meta=meta,
            prompt=_text(sample.input),
            target=_text(sample.target),
            completion=sample.output.completion,
            # A sample that reached a limit may have no reply at all.
            stop=sample.output.stop_reason if sample.output.choices else "unknown",
        )
    return list(found.values())


def resolved(run: Run) -> Run:
    """Returns the run as it is written down and compared, with every option there.

    Raises:
        ConfigError: an option is unknown, or has a value that it cannot have; or there is a library
            and the benchmark has no use for one.
    """
    said = run.library.options()
    if said and (
        run.benchmark.own or "skills" not in options_lib.names(OPTIONS[run.benchmark.name])
    ):
        raise config_lib.ConfigError(
            f"library: a model does not act in {run.benchmark.name}, which has no use for skills"
        )
    if not run.benchmark.own:
        options = options_lib.filled(run.benchmark.name, _with(run.benchmark.options, said))
        run = dataclasses.replace(
            run, benchmark=dataclasses.replace(run.benchmark, options=options)
        )
    return run


def _with(options: dict[str, Any], said: dict[str, Any]) -> dict[str, Any]:
    """The options, and what `library` says of them.

    Raises:
        ConfigError: both say something, and not the same.
    """
    for name, value in said.items():
        if options.get(name, value) not in (None, False, value):
            raise config_lib.ConfigError(
                f"library says {name}={value}, and benchmark.options {options[name]}: give one"
            )
    if "skills" in said and options.get("library", "off") == "off":
        said = {**said, "library": "frozen"}
    return {**options, **said}


def _options(run: Run) -> Any:
    """The benchmark's options, checked."""
    wanted = run.benchmark
    return config_lib.build(OPTIONS[wanted.name], wanted.options, options_lib.WHERE)


def _task(run: Run) -> Task:
    """The task, without its scorer where the benchmark is ours."""
    wanted = run.benchmark
    path = str(wanted.path)
    if wanted.own:
        make = task_file.task(wanted.name)
        task_file.check_options(wanted.name, make, wanted.options)
        asked = {"path": path, "samples": wanted.samples, "limit": wanted.limit, "seed": run.seed}
        try:
            return make(**asked, **wanted.options)
        except TypeError as error:
            raise config_lib.ConfigError(f"benchmark.options: {error}") from error
    asked_rows = Asked(path, wanted.samples, wanted.limit, run.seed)
    task = tasks.BENCHMARKS[wanted.name].task(asked_rows, _options(run))
    return task_with(task, name=f"jaxlab/{wanted.name}")


def _scorers(run: Run, task: Task) -> list[Scorer]:
    """What grades; for a file of the user's, what its task brings along."""
    wanted = run.benchmark
    found: Any = task.scorer
    if not wanted.own:
        found = tasks.BENCHMARKS[wanted.name].scorer(
            **options_lib.grading(wanted.name, _options(run))
        )
    if not found:
        raise config_lib.ConfigError(f"benchmark.name: the task in {wanted.name} has no scorer")
    return [accounted(each) for each in (found if isinstance(found, list) else [found])]


def _tables(benchmark: Benchmark) -> Callable[[Sequence[results.Result]], list[Table]]:
    if benchmark.own:
        return task_file.tables(benchmark.name) or math_metrics.tables
    if benchmark.name == "ajbench":
        drop = benchmark.options.get("on_parse_fail", "wrong")
        return functools.partial(ajbench_metrics.tables, on_parse_fail=drop)
    return TABLES[benchmark.name]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "\n".join(getattr(v, "text", str(v)) for v in value)


def _facts(
    run: Run, task: Task, graded: list[results.Result], failures: list[str]
) -> dict[str, Any]:
    metadata = task.metadata or {}
    facts = {
        "benchmark": run.benchmark.name,
        "model": run.model.name or run.model.path,
        "rows": len(task.dataset),
        "panel": metadata.get("panel"),
        "completions": len(graded),
        "failed samples": len(failures),
        "rejected rows": metadata.get("rejected", []),
        "sampling": {
            "samples": run.benchmark.samples,
            "temperature": run.eval.temperature,
            "top_k": run.eval.top_k,
            "top_p": run.eval.top_p,
            "max_new_tokens": run.eval.max_new_tokens,
        },
        "seed": run.seed,
        "graders": sorted({result.grader for result in graded}),
        "inspect_ai": inspect_ai.__version__,
    }
    grading = {key: value for key, value in logs.grading(run).items() if value is not None}
    if grading:
        facts["grading"] = grading
    if run.benchmark.name == "ajbench":
        facts["judge"] = {
            key: value for key, value in run.benchmark.options.items() if value is not None
        }
    if run.benchmark.name in ("gsm8k", "math"):
        facts["references that do not equal themselves"] = _self_test(task)
    return facts


def _self_test(task: Task) -> list[str]:
    """Ids and answers of the rows on which no model can be right."""
    rows = [Row(str(sample.id), "", str(sample.target), str(sample.id)) for sample in task.dataset]
    with MathVerifier() as verifier:
        found = math_grade.self_test(verifier, Panel(tuple(rows)))
    return [f"{row.id}: {row.answer} ({verdict.reason})" for row, verdict in found]
