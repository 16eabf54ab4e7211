"""A sink's own file: what it was made with, kept beside its log."""

from __future__ import annotations

from pathlib import Path

import orjson

from dq.errors import DiskFull, LogError
from dq.log.directories import make_directory
from dq.log.files import NO_ROOM, Files
from dq.log.format import FORMAT, Malformed, seal, want
from dq.log.layout import Layout
from dq.log.sealed import blamed, read_sealed, settings_of
from dq.model.names import check_name
from dq.model.settings import SinkSettings


def read_sink(files: Files, root: Path, name: str) -> SinkSettings | None:
    """The settings a sink was made with; None where there is no such sink.

    Raises:
        Damaged, NewerFormat, LogError: its file cannot be used.
    """
    path = Layout(root).sink_settings(name)
    with blamed(path, "restore it, or remove the sink's directory"):
        try:
            fields = read_sealed(files, path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        described, settings = want(fields, "sink", str), want(fields, "settings", dict)
        if described != name:
            raise Malformed(f"it describes the sink {described!r:.200}")
        return settings_of(SinkSettings, settings)


def make_sink(files: Files, root: Path, name: str, settings: SinkSettings) -> None:
    """Makes a sink's directory and keeps its settings.

    Raises:
        InvalidName: the name is no safe file name. DiskFull, LogError: the disk does not take it.
    """
    check_name("sink", name)
    path = Layout(root).sink_settings(name)
    make_directory(files, path.parent)
    fields = {"format": FORMAT, "sink": name, "settings": settings.to_dict()}
    try:
        files.write_atomically(path, seal(orjson.dumps(fields)[:-1])[0])
    except OSError as error:
        kind = DiskFull if error.errno in NO_ROOM else LogError
        raise kind(f"cannot make the sink {name!r}: {error.strerror}; free some space, then try again") from error
