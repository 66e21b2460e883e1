"""LibreOffice as the eye on office files: a page as a picture, where it is installed."""

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

from jaxlab.evals.ajbench.office import packages
from jaxlab.evals.ajbench.sandbox import programs
from jaxlab.evals.ajbench.sandbox.limits import ToolError

# Names the program where it is not on the search path.
VARIABLE = "JAXLAB_SOFFICE"
MAX_BYTES = 64 << 20  # of a file that it writes

# No macros, no scripts in pages, no links followed, nothing asked.
_SETTINGS = """<?xml version="1.0" encoding="UTF-8"?>
<oor:items xmlns:oor="http://openoffice.org/2001/registry">
{}
</oor:items>
"""
_ITEMS = (
    ("org.openoffice.Office.Common/Security/Scripting", "DisableMacrosExecution", "true"),
    ("org.openoffice.Office.Common/Security/Scripting", "MacroSecurityLevel", "3"),
    ("org.openoffice.Office.Common/Security/Scripting", "DisableActiveContent", "true"),
    ("org.openoffice.Office.Common/Security/Scripting", "BlockUntrustedRefererLinks", "true"),
    ("org.openoffice.Office.Writer/Content/Update", "Link", "0"),
    ("org.openoffice.Office.Calc/Content/Update", "Link", "1"),
    ("org.openoffice.Office.Calc/Formula/Load", "OOXMLRecalcMode", "1"),
)


def program() -> str:
    """Where LibreOffice is.

    Raises:
        ToolError: it is not here; says how to bring it.
    """
    found = os.environ.get(VARIABLE) or shutil.which("soffice") or shutil.which("libreoffice")
    if not found or not Path(found).is_file():
        raise ToolError(
            "no picture: LibreOffice is not installed (apt-get install libreoffice-calc "
            f"libreoffice-writer libreoffice-impress), or name it in {VARIABLE}"
        )
    return found


def picture(content: bytes, ending: str, page: int, folder: Path, seconds: float) -> bytes:
    """A page of a file as PNG.

    Args:
        content: of the file; it is checked as `packages.check` says.
        ending: of `packages.KINDS`.
        page: from 1; those after the first need pdftoppm (Debian's poppler-utils).
        folder: of `programs.scratch`; the profile and all files that are written lie in it.
        seconds: for each program that is run.

    Raises:
        ToolError: LibreOffice is absent, refuses the file, or takes too long.
    """
    office = program()
    packages.check(content, ending)
    source = folder / f"page{ending}"
    pdf, png = folder / "page.pdf", folder / "page.png"
    for path in (pdf, png):
        path.unlink(missing_ok=True)
    source.write_bytes(packages.without_links(content, ending))
    source.chmod(0o644)
    renderer = shutil.which("pdftoppm")
    if renderer is None and page != 1:
        raise ToolError(
            "only the first page can be shown: pdftoppm is not installed (poppler-utils)"
        )
    convert = [
        office,
        f"-env:UserInstallation={_profile(folder).as_uri()}",
        *("--headless", "--norestore", "--nolockcheck", "--nodefault", "--nofirststartwizard"),
        *("--convert-to", "png" if renderer is None else "pdf", "--outdir", str(folder)),
        str(source),
    ]
    _run(convert, folder, seconds)
    if renderer is not None:
        _read(pdf, "LibreOffice could not show this file")
        stem = str(png.with_suffix(""))
        pages = ["-f", str(page), "-l", str(page), "-singlefile", "-scale-to", "1600"]
        _run([renderer, "-png", *pages, str(pdf), stem], folder, seconds)
        return _read(png, f"there is no page {page}")
    return _read(png, "LibreOffice could not show this file")


def _profile(folder: Path) -> Path:
    """A profile of this sample alone, with the settings above."""
    profile = folder / "profile"
    if not profile.exists():
        programs.make_folder(profile)
        user = programs.make_folder(profile / "user")
        items = [
            f'<item oor:path="/{path}"><prop oor:name="{name}" oor:op="fuse">'
            f"<value>{value}</value></prop></item>"
            for path, name, value in _ITEMS
        ]
        settings = user / "registrymodifications.xcu"
        settings.write_text(_SETTINGS.format("\n".join(items)))
        settings.chmod(0o644)  # whatever the umask says: unread, they would not hold
    return profile


def _run(command: list[str], folder: Path, seconds: float) -> None:
    child = subprocess.Popen(
        [*programs.confinement().prefix, *command],
        cwd=folder,
        env=programs.environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        raise ToolError(f"{Path(command[0]).name} took more than {seconds:g} s") from None
    finally:
        # LibreOffice's starter leaves a second process.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _read(path: Path, cause: str) -> bytes:
    try:
        # The other program's user could have laid a link there.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        raise ToolError(cause) from None
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ToolError(f"the picture has more than {MAX_BYTES} bytes")
    return content
