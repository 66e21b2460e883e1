"""A reader of the solver's logs: the graded texts of every question, and what is left out."""

from collections import Counter
from pathlib import Path
from typing import Any

from inspect_ai.log import EvalLog, EvalSample, list_eval_logs, read_eval_log

from jaxlab.evals.grader_errors import text_of
from jaxlab.evals.heavy.measures import Question, Text
from jaxlab.evals.heavy.solver import KEY


def read(path: Path) -> tuple[str, list[Question]]:
    """Title of a log and its `questions`; of a folder of logs the newest one's.

    The title has the task, the model, and what the questions leave out.

    Raises:
        FileNotFoundError: there is no log.
        ValueError: it holds something else, or no sample that was measured.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}; name a log of inspect_ai")
    place = str(path)
    if path.is_dir():
        logs = list_eval_logs(place)
        if not logs:
            raise FileNotFoundError(f"{path} holds no log of inspect_ai")
        place = logs[0].name
    try:
        log = read_eval_log(place, resolve_attachments=True)
    except Exception as error:  # whatever the file holds
        raise ValueError(f"{place} is no log of inspect_ai: {text_of(error)}") from error
    found = questions(log)
    title = f"{log.eval.task}: {log.eval.model}"
    missing = left_out(log)
    return (f"{title} (left out: {', '.join(missing)})" if missing else title), found


def left_out(log: EvalLog) -> list[str]:
    """How many samples `questions` leaves out, by cause; empty where it has all."""
    causes = Counter(cause for sample in log.samples or [] if (cause := _unmeasured(sample)))
    found = [f"{count} samples {cause}" for cause, count in causes.items()]
    if log.status != "success":
        found.append(f"samples that never began, since the evaluation ended as {log.status!r}")
    return found


def _unmeasured(sample: EvalSample) -> str | None:
    """Why a sample has no measures; None where it has."""
    record = (sample.metadata or {}).get(KEY)
    if sample.error is not None:
        return "with an error"
    if sample.limit is not None and record is None:
        return "ended by a limit"
    if record is None:
        return "not solved by heavy"
    return None if record["measured"] else "with measure=false"


def questions(log: EvalLog) -> list[Question]:
    """The samples of a log that heavy has measured; `left_out` counts the others.

    Raises:
        ValueError: there is none.
    """
    found = []
    for sample in log.samples or []:
        if _unmeasured(sample) is not None:
            continue
        record = sample.metadata[KEY]
        texts = {name: [_text(row) for row in rows] for name, rows in record["texts"].items()}
        used = [
            row
            for name, rows in record["texts"].items()
            for row in rows
            if not name.startswith("control_")
        ]
        manifest = record["manifest"]
        found.append(
            Question(
                id=f"{sample.id}, epoch {sample.epoch}",
                cluster=str(sample.metadata.get("cluster", sample.id)),
                thinkers=texts["thinkers"],
                rounds=[rows for name, rows in texts.items() if name.startswith("round_")],
                controls={
                    name.removeprefix("control_"): rows
                    for name, rows in texts.items()
                    if name.startswith("control_")
                },
                tokens=sum(row["tokens"] + row["prompt_tokens"] for row in used),
                seconds=manifest["seconds"],
                controls_missing=sum(
                    calls.get("missing", 0) for calls in manifest.get("control_calls", {}).values()
                ),
                missing=manifest["missing"] + sum(one["missing"] for one in manifest["rounds"]),
            )
        )
    if not found:
        raise ValueError(
            "no sample of the log was measured by heavy: run the task with --solver jaxlab/heavy"
        )
    return found


def _text(row: dict[str, Any]) -> Text:
    return Text(
        correct=row["correct"],
        answer=row["answer"],
        length=len(row["text"]),
        tokens=row["tokens"],
        finished=row["finished"],
        repetitive=row["repetitive"],
        boxed=row["boxed"],
        score=row["score"],
        graded="grader_error" not in row,
    )
