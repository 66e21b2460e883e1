"""A page in a real browser as an environment: looked at, clicked, typed into.

The tools for acting have the names of OSWorld's action space, on which the benchmark's GUI judges
act. A sample's own files are at https://sample.test/ and at file:///, the pages of a snapshot at
their own addresses, and nothing else exists.
"""

import asyncio
import base64
import contextlib
import hashlib
import html
import json
import mimetypes
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from playwright import async_api

from jaxlab.evals.ajbench.sandbox.files import Tree
from jaxlab.evals.ajbench.sandbox.limits import DEFAULT, Limits, ToolError
from jaxlab.evals.ajbench.sandbox.tools import Shown, Tool
from jaxlab.evals.ajbench.web import dom
from jaxlab.evals.ajbench.web.browser import Session
from jaxlab.evals.ajbench.web.snapshot import Snapshot, normal

# Of a name that is reserved and that no resolver knows (RFC 6761).
ORIGIN = "https://sample.test"
# Pixels of one step of the wheel. How far a step goes on the benchmark's desktop is not known.
STEP = 100
MAX_TYPED = 10_000  # characters

# pyautogui's name of a key -> the browser's.
KEYS = {
    "ctrl": "Control",
    "ctrlleft": "Control",
    "ctrlright": "Control",
    "control": "Control",
    "shift": "Shift",
    "shiftleft": "Shift",
    "shiftright": "Shift",
    "alt": "Alt",
    "altleft": "Alt",
    "altright": "Alt",
    "option": "Alt",
    "win": "Meta",
    "winleft": "Meta",
    "command": "Meta",
    "enter": "Enter",
    "return": "Enter",
    "\n": "Enter",
    "esc": "Escape",
    "escape": "Escape",
    "tab": "Tab",
    "\t": "Tab",
    "space": "Space",
    "backspace": "Backspace",
    "delete": "Delete",
    "del": "Delete",
    "insert": "Insert",
    "home": "Home",
    "end": "End",
    "pageup": "PageUp",
    "pgup": "PageUp",
    "pagedown": "PageDown",
    "pgdn": "PageDown",
    "up": "ArrowUp",
    "down": "ArrowDown",
    "left": "ArrowLeft",
    "right": "ArrowRight",
    "capslock": "CapsLock",
    **{f"f{i}": f"F{i}" for i in range(1, 13)},
}


class Page:
    """The browser of one sample.

    Attributes:
        refused: addresses that a page asked for and did not get.
    """

    def __init__(
        self,
        folder: Path,
        start: str = "index.html",
        snapshot: Snapshot | None = None,
        names: tuple[str, ...] = ("/",),
        width: int = 1280,
        height: int = 720,
        limits: Limits = DEFAULT,
        seconds: float = 30.0,
    ):
        """Starts the browser and opens the first page.

        Args:
            folder: holds the sample's files.
            start: address, or path in the folder; "" opens none.
            snapshot: more pages. Then what is judged is an answer and not the page, so that
                browsing counts as reading. It is not closed with this.
            names: absolute paths that mean the folder in file:// addresses, see `files.Tree`.
            width: of the window, in pixels.
            height: of the window.
            limits: `write_bytes` is the size at which a file is cut off.
            seconds: of one action; a page that does not answer is closed for good.

        Raises:
            FileNotFoundError: there is no Chromium.
            RuntimeError: it does not start, or cannot open the first page.
        """
        self._tree: Tree | None = Tree(folder, names, limits)
        self._snapshot = snapshot
        self._size = (width, height)
        self._mouse = (0.0, 0.0)
        self._session: Session | None = None
        try:
            self._session = Session(folder, self.serve, width, height, seconds)
            if start:
                self.open(start)
        except ToolError as error:
            self.close()
            raise RuntimeError(str(error)) from None
        except Exception:
            self.close()
            raise

    @property
    def refused(self) -> list[str]:
        """Addresses that were asked for and refused, the first thousand."""
        return self._open_session().refused

    def tools(self, read_only: bool) -> list[Tool]:
        """Looking and acting; without the latter where the page is judged and only to be read."""
        looking = [
            Tool("accessibility_tree", "Roles, names, places (x, y, w, h).", {}, self.outline),
            Tool("screenshot", "The window; gives the picture's path.", {}, self._picture),
            Tool("read_page", "The page's text, with that of its frames.", {}, self.text),
            Tool("find_in_page", "Lines that hold a text.", {"text": "in any case"}, self.find),
        ]
        if read_only and self._snapshot is None:
            return looking
        place = {"x": "pixels from the left, or empty for where the mouse is", "y": "from the top"}
        key = {"key": "such as a, enter, ctrl, pagedown"}
        return [
            *looking,
            Tool("open", "Go to an address.", {"url": "address, or path of a file"}, self.open),
            Tool("back", "Go back.", {}, lambda: self._act(_back)),
            Tool("MOVE_TO", "Move the mouse.", place, self._mover("move")),
            Tool("CLICK", "Click.", place, self._mover("click")),
            Tool("DOUBLE_CLICK", "Click twice.", place, self._mover("dblclick")),
            Tool("RIGHT_CLICK", "Click with the right button.", place, self._mover("right")),
            Tool("MOUSE_DOWN", "Hold the left button.", {}, lambda: self._act(_down)),
            Tool("MOUSE_UP", "Let the left button go.", {}, lambda: self._act(_up)),
            Tool("DRAG_TO", "Move with the left button held.", place, self._mover("drag")),
            Tool(
                "SCROLL",
                "Turn the wheel.",
                {"dx": "steps to the right", "dy": "steps, upwards if positive"},
                self._scroll,
            ),
            Tool("TYPING", "Type a text.", {"text": "the text"}, self._type),
            Tool("PRESS", "Press a key.", key, self._presser("press")),
            Tool("KEY_DOWN", "Hold a key.", key, self._presser("down")),
            Tool("KEY_UP", "Let a key go.", key, self._presser("up")),
            Tool("HOTKEY", "Press keys together.", {"keys": "such as ctrl+a"}, self._hotkey),
            Tool("DONE", "Say that all is done; changes nothing.", {}, lambda: "done"),
        ]

    def open(self, url: str) -> str:
        """Go to an address, or to a file of the sample."""
        if "://" not in url:
            url = f"{ORIGIN}/{url.lstrip('/')}"
        if self._snapshot is not None and self._snapshot.get(url) is not None:
            url = self._snapshot.address(url)
        if self.serve(url) is None:
            raise ToolError(f"{url!r:.300} is refused: it is no file or page of the sample")

        session = self._open_session()

        async def go() -> str:
            page = await session.only()
            # A page may lead elsewhere before it has loaded; `_settled` waits for what comes of it.
            await page.goto(url, wait_until="commit")
            return await _settled(session)

        return session.run(go())

    def outline(self) -> str:
        """The accessibility tree as text, see `dom.outline`."""
        return self._look(self._outline)

    def text(self) -> str:
        """What is to be read on the page."""
        return self._look(_text)

    def find(self, text: str) -> str:
        """Lines of the page that hold a text."""
        wanted = text.casefold()
        found = [line for line in self.text().split("\n") if wanted in line.casefold()]
        return "\n".join(line[:500] for line in found[:100]) or "not found"

    def screenshot(self) -> bytes:
        """The window as PNG."""
        return self._look(_screenshot)

    def digest(self) -> str:
        """SHA-256 over the sample's files and, without a snapshot, the state of the page in front.

        That is its document with its frames, what its forms hold, its storage and cookies. A page
        that changes by itself, by a clock for instance, has another digest each time.
        """
        if self._tree is None:
            raise ToolError("the page is closed")
        state = self._look(_state) if self._snapshot is None else self._snapshot.digest()
        return hashlib.sha256(f"{self._tree.digest()} {state}".encode()).hexdigest()

    def close(self) -> None:
        """Ends the browser; nothing of it is left."""
        session, self._session = self._session, None
        if session is not None:
            session.close()
        tree, self._tree = self._tree, None
        if tree is not None:
            tree.close()

    def serve(self, url: str, document: bool = False) -> tuple[str, bytes] | None:
        """Content type and content at an address; None where there is nothing for this sample.

        Args:
            url: the address.
            document: an address that leads to another one gives a document that goes there.
        """
        try:
            parts = urlsplit(url)
            path = unquote(parts.path, errors="strict")
        except (ValueError, UnicodeError):
            return None
        if f"{parts.scheme}://{parts.netloc}" not in (ORIGIN, "file://"):
            return self._from_snapshot(url, document)
        if self._tree is None:
            return None
        path = f"{path}index.html" if path.endswith("/") else path
        try:
            content = self._tree.read(path)
        except ToolError:
            return None
        return mimetypes.guess_type(path)[0] or "application/octet-stream", content

    def _from_snapshot(self, url: str, document: bool) -> tuple[str, bytes] | None:
        if self._snapshot is None:
            return None
        target = self._snapshot.address(url)
        if document and target != normal(url) and self._snapshot.get(target) is not None:
            # Chromium would follow an answer of status 302 without asking us again.
            goal = html.escape(target, quote=True)
            return "text/html", f'<meta http-equiv="refresh" content="0; url={goal}">'.encode()
        return self._snapshot.get(url)

    def _open_session(self) -> Session:
        if self._session is None:
            raise ToolError("the page is closed")
        return self._session

    def _look(self, work: Callable[[async_api.Page], Coroutine[Any, Any, Any]]) -> Any:
        session = self._open_session()
        return session.run(work(session.page))

    def _act(self, work: Callable[[async_api.Page], Coroutine[Any, Any, None]]) -> str:
        """Do something and give the page a moment to follow; says where that leads."""
        session = self._open_session()

        async def run(page: async_api.Page) -> str:
            await work(page)
            return await _settled(session)

        return session.run(run(session.page))

    def _place(self, x: str, y: str) -> tuple[float, float]:
        if not x.strip() and not y.strip():
            return self._mouse
        try:
            place = float(x), float(y)
        except ValueError:
            raise ToolError(f"({x!r:.40}, {y!r:.40}) is no place: two numbers are wanted") from None
        width, height = self._size
        if not (0 <= place[0] < width and 0 <= place[1] < height):
            raise ToolError(f"({x:.40}, {y:.40}) is outside the window of {width} x {height}")
        self._mouse = place
        return place

    def _mover(self, what: str) -> Callable[[str, str], str]:
        async def work(page: async_api.Page, x: float, y: float) -> None:
            mouse = page.mouse
            if what == "move":
                await mouse.move(x, y)
            elif what == "click":
                await mouse.click(x, y)
            elif what == "dblclick":
                await mouse.dblclick(x, y)
            elif what == "right":
                await mouse.click(x, y, button="right")
            else:
                await mouse.down()
                await mouse.move(x, y, steps=10)
                await mouse.up()

        def run(x: str, y: str) -> str:
            place = self._place(x, y)
            return self._act(lambda page: work(page, *place))

        return run

    def _scroll(self, dx: str, dy: str) -> str:
        try:
            across, up = float(dx or 0), float(dy or 0)
        except ValueError:
            raise ToolError(f"{dx!r:.40}, {dy!r:.40}: two numbers of steps are wanted") from None
        if not abs(across) <= 1000 or not abs(up) <= 1000:
            raise ToolError("1000 steps at most")
        return self._act(lambda page: page.mouse.wheel(across * STEP, -up * STEP))

    def _type(self, text: str) -> str:
        if len(text) > MAX_TYPED:
            raise ToolError(f"{len(text)} characters; {MAX_TYPED} at most")

        async def work(page: async_api.Page) -> None:
            # Keys one by one take about a millisecond each.
            await (page.keyboard.type if len(text) <= 500 else page.keyboard.insert_text)(text)

        return self._act(work)

    def _presser(self, what: str) -> Callable[[str], str]:
        def run(key: str) -> str:
            name = _key(key)
            return self._act(lambda page: getattr(page.keyboard, what)(name))

        return run

    def _hotkey(self, keys: str) -> str:
        # "ctrl++" is the key "+" with Control.
        names = [_key(key or "+") for key in keys.removesuffix("+").split("+")]
        if keys.endswith("+"):
            names.append("+")
        return self._act(lambda page: page.keyboard.press("+".join(names)))

    def _picture(self) -> str:
        path = self._open_session().scratch / "screenshot.png"
        content = self.screenshot()
        path.write_bytes(content)
        return Shown(str(path), content)

    async def _outline(self, page: async_api.Page) -> str:
        async with _protocol(page) as send:
            frames = [(await send("Page.getFrameTree"))["frameTree"]]
            trees = []
            while frames:
                frame = frames.pop(0)
                frames += frame.get("childFrames", [])
                with contextlib.suppress(async_api.Error):  # frames of another process, or gone
                    arguments = {"frameId": frame["frame"]["id"]}
                    trees.append(await send("Accessibility.getFullAXTree", arguments))
            snapshot = await send("DOMSnapshot.captureSnapshot", {"computedStyles": []})
        head = f"{page.url[:300]} in a window of {self._size[0]} x {self._size[1]}"
        return f"{head}\n{dom.outline(trees, snapshot, *self._size)}"


Send = Callable[..., Coroutine[Any, Any, Any]]


@contextlib.asynccontextmanager
async def _protocol(page: async_api.Page) -> Any:
    session = await page.context.new_cdp_session(page)
    try:
        yield session.send
    finally:
        with contextlib.suppress(async_api.Error):
            await session.detach()


async def _state(page: async_api.Page) -> str:
    async with _protocol(page) as send:
        snapshot = await send("DOMSnapshot.captureSnapshot", {"computedStyles": []})
        origins = {f"{p.scheme}://{p.netloc}" for p in (urlsplit(f.url) for f in page.frames)}
        stored = []
        for origin in sorted(origin for origin in origins if origin.startswith("http")):
            for local in (True, False):
                place = {"securityOrigin": origin, "isLocalStorage": local}
                with contextlib.suppress(async_api.Error):
                    found = await send("DOMStorage.getDOMStorageItems", {"storageId": place})
                    stored.append(f"{origin} {local} {sorted(found['entries'])}")
    cookies = sorted(json.dumps(cookie) for cookie in await page.context.cookies())
    return dom.state(snapshot, [*stored, *cookies])


async def _screenshot(page: async_api.Page) -> bytes:
    # Not playwright's own: that hides the caret by an attribute in the document.
    async with _protocol(page) as send:
        return base64.b64decode((await send("Page.captureScreenshot", {"format": "png"}))["data"])


async def _text(page: async_api.Page) -> str:
    # The browser's own pages, where a frame's was refused, do not answer.
    frames = [frame for frame in page.frames if not frame.url.startswith("chrome-error:")]
    return "\n".join(filter(None, await asyncio.gather(*map(_text_of, frames))))


async def _text_of(frame: async_api.Frame) -> str:
    found: list[str] = []
    with contextlib.suppress(async_api.Error, TimeoutError):
        # Of all bodies: that of one would wait until there is one.
        found = await asyncio.wait_for(frame.locator("body").all_inner_texts(), 5.0)
    if frame.parent_frame is not None and found:
        found.insert(0, f"[frame {frame.url[:200]}]")
    return "\n".join(found)


async def _settled(session: Session) -> str:
    """Where an action has led."""
    page = await session.settle()
    title = ""
    with contextlib.suppress(async_api.Error):  # it may have closed itself meanwhile
        title = await page.title()
    return f"at {page.url[:300]} {title[:200]!r}"


async def _back(page: async_api.Page) -> None:
    await page.go_back(wait_until="commit")


async def _down(page: async_api.Page) -> None:
    await page.mouse.down()


async def _up(page: async_api.Page) -> None:
    await page.mouse.up()


def _key(key: str) -> str:
    name = KEYS.get(key.strip().lower() or key, key)
    if name not in KEYS.values() and (len(name) != 1 or not name.isprintable()):
        raise ToolError(f"no key {key!r:.40}: a character, or one of {', '.join(KEYS)}"[:500])
    # By the key's place, so that a held Shift makes a capital of it.
    if name.isascii() and name.islower() and len(name) == 1:
        return f"Key{name.upper()}"
    return f"Digit{name}" if name.isascii() and name.isdigit() else name
