"""Which sub-domain has which environment; a new one is a function of `Place` and a line in each."""

from collections.abc import Callable, Iterable
from pathlib import Path

from jaxlab.evals.ajbench.databases.postgres_programs import NoServer
from jaxlab.evals.ajbench.environments import screens, stores
from jaxlab.evals.ajbench.environments.environment import Environment, Place, Run
from jaxlab.evals.ajbench.office import soffice
from jaxlab.evals.ajbench.sandbox.limits import ToolError
from jaxlab.evals.ajbench.types import Unit

ENVIRONMENTS: dict[str, Callable[[Place], Environment]] = {
    "Search-Wide": screens.open_search,
    "Search-Deep": screens.open_search,
    "DS-FileSystem": stores.open_files,
    "DS-Postgres": stores.open_postgres,
    "DS-SQLite": stores.open_sqlite,
    "GUI-PPT": screens.open_office,
    "GUI-Word": screens.open_office,
    "GUI-Excel": screens.open_office,
    "GUI-Page": screens.open_page,
}


# What can be found missing before anything is opened.
NEEDS: dict[str, Callable[[Place], Path | None]] = {
    "Search-Wide": screens.needs_pages,
    "Search-Deep": screens.needs_pages,
    "DS-FileSystem": lambda place: place.state("filesystem"),
    "DS-Postgres": stores.needs_postgres,
    "DS-SQLite": lambda place: place.state("sqlite"),
    "GUI-PPT": screens.needs_office,
    "GUI-Word": screens.needs_office,
    "GUI-Excel": screens.needs_office,
    "GUI-Page": screens.needs_page,
}


def missing(units: Iterable[Unit], run: Run) -> list[str]:
    """Why units could not be opened, "id: cause" for each; nothing is opened to find out."""
    found = []
    for unit in units:
        try:
            if unit.subdomain in NEEDS:
                NEEDS[unit.subdomain](Place(unit, run.folder, run))
        except (FileNotFoundError, NoServer) as error:
            found.append(f"{unit.id}: {error}")
    return found


def without_picture(units: Iterable[Unit]) -> list[str]:
    """Why office files could not be shown, "id: cause" for each unit that has some."""
    shown = [unit for unit in units if ENVIRONMENTS.get(unit.subdomain) is screens.open_office]
    try:
        soffice.program()
    except ToolError as error:
        return [f"{unit.id}: {error}" for unit in shown]
    return []


def open_environment(place: Place) -> Environment:
    """The environment of a unit.

    Raises:
        ValueError: its sub-domain has none.
        FileNotFoundError, NoServer: a part of it is missing.
    """
    if place.unit.subdomain not in ENVIRONMENTS:
        raise ValueError(
            f"no environment for {place.unit.subdomain}: there are {', '.join(ENVIRONMENTS)}; "
            "judge it with arm=text"
        )
    return ENVIRONMENTS[place.unit.subdomain](place)
