"""How a foreign program is started for a sample: marked, and with as little reach as can be had.

A browser and an office suite run for documents that somebody else has written. Where the kernel
permits it they get a network of their own that has no connection, no privileges, and an end
together with the process that started them.
"""

import functools
import os
import secrets
import shutil
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jaxlab.evals.ajbench.sandbox import files, marks

# "nobody": owns nothing.
_UID = 65534


@dataclass(frozen=True)
class Confinement:
    """What a program is started under.

    Attributes:
        prefix: words before the program's own.
        offline: whether it has no network at all.
        uid: of the user it runs as.
    """

    prefix: tuple[str, ...]
    offline: bool
    uid: int


@functools.cache
def confinement() -> Confinement:
    """The strictest way that works here, found by trying."""
    root = os.getuid() == 0
    uid = _UID if root else os.getuid()
    drop: tuple[str, ...] = ("setpriv", "--pdeathsig", "KILL")
    if root:
        drop = (*drop, "--reuid", str(uid), "--regid", str(uid), "--clear-groups")
    network: tuple[str, ...] = ("unshare", "--net")
    if not root:
        network = ("unshare", "--user", "--map-current-user", "--net")
    for prefix, offline in (((*network, *drop), True), (drop, False), (network, True)):
        if shutil.which(prefix[0]) and _works(prefix):
            return Confinement(prefix, offline, uid if drop[0] in prefix else os.getuid())
    return Confinement((), False, os.getuid())


def scratch(folder: Path) -> Path:
    """An empty folder beside a sample's, in which its programs may write.

    Raises:
        PermissionError: they run as another user, who cannot come there.
    """
    path = make_folder(beside(folder, "scratch"))
    uid = confinement().uid
    if uid == os.getuid():
        return path
    for above in path.parents:
        if not above.stat().st_mode & stat.S_IXOTH:
            path.rmdir()
            raise PermissionError(
                f"{above} is closed to the user that programs run as ({uid}): open the sample in a "
                "folder of workspace.run_folder, or permit others to pass it (chmod o+x)"
            )
    return path


def beside(folder: Path, name: str) -> Path:
    """A path that is not taken, beside a folder and so below the run's."""
    return folder.absolute().with_name(f"{folder.name}.{name}-{secrets.token_hex(4)}")


def remove(folder: Path) -> None:
    """End the programs of a folder, such as one of `scratch`, and remove it."""
    marks.kill(folder)
    files.remove(folder)


def make_folder(path: Path) -> Path:
    """A folder of the programs' user."""
    path.mkdir(mode=0o700)
    uid = confinement().uid
    if uid != os.getuid():
        os.chown(path, uid, uid)
    return path


def environment(folder: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables of a program of this folder: none of ours but the search path and the language."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TZ") if name in os.environ}
    # Nothing listens on the port of "discard", so that who honours these reaches nothing.
    nowhere = "http://127.0.0.1:9"
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "ftp_proxy", "all_proxy"), nowhere)
    places = dict.fromkeys(("HOME", "TMPDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"), str(folder))
    return {**kept, **proxies, **places, marks.MARK: str(folder), **(more or {})}


def _works(prefix: tuple[str, ...]) -> bool:
    try:
        done = subprocess.run([*prefix, "true"], capture_output=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
