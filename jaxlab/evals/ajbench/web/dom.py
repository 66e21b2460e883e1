"""What Chromium's debugging protocol tells of a page, as text.

Its answers come from the browser, not from scripts of the page, which cannot forge them.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

Answer = Mapping[str, Any]

MAX_LINES = 2_000
# Roles that only group, and what is said by the node above.
_SILENT = {"none", "generic", "InlineTextBox", "LineBreak", "paragraph", "presentation"}
_STATES = {
    "checked",
    "pressed",
    "selected",
    "expanded",
    "disabled",
    "readonly",
    "required",
    "focused",
    "level",
    "invalid",
}


def outline(trees: Sequence[Answer], snapshot: Answer, width: int, height: int) -> str:
    """The accessibility tree with places, a line per node: role, name, value, states, (x, y, w, h).

    Args:
        trees: answers of Accessibility.getFullAXTree, one per frame, the page's own first.
        snapshot: answer of DOMSnapshot.captureSnapshot.
        width: of the window in pixels; places are in its coordinates.
        height: of the window.
    """
    places = _places(snapshot)
    lines: list[str] = []
    for tree in trees:
        nodes = {node["nodeId"]: node for node in tree["nodes"]}
        roots = [node for node in tree["nodes"] if not node.get("parentId")]
        stack = [(0, node, "") for node in reversed(roots)]
        while stack and len(lines) < MAX_LINES:
            depth, node, said = stack.pop()
            role, name = _value(node, "role"), " ".join(_value(node, "name").split())
            shown = not node.get("ignored") and (role not in _SILENT or (name and name != said))
            if role == "StaticText" and name == said:
                shown = False
            if shown:
                place = places.get(node.get("backendDOMNodeId"))
                lines.append(_line(depth, role, name, node, place, width, height))
            inner = depth + 1 if shown else depth
            stack += [
                (inner, nodes[child], name or said)
                for child in reversed(node.get("childIds", []))
                if child in nodes
            ]
    if len(lines) == MAX_LINES:
        lines.append("... more was left out")
    return "\n".join(lines)


def state(snapshot: Answer, more: Sequence[str]) -> str:
    """SHA-256 over addresses, nodes, attributes and what forms hold, and over more texts."""
    strings = snapshot["strings"]
    total = hashlib.sha256()

    def add(*values: object) -> None:
        for value in values:
            text = strings[value] if isinstance(value, int) and value >= 0 else str(value)
            total.update(f"{len(text)}:{text}".encode("utf-8", "surrogatepass"))

    for document in snapshot["documents"]:
        nodes = document["nodes"]
        add(document["documentURL"])
        for i, parent in enumerate(nodes["parentIndex"]):
            add(f"{parent} {nodes['nodeType'][i]}", nodes["nodeName"][i], nodes["nodeValue"][i])
            add(*nodes["attributes"][i])
        for name in ("textValue", "inputValue"):
            for i, value in zip(nodes[name]["index"], nodes[name]["value"], strict=True):
                add(f"{name} {i}", value)
        for name in ("inputChecked", "optionSelected"):
            add(f"{name} {nodes[name]['index']}")
    add(*more)
    return total.hexdigest()


def _places(snapshot: Answer) -> dict[int, tuple[float, float, float, float]]:
    """Node -> its rectangle in the window; frames lie where their elements do."""
    documents = snapshot["documents"]
    offsets = {0: (0.0, 0.0)}
    found: dict[int, tuple[float, float, float, float]] = {}
    # A document's number is higher than that of the one it is in.
    for number, document in enumerate(documents):
        if number not in offsets:
            continue
        left = offsets[number][0] - document.get("scrollOffsetX", 0)
        top = offsets[number][1] - document.get("scrollOffsetY", 0)
        nodes, layout = document["nodes"], document["layout"]
        rectangles = {}
        for i, (x, y, w, h) in zip(layout["nodeIndex"], layout["bounds"], strict=True):
            rectangle = rectangles[i] = (left + x, top + y, w, h)
            found[nodes["backendNodeId"][i]] = rectangle
        inner = nodes.get("contentDocumentIndex", {"index": [], "value": []})
        for i, child in zip(inner["index"], inner["value"], strict=True):
            if i in rectangles:
                offsets[child] = rectangles[i][:2]
    return found


def _value(node: Answer, name: str) -> str:
    return str(node.get(name, {}).get("value", ""))


def _line(
    depth: int,
    role: str,
    name: str,
    node: Answer,
    place: tuple[float, float, float, float] | None,
    width: int,
    height: int,
) -> str:
    line = f"{'  ' * min(depth, 20)}{role} {name[:500]!r}"
    value = _value(node, "value")
    if value:
        line += f" value {value[:500]!r}"
    for entry in node.get("properties", []):
        given = entry["value"].get("value")
        if entry["name"] in _STATES and str(given).lower() not in ("false", "none"):
            line += f" {entry['name']}" + (f" {given}" if str(given).lower() != "true" else "")
    if place is not None:
        x, y, w, h = place
        line += f" ({x:.0f}, {y:.0f}, {w:.0f}, {h:.0f})"
        if x >= width or y >= height or x + w <= 0 or y + h <= 0:
            line += " out of view"
    return line
