"""Tools over an environment: a closed list, checked arguments, bounded results.

What a tool may do is fixed when the list is made. Nothing that a trajectory, a file, a database or
a judge says can add to it.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxlab.evals.ajbench import trajectories
from jaxlab.evals.ajbench.sandbox.limits import DEFAULT, Limits, ToolError
from jaxlab.grading.unicode import well_formed

# Of an argument that is no string: the parts of JSON schema that `fits` knows.
Schema = Mapping[str, Any]
STRING: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
BOOLEAN: Schema = {"type": "boolean"}
STRINGS: Schema = {"type": "array", "items": STRING}


@dataclass(frozen=True)
class Tool:
    """One tool.

    Attributes:
        name: as a judge calls it.
        description: what a judge reads of it.
        parameters: names of the arguments and what they mean; strings and required, if the
            following do not say otherwise.
        run: the work, with the arguments by name; it may raise ToolError, and return `Shown`.
        schemas: of arguments that are no strings.
        optional: names of arguments that may be left out; `run` has defaults for them.
    """

    name: str
    description: str
    parameters: Mapping[str, str]
    run: Callable[..., str]
    schemas: Mapping[str, Schema] = field(default_factory=dict)
    optional: tuple[str, ...] = ()

    def schema(self) -> dict[str, Any]:
        """JSON schema of the arguments."""
        properties = {
            name: {**self.schemas.get(name, STRING), "description": meaning}
            for name, meaning in self.parameters.items()
        }
        required = [name for name in self.parameters if name not in self.optional]
        return {"type": "object", "properties": properties, "required": required}


class Shown(str):
    """A tool's result with a picture beside the text.

    Attributes:
        picture: PNG or JPEG.
    """

    picture: bytes

    def __new__(cls, text: str, picture: bytes) -> "Shown":
        """The text, with the picture."""
        found = super().__new__(cls, text)
        found.picture = picture
        return found


@dataclass(frozen=True)
class Reply:
    """What a call came to; `picture` is empty where there is none."""

    text: str
    failed: bool = False
    picture: bytes = b""


class Toolbox:
    """The tools of one sample, which run one at a time."""

    def __init__(self, tools: Sequence[Tool], limits: Limits = DEFAULT):
        self.tools = {tool.name: tool for tool in tools}
        self._limits = limits
        self._lock = threading.Lock()

    def call(self, name: object, arguments: object) -> Reply:
        """Run a tool; a refusal or failure is a reply too.

        What is raised is a failure of the machine (`Unavailable`, OSError) and says nothing of
        the call.

        Arguments that the tool does not have are left out, as servers of tools do.
        """
        tool = self.tools.get(name) if isinstance(name, str) else None
        if tool is None:
            return Reply(f"no tool {name!r:.60}: there are {', '.join(self.tools)}", True)
        if not isinstance(arguments, Mapping):
            return Reply(f"the arguments of {tool.name} must be an object", True)
        kept = {key: arguments[key] for key in tool.parameters if arguments.get(key) is not None}
        missing = [key for key in tool.parameters if key not in kept and key not in tool.optional]
        if missing:
            return Reply(f"{tool.name} needs {', '.join(missing)}", True)
        for key, value in kept.items():
            wanted = tool.schemas.get(key, STRING)
            if not fits(value, wanted):
                return Reply(f"{key} of {tool.name} must be {_shown(wanted)}", True)
        try:
            with self._lock:
                result = tool.run(**kept)
            picture = result.picture if isinstance(result, Shown) else b""
            reply = Reply(result, picture=picture)
        except ToolError as error:
            reply = Reply(str(error), True)
        except (RecursionError, MemoryError) as error:
            reply = Reply(f"{tool.name} needs more than is allowed: {type(error).__name__}", True)
        # Names of files may be no text.
        text = well_formed(trajectories.cut(reply.text, self._limits.characters))
        return Reply(text, reply.failed, reply.picture)


def fits(value: Any, schema: Schema) -> bool:
    """Whether a value is of a schema; of JSON schema, as much as the tools here say."""
    kind = schema["type"]
    if kind == "array":
        return isinstance(value, list) and all(fits(item, schema["items"]) for item in value)
    if kind == "object":
        return isinstance(value, Mapping) and all(
            key in value and fits(value[key], inner) for key, inner in schema["properties"].items()
        )
    if kind == "boolean" or isinstance(value, bool):
        return kind == "boolean" and isinstance(value, bool)
    if kind == "integer":
        return isinstance(value, int)
    return isinstance(value, (int, float) if kind == "number" else str)


def _shown(schema: Schema) -> str:
    if schema["type"] == "array":
        return f"a list, each {_shown(schema['items'])}"
    if schema["type"] == "object":
        return f"an object with {', '.join(schema['properties'])}"
    return f"{'an' if schema['type'] == 'integer' else 'a'} {schema['type']}"
