"""A sink's own file: what it was made with, kept beside its log."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import orjson

from dq.errors import DiskFull, LogError, SyncFailed
from dq.log.directories import make_directory
from dq.log.files import NO_ROOM, Files, mapped
from dq.log.format import FORMAT, Malformed, seal, want
from dq.log.layout import Layout
from dq.log.sealed import blamed, read_sealed, settings_of
from dq.model.names import check_name
from dq.model.settings import SinkSettings
from dq.model.shown import shown

_MAKING = re.compile("[0-9a-f]{0,12}")
_GONE = ".gone"  # no sink has such a name: it begins with a dot


class SinkFile(NamedTuple):
    """What `sink.json` says.

    Attributes:
        settings: those the sink was made with.
        detached: streams that it was taken off and whose cursors it keeps.
        making: tells it from others that had its name before; "" for one that was made when none had this.
    """

    settings: SinkSettings
    detached: frozenset[str] = frozenset()
    making: str = ""

    def publisher(self, name: str) -> str:
        """As whom it publishes its dead letters. They count from 0, and those of one that was destroyed may be stored."""
        return f"sink:{name}:{self.making}" if self.making else f"sink:{name}"


def read_sink(files: Files, root: Path, name: str) -> SinkFile | None:
    """What is kept of a sink; None where there is no such sink.

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
        detached = fields.get("detached", [])
        if type(detached) is not list or not all(type(stream) is str for stream in detached):
            raise Malformed(f"its detached streams are {shown(detached)}")
        making = fields.get("making", "")
        if type(making) is not str or _MAKING.fullmatch(making) is None:
            raise Malformed(f"its making is {shown(making)}")
        return SinkFile(settings_of(SinkSettings, settings), frozenset(detached), making)


def make_sink(files: Files, root: Path, name: str, settings: SinkSettings) -> SinkFile:
    """Makes a sink's directory and keeps its settings. Returns what its file says.

    Raises:
        InvalidName: the name is no safe file name. DiskFull, LogError: the disk does not take it.
    """
    check_name("sink", name)
    make_directory(files, Layout(root).sink(name))
    content = SinkFile(settings, making=uuid4().hex[:12])
    write_sink(files, root, name, content)
    return content


def write_sink(files: Files, root: Path, name: str, content: SinkFile) -> None:
    """Keeps what is to be known of a sink, whose directory is there, in place of what was kept before.

    Raises:
        DiskFull: there is no room for it; what was kept before stays. SyncFailed: the disk did not confirm it.
    """
    named = {"format": FORMAT, "sink": name, "settings": content.settings.to_dict()}
    fields = {**named, "detached": sorted(content.detached), "making": content.making}
    try:
        files.write_atomically(Layout(root).sink_settings(name), seal(orjson.dumps(fields)[:-1])[0])
    except OSError as error:
        if error.errno in NO_ROOM and not _stands(files, root, name, content):
            raise DiskFull(f"cannot keep the sink {name!r}: {error.strerror}; free some space, then try again") from error
        why = f"the disk did not confirm what is kept of the sink {name!r}: {error.strerror}"
        raise SyncFailed(f"{why}; what it has shows when the broker has started again") from error


def _stands(files: Files, root: Path, name: str, content: SinkFile) -> bool:
    """Whether the file was replaced, though not all of that was confirmed."""
    with contextlib.suppress(OSError, LogError):
        return read_sink(files, root, name) == content
    return False


def destroy_sink(files: Files, root: Path, name: str) -> None:
    """Deletes a sink, for good: all of it or, where it is cut short, the rest at the next start.

    Raises:
        LogError: it is still there. SyncFailed: the disk did not confirm that it is gone.
    """
    layout = Layout(root)
    gone = layout.sinks / f".{name}{_GONE}"
    with mapped(layout.sink(name), "delete"):
        with contextlib.suppress(FileNotFoundError):
            files.remove_tree(gone)  # of one of that name before, whose end was cut short
        with contextlib.suppress(FileNotFoundError):
            files.rename(layout.sink(name), gone)
    try:
        files.sync_directory(layout.sinks)
    except OSError as error:
        why = f"the disk did not confirm that the sink {name!r} was deleted: {error.strerror}"
        raise SyncFailed(f"{why}; the broker finds out what it has, then ask again") from error
    with contextlib.suppress(OSError):  # it is nobody's any more; the next start deletes what is left of it
        files.remove_tree(gone)


def finish_destroying(files: Files, root: Path, entry: str) -> bool:
    """Whether an entry of the directory of sinks is one whose destruction was begun; it is gone then. Raises LogError."""
    if not (entry.startswith(".") and entry.endswith(_GONE)):
        return False
    path = Layout(root).sinks / entry
    with mapped(path, "delete"):
        files.remove_tree(path)
    return True
