"""Which data directory is meant."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Protocol

from dq.errors import InvalidSetting

DEFAULT_NAME = "queue_data"


class Rooted(Protocol):
    """Anything that knows its data directory: a `BrokerManager`, what `dq.connect` returns."""

    @property
    def root(self) -> Path:
        """The data directory."""


Place = Rooted | str | os.PathLike[str] | None


def root_of(place: Place) -> Path:
    """The data directory of a broker or a path; None finds it.

    It is $DQ_DIR where that is set; else the nearest `queue_data` with a `dq.json` in it, here or in a directory above, as git
    finds its repository; else `queue_data` here.
    """
    if place is None:
        return find_root()
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


def find_root() -> Path:
    """As `root_of(None)`."""
    named = os.environ.get("DQ_DIR")
    if named:
        return _checked(Path(named))
    here = Path.cwd()
    for directory in (here, *here.parents):
        if (directory / DEFAULT_NAME / "dq.json").is_file():
            return directory / DEFAULT_NAME
    return here / DEFAULT_NAME
