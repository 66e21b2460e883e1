"""Judges of AJ-Bench as inspect_ai solvers: by text alone, or with tools on the replayed state.

A judge with tools is opened an environment of its own, in which the trajectory's calls are run
again. What its tools may do is decided there and by the options, never by anything it reads.
"""

import atexit
import base64
import contextlib
import functools
import json
import logging
import os
import secrets
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    Content,
    ContentImage,
    ContentText,
    GenerateConfig,
    ModelOutput,
    execute_tools,
    get_model,
)
from inspect_ai.solver import Generate, Solver, TaskState, solver
from inspect_ai.tool import (
    ToolCall,
    ToolDef,
    ToolError,
    ToolParams,
    mcp_connection,
    mcp_server_stdio,
    mcp_tools,
)

from jaxlab import config as config_lib
from jaxlab.evals.ajbench import prompts, verdicts
from jaxlab.evals.ajbench.environments import environment, gui, subdomains, workspace
from jaxlab.evals.ajbench.environments.environment import (
    Environment,
    Place,
    Report,
    Run,
)
from jaxlab.evals.ajbench.options import McpServer, Options
from jaxlab.evals.ajbench.sandbox import marks, programs
from jaxlab.evals.ajbench.sandbox.limits import Limits
from jaxlab.evals.ajbench.sandbox.tools import Tool, Toolbox
from jaxlab.evals.ajbench.types import Observation, Replay, Source, Unit, Web
from jaxlab.grading import answers
from jaxlab.grading.rows import sample_seed

logger = logging.getLogger(__name__)


@dataclass
class _Effort:
    """What a judge has spent; goes into the sample's metadata."""

    turns: int = 0
    tool_calls: int = 0
    tool_errors: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def count(self, output: ModelOutput) -> None:
        if output.usage is not None:
            self.input_tokens += output.usage.input_tokens
            self.output_tokens += output.usage.output_tokens


class Violation(RuntimeError):
    """A judge that may only read has changed the state."""


def judge(units: Mapping[str, Unit], options: Options, seed: int = 0) -> Solver:
    """Asks for a verdict on the unit of the sample's id; `seed` is that of sampling."""
    if options.arm == "agent":
        _clean_up_at_sigterm()

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        unit = units[str(state.sample_id)]
        config = GenerateConfig(seed=sample_seed(seed, unit.id, state.epoch))
        started, effort, report = time.monotonic(), _Effort(), None
        try:
            if options.arm == "text":
                await _ask(state, config, effort)
                return state
            scaffold = _loop if options.scaffold == "loop" else _react
            async with (
                _opened(unit, options) as (opened, report, folder),
                _tools(opened, folder, unit, options, effort) as tools,
            ):
                await scaffold(state, tools, options, config, effort)
            return state
        finally:
            state.metadata |= {**vars(effort), "seconds": time.monotonic() - started}
            if report is not None:
                state.metadata["replay"] = vars(report) | {"failed": len(report.failed)}

    # Arguments of a registered solver go into every log, and these are all trajectories.
    @solver(name="ajbench_judge")
    def without_arguments() -> Solver:
        return solve

    return without_arguments()


def missing(units: Sequence[Unit], options: Options) -> list[str]:
    """What `subdomains.missing` says of a run with these options, and what nobody could look at."""
    states = Path(options.states) if options.states is not None else None
    run = Run(Path(), states, options.postgres, replay=options.replay, web=options.web)
    found = subdomains.missing(units, run)
    if options.observation == "screenshot":
        own = [unit for unit in units if unit.subdomain not in options.servers]
        found += subdomains.without_picture(own)
    return found


def messages(unit: Unit, options: Options) -> list[ChatMessage]:
    """What a judge reads first."""
    return [
        ChatMessageSystem(content=prompts.system(options.arm, unit, options.read_only)),
        ChatMessageUser(content=prompts.user(unit, options.record_characters)),
    ]


async def _ask(
    state: TaskState,
    config: GenerateConfig,
    effort: _Effort,
    tools: Sequence[ToolDef] = (),
    last: bool = False,
) -> ChatMessageAssistant:
    """One reply, put behind the messages; with `last`, one that calls no tool."""
    output = await get_model().generate(
        state.messages,
        tools=list(tools),
        # Some providers want tools to be named that earlier messages have called.
        tool_choice="none" if last and tools else None,
        config=config,
    )
    effort.count(output)
    state.output = output
    state.messages.append(output.message)
    return output.message


async def _ask_for_verdict(
    state: TaskState, config: GenerateConfig, effort: _Effort, tools: Sequence[ToolDef] = ()
) -> None:
    """The reply after the last turn."""
    state.messages.append(ChatMessageUser(content=prompts.LAST_TURN))
    await _ask(state, config, effort, tools, last=True)


async def _loop(
    state: TaskState,
    tools: Sequence[ToolDef],
    options: Options,
    config: GenerateConfig,
    effort: _Effort,
) -> None:
    """Tool calls until a reply has none."""
    for _ in range(options.max_turns):
        effort.turns += 1
        reply = await _ask(state, config, effort, tools)
        if not reply.tool_calls:
            return
        done = await execute_tools(state.messages, list(tools), max_output=_max_output())
        _count_calls(done.messages, effort)
        state.messages.extend(done.messages)
    await _ask_for_verdict(state, config, effort, tools)


async def _react(
    state: TaskState,
    tools: Sequence[ToolDef],
    options: Options,
    config: GenerateConfig,
    effort: _Effort,
) -> None:
    """Thought, action and observation in writing."""
    listed = [(tool.name, tool.description, _schema(tool)) for tool in tools]
    first = state.messages[0]
    state.messages[0] = ChatMessageSystem(content=f"{first.text}\n\n{prompts.react(listed)}")
    stopping = config.merge(GenerateConfig(stop_seqs=[f"\n{prompts.OBSERVATION}"]))
    for _ in range(options.max_turns):
        effort.turns += 1
        reply = await _ask(state, stopping, effort)
        # What it drafts while it thinks, it does not do.
        said = answers.without_thinking(reply.text)
        wanted = prompts.action(said)
        images: list[Content] = []
        if wanted is None:
            if verdicts.given(said):
                return
            observation = prompts.NO_ACTION
        elif wanted.arguments is None:
            observation = "Action Input is no JSON object"
            effort.tool_errors += 1
        else:
            # The same way as any call, so that transcripts show it and limits hold.
            call = ToolCall(secrets.token_hex(8), wanted.name, wanted.arguments)
            asking = ChatMessageAssistant(content="", tool_calls=[call])
            done = await execute_tools([asking], list(tools), max_output=_max_output())
            _count_calls(done.messages, effort)
            observation = "\n".join(
                message.error.message if message.error else message.text
                for message in done.messages
                if message.role == "tool"
            )
            images += _images(done.messages)
        text = f"{prompts.OBSERVATION} {observation}"
        content = [ContentText(text=text), *images] if images else text
        state.messages.append(ChatMessageUser(content=content))
    await _ask_for_verdict(state, stopping, effort)


def _images(done: Sequence[ChatMessage]) -> list[Content]:
    """Pictures among what tools have returned."""
    parts = [
        part for message in done if isinstance(message.content, list) for part in message.content
    ]
    return [part for part in parts if isinstance(part, ContentImage)]


def _count_calls(done: Sequence[ChatMessage], effort: _Effort) -> None:
    results = [message for message in done if message.role == "tool"]
    effort.tool_calls += len(results)
    effort.tool_errors += sum(message.error is not None for message in results)


@contextlib.asynccontextmanager
async def _opened(unit: Unit, options: Options) -> AsyncIterator[tuple[Environment, Report, Path]]:
    """The environment of a unit after the replay, with a look at what must not have changed.

    Also the sample's folder, with which goes whatever program carries its name.
    """
    run = await anyio.to_thread.run_sync(_run_of, options)
    folder = run.folder / f"sample-{secrets.token_hex(8)}"
    folder.mkdir(mode=0o700)
    try:
        opened = await anyio.to_thread.run_sync(
            subdomains.open_environment, Place(unit, folder, run)
        )
        try:
            report = Report()
            if options.replay == "true":
                calls = environment.calls_of(opened, unit)
                report = await anyio.to_thread.run_sync(
                    environment.replay, opened, calls, run.limits
                )
            before = await anyio.to_thread.run_sync(opened.digest)
            try:
                yield opened, report, folder
            finally:
                # Also after a limit, at which a sample is scored with what it has.
                with anyio.CancelScope(shield=True):
                    after = await anyio.to_thread.run_sync(opened.digest)
                if options.read_only and after != before:
                    raise Violation(
                        f"{unit.id}: a judge whose tools only read has changed the state; "
                        "its verdict does not count"
                    )
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(opened.close)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(programs.remove, folder)


@contextlib.asynccontextmanager
async def _tools(
    opened: Environment, folder: Path, unit: Unit, options: Options, effort: _Effort
) -> AsyncIterator[list[ToolDef]]:
    """The tools of a judge, ours or those of the user's server."""
    limits = _limits(options)
    server = options.server(unit.subdomain)
    async with contextlib.AsyncExitStack() as stack:
        if server is None:
            box = Toolbox(opened.tools(options.read_only), limits)
            found = [_own(box, tool, options.observation) for tool in box.tools.values()]
            if unit.domain == "GUI":
                found = [t for t in found if gui.observed(t.name, options.observation)]
        else:
            addresses = getattr(opened, "address", None)
            address = addresses(options.read_only) if addresses else {}
            source = mcp_tools(_server(server, address, folder))
            await stack.enter_async_context(mcp_connection(source))
            found = [ToolDef(tool) for tool in await source.tools()]
        wanted = options.chosen_tools
        if wanted is not None:
            names = {tool.name for tool in found}
            unknown = sorted(set(wanted) - names)
            if len(unknown) == len(set(wanted)):
                raise ValueError(f"no tool {unknown[0]!r}: there are {', '.join(sorted(names))}")
            for name in unknown:
                _tell_unknown(name, unit.subdomain, tuple(sorted(names)))
            found = [tool for tool in found if tool.name in wanted]
        wrap: Callable[[str], Any] | None = None
        if options.summariser and unit.domain == "Search":
            wrap = functools.partial(_summary, unit, effort)
        yield [_timed(tool, options.tool_timeout, wrap) for tool in found]


@functools.cache
def _tell_unknown(name: str, subdomain: str, names: tuple[str, ...]) -> None:
    """Say once for each sub-domain that a tool of the option is not among its tools.

    It is no error, since the tools that are named may belong to several sub-domains.
    """
    near = config_lib.nearest(name, names)
    cure = f"did you mean {near!r}?" if near else f"there are {', '.join(names)}"
    logger.warning("tools: units of %s have no tool %r; %s", subdomain, name, cure)


def _own(box: Toolbox, tool: Tool, observation: Observation) -> ToolDef:
    """A tool of ours as one of inspect_ai's, which works in a thread."""

    async def execute(**kwargs: Any) -> str | list[Content]:
        reply = await anyio.to_thread.run_sync(box.call, tool.name, kwargs, abandon_on_cancel=True)
        if reply.failed:
            raise ToolError(reply.text)
        if reply.picture and observation != "a11y":
            # JPEG begins with FF D8.
            kind = "jpeg" if reply.picture.startswith(b"\xff\xd8") else "png"
            data = base64.b64encode(reply.picture).decode()
            image = ContentImage(image=f"data:image/{kind};base64,{data}")
            return [ContentText(text=reply.text), image]
        return reply.text

    parameters = ToolParams.model_validate(tool.schema() | {"additionalProperties": False})
    return ToolDef(execute, tool.name, tool.description, parameters)


def _timed(tool: ToolDef, seconds: float, wrap: Callable[[str], Any] | None) -> ToolDef:
    """The same tool with an end; `wrap` makes what the judge sees of a result."""

    async def execute(**kwargs: Any) -> Any:
        # inspect_ai tells the judge of a TimeoutError.
        with anyio.fail_after(seconds):
            result = await tool.tool(**kwargs)
        return result if wrap is None else await wrap(_text_of(result))

    return ToolDef(execute, tool.name, tool.description, tool.parameters)


async def _summary(unit: Unit, effort: _Effort, page: str) -> str:
    """What a page says of the item, by the judge's model."""
    system, user = prompts.summary(unit, page)
    output = await get_model().generate(
        [ChatMessageSystem(content=system), ChatMessageUser(content=user)]
    )
    effort.count(output)
    return output.completion


def _server(server: McpServer, address: Mapping[str, str], folder: Path) -> Any:
    """The user's server, whose helpers do not outlive the sample either, see `marks.kill`."""

    def filled(text: str) -> str:
        for name, value in address.items():
            text = text.replace(f"{{{name}}}", value)
        return text

    return mcp_server_stdio(
        command=server.command,
        args=[filled(text) for text in server.args],
        env={name: filled(text) for name, text in server.env.items()} | {marks.MARK: str(folder)},
    )


def _schema(tool: ToolDef) -> dict[str, Any]:
    return tool.parameters.model_dump(exclude_none=True)


def _text_of(result: Any) -> str:
    if isinstance(result, str):
        return result
    parts = result if isinstance(result, list) else [result]
    return "\n".join(getattr(part, "text", None) or json.dumps(str(part)) for part in parts)


def _limits(options: Options) -> Limits:
    return replace(Limits(), seconds=options.tool_timeout)


def _max_output() -> int:
    # Results of ours are shorter; those of other servers are cut here.
    return 4 * Limits().characters


_lock = threading.Lock()


def _run_of(options: Options) -> Run:
    """What the samples of this process share; a server is not started for each task anew."""
    with _lock:
        return _run(
            options.states,
            options.postgres,
            _limits(options),
            options.replay,
            options.web,
        )


@functools.cache
def _run(states: str | None, postgres: Source, limits: Limits, replay: Replay, web: Web) -> Run:
    folder = Path(states) if states is not None else None
    run = Run(_folder(), folder, postgres, limits, replay, web)
    # Before the run's folder goes: what is registered last comes first.
    atexit.register(run.close)
    return run


_folders = contextlib.ExitStack()


@functools.cache
def _folder() -> Path:
    """The folder of this process, removed at its end, or by the next run if it is killed."""
    folder = _folders.enter_context(workspace.run_folder())
    atexit.register(_folders.close)
    return folder


def _clean_up_at_sigterm() -> None:
    """A scheduler ends a job by SIGTERM, at which Python leaves without what is to be done at exit.

    A database server would go on until the next run. Whoever has a handler of his own keeps it.
    """

    def end(number: int, frame: object) -> None:
        del frame
        _folders.close()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    main = threading.current_thread() is threading.main_thread()
    if main and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, end)
