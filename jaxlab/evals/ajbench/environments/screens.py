"""Office files, pages and the web as environments: what a GUI or a browser shows."""

import hashlib
from pathlib import Path

from jaxlab.evals.ajbench.environments import gui, states
from jaxlab.evals.ajbench.environments.environment import Environment, Place
from jaxlab.evals.ajbench.office.office import Office
from jaxlab.evals.ajbench.sandbox import files
from jaxlab.evals.ajbench.sandbox.tools import Tool
from jaxlab.evals.ajbench.types import Call, Unit
from jaxlab.evals.ajbench.web import actions, snapshot


class Recorded:
    """An environment and the record of how it came about, of which a judge may see single steps.

    Attributes:
        calls: what is to be replayed.
    """

    def __init__(self, inner: Environment, unit: Unit, calls: tuple[Call, ...]):
        """Opens the folder with the pictures of the steps, beside the trajectory."""
        self.calls = calls
        self._inner = inner
        self._stored = files.Tree(gui.folder(unit))
        self._view = actions.viewing(unit.steps, self._stored)

    def tools(self, read_only: bool) -> list[Tool]:
        """Those of the environment, and the one that shows a step."""
        return [*self._inner.tools(read_only), self._view]

    def digest(self) -> str:
        """Of the environment."""
        return self._inner.digest()

    def address(self, read_only: bool) -> dict[str, str]:
        """That of the environment, if a tool server of the user's can reach it."""
        found = getattr(self._inner, "address", None)
        return dict(found(read_only)) if found else {}

    def close(self) -> None:
        """Closes both."""
        self._stored.close()
        self._inner.close()


class Pages:
    """The pages of a snapshot, which samples share, as text or in a browser of the sample's own."""

    def __init__(self, pages: snapshot.Snapshot, folder: Path | None = None):
        """Opens a browser if it gets an empty folder for it."""
        self._pages = pages
        self._browser: Environment | None = None
        if folder is not None:
            # Here, for it brings playwright along.
            from jaxlab.evals.ajbench.web.pages import Page

            self._browser = Page(folder, "", pages)

    def tools(self, read_only: bool) -> list[Tool]:
        """Search and reading; in a browser, search and the browser's."""
        found = self._pages.tools(read_only)
        if self._browser is None:
            return found
        # Both have a tool "open".
        search = [tool for tool in found if tool.name == "search"]
        return [*search, *self._browser.tools(read_only)]

    def digest(self) -> str:
        """Over the snapshot, and the browser's own files."""
        return (self._browser or self._pages).digest()

    def close(self) -> None:
        """Ends the browser; the snapshot is the run's."""
        if self._browser is not None:
            self._browser.close()


class Nothing:
    """What a judge has who brings all tools along, for the web as it is."""

    def tools(self, read_only: bool) -> list[Tool]:
        """None."""
        del read_only
        return []

    def digest(self) -> str:
        """That of nothing: what is out there is not ours."""
        return hashlib.sha256().hexdigest()

    def close(self) -> None:
        """Nothing."""


def open_office(place: Place) -> Recorded:
    """The result files of the run; without any, the task's files, on which the calls are run."""
    root = _passable(place) / "root"
    initial = needs_office(place)
    if initial is None:
        gui.take(place.unit, root)
    else:
        states.tree(initial, root)
    calls = () if initial is None else gui.office_calls(place.unit.steps)
    names = (*gui.files_of(place.unit).folders, "/")
    return _recorded(Office(root, names, place.run.limits), place.unit, calls)


def open_page(place: Place) -> Recorded:
    """The task's page in a browser, on which the recorded actions are run."""
    from jaxlab.evals.ajbench.web.pages import Page

    root = _passable(place) / "root"
    states.tree(place.state("page"), root)
    page = Page(root, limits=place.run.limits)
    return _recorded(page, place.unit, gui.page_calls(place.unit.steps))


def open_search(place: Place) -> Pages | Nothing:
    """The pages of the task, of its sub-domain or of all."""
    found = needs_pages(place)
    if found is None:
        return Nothing()
    pages = place.run.snapshot(found)
    if place.run.web == "snapshot":
        return Pages(pages)
    own = _passable(place) / "own"
    own.mkdir(mode=0o700)
    return Pages(pages, own)


def needs_office(place: Place) -> Path | None:
    """The initial files of an office unit; None if its run has left results."""
    if gui.results(place.unit):
        return None
    try:
        return place.state("office")
    except FileNotFoundError as error:
        source = place.unit.meta["source"]
        raise FileNotFoundError(f"no result file beside {source}; {error}") from None


def needs_page(place: Place) -> Path:
    """A page and a browser."""
    from jaxlab.evals.ajbench.web import browser

    browser.program()
    return place.state("page")


def needs_pages(place: Place) -> Path | None:
    """The snapshot for a search answer, and a browser if one is wanted; None for the live web."""
    if place.run.web == "live":
        return None
    if place.run.web == "browser":
        from jaxlab.evals.ajbench.web import browser

        browser.program()
    return states.find_web(place.run.states, place.unit.subdomain, place.keys[-1])


def _recorded(inner: Environment, unit: Unit, calls: tuple[Call, ...]) -> Recorded:
    try:
        return Recorded(inner, unit, calls)
    except BaseException:
        inner.close()
        raise


def _passable(place: Place) -> Path:
    """The sample's folder, open for passing to the user that its programs run as."""
    place.folder.chmod(0o711)
    return place.folder
