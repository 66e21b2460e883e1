"""The web as it was: pages in a folder, found by search and opened by address.

A snapshot is a folder with `index.jsonl`, one object per page:

    {"url": "https://example.org/a?x=1", "file": "pages/a.html"}
    {"url": "http://example.org/old", "redirect": "https://example.org/a?x=1"}

`file` is relative to the folder, .html, .htm, .txt or .md for what is to be searched and read;
pictures, styles and scripts may be there for the browser. "title" and "type" (of the content) are
optional. Addresses are compared without fragment, with http as https, and with the host in lower
case. There is no other web: what is not in the index does not exist.
"""

import collections
import functools
import json
import logging
import math
import mimetypes
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from jaxlab.evals.ajbench.sandbox.confined import Worker
from jaxlab.evals.ajbench.sandbox.files import Tree
from jaxlab.evals.ajbench.sandbox.limits import DEFAULT, Limits, ToolError
from jaxlab.evals.ajbench.sandbox.tools import Tool

MAX_PAGES = 10_000
RESULTS = 10  # of a search
PART = 8_000  # characters that `open` shows at once
_READABLE = {".html", ".htm", ".txt", ".md"}
# Okapi BM25 (Robertson & Zaragoza 2009) with its usual constants.
_K1, _B = 1.2, 0.75

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A line of the index: a file, or another address."""

    file: str
    redirect: str
    title: str
    type: str


@dataclass(frozen=True)
class Text:
    """What is read of a page; links are (text, address)."""

    title: str
    text: str
    links: tuple[tuple[str, str], ...]


class Snapshot:
    """Pages, which nothing here changes; samples may share them."""

    def __init__(
        self,
        folder: Path,
        limits: Limits = DEFAULT,
        seconds: float = 20.0,
        home: Path | None = None,
    ):
        """Reads the index.

        Args:
            folder: see above.
            limits: `write_bytes` is the size at which a page is cut off.
            seconds: for the text of one page.
            home: folder of the run to which the child that reads pages belongs, if the pages are
                not in there themselves.

        Raises:
            FileNotFoundError: there is no index.jsonl.
            ValueError: a line of it is malformed; says which and why.
        """
        if not (folder / "index.jsonl").is_file():
            raise FileNotFoundError(f"{folder}: a snapshot has an index.jsonl, see the module")
        self._limits = limits
        self._tree = Tree(folder, limits=limits)
        self._worker = Worker("jaxlab.evals.ajbench.web.html_text", home or folder, seconds)
        self._texts: dict[str, Text] = {}
        # Samples share a snapshot, and there is one child.
        self._lock = threading.RLock()
        self.entries = _read_index(folder / "index.jsonl")

    def address(self, url: str) -> str:
        """The address after redirections, of which at most ten are followed."""
        address = normal(url)
        for _ in range(10):
            entry = self.entries.get(address)
            if entry is None or not entry.redirect:
                break
            address = normal(entry.redirect)
        return address

    def get(self, url: str) -> tuple[str, bytes] | None:
        """Content type and content at an address; None where there is nothing."""
        entry = self.entries.get(self.address(url))
        if entry is None:
            return None
        try:
            content = self._tree.read(entry.file)
        except ToolError:
            return None
        guess = mimetypes.guess_type(entry.file)[0] or "application/octet-stream"
        return entry.type or guess, content

    def read(self, url: str) -> Text:
        """The text of a page.

        Raises:
            ToolError: the page is not in the snapshot, or is no text.
            Unavailable: its reader does not start.
        """
        address = self.address(url)
        entry = self.entries.get(address)
        if entry is None:
            raise ToolError(f"{url!r:.300} is not in the snapshot: search shows what is")
        with self._lock:
            if address not in self._texts:
                self._texts[address] = self._extract(address, entry)
            return self._texts[address]

    def read_all(self) -> None:
        """Read every page now, and not in the first search."""
        with self._lock:
            _ = self._index

    def search(self, query: str) -> str:
        """The best pages for some words, with the passage that fits best."""
        words = _words(query)[:50]
        if not words:
            raise ToolError("a query needs at least one word")
        with self._lock:
            counts, lengths, documents = self._index
        mean = sum(lengths.values()) / max(len(lengths), 1)
        scores: dict[str, float] = collections.defaultdict(float)
        for word in dict.fromkeys(words):
            pages = counts.get(word, {})
            rarity = math.log(1 + (len(lengths) - len(pages) + 0.5) / (len(pages) + 0.5))
            for address, count in pages.items():
                length = _K1 * (1 - _B + _B * lengths[address] / mean)
                scores[address] += rarity * count * (_K1 + 1) / (count + length)
        best = sorted(scores, key=lambda address: (-scores[address], address))[:RESULTS]
        lines = [
            f"{number}. {documents[address].title or address}\n   {address}\n   "
            f"{_passage(documents[address].text, words)}"
            for number, address in enumerate(best, start=1)
        ]
        return "\n".join(lines) or "no page has any of these words"

    def open(self, url: str, part: str) -> str:
        """A part of a page's text."""
        found = self.read(url)
        parts = max(1, -(-len(found.text) // PART))
        if not part.isdecimal() or not 1 <= int(part[:9]) <= parts:
            raise ToolError(f"{part!r:.40} is no part of this page: 1 to {parts}")
        number = int(part)
        text = found.text[(number - 1) * PART : number * PART]
        return f"{found.title}\n{self.address(url)} (part {number} of {parts})\n\n{text}"

    def find(self, url: str, text: str) -> str:
        """Lines of a page that hold a text, in any case."""
        lines = self.read(url).text.split("\n")
        wanted = text.casefold()
        found = [
            f"{i}: {line[:500]}" for i, line in enumerate(lines, 1) if wanted in line.casefold()
        ]
        return "\n".join(found[:100]) or "not found"

    def links(self, url: str) -> str:
        """Where a page's links lead; those in the snapshot are marked."""
        lines = [
            f"{'*' if self.address(target) in self.entries else '-'} {text} -> {target[:500]}"
            for text, target in self.read(url).links
        ]
        return "\n".join(dict.fromkeys(lines)) or "no links"

    def tools(self, read_only: bool = True) -> list[Tool]:
        """The tools; all of them only read."""
        del read_only
        url = {"url": "of the page"}
        return [
            Tool("search", "Find pages by words.", {"query": "some words"}, self.search),
            Tool(
                "open",
                "The text of a page, in parts.",
                {**url, "part": "1 for its beginning"},
                self.open,
            ),
            Tool("find", "Lines of a page that hold a text.", {**url, "text": "it"}, self.find),
            Tool("links", "The links of a page; * has its page here.", url, self.links),
        ]

    def digest(self) -> str:
        """SHA-256 over the folder."""
        return self._tree.digest()

    def close(self) -> None:
        """Ends the child and gives the folder back."""
        self._worker.close()
        self._tree.close()

    def _extract(self, address: str, entry: Entry) -> Text:
        ending = Path(entry.file).suffix.lower()
        if ending not in _READABLE:
            raise ToolError(f"{address:.300} is no text: {entry.file:.100}")
        content = self._tree.read(entry.file)
        if ending in (".txt", ".md"):
            return Text(entry.title, content.decode("utf-8", "replace"), ())
        found = json.loads(self._worker.call("extract", content, {"url": address})[1])
        links = tuple((text, target) for text, target in found["links"])
        return Text(entry.title or found["title"], found["text"], links)

    @functools.cached_property
    def _index(self) -> tuple[dict[str, dict[str, int]], dict[str, int], dict[str, Text]]:
        """Word -> address -> count; address -> words in all; address -> text."""
        counts: dict[str, dict[str, int]] = collections.defaultdict(dict)
        lengths, documents = {}, {}
        unread = []
        for address, entry in self.entries.items():
            if entry.redirect or Path(entry.file).suffix.lower() not in _READABLE:
                continue
            try:
                document = documents[address] = self.read(address)
            except ToolError as error:
                unread.append(f"{address}: {error}")  # and is not found
                continue
            words = _words(f"{document.title} {document.title} {document.text}")
            lengths[address] = len(words)
            for word, count in collections.Counter(words).items():
                counts[word][address] = count
        if unread:
            logger.warning("%d pages cannot be read, such as %s", len(unread), unread[0])
        return counts, lengths, documents


def normal(url: str) -> str:
    """An address in the form in which addresses are compared; "" for what is none."""
    try:
        parts = urlsplit(url.strip())
        host = (parts.hostname or "").encode("idna").decode() if parts.hostname else ""
        port = parts.port
    except (ValueError, UnicodeError):
        return ""
    if parts.scheme.lower() not in ("http", "https") or not host:
        return ""
    place = host if port in (None, 80, 443) else f"{host}:{port}"
    return urlunsplit(("https", place, parts.path or "/", parts.query, ""))


def _read_index(path: Path) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}:{number}: malformed JSON: {error}") from None
        fields = ("url", "file", "redirect", "title", "type")
        values = {name: row.get(name, "") for name in fields} if isinstance(row, dict) else {}
        if not values or not all(isinstance(value, str) for value in values.values()):
            raise ValueError(f"{path}:{number}: expected an object of texts")
        address = normal(values.pop("url"))
        if not address:
            raise ValueError(f"{path}:{number}: url must be an http or https address")
        if bool(values["file"]) == bool(values["redirect"]):
            raise ValueError(f"{path}:{number}: expected either file or redirect")
        if address in entries:
            raise ValueError(f"{path}:{number}: the address {address} occurs twice")
        entries[address] = Entry(**values)
    if len(entries) > MAX_PAGES:
        raise ValueError(f"{path}: {len(entries)} pages, at most {MAX_PAGES} are read")
    return entries


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _passage(text: str, words: list[str], size: int = 200) -> str:
    """The stretch of text that holds most of the words."""
    wanted = set(words)
    best, place = -1, 0
    for start in range(0, max(len(text) - size // 2, 1), size // 2):
        found = len(wanted & set(_words(text[start : start + size])))
        if found > best:
            best, place = found, start
    return " ".join(text[place : place + size].split())
