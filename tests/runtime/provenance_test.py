import shutil
import subprocess
import sys

import jax
import pytest

from jaxlab.runtime import provenance


def test_what_a_run_was_made_with(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "jaxlab.train", "--config=my run.py"])
    found = provenance.provenance()
    assert found["command"] == "python -m jaxlab.train '--config=my run.py'"
    assert found["versions"]["jax"] == jax.__version__
    assert found["devices"] == {
        "platform": jax.devices()[0].platform,
        "kind": jax.devices()[0].device_kind,
        "count": jax.device_count(),
        "processes": 1,
    }
    assert "devices" not in provenance.provenance(devices=False)


def test_the_commit_of_a_checkout_and_whether_its_files_are_changed(tmp_path):
    if shutil.which("git") is None:
        pytest.skip("git is not installed")

    def git(*words):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        command = ["git", *identity, *words]
        done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    assert provenance._commit(tmp_path) is None
    git("init", "-q")
    (tmp_path / "code.py").write_text("1")
    git("add", ".")
    git("commit", "-qm", "Begin")
    git("tag", "-a", "v1", "-m", "v1")
    commit = git("rev-parse", "HEAD")
    assert provenance._commit(tmp_path) == commit
    (tmp_path / "code.py").write_text("2")
    assert provenance._commit(tmp_path) == f"{commit}-dirty"
