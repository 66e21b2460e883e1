"""One real Chromium for one sample, driven by playwright in a thread of its own.

What it may load is decided here: every request is answered from the sample or refused. Behind that
stand a proxy that leads nowhere, a resolver that knows no name, and, where the kernel permits it, a
network namespace without a network; so what a request handler does not see (web sockets of workers,
redirections, WebRTC) goes nowhere either. Chromium keeps its own sandbox.
"""

import asyncio
import concurrent.futures
import contextlib
import os
import shlex
import shutil
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from playwright import async_api

from jaxlab.evals.ajbench.sandbox import marks, programs
from jaxlab.evals.ajbench.sandbox.limits import ToolError

# Names the program where it is not on the search path.
VARIABLE = "JAXLAB_CHROMIUM"
START_SECONDS = 120.0
MAX_PAGES = 5  # of one sample: a page that opens more loses the newest
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = (
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--disable-quic",
    "--no-pings",
    "--webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--js-flags=--max-old-space-size=512",
)

Serve = Callable[[str, bool], tuple[str, bytes] | None]
Result = TypeVar("Result")


def program() -> str:
    """Where Chromium is.

    Raises:
        FileNotFoundError: it is not here; says how to bring it.
    """
    named = os.environ.get(VARIABLE)
    found = named or next(filter(None, map(shutil.which, _NAMES)), None)
    if not found or not Path(found).is_file():
        raise FileNotFoundError(
            f"no Chromium{f' at {named}' if named else ''}: apt-get install chromium, or name one "
            f"in {VARIABLE}"
        )
    return found


class Session:
    """A browser with one context; `page` is the newest of its pages."""

    def __init__(self, folder: Path, serve: Serve, width: int, height: int, seconds: float):
        """Starts the browser.

        Args:
            folder: the sample's; profile and pictures lie beside it, see `programs.scratch`.
            serve: content type and content of an address, None where there is nothing; the second
                argument says whether it is to be a document.
            width: of the window, in pixels.
            height: of the window.
            seconds: of one call of `run`.

        Raises:
            FileNotFoundError: there is no Chromium.
            RuntimeError: it does not start.
        """
        executable = program()
        self.refused: list[str] = []
        self._loading: set[async_api.Page] = set()  # a document was asked for and is not there yet
        self._serve = serve
        self._size = async_api.ViewportSize(width=width, height=height)
        self._seconds = seconds
        self._dead = ""
        self._context: async_api.BrowserContext | None = None
        self._playwright: async_api.Playwright | None = None
        self.scratch = programs.scratch(folder)
        self._loop = asyncio.new_event_loop()
        # What is under way when a browser is killed fails; nobody waits for it any more.
        self._loop.set_exception_handler(lambda loop, context: None)
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        try:
            self.run(self._start(executable), START_SECONDS)
        except ToolError as error:
            self.close()
            raise RuntimeError(f"Chromium does not start: {error}") from None

    @property
    def page(self) -> async_api.Page:
        """The page in front."""
        pages = self._context.pages if self._context is not None else []
        if not pages:
            raise ToolError("all pages are closed")
        return pages[-1]

    def run(
        self, work: Coroutine[Any, Any, Result], seconds: float | None = None, fatal: bool = True
    ) -> Result:
        """Wait for work in the browser's thread.

        Raises:
            ToolError: it fails, or takes too long; a browser that does not answer is killed.
        """
        if self._dead:
            work.close()
            raise ToolError(self._dead)
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        seconds = self._seconds if seconds is None else seconds
        try:
            return future.result(seconds)
        except concurrent.futures.TimeoutError:
            future.cancel()
            if fatal:
                self._kill(f"the page did not answer within {seconds:g} s and was closed")
            raise ToolError(self._dead or f"took more than {seconds:g} s") from None
        except async_api.Error as error:
            raise ToolError(_short(error)) from None

    def close(self) -> None:
        """Ends the browser and its driver, and removes what they have written."""
        if not self._loop.is_closed():
            with contextlib.suppress(ToolError, RuntimeError):
                self._dead = ""
                self.run(self._stop(), 15.0)
            self._kill("the page is closed")
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10.0)
            if not self._thread.is_alive():
                self._loop.close()
        programs.remove(self.scratch)

    async def _start(self, executable: str) -> None:
        profile = programs.make_folder(self.scratch / "profile")
        confinement = programs.confinement()
        starter = self.scratch / "chromium"
        command = shlex.join([*confinement.prefix, executable])
        place = shlex.quote(str(self.scratch))
        starter.write_text(f'#!/bin/sh\ncd {place} || exit 1\nexec {command} "$@"\n')
        starter.chmod(0o755)
        self._playwright = await async_api.async_playwright().start()
        self._context = context = await self._playwright.chromium.launch_persistent_context(
            str(profile),
            executable_path=str(starter),
            headless=True,
            # Chromium has no sandbox for root; `confinement` says who it runs as.
            chromium_sandbox=confinement.uid != 0,
            args=list(_ARGUMENTS),
            # Relative, for the path of a socket that it makes there may have 107 bytes at most.
            env=dict(programs.environment(self.scratch, {"TMPDIR": "."})),
            # Nothing listens there; without the bypass, local addresses would not go through it.
            proxy=async_api.ProxySettings(server="http://127.0.0.1:9", bypass="<-loopback>"),
            viewport=self._size,
            service_workers="block",
            accept_downloads=False,
            locale="en-US",
            timezone_id="UTC",
        )
        # Less than the time at which the browser is killed.
        context.set_default_timeout(800 * self._seconds)
        context.on("page", self._bound_pages)
        for page in context.pages:
            await self._bound_pages(page)
        await context.route("**/*", self._answer)
        await context.route_web_socket("**/*", self._refuse_socket)

    async def _stop(self) -> None:
        if self._context is not None:
            with contextlib.suppress(async_api.Error, asyncio.TimeoutError):
                await asyncio.wait_for(self._context.close(), 5.0)
        if self._playwright is not None:
            await self._playwright.stop()

    async def _answer(self, route: async_api.Route) -> None:
        request = route.request
        found = None
        if request.method in ("GET", "HEAD"):
            found = self._serve(request.url, request.resource_type == "document")
        with contextlib.suppress(async_api.Error):  # the page may be gone by now
            if found is None:
                self._note(request.url)
                await route.abort("blockedbyclient")
                return
            if request.is_navigation_request() and request.frame.parent_frame is None:
                self._loading.add(request.frame.page)
            await route.fulfill(status=200, content_type=found[0], body=found[1])

    async def _refuse_socket(self, socket: async_api.WebSocketRoute) -> None:
        self._note(socket.url)
        await socket.close()

    async def settle(self) -> async_api.Page:
        """The page in front once it has followed what was done to it; three seconds at most."""
        loop = asyncio.get_running_loop()
        end = loop.time() + 3.0
        # A click is acknowledged before what it leads to is asked for.
        await asyncio.sleep(0.1)
        while self.page in self._loading and loop.time() < end:
            await asyncio.sleep(0.02)
        page = self.page
        with contextlib.suppress(async_api.Error):
            await page.wait_for_load_state("load", timeout=max(1.0, 1000 * (end - loop.time())))
        return page

    async def only(self) -> async_api.Page:
        """The first page, or a new one where it has closed itself; the others are closed."""
        if self._context is None:
            raise ToolError("the browser is not there")
        pages = self._context.pages
        page = pages[0] if pages else await self._context.new_page()
        for other in pages[1:]:
            await other.close()
        return page

    async def _bound_pages(self, page: async_api.Page) -> None:
        page.on("domcontentloaded", self._arrived)
        page.on("close", self._arrived)
        if self._context is not None and len(self._context.pages) > MAX_PAGES:
            await page.close()

    def _arrived(self, page: async_api.Page) -> None:
        self._loading.discard(page)

    def _note(self, url: str) -> None:
        if len(self.refused) < 1000:
            self.refused.append(url[:300])

    def _kill(self, cause: str) -> None:
        self._dead = self._dead or cause
        marks.kill(self.scratch)


def _short(error: async_api.Error) -> str:
    """The cause, and what the browser has said of it, without the log of the call."""
    cause = str(error).partition("\n")[0]
    said = [
        line.partition("[err]")[2].strip() for line in str(error).split("\n") if "[err]" in line
    ]
    return " ".join(f"{cause} {' '.join(said)}".split())[:500]
