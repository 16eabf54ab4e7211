"""`Export`: writes streams as lines, in constant memory, also while a broker serves them, and also of what is damaged."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import orjson

from dq.client.bucket_cursor import Lines
from dq.client.reader import StartAt
from dq.core.ranges import RangeSet
from dq.errors import DqError, InvalidSetting, LogError, UnknownStream
from dq.log.files import Files, mapped
from dq.log.layout import Layout
from dq.log.stream_file import read_stream
from dq.mend.sinks import SinkOnDisk, read_later, read_sink_on_disk, sink_names
from dq.mend.target import check_data_directory
from dq.model.names import LATER_SUFFIX, base_stream, later_stream, near_names
from dq.model.start import parse_start, start_of
from dq.transfer.form import ExportedStream, header_line, record_lines
from dq.transfer.source import Extent, source_of

Write = Callable[[bytes], object]
_FROM = b'"from":"'


def stream_names(root: Path) -> list[str]:
    """The streams that can be exported: all but those in which delayed records wait, which go with theirs. Raises LogError."""
    layout = Layout(root)
    if not layout.streams.is_dir():
        return []
    with mapped(layout.streams, "list"):
        names = Files().list_directory(layout.streams)
    return sorted(name for name in names if layout.stream_file(name).is_file() and not name.endswith(LATER_SUFFIX))


class Export:
    """One export.

    Args:
        root: the data directory.
        streams: what is to be written, in this order.
        start, stop: the places between which; None: all there is.

    Attributes:
        records: written so far, by stream.
        failures: what could not be read, in words.
        notes: what is left out and is no damage, in words.
        missed: records that were trimmed while this went on.

    Raises:
        BrokerNotRunning: there is no data directory. UnknownStream: with near names. InvalidSetting: it is an embedded queue,
        a stream cannot be exported by itself, or a place cannot be meant for one of them.
    """

    def __init__(self, root: Path, streams: Sequence[str], start: StartAt | None = None, stop: StartAt | None = None) -> None:
        now = time.time()
        self._root, self._places = root, [None if place is None else start_of(place, now).text for place in (start, stop)]
        self.records: dict[str, int] = {}
        self.failures: list[DqError] = []
        self.notes: list[str] = []
        self.missed = 0
        self._streams: list[ExportedStream] = []
        check_data_directory(root)
        known = stream_names(root)
        for name in dict.fromkeys(streams):
            if name.endswith(LATER_SUFFIX):
                raise InvalidSetting(f"{name!r} has the delayed records of {base_stream(name)!r}, and is exported with it")
            if name not in known:
                raise UnknownStream(f"there is no stream {name!r} in {root}: {near_names(name, known, 'streams')}")
            self._describe(name)

    def _describe(self, name: str) -> None:
        try:
            found = read_stream(Files(), self._root, name)
        except LogError as error:
            self.failures.append(error)
            return
        for place in self._places:
            if place is not None:
                parse_start(place).check_over({name: range(found.settings.bucket_count)})
        self._streams.append(ExportedStream(name, found.uuid, found.settings))

    def run(self, version: str, write: Write, *, sinks: bool = False) -> None:
        """Writes all of it.

        Args:
            version: of dq.
            write: takes lines, as many at once as a batch has.
            sinks: whether the first line tells of the sinks of these streams.

        Raises:
            What `write` raises.
        """
        write(header_line(version, time.time(), self._streams, self._sinks() if sinks else None))
        for stream in self._streams:
            self.records[stream.name] = 0
            # What waits goes first: what comes to its stream meanwhile is known there by its `from`, and left out.
            waited = RangeSet()
            for lines in self._waiting(stream, waited):
                self._write(stream, lines, write)
            for run in self._runs(stream.name, *self._places):
                priority = run.bucket // stream.settings.buckets
                lines = record_lines(bytes(run.lines), run.first, f"{stream.name}/{run.bucket}", stream.name, priority)
                self._write(stream, _without(lines, stream.name, waited) if waited else lines, write)

    def _write(self, stream: ExportedStream, lines: list[bytes], write: Write) -> None:
        write(b"".join(lines))
        self.records[stream.name] += len(lines)

    def _runs(self, name: str, start: str | None = None, stop: str | None = None) -> Iterator[Lines]:
        try:
            with closing(source_of(self._root, name, self.notes)) as source:
                extent = Extent(source, name, start, stop)
                yield from extent.runs(self.failures)
                self.missed += extent.missed
        except DqError as error:  # the others go on
            self.failures.append(error)

    # --- delayed records ---------------------------------------------------------------------------------------------

    def _waiting(self, stream: ExportedStream, waited: RangeSet) -> Iterator[list[bytes]]:
        """What waits for its time, as `waited` has it in the end; nothing where a part of the stream was asked for: it has no
        place there."""
        later = later_stream(stream.name)
        if any(self._places) or not Layout(self._root).stream_file(later).is_file():
            return
        try:
            core = read_later(self._root, stream.name)
        except LogError as error:
            self.failures.append(error)
            return
        missed = self.missed
        for run in self._runs(later):
            found = []
            for offset, line in enumerate(BytesIO(run.lines).readlines(), run.first):
                if not core.is_over(offset) and (made := _later_line(run, offset, line, stream)):
                    found += made
                    waited.add(offset, offset + 1)
            if found:
                yield found
        self.missed = missed  # what was trimmed there had come to its stream

    # --- the sinks ---------------------------------------------------------------------------------------------------

    def _sinks(self) -> list[dict[str, Any]]:
        found, names = [], [stream.name for stream in self._streams]
        for name in sink_names(self._root):
            try:
                sink = read_sink_on_disk(self._root, name)
            except LogError as error:
                self.failures.append(error)
                continue
            places = {each: _places(sink, each) for each in names if sink.ledgers(each)}
            if places:
                settings = sink.file.settings.to_dict()
                found.append({"name": name, "settings": settings, "paused": sink.book.paused, "streams": places})
        return found


def _places(sink: SinkOnDisk, stream: str) -> list[dict[str, Any]]:
    """By bucket: all below `floor` is settled, and these ranges beyond it."""
    return [
        {"bucket": ledger.shard[1], "floor": ledger.floor, "settled": list(ledger.settled)} for ledger in sink.ledgers(stream)
    ]


def _without(lines: list[bytes], stream: str, waited: RangeSet) -> list[bytes]:
    """The lines without the delayed records that were written already."""
    place = f"{later_stream(stream)}/0/"
    return [line for line in lines if _FROM not in line or _offset_within(line, place) not in waited]


def _offset_within(line: bytes, place: str) -> int:
    """Where a record waited; -1 where it did not."""
    origin = orjson.loads(line).get("from")
    if type(origin) is not str or not origin.startswith(place):
        return -1
    offset = origin.removeprefix(place)
    return int(offset) if offset.isdecimal() else -1


def _later_line(run: Lines, offset: int, line: bytes, base: ExportedStream) -> list[bytes]:
    """A record that waits; nothing for one that a sink tries again: it stands in its stream already."""
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError:
        return []
    if not isinstance(fields, dict) or "for" in fields:
        return []
    wish = fields.pop("priority", 0)
    priority = min(wish, base.settings.priorities - 1) if type(wish) is int and wish > 0 else 0
    rest = orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)
    return record_lines(rest, offset, f"{run.stream}/{run.bucket}", base.name, priority)
