"""What is importable: jaxlab and jaxlab_kernels, and no top-level name that others need."""

import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def test_both_packages_import():
    import jaxlab_kernels

    import jaxlab

    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert jaxlab.__version__ == version
    assert pathlib.Path(jaxlab_kernels.__file__).parts[-2] == "jaxlab_kernels"


def test_the_name_kernels_stays_free():
    """HuggingFace's package has it, and transformers imports that one."""
    assert not (ROOT / "kernels" / "__init__.py").exists()
    spec = importlib.util.find_spec("kernels")
    assert spec is None or spec.origin is None or "site-packages" in spec.origin


@pytest.mark.interop
def test_transformers_imports_from_the_checkout():
    program = (
        "import transformers, transformers.pipelines\n"
        "from transformers import LlamaForCausalLM\n"
        "import jaxlab, jaxlab_kernels\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_wheel_holds_the_two_packages_and_nothing_else(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    # Neighbours that discovery must not pick up come along.
    for name in ("jaxlab", "kernels", "configs", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    program = f"from hatchling import build; build.build_wheel({str(tmp_path)!r})"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=source, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"jaxlab", "jaxlab_kernels"}
    assert {"jaxlab/py.typed", "jaxlab_kernels/py.typed"} <= set(names)
    written = {f"jaxlab/{p.relative_to(ROOT / 'jaxlab')}" for p in (ROOT / "jaxlab").rglob("*.py")}
    assert written <= set(names)
