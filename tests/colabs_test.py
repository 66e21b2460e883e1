"""Every notebook is committed clean and runs from its first cell to its last at tiny size."""

import json
import pathlib
import sys

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "colabs").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=nbformat.NO_CONVERT)


def test_there_are_notebooks():
    assert NOTEBOOKS


def test_is_committed_clean(notebook):
    nbformat.validate(notebook)
    assert notebook.nbformat == 4
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.mark.docs
def test_runs(notebook, tmp_path, monkeypatch):
    if any("inspect_ai" in cell.source for cell in notebook.cells):
        reason = "inspect_ai refuses to run in a notebook without ipywidgets"
        pytest.importorskip("ipywidgets", reason=reason)
    # A kernel named python3 may be any Python that the user has registered; this one is ours.
    spec = {"argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]}
    spec |= {"display_name": "the running Python", "language": "python"}
    kernel = tmp_path / "kernels" / "jaxlab-tests"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("JAXLAB_TINY", "1")
    NotebookClient(
        notebook,
        timeout=300,
        kernel_name="jaxlab-tests",
        resources={"metadata": {"path": str(ROOT)}},
    ).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code" and "plt.show()" in cell.source:
            kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
            assert "image/png" in kinds, f"cell {cell.id} drew nothing"
