"""The options of AJ-Bench."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from jaxlab import ranges
from jaxlab.evals.ajbench.metrics import OnParseFail
from jaxlab.evals.ajbench.types import AnySubdomain, Observation, Replay, Source, Web
from jaxlab.grading.rows import BadRows

Arm = Literal["text", "agent"]
Scaffold = Literal["loop", "react"]


@dataclass(frozen=True)
class McpServer:
    """A program whose tools a judge gets instead of ours.

    Attributes:
        command: the program.
        args: its arguments; {root}, {sqlite} and {dsn} in them are the sample's.
        env: its environment, likewise.
    """

    command: str
    args: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Grading:
    """How verdicts are counted.

    Attributes:
        on_parse_fail: whether a reply without a verdict counts as wrong or is left out; the paper
            does not say.
    """

    on_parse_fail: OnParseFail = "wrong"


@dataclass(frozen=True, kw_only=True)
class Options(Grading):
    """The options of `ajbench`: how a judge works, and on what.

    Attributes:
        arm: "text" reads task and record; "agent" has tools besides.
        scaffold: "loop" calls tools as its provider does; "react" writes its calls as text
            (Yao et al. 2022), which every model can.
        max_turns: replies with tools; after the last of them the verdict is asked for without.
        tool_timeout: seconds of a tool call.
        time_limit: seconds of a sample; a judge without a verdict by then has none.
        token_limit: tokens of a sample, likewise.
        read_only: whether the tools only look. Then the state must be the same before and after,
            and a sample in which it is not ends in an error.
        replay: "true" runs the trajectory's calls on the initial state, "false" does not, and
            "prebuilt_state" begins with the unit's own final state. Result files of GUI units are
            that state already, so nothing is run on them.
        states: folder of states; see `environments.states`.
        definitions: folder of MCPMark's task definitions, from which instructions come.
        postgres: whose programs servers are made of; see `postgres_programs.server`.
        tools: only these of the tools; all by default.
        servers: sub-domain -> MCP server whose tools the judge gets instead of ours.
        web: for Search: "snapshot" (pages in `states`, as text), "browser" (the same in Chromium),
            or "live" (the tools of `servers`).
        observation: what judges of GUI units look at: "a11y" (words: the accessibility tree, what
            is in a file), "screenshot" (pictures, of office files by LibreOffice), or "mixed".
            Pictures need a model that sees.
        summariser: whether pages reach a judge of search answers as a summary of what bears on
            the item.
        record_characters: of each argument and result in the record.
        subdomains: only these; all that are there by default.
        fields: our name of a field of the Search files -> its name there; see `rows.read`.
        bad_rows: whether a malformed unit ends the run or is left out.
        labels: of Search rows, where they stand apart; see `rows.read`.
    """

    arm: Arm = "agent"
    scaffold: Scaffold = "loop"
    max_turns: int = 100
    tool_timeout: float = 60.0
    time_limit: int | None = None
    token_limit: int | None = None
    read_only: bool = True
    replay: Replay = "true"
    states: str | None = None
    definitions: str | None = None
    postgres: Source = "auto"
    tools: tuple[str, ...] | str | None = None
    servers: dict[AnySubdomain, McpServer] = field(default_factory=dict)
    web: Web = "snapshot"
    observation: Observation = "a11y"
    summariser: bool = False
    record_characters: int = 4000
    subdomains: tuple[AnySubdomain, ...] | AnySubdomain = ()
    fields: dict[str, str | None] | None = field(default_factory=dict)
    bad_rows: BadRows = "error"
    labels: str | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("max_turns", "time_limit", "token_limit", "record_characters"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        ranges.check(self, "tool_timeout", above=0)

    def server(self, subdomain: str) -> McpServer | None:
        """The user's server for a sub-domain, where there is one."""
        return {str(name): server for name, server in self.servers.items()}.get(subdomain)

    @property
    def chosen_tools(self) -> Sequence[str] | None:
        """`tools` as a sequence; a command line names one without a list."""
        return (self.tools,) if isinstance(self.tools, str) else self.tools

    @property
    def chosen_subdomains(self) -> Sequence[str]:
        """`subdomains` as a sequence, likewise."""
        return (self.subdomains,) if isinstance(self.subdomains, str) else self.subdomains
