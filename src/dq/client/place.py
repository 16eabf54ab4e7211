"""Which data directory is meant."""

from __future__ import annotations

import os
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
    if isinstance(place, (str, os.PathLike)):
        text = os.fspath(place)
        if not text:
            raise InvalidSetting("an empty path names no data directory: give its path, or None to have it found")
        return Path(text).absolute()
    return place.root


def find_root() -> Path:
    """As `root_of(None)`."""
    named = os.environ.get("DQ_DIR")
    if named:
        return Path(named).absolute()
    here = Path.cwd()
    for directory in (here, *here.parents):
        if (directory / DEFAULT_NAME / "dq.json").is_file():
            return directory / DEFAULT_NAME
    return here / DEFAULT_NAME
