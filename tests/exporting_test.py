"""Where an export goes, before anything is read or written."""

import pathlib
import subprocess
import sys

import pytest

from jaxlab import exporting
from jaxlab.config import ConfigError
from jaxlab.interop import directory


def _touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("out", "message"),
    [
        (".", "holds the current directory"),
        ("..", "holds the current directory"),
        ("study/run", "is a directory of the run"),
        ("study", "is a directory of the run"),
        ("study/run/checkpoints/1", "is a directory of the run"),
        ("other", "holds a run, which would be lost"),
        ("several", "holds a run, which would be lost"),
    ],
)
def test_what_is_never_replaced(tmp_path, monkeypatch, out, message, overwrite):
    here = tmp_path / "here"
    for name in ("study/run", "other", "several/one"):
        _touch(here / name / "checkpoints" / "1" / "manifest.json")
    monkeypatch.chdir(here)
    with pytest.raises(FileExistsError, match=message):
        exporting.check_out(pathlib.Path(out), pathlib.Path("study/run"), overwrite=overwrite)


def test_a_filled_directory_needs_overwrite(tmp_path):
    _touch(tmp_path / "out" / "notes.txt")
    run = tmp_path / "run"
    with pytest.raises(FileExistsError, match=r"\(notes.txt\): give another .* or --overwrite"):
        exporting.check_out(tmp_path / "out", run)
    assert exporting.check_out(tmp_path / "out", run, overwrite=True) == tmp_path / "out"
    assert exporting.check_out(tmp_path / "new", run) == tmp_path / "new"


def test_a_study_names_its_runs(tmp_path):
    for name in ("a", "b"):
        _touch(tmp_path / name / "model" / "decoder.json")
    with pytest.raises(ConfigError, match=rf"export one of them, --workdir={tmp_path}/a or b"):
        exporting.export(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_killed_exports_left_goes_with_the_next(tmp_path):
    out = tmp_path / "model"
    program = (
        "import os, pathlib, sys\n"
        "from jaxlab.interop import directory\n"
        "with directory.replacing(pathlib.Path(sys.argv[1])) as staged:\n"
        "    (staged / 'half').touch()\n"
        "    os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(out)], check=False)
    (left,) = tmp_path.iterdir()
    assert (left / "half").exists()
    with directory.replacing(out) as staged:
        assert not left.exists()
        # Another program beside it does not take it for a leftover.
        directory._sweep(out)
        (staged / "whole").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    # Killed between the two renames: the earlier one comes back.
    out.rename(tmp_path / ".model.1.old")
    directory._sweep(out)
    assert (out / "whole").exists()
