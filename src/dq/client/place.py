"""Which data directory is meant."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple, Protocol

from dq.errors import InvalidSetting

DEFAULT_NAME = "queue_data"
_MARKS = ("dq.json", "dq.toml")
"""What a data directory has in it: its identity once it was served, or the settings with which it is to be."""


class Rooted(Protocol):
    """Anything that knows its data directory: a `BrokerManager`, what `dq.connect` returns."""

    @property
    def root(self) -> Path:
        """The data directory."""


Place = Rooted | str | os.PathLike[str] | None


def root_of(place: Place) -> Path:
    """The data directory of a broker or a path; None finds it.

    It is $DQ_DIR where that is set; else the nearest `queue_data` with a `dq.json` or a `dq.toml` in it, here or in a directory
    above, as git finds its repository; else `queue_data` here.
    """
    if place is None:
        return find_root().root
    if isinstance(place, (str, bytes, os.PathLike)):
        text = os.fspath(place)
        if not isinstance(text, str):
            raise InvalidSetting(f"the path of a data directory is a str or a Path, not {text!r}")
        if not text:
            raise InvalidSetting("an empty path names no data directory: give its path, or None to have it found")
        return _checked(Path(text))
    return place.root


def _checked(path: Path) -> Path:
    """The absolute path. It goes into events and messages, which are UTF-8."""
    path = path.absolute()
    try:
        path.as_posix().encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidSetting(
            f"the path {os.fsencode(path)!r} is not text in the encoding of this locale ({sys.getfilesystemencoding()}): "
            "rename the directory, or run with LC_ALL=C.UTF-8 or PYTHONUTF8=1"
        ) from None
    if "\0" in path.as_posix():
        raise InvalidSetting(f"the path {path.as_posix()!r} of a data directory has a NUL in it")
    return path


class Found(NamedTuple):
    """A data directory, and how it came to be the one: "DQ_DIR", "found", or "default": it is not there yet."""

    root: Path
    how: str


def find_root() -> Found:
    """The data directory where none was named.

    Raises:
        InvalidSetting: that above is somebody else's, or there is no directory here any more.
    """
    named = os.environ.get("DQ_DIR")
    if named:
        return Found(_checked(Path(named)), "DQ_DIR")
    try:
        here = Path.cwd()
    except FileNotFoundError as error:
        raise InvalidSetting("the current directory is gone: go to another one, or name the data directory") from error
    for directory in (here, *here.parents):
        root = directory / DEFAULT_NAME
        if is_data_directory(root):
            if directory != here:
                _check_owner(root)
            return Found(_checked(root), "found")
    return Found(_checked(here / DEFAULT_NAME), "default")


def is_data_directory(root: Path) -> bool:
    """Whether a path is one."""
    return any(os.path.isfile(root / mark) for mark in _MARKS)


def _check_owner(root: Path) -> None:
    """Raises InvalidSetting for one that another user put above ours, as /tmp/queue_data: its settings and backends would be
    taken unasked. git does so too, since CVE-2022-24765."""
    if not hasattr(os, "geteuid"):
        return
    owner, user = os.stat(root).st_uid, os.geteuid()
    if owner != user and not (user == 0 and str(owner) == os.environ.get("SUDO_UID")):
        raise InvalidSetting(
            f"{root}, found above here, belongs to another user: if it is the one you mean, name it, as by --data or DQ_DIR"
        )
