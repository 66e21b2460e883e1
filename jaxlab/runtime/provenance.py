"""What a run was made with: run.json, beside its config."""

import importlib.metadata
import pathlib
import shlex
import subprocess
import sys
from typing import Any

import jax

FILE = "run.json"
PACKAGES = ("jaxlab", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_ROOT = pathlib.Path(__file__).parents[2]


def provenance(*, devices: bool = True) -> dict[str, Any]:
    """Returns the command, versions, devices and, in a git checkout, the commit, as JSON values.

    Args:
        devices: whether to ask jax for them, which takes them for this process.
    """
    found = {
        "command": shlex.join(sys.orig_argv),
        "python": sys.version.split()[0],
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
    }
    if devices:
        first = jax.devices()[0]
        found["devices"] = {
            "platform": first.platform,
            "kind": first.device_kind,
            "count": jax.device_count(),
            "processes": jax.process_count(),
        }
    commit = _commit(_ROOT)
    return found if commit is None else found | {"commit": commit}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit(root: pathlib.Path) -> str | None:
    """The commit of a checkout, with "-dirty" behind it if files are changed; None elsewhere."""
    if not (root / ".git").exists():
        return None
    # No tag's name, wherever there is one.
    words = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(words, cwd=root, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
