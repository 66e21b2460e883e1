"""Heavy thinking as an inspect_ai solver, for every benchmark and any model.

    inspect eval jaxlab/gsm8k -T path=test.jsonl --solver jaxlab/heavy -S width=8 --model jaxlab/DIR

The sample's answer is the workflow's. Beside it, all texts and those of the controls are graded by
the benchmark's own scorer, and kept in the sample's metadata as "heavy"; `logs` reads them from a
log, and `python -m jaxlab.heavy --report LOG` makes the tables.
"""

import copy
import dataclasses
import hashlib
import inspect
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    Model,
    ModelOutput,
    ModelUsage,
    get_model,
)
from inspect_ai.scorer import score, value_to_float
from inspect_ai.solver import Generate, Solver, TaskState, solver
from inspect_ai.util import LimitExceededError

from jaxlab import config as config_lib
from jaxlab.agents import heavy as workflow
from jaxlab.agents import heavy_controls
from jaxlab.agents.heavy import Heavy, Journal, Result
from jaxlab.agents.heavy_cache import repetitive
from jaxlab.agents.heavy_options import Sampling
from jaxlab.agents.heavy_prompts import Plain
from jaxlab.evals import fingerprint
from jaxlab.evals.grader_errors import REASON, refusing
from jaxlab.evals.heavy import generators
from jaxlab.grading import answers
from jaxlab.grading.characters import normalized
from jaxlab.grading.rows import sample_seed

# Where a sample's metadata keep what came of it.
KEY = "heavy"


@dataclasses.dataclass(frozen=True)
class Study:
    """Options of the solver beside those of the workflow.

    Attributes:
        deliberator: another model of inspect_ai, or a directory; None: the one that is evaluated.
        measure: grade every text by the task's scorer; with a judge, each costs a call.
        controls: run the controls of `heavy_controls`.
        journal: a folder that keeps texts, so that a sample that was killed goes on.
    """

    deliberator: str | None = None
    measure: bool = True
    controls: bool = True
    journal: str | None = None


_PARTS = (Heavy, Sampling, Study)
# The benchmark's own prompt says in which form it wants the answer.
_DEFAULTS: dict[str, Any] = {"domain": "as_asked"}


def _build(given: dict[str, Any]) -> tuple[Heavy, Sampling, Study]:
    """The options by their dataclasses."""
    names = [{field.name for field in dataclasses.fields(part)} for part in _PARTS]
    for key in given:
        if not any(key in one for one in names):
            raise config_lib.unknown_key("heavy", key, set().union(*names))
    built: list[Any] = [
        config_lib.build(part, {k: v for k, v in given.items() if k in one}, "heavy")
        for part, one in zip(_PARTS, names, strict=True)
    ]
    return built[0], built[1], built[2]


def _heavy(**given: Any) -> Solver:
    """Thinkers in parallel, then deliberation; the options are `Heavy`, `Sampling` and `Study`."""
    with refusing():
        options, sampling, study = _build({**_DEFAULTS, **given})
    loaded: list[Model] = []

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        model = get_model()
        if study.deliberator and not loaded:
            loaded.append(generators.load(study.deliberator))
        judge = loaded[0] if loaded else model
        work = _Work(state, options, sampling, model, judge)
        journal = work.journal(study.journal)
        try:
            result, texts = await work.run(journal, study.controls)
        finally:
            if journal is not None:
                journal.close()
        if not result.thinkers:
            errors = result.manifest["calls"]["think"]["errors"]
            raise RuntimeError(f"no thinker came: {errors[-1] if errors else 'none was asked'}")
        record = await _record(state, result, texts, study.measure, Plain(options.domain))
        state.metadata[KEY] = record
        written = sum(call["tokens"] for call in record["manifest"]["calls"].values())
        read = sum(call["prompt_tokens"] for call in record["manifest"]["calls"].values())
        state.metadata |= {"input_tokens": read, "output_tokens": written}
        message = ChatMessageAssistant(content=str(result.text), model=str(model))
        state.messages.append(message)
        state.output = _output(str(model), result.text)
        state.output.usage = ModelUsage(input_tokens=read, output_tokens=written)
        return state

    return solve


def _signed() -> Any:
    """The solver with the options as parameters, which inspect_ai looks up."""
    found = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=_DEFAULTS.get(field.name, field.default),
        )
        for part in _PARTS
        for field in dataclasses.fields(part)
    ]
    # inspect_ai drops a parameter that it does not find here, unless there is one for all others.
    unknown = inspect.Parameter("unknown", inspect.Parameter.VAR_KEYWORD)
    _heavy.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [*found, unknown], return_annotation=Solver
    )
    return solver(name="heavy")(_heavy)


heavy = _signed()


class _Work:
    """The workflow on one sample."""

    def __init__(
        self, state: TaskState, options: Heavy, sampling: Sampling, model: Model, judge: Model
    ):
        system = [m for m in state.messages if isinstance(m, ChatMessageSystem)]
        self._question = _question([m for m in state.messages if m not in system])
        seed = sample_seed(options.seed, str(state.sample_id), state.epoch)
        options = dataclasses.replace(options, seed=seed)
        self._options = generators.fitted(options, model, judge, sampling, system)
        self._generate = generators.generator(model, sampling, system)
        self._judge = generators.generator(judge, sampling, system)
        self._tokenizer = generators.tokenizer(judge)
        self._subject = f"{_named(model)} and {_named(judge)}, {sampling}"
        self._name = f"{state.sample_id}\x1f{state.epoch}"

    def journal(self, folder: str | None) -> Journal | None:
        """The sample's journal in the folder."""
        if folder is None:
            return None
        name = hashlib.sha256(self._name.encode("utf-8", "surrogatepass")).hexdigest()[:24]
        return Journal(Path(folder) / f"{name}.jsonl", self._subject)

    async def run(
        self, journal: Journal | None, controls: bool
    ) -> tuple[Result, dict[str, Sequence[str]]]:
        """The result, and the controls' texts by name; none where they are not run."""
        common: dict[str, Any] = {
            "deliberator": self._judge,
            "journal": journal,
            "fatal": (LimitExceededError,),
        }
        arguments = (self._generate, self._options, self._tokenizer)
        result = await workflow.think(self._question, *arguments, **common)
        if not controls or not result.thinkers:
            return result, {}
        texts, calls = await heavy_controls.run(self._question, result, *arguments, **common)
        result.manifest["control_calls"] = calls
        return result, dict(texts)


def _named(model: Model) -> str:
    """The model's name, with what tells two checkpoints in one directory apart."""
    return (
        f"{model} ({fingerprint.of_model(model.name)})" if generators.is_ours(model) else str(model)
    )


def _question(messages: Sequence[ChatMessage]) -> str:
    """The user's messages as one text."""
    for message in messages:
        if not isinstance(message, ChatMessageUser):
            raise ValueError(
                f"heavy thinks about questions, and this one has a message of the {message.role}: "
                "use a task without turns before the question"
            )
        if other := [part.type for part in message.content_list if part.type != "text"]:
            raise ValueError(f"heavy reads text alone, and the question has a part of {other[0]}")
    return "\n\n".join(message.text for message in messages)


def _output(model: str, text: str) -> ModelOutput:
    finished = getattr(text, "finished", True)
    return ModelOutput.from_content(model, str(text), "stop" if finished else "max_tokens")


async def _record(
    state: TaskState,
    result: Result,
    controls: dict[str, Sequence[str]],
    measure: bool,
    prompts: Plain,
) -> dict[str, Any]:
    """What is kept of the sample: every text with its verdict, and the manifest."""
    read = {row["number"] for row in result.manifest["thinkers"] if row["read"]}
    numbers = [row["number"] for row in result.manifest["thinkers"]]
    groups: dict[str, Sequence[str]] = {
        "thinkers": [text for n, text in zip(numbers, result.thinkers, strict=True) if n in read],
        "not_read": [
            text for n, text in zip(numbers, result.thinkers, strict=True) if n not in read
        ],
    }
    groups |= {f"round_{i}": texts for i, texts in enumerate(result.deliberations, start=1)}
    groups |= {f"control_{name}": texts for name, texts in controls.items()}
    found: dict[str, list[dict[str, Any]]] = {}
    for group, texts in groups.items():
        found[group] = []
        for text in texts:
            verdict = await _verdict(state, text) if measure else {}
            known = {
                "text": str(text),
                "answer": prompts.answer(text),
                "tokens": getattr(text, "tokens", None) or 0,
                "prompt_tokens": getattr(text, "prompt_tokens", None) or 0,
                "finished": getattr(text, "finished", True),
                "boxed": answers.boxed(normalized(answers.without_thinking(text))) is not None,
                "repetitive": repetitive(text),
                "score": getattr(text, "logprob", None),
            }
            found[group].append(known | verdict)
    return {"texts": found, "manifest": result.manifest, "measured": measure}


async def _verdict(state: TaskState, text: str) -> dict[str, Any]:
    """The task's own verdict on a text as if it were the sample's answer.

    Where the grader fails, the text counts as wrong and "grader_error" has the cause.
    """
    other = copy.copy(state)
    message = ChatMessageAssistant(content=str(text))
    other.messages = [*state.messages, message]
    other.output = _output(str(state.model), text)
    try:
        found = await score(other)
    except RuntimeError as error:
        if "scorer" in str(error):
            raise ValueError("measure=true needs a task with a scorer: set measure=false") from None
        raise
    first = found[0] if found else None
    if first is None or (isinstance(first.value, float) and math.isnan(first.value)):
        return {"correct": False, "grader_error": "the scorer gave no verdict"}
    if isinstance(first.value, dict | list):
        raise ValueError(
            f"the scorer gives a {type(first.value).__name__} and no single verdict: set "
            "measure=false"
        )
    notes = first.metadata or {}
    failed = {"grader_error": notes.get("cause")} if notes.get("reason") == REASON else {}
    # A value between right and wrong counts as wrong, as in the benchmarks' reports.
    return {"correct": value_to_float()(first.value) == 1.0, **failed}
