"""The log of a sink, read whole without changing a byte, while a broker writes it or not.

A torn end is where a broker was killed, or is writing just now: what lies before it counts. Anything else that is wrong is
damage, as it is for a start of the broker.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson

from dq.config import MIB
from dq.errors import Damaged, LogError, NewerFormat, UnknownSink
from dq.history.rebuilt import Said
from dq.log.files import Files, mapped
from dq.log.format import Malformed, decode_segment
from dq.log.layout import Layout, segment_path, segments_among
from dq.log.recovery import damaged
from dq.log.scan import Broken, Flaw, Seen, Walk, confirmed_after, has_hole
from dq.model.names import check_name, near_names

_BYTES_MAX = 2048 * MIB
"""Of a segment: a snapshot of a sink with many ranges is the largest."""
_NOTES_BYTES_MAX = 1024 * MIB
_TRIES = 5


def sinks_of(files: Files, root: Path) -> list[str]:
    """The names of all sinks that have a log, sorted. Raises LogError."""
    return [name for name in _names(files, Layout(root).sinks) if _is_sink(name) and _segments(files, root, name)]


def _is_sink(name: str) -> bool:
    try:
        return check_name("sink", name) == name
    except ValueError:
        return False


def _names(files: Files, directory: Path) -> list[str]:
    try:
        with mapped(directory, "list"):
            return files.list_directory(directory)
    except LogError as error:
        if isinstance(error.__cause__, (FileNotFoundError, NotADirectoryError)):
            return []
        raise


def _segments(files: Files, root: Path, sink: str) -> list[int]:
    return segments_among(_names(files, Layout(root).sink(sink)))


def chosen_sinks(files: Files, root: Path, sink: str | None) -> list[str]:
    """That sink, or all of them. Raises UnknownSink, LogError."""
    names = sinks_of(files, root)
    if sink is not None and sink not in names:
        raise UnknownSink(f"there is no sink {sink!r} in {root}: {near_names(sink, names, 'sinks')}")
    return names if sink is None else [sink]


def notes_of(files: Files, root: Path, sink: str) -> Iterator[Said]:
    """All notes that are kept of a sink, the oldest first.

    Raises:
        Damaged, NewerFormat: its log cannot be used; the message names the file and the byte. LogError: it cannot be read.
    """
    contents = _contents(files, root, sink)
    for place, (path, content) in enumerate(contents):
        yield from _notes_in(path, content, last=place == len(contents) - 1)


def _contents(files: Files, root: Path, sink: str) -> list[tuple[Path, bytes]]:
    """The bytes of its segments. A broker may delete one while they are read: then the one after it has all that counts."""
    directory = Layout(root).sink(sink)
    for _ in range(_TRIES):
        paths = [segment_path(directory, first) for first in _segments(files, root, sink)]
        try:
            return [(path, files.read_whole(path, _BYTES_MAX)) for path in paths]
        except FileNotFoundError:
            continue
    raise LogError(f"{directory}: its segments go faster than they are read; try again")


def _notes_in(path: Path, content: bytes, *, last: bool) -> Iterator[Said]:
    length = content.find(b"\n") + 1
    try:
        header = decode_segment(content[:length])
    except Malformed as error:
        if last and not length:
            return  # it was only being begun
        raise damaged(path, 0, f"the segment header is not what was written: {error}") from error
    except NewerFormat as error:
        raise NewerFormat(f"{path}: {error}") from None
    walk, seen = Walk(header.first, f"{header.prev:08x}", _NOTES_BYTES_MAX), list[Seen]()
    end, broken = walk.over(content, length, seen)
    for first, _count, start, stop, _publisher, _sequence, _checksum, at, *_ in seen:
        try:
            notes = orjson.loads(b"[%s]" % content[start : stop - 1].replace(b"\n", b","))
        except orjson.JSONDecodeError as error:
            raise damaged(path, start, f"the notes from {first} on are whole, but not JSON: {error}") from error
        for note in notes:
            yield Said(_time_of(note, at), note)
    if broken is not None and not (last and _is_torn(content, end, walk, broken)):
        raise damaged(path, end, broken.why)


def _time_of(note: object, at: float) -> float:
    told = note.get("at") if isinstance(note, dict) else None
    return told if type(told) in (int, float) else at  # type: ignore[return-value]


def _is_torn(content: bytes, end: int, walk: Walk, broken: Broken) -> bool:
    """Whether what follows may be a write that did not come to its end, and nothing after it was confirmed."""
    tail = content[end:]
    return (broken.flaw is Flaw.SHORT or has_hole(tail, end)) and confirmed_after(tail, walk.offset, walk.size_max) is None


def blamed_on(root: Path, sink: str, error: Damaged) -> Damaged:
    """What is said of a note that does not fit those before it."""
    return Damaged(f"{Layout(root).sink(sink)}: {error}")
