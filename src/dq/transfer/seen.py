"""What of an import stands in its stream already: found in the log itself, by the headers that tell where records come from."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import orjson

from dq.client.reader import Reader
from dq.core.ranges import RangeSet
from dq.errors import RecordsTrimmed, UnknownStream
from dq.transfer.entry import IMPORT_ID, IMPORT_UUID, Entry

_MARK = f'"{IMPORT_ID}":"'.encode()
_RECORDS_AT_ONCE = 10_000


class Seen:
    """Records by where they come from: of each bucket of each stream, ranges of offsets, so that a million cost as one."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, str], RangeSet] = {}

    def __contains__(self, entry: Entry) -> bool:
        return entry.offset >= 0 and entry.offset in self._places.get(entry.source, ())

    def add(self, entry: Entry) -> bool:
        """Notes one; False where it is known. One without an id is never known."""
        return entry.offset < 0 or self._note(entry.source, entry.offset)

    def _note(self, source: tuple[str, str], offset: int) -> bool:
        places = self._places.get(source)
        if places is None:
            places = self._places[source] = RangeSet()
        return bool(places.add(offset, offset + 1))

    def read(self, root: Path, stream: str) -> None:
        """Looks through all that a stream keeps; one that there is not has nothing. Raises Damaged, LogError."""
        try:
            reader = Reader(root, stream, start="oldest", follow=False)
        except UnknownStream:
            return
        with reader:
            while True:
                try:
                    runs = reader.lines(_RECORDS_AT_ONCE)
                except RecordsTrimmed:
                    continue
                if not runs:
                    return
                for run in runs:
                    lines = bytes(run.lines)
                    if _MARK in lines:
                        self._look(lines)

    def _look(self, lines: bytes) -> None:
        for line in BytesIO(lines).readlines():
            if _MARK not in line:
                continue
            try:
                headers: Any = orjson.loads(line).get("headers", {})
                place, _, offset = str(headers[IMPORT_ID]).rpartition("/")
                if offset.isdecimal():
                    self._note((str(headers.get(IMPORT_UUID, "")), place), int(offset))
            except (orjson.JSONDecodeError, AttributeError, TypeError, KeyError):
                continue  # of another program, or the mark stands in a payload
