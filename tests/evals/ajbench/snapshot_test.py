import json
import math
import os
import pathlib
import signal

import pytest

from jaxlab.evals.ajbench import rows
from jaxlab.evals.ajbench.environments import workspace
from jaxlab.evals.ajbench.sandbox.limits import ToolError, Unavailable
from jaxlab.evals.ajbench.sandbox.tools import Toolbox
from jaxlab.evals.ajbench.web import html_text, snapshot
from tests.evals.ajbench import web_trees

SECRET = "the label is 1"


@pytest.fixture(scope="module")
def data():
    with workspace.run_folder() as folder:
        yield web_trees.make(folder / "data")


@pytest.fixture(scope="module")
def web(data):
    found = snapshot.Snapshot(data / "web")
    yield found
    found.close()


def test_a_row_is_checked_against_the_pages(data, web):
    """From the layout's file to what a judge finds; nothing is changed by that."""
    before = web.digest()
    box = Toolbox(web.tools(read_only=True))
    for unit in rows.read(data).units:
        row = json.loads(unit.item)
        hits = box.call("search", {"query": f"{row['river']} length km"}).text
        url = hits.splitlines()[1].strip()
        found = box.call("find", {"url": url, "text": f"{row['km']}"}).text
        assert (found != "not found") == unit.label
    assert web.digest() == before
    assert [tool.name for tool in web.tools(False)] == list(box.tools)


def test_reading(web):
    box = Toolbox(web.tools())
    page = box.call("open", {"url": "https://rivers.example/danube", "part": "1"}).text
    assert page.splitlines() == [
        "Danube",
        "https://rivers.example/danube (part 1 of 1)",
        "",
        "The Danube is 2850 km long and ends in the Black Sea.",
        "source | Breg",
        "mouth | Black Sea",
        "[picture: a map]",
    ]
    # The address before a redirection, and one with other signs for the same.
    for url in (
        "http://WWW.rivers.example:80/#x",
        "https://rivers.example",
        "http://rivers.example/",
    ):
        assert "Rivers of Europe" in box.call("open", {"url": url, "part": "1"}).text
    assert "secret comment" not in page
    second = box.call("open", {"url": "https://rivers.example/rhine?x=1", "part": "2"})
    assert "(part 2 of 2)" in second.text
    links = box.call("links", {"url": "https://rivers.example/"}).text.splitlines()
    assert links == [
        "* Danube -> https://rivers.example/danube",
        "* Rhine -> https://rivers.example/rhine?x=1#top",
        "- elsewhere -> https://elsewhere.example/",
    ]


def test_pages_that_are_not_there_are_said_and_not_found(tmp_path, caplog):
    (tmp_path / "a.txt").write_text("a river")
    lines = [{"url": f"https://x.test/{name}", "file": f"{name}.txt"} for name in ("a", "b", "c")]
    (tmp_path / "index.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = snapshot.Snapshot(tmp_path)
    found.read_all()
    assert "2 pages cannot be read, such as https://x.test/b: 'b.txt': No such file" in caplog.text
    assert found.search("river").startswith("1. https://x.test/a")
    found.close()


def test_ranking_is_bm25(web):
    """Against the formula, worked here on the same words."""
    hits = web.search("danube black sea sea").splitlines()
    assert [line.strip() for line in hits[1::3]] == [
        "https://rivers.example/danube",
        "https://rivers.example/",
        "https://rivers.example/rhine?x=1",
    ]
    documents = {
        url: snapshot._words(f"{web.read(url).title} " * 2 + web.read(url).text)
        for url in list(web_trees.PAGES)[:3]
    }
    mean = sum(map(len, documents.values())) / 3

    def score(words):
        total = 0.0
        for word in ("danube", "black", "sea"):
            n = sum(word in other for other in documents.values())
            f = words.count(word)
            norm = f + 1.2 * (1 - 0.75 + 0.75 * len(words) / mean)
            total += math.log(1 + (3 - n + 0.5) / (n + 0.5)) * f * 2.2 / norm
        return total

    scores = {url: score(words) for url, words in documents.items()}
    assert sorted(scores, key=scores.get, reverse=True) == [line.strip() for line in hits[1::3]]
    assert "1233" in web.search("rhine 1233 km").splitlines()[2]


REFUSED = [
    ("open", {"url": "https://elsewhere.example/", "part": "1"}, "not in the snapshot"),
    ("open", {"url": "https://rivers.example/map.png", "part": "1"}, "is no text"),
    ("open", {"url": "https://rivers.example/", "part": "2"}, "1 to 1"),
    ("open", {"url": "https://rivers.example/", "part": "-1"}, "1 to 1"),
    ("open", {"url": "https://rivers.example/", "part": "9" * 99}, "1 to 1"),
    ("search", {"query": " ?! "}, "at least one word"),
    ("find", {"url": "", "text": ""}, "not in the snapshot"),
]


@pytest.mark.parametrize(("tool", "arguments", "cause"), REFUSED)
def test_refusals_say_why(web, tool, arguments, cause):
    reply = Toolbox(web.tools()).call(tool, arguments)
    assert reply.failed
    assert cause in reply.text


ADDRESSES = [
    "file:///etc/passwd",
    "file://{place}/secret.html",
    "{place}/secret.html",
    "/etc/passwd",
    "../secret.html",
    "https://rivers.example/../secret.html",
    "https://rivers.example/%2e%2e/secret.html",
    "https://rivers.example/link",
    "https://rivers.example/up",
    "https://rivers.example/absolute",
    "https://rivers.example/parent",
    "https://rivers.example/pipe",
    "https://rivers.example/folder",
    "https://rivers.example/nul",
    "https://rivers.example/loop1",
    "https://rivers.example/astray",
    "https://rivers.example/tofile",
    "http://127.0.0.1/",
    "http://[::1]/",
    "http://[::1",
    "http://localhost:9/",
    "http://169.254.169.254/latest/meta-data",
    "https://user:pass@rivers.example/secret",
    "https://rivers.example:99999/",
    "https://rivers.example\\@elsewhere.example/",
    "ftp://rivers.example/",
    "data:text/html,x",
    "javascript:1",
    "gopher://x",
    "//rivers.example/danube",
    "https://" + "a" * 5000,
    "https://\ud800.example/",
    "https://rivers.example/\0",
    "",
]


@pytest.fixture(scope="module")
def trapped():
    """A snapshot whose index and files point outside."""
    with workspace.run_folder() as place:
        (place / "secret.html").write_text(SECRET)
        root = place / "web"
        root.mkdir()
        (root / "link.html").symlink_to(place / "secret.html")
        (root / "up").symlink_to("..")
        (root / "folder.html").mkdir()
        os.mkfifo(root / "pipe.html")
        names = {
            "link": "link.html",
            "up": "up/secret.html",
            "absolute": str(place / "secret.html"),
            "parent": "../secret.html",
            "pipe": "pipe.html",
            "folder": "folder.html",
            "nul": "a\0.html",
            "etc": "/etc/passwd",
        }
        lines = [{"url": f"https://rivers.example/{k}", "file": v} for k, v in names.items()]
        for source, target in (
            ("loop1", "https://rivers.example/loop2"),
            ("loop2", "https://rivers.example/loop1"),
            ("astray", "http://169.254.169.254/"),
            ("tofile", f"file://{place}/secret.html"),
        ):
            lines.append({"url": f"https://rivers.example/{source}", "redirect": target})
        (root / "index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        found = snapshot.Snapshot(root)
        yield found, place
        found.close()


@pytest.mark.parametrize("address", ADDRESSES, ids=[entry[:50] for entry in ADDRESSES])
def test_addresses_that_lead_out(trapped, address):
    web, place = trapped
    url = address.replace("{place}", str(place))
    box = Toolbox(web.tools())
    for tool, more in (("open", {"part": "1"}), ("find", {"text": "label"}), ("links", {})):
        reply = box.call(tool, {"url": url, **more})
        assert reply.failed, (tool, reply.text)
        assert SECRET not in reply.text
        assert "root:x:0" not in reply.text
    assert web.get(url) is None
    assert SECRET not in box.call("search", {"query": "label root"}).text


HTML = [
    b"",
    b"<" * 20_000,
    b"<a" * 10_000,
    b"<a" * 500_000,
    b"<div>" * 2_000 + b"deep",
    b"<!--" * 5_000,
    b"<![CDATA[" * 2_000,
    b"<!DOCTYPE x [<!ENTITY s SYSTEM 'file:///etc/passwd'>]><p>&s;</p>",
    b"<a href='http://[::1'>x</a>",
    b"<a href=\xff\xfe>\xff\xfe\x00</a>",
    b"\xff\xfe<\x00h\x001\x00>\x00",
    b"<title></title><base href='file:///'><a href='etc/passwd'>x</a>",
    b"<meta charset='utf-7'>+ADw-script+AD4-",
    b"&#x0;&#xD800;&#99999999999999;",
    b"<a href='x'>" * 500,
]


def test_a_reader_that_does_not_start_says_nothing_of_the_pages(data, tmp_path, monkeypatch):
    """It ends the sample, with what the reader said, and is no page that cannot be found."""
    before = set(os.listdir(data))
    broken = tmp_path / "jaxlab"
    broken.mkdir()
    (broken / "__init__.py").write_text("<<<<<<< HEAD\n")
    web = snapshot.Snapshot(data / "web")
    box = Toolbox(web.tools())
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setenv("PYTHONPATH", str(tmp_path))
        with pytest.raises(Unavailable, match=r"html_text does not start: .*SyntaxError"):
            web.read_all()
        with pytest.raises(Unavailable):
            box.call("search", {"query": "danube"})
        with pytest.raises(Unavailable, match="SyntaxError"):
            box.call("open", {"url": "https://rivers.example/danube", "part": "1"})
    assert box.call("search", {"query": "danube"}).text.startswith("1. Danube\n")
    web.close()
    assert set(os.listdir(data)) == before


def test_a_reader_that_somebody_kills_is_started_again(data):
    web = snapshot.Snapshot(data / "web")
    box = Toolbox(web.tools())
    page = {"url": "https://rivers.example/danube", "part": "1"}
    web.read("https://rivers.example/")
    os.kill(web._worker._child.pid, signal.SIGKILL)
    with pytest.raises(Unavailable, match="was killed"):
        box.call("open", page)
    assert "2850" in box.call("open", page).text
    web.close()
    # A tool that is still under way starts none for a sample that has ended.
    with pytest.raises(ToolError, match="has ended"):
        web._worker.call("extract", b"", {"url": ""})
    assert web._worker._child is None


def test_hostile_pages_are_read_or_given_up(tmp_path):
    """One page each; a parser that takes too long is stopped."""
    lines = []
    for i, content in enumerate(HTML):
        (tmp_path / f"{i}.html").write_bytes(content)
        lines.append(json.dumps({"url": f"https://x.example/{i}", "file": f"{i}.html"}))
    (tmp_path / "index.jsonl").write_text("\n".join(lines))
    web = snapshot.Snapshot(tmp_path, seconds=0.5)
    box = Toolbox(web.tools())
    stopped = 0
    for i in range(len(HTML)):
        reply = box.call("open", {"url": f"https://x.example/{i}", "part": "1"})
        assert "root:x:0" not in reply.text
        assert not reply.failed or "took more than 0.5 s" in reply.text
        stopped += reply.failed
    assert stopped >= 1
    web.close()


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("{", "1: malformed JSON"),
        ("[]", "1: expected an object"),
        ("1", "1: expected an object"),
        ('{"url": 1}', "1: expected an object of texts"),
        ('{"url": "x", "file": "y"}', "1: url must be an http"),
        ('{"url": "https://x"}', "1: expected either file or redirect"),
        ('{"url": "https://x", "file": "y", "redirect": "z"}', "1: expected either"),
        (
            '{"url": "https://x", "file": "y"}\n{"url": "http://X:80/#a", "file": "z"}',
            "2: the addr",
        ),
    ],
)
def test_a_bad_index_is_named(tmp_path, line, cause):
    (tmp_path / "index.jsonl").write_text(line)
    with pytest.raises(ValueError, match=cause):
        snapshot.Snapshot(tmp_path)


def test_without_an_index(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has an index\.jsonl"):
        snapshot.Snapshot(pathlib.Path(tmp_path))


def test_blocks_and_links():
    page = b"<p>a <i>b</i>c<br>d</p><div>e<div>f</div>g</div><a href='../x'>  h\n i </a>"
    assert html_text.extract(page, "https://y.example/z/w") == (
        "",
        "a bc\nd\ne\nf\ng\nh i",
        [("h i", "https://y.example/x")],
    )
