import asyncio
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from jaxlab.evals.ajbench import trajectories
from jaxlab.evals.ajbench.environments import workspace
from jaxlab.evals.ajbench.sandbox import marks, programs
from jaxlab.evals.ajbench.sandbox.limits import ToolError
from jaxlab.evals.ajbench.sandbox.tools import Toolbox
from jaxlab.evals.ajbench.web import actions, browser, dom, pages, snapshot
from tests.evals.ajbench import web_trees

SECRET = "the label is 1"
FORM = """<!doctype html><title>Shop</title>
<style>* {margin: 0; font: 16px monospace; box-sizing: border-box}
button, input {position: absolute; left: 100px; width: 200px; height: 40px}</style>
<h1>Orders</h1>
<input id=name aria-label=name style="top: 100px">
<button id=save style="top: 200px" onclick="document.title = 'saved ' + name_()">Save</button>
<div id=pad style="position: absolute; top: 300px; left: 100px; width: 200px; height: 100px;
 user-select: none"
 aria-label=pad role=button>pad</div>
<iframe src=inner.html style="position: absolute; left: 400px; top: 100px; border: 0"></iframe>
<p style="position: absolute; top: 3000px">far below</p>
<script>
function name_() { return document.getElementById('name').value }
const pad = document.getElementById('pad');
for (const kind of ['dblclick', 'contextmenu', 'mouseenter'])
  pad.addEventListener(kind, () => pad.textContent += ' ' + kind);
let held = null;
pad.addEventListener('mousedown', event => held = event.clientX);
document.addEventListener('mouseup', event => {
  const way = event.clientX - held;
  if (held !== null && way) pad.textContent += ' dragged ' + way;
  held = null;
});
</script>"""


@pytest.fixture(scope="session")
def chromium():
    try:
        return browser.program()
    except FileNotFoundError as error:
        pytest.skip(f"{error}")


class Canary:
    """A server outside of every sample: whoever reaches it has broken out."""

    def __init__(self):
        self.reached = 0
        self._tcp = socket.create_server(("127.0.0.1", 0))
        self.port = self._tcp.getsockname()[1]
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", self.port))
        for listen in (self._accept, self._receive):
            threading.Thread(target=listen, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self._tcp.accept()
            except OSError:
                return
            self.reached += 1
            connection.close()

    def _receive(self):
        while True:
            try:
                self._udp.recv(100)
            except OSError:
                return
            self.reached += 1

    def close(self):
        for listening in (self._tcp, self._udp):
            listening.close()


@pytest.fixture(scope="module")
def canary():
    found = Canary()
    yield found
    found.close()


@pytest.fixture(scope="module")
def place(chromium):
    """A folder that a browser can be opened in, with a secret beside the sample."""
    with workspace.run_folder() as folder:
        (folder / "secret.txt").write_text(SECRET)
        (folder / "secret.html").write_text(SECRET)
        root = folder / "sample"
        root.mkdir(mode=0o711)
        (root / "index.html").write_text(FORM)
        (root / "inner.html").write_text("<p>inside</p><input type=checkbox aria-label=tick>")
        (root / "second.html").write_text("<title>Second</title><a href=index.html>first</a>")
        (root / "link.txt").symlink_to(folder / "secret.txt")
        (root / "link.html").symlink_to(folder / "secret.html")
        (root / "up").symlink_to("..")
        (root / "slash").symlink_to("/")
        os.mkfifo(root / "pipe.txt")
        yield root


def _opened(place):
    page = pages.Page(place, names=("/", "/home/user"))
    yield page
    page.close()


@pytest.fixture(scope="module")
def page(place):
    """The one browser of this module, for all but those that kill theirs."""
    yield from _opened(place)


@pytest.fixture
def box(page):
    page.open("index.html")
    return Toolbox(page.tools(read_only=False))


def call(box, name, *arguments):
    reply = box.call(name, dict(zip(box.tools[name].parameters, arguments, strict=True)))
    assert not reply.failed, (name, reply.text)
    return reply.text


def test_reading_changes_nothing(page, box):
    before = page.digest()
    reading = Toolbox(page.tools(read_only=True))
    tree = call(reading, "accessibility_tree")
    for line in (
        "heading 'Orders' level 1",
        "textbox 'name' (100, 100, 200, 40)",
        "button 'Save' (100, 200, 200, 40)",
        "StaticText 'far below' (0, 3000,",
    ):
        assert line in tree
    # A frame's nodes have the window's coordinates.
    (tick,) = (line for line in tree.splitlines() if "checkbox 'tick'" in line)
    x = float(tick.partition("(")[2].partition(",")[0])
    assert 400 <= x < 500
    assert "out of view" in next(line for line in tree.splitlines() if "far below" in line)
    picture = pathlib.Path(call(reading, "screenshot")).read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert [int.from_bytes(picture[i : i + 4]) for i in (16, 20)] == [1280, 720]
    assert "inside" in call(reading, "read_page")
    assert call(reading, "find_in_page", "ORDERS") == "Orders"
    assert page.digest() == before
    assert set(reading.tools) == {"accessibility_tree", "screenshot", "read_page", "find_in_page"}


def test_acting(page, box):
    before = page.digest()
    call(box, "CLICK", "150", "120")
    call(box, "TYPING", "helo")
    call(box, "PRESS", "left")
    call(box, "TYPING", "l")
    assert page.digest() != before
    assert "saved hello" in call(box, "CLICK", "150", "220")
    call(box, "CLICK", "150", "120")
    call(box, "HOTKEY", "ctrl+a")
    call(box, "KEY_DOWN", "shift")
    call(box, "PRESS", "a")
    call(box, "KEY_UP", "shift")
    call(box, "PRESS", "tab")
    assert "saved A" in call(box, "PRESS", "enter")
    call(box, "MOVE_TO", "150", "350")
    call(box, "DOUBLE_CLICK", "", "")
    call(box, "RIGHT_CLICK", "150", "350")
    call(box, "DRAG_TO", "190", "350")
    call(box, "MOUSE_DOWN")
    call(box, "MOVE_TO", "160", "350")
    call(box, "MOUSE_UP")
    text = call(box, "find_in_page", "pad")
    assert text == "pad mouseenter dblclick contextmenu dragged 40 dragged -30"
    call(box, "SCROLL", "0", "-20")
    assert "'far below' (0, 1000," in call(box, "accessibility_tree")
    assert "'Second'" in call(box, "open", "second.html")
    assert "'Shop'" in call(box, "back")
    assert "'Second'" in call(box, "open", "file:///home/user/second.html")
    assert call(box, "DONE") == "done"


RECORDED = [
    "pyautogui.click(150, 120)",
    "pyautogui.typewrite('hello', interval=0.05)",
    {"action_type": "CLICK", "parameters": {"x": 150, "y": 220}},
    {"action_type": "HOTKEY", "parameters": {"keys": ["shift", "tab"]}},
    "WAIT",
    "pyautogui.press('end'); pyautogui.write('!')",
    "DONE",
]


def test_a_recorded_trajectory_is_replayed_to_the_same_state(page, box):
    lines = [json.dumps({"step_num": i, "action": action}) for i, action in enumerate(RECORDED)]
    steps = actions.translated(trajectories.from_actions(lines))
    digests = []
    for _ in range(2):
        page.open("second.html")
        page.open("index.html")
        replies = [box.call(c.name, c.arguments) for step in steps for c in step.calls]
        assert not [reply.text for reply in replies if reply.failed]
        assert "value 'hello!'" in page.outline()
        digests.append(page.digest())
    assert digests[0] == digests[1]
    call(box, "TYPING", "?")
    assert page.digest() != digests[0]


REFUSED = [
    ("CLICK", ("1280", "1"), "outside the window"),
    ("CLICK", ("-1", "1"), "outside the window"),
    ("CLICK", ("nan", "1"), "outside the window"),
    ("CLICK", ("inf", "1"), "outside the window"),
    ("CLICK", ("", "1"), "no place"),
    ("CLICK", ("one", "1"), "no place"),
    ("SCROLL", ("0", "1e9"), "1000 steps"),
    ("SCROLL", ("0", "nan"), "1000 steps"),
    ("SCROLL", ("x", "0"), "two numbers"),
    ("PRESS", ("",), "no key"),
    ("PRESS", ("F99",), "no key"),
    ("PRESS", ("ab",), "no key"),
    ("PRESS", ("Control+t",), "no key"),
    ("KEY_DOWN", ("\0",), "no key"),
    ("HOTKEY", ("ctrl+nothing",), "no key"),
    ("TYPING", ("x" * 10_001,), "10000 at most"),
]


def test_bad_arguments_are_refused(page, box):
    before = page.digest()
    for name, arguments, cause in REFUSED:
        reply = box.call(name, dict(zip(box.tools[name].parameters, arguments, strict=True)))
        assert reply.failed, (name, arguments)
        assert cause in reply.text, reply.text
    assert page.digest() == before


# Addresses that the tool itself is asked for.
ADDRESSES = [
    "http://127.0.0.1:{port}/",
    "http://localhost:{port}/",
    "http://[::1]:{port}/",
    "https://example.com/",
    "http://169.254.169.254/latest/meta-data/",
    "file:///etc/passwd",
    "file://{place}/secret.txt",
    "file:///{place}/secret.txt",
    "file://localhost/etc/passwd",
    "file:///proc/self/environ",
    "file:///up/secret.txt",
    "file:///slash/etc/passwd",
    "file:///home/user/../../secret.txt",
    "file:///%2e%2e/secret.txt",
    "https://sample.test/../secret.txt",
    "https://sample.test/%2e%2e%2fsecret.txt",
    "https://sample.test/..%5csecret.txt",
    "https://sample.test/link.txt",
    "https://sample.test/link.html",
    "https://sample.test/up/secret.txt",
    "https://sample.test/slash/etc/passwd",
    "https://sample.test/pipe.txt",
    "https://sample.test/up/",
    "https://sample.test//etc/passwd",
    "https://sample.test@127.0.0.1:{port}/",
    "https://sample.test:{port}/index.html",
    "https://sample.test.evil.example/",
    "http://sample.test/index.html",
    "view-source:file:///etc/passwd",
    "chrome://settings",
    "chrome://inspect",
    "devtools://devtools/bundled/inspector.html",
    "chrome-extension://x/",
    "javascript:fetch('http://127.0.0.1:{port}')",
    "data:text/html,<iframe src=file:///etc/passwd>",
    "blob:https://sample.test/x",
    "about:blank",
    "ftp://127.0.0.1:{port}/",
    "ws://127.0.0.1:{port}/",
    "filesystem:https://sample.test/temporary/x",
    "\\\\10.0.0.1\\share\\x",
    "../secret.txt",
    "link.txt",
    "",
    "\0",
]


def test_addresses_that_lead_out_are_refused(page, box, place, canary):
    for address in ADDRESSES:
        url = address.format(port=canary.port, place=place.parent)
        reply = box.call("open", {"url": url})
        text = page.text()
        assert SECRET not in text + reply.text, address
        assert "root:" not in text, address
        assert reply.failed or "://" not in url, (address, reply.text)
    assert "'Shop'" in call(box, "open", "")  # the folder's own index
    assert canary.reached == 0


GET = "fetch('{url}').then(r => r.text()).then(t => document.body.append(t))"
XHR = (
    "(x => {{x.onload = () => document.body.append(x.responseText);"
    "x.open('GET', '{url}'); x.send()}})(new XMLHttpRequest())"
)
FRAME = (
    "<iframe src='{url}' onload='try {{document.body.append(this.contentDocument.body.innerText)}} "
    "catch (e) {{}}'></iframe>"
)
# What a page does by itself; {url} runs over the targets below.
TRIES = {
    "picture": "<img src='{url}'>",
    "frame": FRAME,
    "frame in a frame": "<iframe srcdoc=\"<iframe src='{url}'></iframe>\"></iframe>",
    "object": "<object data='{url}' type='text/html'></object>",
    "embed": "<embed src='{url}' type='text/plain'>",
    "style": "<link rel=stylesheet href='{url}'>",
    "import in a style": "<style>@import '{url}';</style>",
    "font": "<style>@font-face {{font-family: x; src: url('{url}')}} body {{font: 9px x}}</style>x",
    "script": "<script src='{url}'></script>",
    "module": "<script type=module>import '{url}'</script>",
    "video": "<video src='{url}' autoplay></video>",
    "svg": "<svg><image href='{url}'/><use href='{url}#x'/></svg>",
    "fetch": f"<script>{GET}</script>",
    "xhr": f"<script>{XHR}</script>",
    "beacon": "<script>navigator.sendBeacon('{url}', 'x')</script>",
    "events": "<script>new EventSource('{url}')</script>",
    "worker": "<script>new Worker('{url}')</script>",
    "fetch of a worker": "<script>new Worker(URL.createObjectURL(new Blob([\"fetch('{url}')\"])))"
    "</script>",
    "import of a worker": "<script>new Worker(URL.createObjectURL(new Blob("
    "[\"importScripts('{url}')\"])))</script>",
    "service worker": "<script>navigator.serviceWorker.register('{url}')</script>",
    "preload": "<link rel=preload as=fetch href='{url}'><link rel=prefetch href='{url}'>"
    "<link rel=preconnect href='{url}'>",
    "manifest": "<link rel=manifest href='{url}'><link rel=icon href='{url}'>",
}
# Those that lead away from the page, so that each has one of its own.
LEAVING = {
    "refresh": "<meta http-equiv=refresh content='0; url={url}'>",
    "location": "<script>location = '{url}'</script>",
    "window": "<script>open('{url}')</script>",
    "form": "<form action='{url}' method=post><input name=a value=b></form>"
    "<script>document.forms[0].submit()</script>",
    "download": "<a id=a href='{url}' download=x>x</a><script>a.click()</script>",
    "ping": "<a id=a href='#' ping='{url}'>x</a><script>a.click()</script>",
    "base": "<base href='{url}/'><img src=x.png><script src=y.js></script>",
}
TARGETS = {
    "the network": "http://127.0.0.1:{port}/x",
    "a file": "file:///etc/passwd",
    "a file beside": "file://{place}/secret.html",
    "a link": "https://sample.test/link.html",
}
# What does not go by an address of these.
OTHERS = {
    "socket": "<script>new WebSocket('ws://127.0.0.1:{port}/')</script>",
    "socket of a worker": "<script>new Worker(URL.createObjectURL(new Blob("
    "[\"new WebSocket('ws://127.0.0.1:{port}/')\"])))</script>",
    "peer": "<script>var p = new RTCPeerConnection({{iceServers: [{{urls: "
    "'stun:127.0.0.1:{port}'}}]}}); p.createDataChannel('x');"
    "p.createOffer().then(o => p.setLocalDescription(o))</script>",
    "transport": "<script>new WebTransport('https://127.0.0.1:{port}/')</script>",
    "name": "<img src='http://{port}.evil.example/'>",
    "frame of data": "<iframe src=\"data:text/html,<script>fetch('http://127.0.0.1:{port}')</script>\">"
    "</iframe>",
    "scheme": "<script>location = 'mailto:x@127.0.0.1'</script>",
    "chosen file": "<input type=file id=f><script>f.click()</script>",
    "picker": "<script>showOpenFilePicker().catch(() => 0)</script>",
    "clipboard": "<script>navigator.clipboard.readText().then("
    "t => document.title = 'got')</script>",
    "place": "<script>navigator.geolocation.getCurrentPosition("
    "p => document.title = 'got')</script>",
    "camera": "<script>navigator.mediaDevices.getUserMedia({{video: 1}})"
    ".then(() => document.title = 'got')</script>",
    "dialog": "<script>alert('x'); confirm('x'); prompt('x'); print()</script>",
    "many windows": "<script>for (let i = 0; i < 50; i++) open('about:blank')</script>",
    "no leaving": "<script>onbeforeunload = e => {{e.preventDefault(); return 'stay'}}</script>",
    "closing": "<script>window.close()</script>",
}


# Those of them that need a page of their own: they end, cover or leave it.
ALONE = {"scheme", "dialog", "many windows", "no leaving", "closing"}


def attempts(port, place, together):
    """Name, content and number of attempts of every page; up to so many kinds stand on one."""
    urls = {name: url.format(port=port, place=place) for name, url in TARGETS.items()}
    kinds = {k: "".join(body.format(url=url) for url in urls.values()) for k, body in TRIES.items()}
    counts = dict.fromkeys(kinds, len(urls))
    for kind, body in OTHERS.items():
        if kind not in ALONE:
            kinds[kind], counts[kind] = body.format(port=port), 1
    names = list(kinds)
    for some in (names[i : i + together] for i in range(0, len(names), together)):
        yield ", ".join(some), "".join(kinds[k] for k in some), sum(counts[k] for k in some)
    for i, (kind, body) in enumerate(LEAVING.items()):
        targets = list(urls.items())
        if together > 1:  # each kind to two targets, and each target from several kinds
            targets = [targets[(i + j) % len(targets)] for j in (0, 2)]
        for name, url in targets:
            yield f"{kind} to {name}", body.format(url=url), 1
    for kind in sorted(ALONE):
        yield kind, OTHERS[kind].format(port=port), 1


def break_out(page, place, canary, both):
    """Opens every page, at one of the sample's origins in turn or at both; how many attempts.

    With both, every kind has a page of its own; otherwise several share one.
    """
    count = 0
    before = sorted(str(path) for path in place.parent.rglob("*") if "scratch" not in str(path))
    for i, (name, body, number) in enumerate(attempts(canary.port, place.parent, 1 if both else 6)):
        (place / "try.html").write_text(f"<title>try</title><body>{body}</body>")
        starts = ("https://sample.test/try.html", f"file:///try.html?{i}")
        for start in starts if both else (starts[i % 2],):
            page.open(start)
            try:
                seen = page.text() + page.outline()
            except ToolError as error:  # it has closed itself
                seen = str(error)
            assert SECRET not in seen, (name, start)
            assert "root:" not in seen, (name, start)
            assert "'got'" not in seen, (name, start)
            count += number
    (place / "try.html").unlink()
    time.sleep(0.3)
    assert canary.reached == 0
    after = sorted(str(path) for path in place.parent.rglob("*") if "scratch" not in str(path))
    assert after == before
    return count


def test_pages_that_want_out(page, place, canary):
    assert break_out(page, place, canary, both=False) >= 118
    assert "'Shop'" in page.open("index.html")
    assert any(f"127.0.0.1:{canary.port}" in url for url in page.refused)


@pytest.mark.slow
def test_pages_that_want_out_where_there_is_a_network(place, canary, monkeypatch):
    """The same without the namespace: interception and proxy alone hold them."""
    strict = programs.confinement()
    prefix = tuple(word for word in strict.prefix if word not in ("unshare", "--net"))
    loose = programs.Confinement(prefix, False, strict.uid)
    monkeypatch.setattr(programs, "confinement", lambda: loose)
    for page in _opened(place):
        assert break_out(page, place, canary, both=True) >= 260


def test_pages_that_do_not_answer(place):
    """A page that never ends, and one that takes all memory: the browser is closed, and says so."""
    (place / "loop.html").write_text(
        "<button style='position: fixed; inset: 0' onclick='for (;;);'>x</button>"
    )
    page = pages.Page(place, "loop.html", seconds=3.0)
    try:
        box = Toolbox(page.tools(False))
        start = time.monotonic()
        reply = box.call("CLICK", {"x": "100", "y": "100"})
        second = box.call("accessibility_tree", {})
        assert reply.failed or second.failed
        assert "did not answer within 3 s" in reply.text + second.text
        assert time.monotonic() - start < 20
        assert box.call("read_page", {}).failed
        assert not alive(page._session.scratch)
    finally:
        page.close()
        (place / "loop.html").unlink()


def alive(folder):
    """Processes of a folder that run: zombies are those whose parent has not looked yet."""
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            mine = f"{marks.MARK}={folder}".encode() in (entry / "environ").read_bytes()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if mine and state != "Z":
            found.append(int(entry.name))
    return found


KILLED = """
import pathlib, sys, time
from jaxlab.evals.ajbench.web import pages
from jaxlab.evals.ajbench.environments import workspace
with workspace.run_folder(pathlib.Path(sys.argv[1])) as run:
    folder = run / 's'
    folder.mkdir(mode=0o711)
    (folder / 'index.html').write_text('<p>x')
    page = pages.Page(folder)
    print(run, page._session.scratch, flush=True)
    time.sleep(120)
"""


def test_nothing_outlives_a_killed_run(chromium):
    """After kill -9 the browser ends by itself, and the next run removes the rest."""
    with workspace.run_folder() as outer:
        base = outer / "base"
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(base)], stdout=subprocess.PIPE, text=True
        )
        run, scratch = map(pathlib.Path, child.stdout.readline().split())
        drivers = pathlib.Path(f"/proc/{child.pid}/task/{child.pid}/children").parents[1]
        children = " ".join(path.read_text() for path in drivers.glob("*/children")).split()
        assert alive(scratch)
        assert children
        child.send_signal(signal.SIGKILL)
        child.wait()
        for _ in range(100):
            left = [pid for pid in children if pathlib.Path(f"/proc/{pid}").exists()]
            if not alive(scratch) and not left:
                break
            time.sleep(0.1)
        assert not alive(scratch)
        assert not left
        assert run.exists()
        with workspace.run_folder(base):
            assert not run.exists()


def test_a_sweep_ends_what_a_dead_run_has_left(tmp_path):
    """Also a program that would have gone on, and no other one."""
    run = tmp_path / "run-dead"
    run.mkdir()
    (tmp_path / "run-dead.lock").touch()
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    marked = {**os.environ, marks.MARK: str(run / "s")}
    other = {**os.environ, marks.MARK: f"{run}-other/s"}
    mine, spared = subprocess.Popen(sleep, env=marked), subprocess.Popen(sleep, env=other)
    try:
        for _ in range(100):  # the environment is there once the program is
            if alive(run / "s") == [mine.pid] and alive(f"{run}-other/s") == [spared.pid]:
                break
            time.sleep(0.05)
        assert workspace.sweep(tmp_path) == [run]
        assert mine.wait(10) == -signal.SIGKILL
        assert spared.poll() is None
    finally:
        for process in (mine, spared):
            process.kill()
            process.wait()


def test_the_snapshot_in_the_browser(chromium):
    """Browsing is reading there: what is judged is the answer."""
    with workspace.run_folder() as folder:
        web = web_trees.make(folder / "data") / "web"
        own = folder / "own"
        own.mkdir(mode=0o711)
        found = snapshot.Snapshot(web)

        async def browse():
            # An environment is used from within an event loop too.
            page = pages.Page(own, "http://www.rivers.example", snapshot=found)
            try:
                before = page.digest()
                box = Toolbox(page.tools(read_only=True))
                assert "Rivers, scripted" in page.outline()
                line = next(x for x in page.outline().splitlines() if "link 'Danube'" in x)
                x, y = line.partition("(")[2].split(",")[:2]
                at = call(box, "CLICK", str(float(x) + 2), str(float(y) + 2))
                assert "https://rivers.example/danube 'Danube'" in at
                assert "2850" in call(box, "find_in_page", "long")
                assert box.call("open", {"url": "https://elsewhere.example/"}).failed
                assert page.digest() == before
            finally:
                page.close()

        asyncio.run(browse())
        found.close()
        assert sorted(path.name for path in folder.iterdir()) == ["data", "own"]


def test_it_runs_without_privileges(page):
    """Where the tests run as root: as nobody, with its own sandbox, without a network."""
    confinement = programs.confinement()
    processes = alive(page._session.scratch)
    assert processes
    for pid in processes:
        assert pathlib.Path(f"/proc/{pid}").stat().st_uid == confinement.uid
        command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        assert (b"--no-sandbox" in command) == (confinement.uid == 0)
        if confinement.offline:
            assert os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")


def test_a_folder_that_the_browser_cannot_reach(chromium, tmp_path):
    if programs.confinement().uid == os.getuid():
        pytest.skip("programs run as the same user here")
    (tmp_path / "closed").mkdir(mode=0o700)
    (tmp_path / "closed" / "s").mkdir()
    with pytest.raises(PermissionError, match=r"workspace\.run_folder"):
        pages.Page(tmp_path / "closed" / "s")


def test_without_chromium_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv(browser.VARIABLE, raising=False)
    with pytest.raises(FileNotFoundError, match="apt-get install chromium"):
        pages.Page(tmp_path)
    monkeypatch.setenv(browser.VARIABLE, "/nowhere/chromium")
    with pytest.raises(FileNotFoundError, match="at /nowhere/chromium"):
        pages.Page(tmp_path)


def test_the_state_holds_what_forms_hold():
    """By hand: two nodes, of which the value of one differs."""
    nodes = {
        "parentIndex": [-1, 0],
        "nodeType": [9, 1],
        "nodeName": [0, 1],
        "nodeValue": [-1, -1],
        "attributes": [[], [2, 3]],
        "textValue": {"index": [], "value": []},
        "inputValue": {"index": [1], "value": [4]},
        "inputChecked": {"index": []},
        "optionSelected": {"index": []},
    }
    answer = {
        "strings": ["#document", "INPUT", "id", "name", "a", "b", "https://x/"],
        "documents": [{"documentURL": 6, "nodes": nodes}],
    }
    first = dom.state(answer, [])
    assert dom.state(answer, []) == first
    assert dom.state(answer, ["cookie"]) != first
    for name, value in (
        ("inputValue", {"index": [1], "value": [5]}),
        ("inputChecked", {"index": [1]}),
        ("attributes", [[], [2, 5]]),
    ):
        changed = {**answer, "documents": [{"documentURL": 6, "nodes": {**nodes, name: value}}]}
        assert dom.state(changed, []) != first
