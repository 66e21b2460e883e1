"""Names of work directories, and one program in each."""

import os
import pathlib

import pytest

from jaxlab.runtime import workdir


def test_one_holder_at_a_time(tmp_path):
    with workdir.lock(tmp_path / "run"):
        with pytest.raises(workdir.WorkdirError, match=rf"run \(process {os.getpid()} on"):
            workdir.lock(tmp_path / "run")
        workdir.lock(tmp_path / "other").close()
    workdir.lock(tmp_path / "run").close()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("~", "/home/me"),
        ("~/runs/x", "/home/me/runs/x"),
        ("runs/~x", "runs/~x"),
        ("~ or so", "~ or so"),
        ("runs", "runs"),
    ],
)
def test_the_home_directory(monkeypatch, path, expected):
    monkeypatch.setenv("HOME", "/home/me")
    assert workdir.expand(path, "--workdir") == expected


@pytest.mark.parametrize(
    "path", ["gs://bucket/run", "s3://b", "https://host/x", "file:///x", "gs:/bucket"]
)
def test_urls_are_refused(path):
    with pytest.raises(workdir.WorkdirError, match=r"--out: .* is a URL.*mount the bucket"):
        workdir.expand(path, "--out")


def test_the_home_of_nobody_is_refused():
    with pytest.raises(workdir.WorkdirError, match=r"--out: there is no user 'nobody-here'"):
        workdir.expand("~nobody-here/x", "--out")
    with pytest.raises(workdir.WorkdirError, match=r"config.data.train: there is no user"):
        workdir.local_paths({"data": {"train": "~nobody-here/x"}})
    assert workdir.local_paths({"stop": "~nobody-here"}) == {"stop": "~nobody-here"}


def test_a_flag_names_a_directory(tmp_path):
    assert workdir.directory("runs", "--workdir") == pathlib.Path("runs")
    for empty in ("", " ", None):
        with pytest.raises(workdir.WorkdirError, match="--workdir is empty: name a directory"):
            workdir.directory(empty, "--workdir")
    (tmp_path / "file").touch()
    with pytest.raises(workdir.WorkdirError, match="file is a file: name a directory"):
        workdir.directory(str(tmp_path / "file"), "--workdir")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("loop", "a\0b"):
        with pytest.raises(workdir.WorkdirError, match="--workdir"):
            workdir.directory(str(tmp_path / name), "--workdir")
