"""What a reader sees of a web page, and where its links lead; `python -m` this is a child.

The parser is pure Python and can be made to take very long, so it runs in `confined.Worker`.
"""

import json
import re
from collections.abc import Mapping
from urllib.parse import urljoin

from bs4 import BeautifulSoup
from bs4.element import NavigableString, PreformattedString, Tag

from jaxlab.evals.ajbench.sandbox import serving

_HIDDEN = {"script", "style", "noscript", "template", "svg", "iframe", "object", "head", "title"}
# fmt: off
_BLOCKS = {
    "address", "article", "aside", "blockquote", "br", "caption", "dd", "details", "div", "dl",
    "dt", "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5",
    "h6", "header", "hr", "li", "main", "nav", "ol", "option", "p", "pre", "section", "summary",
    "table", "tr", "ul",
}
# fmt: on
_CELLS = {"td", "th"}


def extract(content: bytes, url: str) -> tuple[str, str, list[tuple[str, str]]]:
    """Title, text and links of a page.

    Returns:
        The title; the text with a line per block and cells of a table divided by " | "; links as
        (text, absolute URL).
    """
    soup = BeautifulSoup(content, "html.parser")
    title = soup.title.get_text(" ", strip=True) if soup.title else ""
    pieces: list[str] = []
    links = []
    stack: list[object] = [soup]
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            if isinstance(node, PreformattedString):
                continue  # comments, declarations
            pieces.append(re.sub(r"\s+", " ", node) if isinstance(node, NavigableString) else node)
        elif isinstance(node, Tag) and node.name not in _HIDDEN and not node.has_attr("hidden"):
            if node.name == "a" and node.get("href"):
                said = " ".join(node.get_text().split())
                links.append((said[:200], _absolute(url, node["href"])))
            if node.name == "img" and node.get("alt"):
                pieces.append(f" [picture: {node['alt']}] ")
            edge = "\n" if node.name in _BLOCKS else " | " if node.name in _CELLS else ""
            # Marks go on the stack as another kind of text than the page's own.
            stack += [_Mark(edge), *reversed(node.contents), _Mark("" if edge != "\n" else "\n")]
    lines = (re.sub(r"\s*\|\s*$|\s+", " ", line).strip() for line in "".join(pieces).split("\n"))
    return title, "\n".join(line for line in lines if line), links


class _Mark(str):
    """Text between blocks."""


def _absolute(url: str, target: object) -> str:
    try:
        return urljoin(url, str(target))
    except ValueError:
        return str(target)


def run(operation: str, content: bytes, arguments: Mapping[str, str]) -> tuple[str, bytes]:
    """`extract` as JSON; "url" is among the arguments."""
    title, text, links = extract(content, arguments["url"])
    return "", json.dumps({"title": title, "text": text, "links": links}).encode()


if __name__ == "__main__":
    serving.serve(run)
