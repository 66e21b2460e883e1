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
import yaml

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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("wheel")
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
    (made,) = tmp_path.glob("*.whl")
    return made


def test_the_wheel_holds_the_two_packages_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"jaxlab", "jaxlab_kernels"}
    assert {"jaxlab/py.typed", "jaxlab_kernels/py.typed"} <= set(names)
    written = {f"jaxlab/{p.relative_to(ROOT / 'jaxlab')}" for p in (ROOT / "jaxlab").rglob("*.py")}
    assert written <= set(names)


CONFIG = """
from ml_collections import ConfigDict

def get_config():
    sizes = dict(hidden_size=8, intermediate_size=16, num_layers=1, num_heads=2, num_kv_heads=1)
    data = dict(task="palindrome", options=dict(length=16))
    return ConfigDict(dict(
        trainer="lm", seed=0, batch_size=2, data=data, model=dict(sizes=sizes),
        optim=dict(learning_rate=1e-3), train=dict(steps=1, eval_every=1, checkpoint_every=1),
    ))
"""


@pytest.mark.slow
def test_the_wheel_trains_without_the_checkout(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    (tmp_path / "mine.py").write_text(CONFIG)
    door = ["-m", "jaxlab.train", "--config=mine.py", "--workdir=run"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, *door], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "run" / "metrics.jsonl").exists()


def test_what_a_pull_request_must_pass_is_in_the_makefile():
    workflow = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    targets = {step["run"].removeprefix("make ") for step in steps if "run" in step}
    assert targets == {"lint", "test", "test-docs"}
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{target}: " in makefile for target in targets)
    pythons = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == f">={pythons[0]}"
