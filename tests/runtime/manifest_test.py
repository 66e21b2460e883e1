import json

import pytest

from jaxlab.runtime import manifest


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "a").write_bytes(b"123456789")
    (tmp_path / "inner" / "b").write_bytes(b"")
    manifest.write(tmp_path)
    return tmp_path


def test_size_and_checksum_of_every_file(directory):
    files = json.loads((directory / manifest.NAME).read_text())["files"]
    # cbf43926 is the check value of CRC-32, that of the nine digits.
    assert files == {"a": [9, "cbf43926"], "inner/b": [0, "00000000"]}
    assert manifest.check(directory) == (True, None)


def test_a_file_that_came_later_is_no_damage(directory):
    (directory / "c").write_text("new")
    assert manifest.check(directory) == (True, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unreadable (JSONDecodeError)"),
        ("[]", "unreadable (TypeError)"),
        ("{}", "unreadable (KeyError)"),
        ('{"files": ["a"]}', "unreadable (AttributeError)"),
        ('{"files": {"a": 9}}', "unreadable (TypeError)"),
        ('{"files": {"a": [9]}}', "unreadable (ValueError)"),
        ('{"files": {"c": [9, "0"]}}', "c is missing"),
        ('{"files": {"a": [8, "0"]}}', "a has 9 bytes instead of 8"),
        ('{"files": {"a": [9, "0"]}}', "a has changed (CRC-32 cbf43926 instead of 0)"),
    ],
)
def test_what_does_not_fit_is_named(directory, text, message):
    (directory / manifest.NAME).write_text(text)
    sealed, fault = manifest.check(directory)
    assert sealed
    assert message in fault


def test_without_one_nothing_is_said(tmp_path):
    assert manifest.check(tmp_path) == (False, None)
