"""Which data directory is meant: found upwards, as git finds its repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dq.client.place import find_root, root_of
from dq.errors import InvalidSetting


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory two below one with a data directory; the current one."""
    monkeypatch.delenv("DQ_DIR", raising=False)
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    (tmp_path / "queue_data").mkdir()
    monkeypatch.chdir(below)
    return below


def test_it_is_looked_for_upwards_and_one_that_is_nearer_wins(here, tmp_path) -> None:
    assert find_root() == (here / "queue_data", "default")  # the one above is just a directory of that name
    (tmp_path / "queue_data" / "dq.json").touch()
    assert find_root() == (tmp_path / "queue_data", "found")
    (tmp_path / "a" / "queue_data").mkdir()
    assert find_root() == (tmp_path / "queue_data", "found")
    (tmp_path / "a" / "queue_data" / "dq.toml").touch()  # settings for one that was not served yet
    assert find_root() == (tmp_path / "a" / "queue_data", "found")
    assert sorted(path.name for path in here.iterdir()) == []


def test_a_variable_or_a_path_names_it(here, tmp_path, monkeypatch) -> None:
    (tmp_path / "queue_data" / "dq.json").touch()
    monkeypatch.setenv("DQ_DIR", "elsewhere")
    assert find_root() == (here / "elsewhere", "DQ_DIR")
    assert root_of(None) == here / "elsewhere"
    assert root_of("named") == here / "named"
    monkeypatch.setenv("DQ_DIR", "")
    assert root_of(None) == tmp_path / "queue_data"


def test_one_above_of_another_user_is_not_taken_unasked(here, tmp_path, monkeypatch) -> None:
    (tmp_path / "queue_data" / "dq.json").touch()
    owner = os.stat(tmp_path / "queue_data").st_uid
    monkeypatch.setattr("os.geteuid", lambda: owner + 1)
    with pytest.raises(InvalidSetting, match="belongs to another user"):
        find_root()
    monkeypatch.chdir(tmp_path)
    assert find_root().how == "found"  # it is where we are
    monkeypatch.chdir(here)
    monkeypatch.setenv("SUDO_UID", str(owner))
    with pytest.raises(InvalidSetting, match="belongs to another user"):
        find_root()
    if os.getuid() == 0:
        os.chown(tmp_path / "queue_data", 1234, -1)
        monkeypatch.undo()
        monkeypatch.delenv("DQ_DIR", raising=False)
        monkeypatch.chdir(here)
        monkeypatch.setenv("SUDO_UID", "1234")
        assert find_root().how == "found"


def test_without_a_current_directory_it_is_said_so(here, monkeypatch) -> None:
    gone = here / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(InvalidSetting, match="current directory is gone"):
        find_root()
