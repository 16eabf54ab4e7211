"""A sink's own file: what it was made with, kept beside its log."""

from __future__ import annotations

from pathlib import Path

import orjson

from dq.config import MIB
from dq.errors import Damaged, DiskFull, InvalidSetting, LogError, NewerFormat
from dq.log.catalog import make_directory
from dq.log.files import NO_ROOM, Files
from dq.log.format import FORMAT, Malformed, check_format, json_object, seal, unseal, want
from dq.log.layout import Layout
from dq.model.names import check_name
from dq.model.settings import SinkSettings

_SINK_FILE_BYTES_MAX = 1 * MIB


def read_sink(files: Files, root: Path, name: str) -> SinkSettings | None:
    """The settings a sink was made with; None where there is no such sink.

    Raises:
        Damaged, NewerFormat, LogError: its file cannot be used.
    """
    path = Layout(root).sink_settings(name)
    try:
        content = files.read_whole(path, _SINK_FILE_BYTES_MAX)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        check_format(json_object(content))
        fields, _ = unseal(content)
        described, settings = want(fields, "sink", str), want(fields, "settings", dict)
    except Malformed as error:
        raise Damaged(f"{path} is not what was written: {error}; restore it, or remove the sink's directory") from error
    except NewerFormat as error:
        raise NewerFormat(f"{path}: {error}") from None
    if described != name:
        raise Damaged(f"{path} describes the sink {described:.200}: it was copied or renamed; put it back where it was")
    try:
        return SinkSettings.from_dict(settings)
    except InvalidSetting as error:
        raise NewerFormat(f"{path} has settings that this version of dq does not know: {error}") from error


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
