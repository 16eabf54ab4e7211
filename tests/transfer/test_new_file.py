"""A file that is there as a whole or not at all, also where somebody else makes one meanwhile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dq.errors import InvalidSetting
from dq.transfer.new_file import new_file


def no_links(*_: object) -> None:
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize("links", [True, False], ids=["with links", "without links"])
def test_it_comes_to_its_place_at_the_end(tmp_path: Path, monkeypatch, links: bool) -> None:
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    with new_file(tmp_path / "out", force=False) as file:
        file.out.write(b"all")
        assert not (tmp_path / "out").exists()
        file.finish()
    assert (tmp_path / "out").read_bytes() == b"all"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("links", [True, False], ids=["with links", "without links"])
def test_what_came_to_be_there_meanwhile_is_not_replaced(tmp_path: Path, monkeypatch, links: bool) -> None:
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    with new_file(tmp_path / "out", force=False) as file:
        (tmp_path / "out").write_bytes(b"mine")
        with pytest.raises(InvalidSetting, match="--force"):
            file.finish()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"mine"]


def test_what_was_not_finished_is_gone(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), new_file(tmp_path / "out", force=False):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
