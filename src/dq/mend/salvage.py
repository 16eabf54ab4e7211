"""`salvage`: writes out all that can be read of a log, however damaged it is. The log itself is not touched."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import orjson

from dq.log.files import Files, mapped
from dq.log.format import BATCH_START, HEADER_BYTES_MAX
from dq.log.layout import segment_path, segments_among
from dq.log.scan import Seen, Walk
from dq.mend.target import Target, target_of

_SEGMENT_BYTES_MAX = 1 << 40
_NEXT_HEADER = re.compile(rb'(?:\A|\n)(?=\{"batch":)')
_HEADERS = (BATCH_START, b'{"segment":')


@dataclass(slots=True)
class Salvage:
    """What was saved.

    Attributes:
        verified: lines of batches whose checksum is right.
        unverified: lines between those that are at least JSON, and look like a record.
        unreadable_bytes: what is neither.
    """

    verified: int = 0
    unverified: int = 0
    unreadable_bytes: int = 0


def salvage(log: Path | str, out: IO[bytes]) -> Salvage:
    """Writes all that can be read of a log as JSON lines.

    A line is `{"verified":true,"id":"stream/bucket/offset","publisher":…,"record":{…}}`, or, where the checksum is not right,
    `{"verified":false,"segment":…,"byte":…,"record":{…}}`. A record that is not JSON is `"base64"` in place of `"record"`.

    Args:
        log: a segment, or the directory of a bucket or a sink.
        out: where the lines go.

    Raises:
        InvalidSetting: the path is no log. LogError: the disk refused to read. OSError: it refused to write.
    """
    target, saved, files = target_of(log), Salvage(), Files()
    with mapped(target.directory, "list"):
        firsts = segments_among(files.list_directory(target.directory))
    for first in firsts if target.segment is None else [target.segment]:
        content = files.read_whole(segment_path(target.directory, first), _SEGMENT_BYTES_MAX)
        for line in _lines(content, target, first, saved):
            out.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
    return saved


def _lines(content: bytes, target: Target, segment: int, saved: Salvage) -> Iterator[dict[str, Any]]:
    """The lines of one segment."""
    position = 0
    while position < len(content):
        start, seen, stop = _next_whole(content, position, target.batch_bytes_max)
        yield from _unverified(content, position, start, segment, saved)
        for first, _count, begin, end, publisher, *_ in seen:
            for offset, line in enumerate(content[begin : end - 1].split(b"\n"), first):
                saved.verified += 1
                yield {"verified": True, "id": f"{target.id}/{offset}", "publisher": publisher, **_of(line)}
        position = stop


def _next_whole(content: bytes, position: int, size_max: int) -> tuple[int, list[Seen], int]:
    """The next run of whole batches: where it begins, the batches, and where it stops; at the end of the bytes, none."""
    for match in _NEXT_HEADER.finditer(content, max(position - 1, 0)):
        start = match.end()
        header = content[start : content.find(b"\n", start, start + HEADER_BYTES_MAX)]
        try:
            first = orjson.loads(header)["batch"]
        except (orjson.JSONDecodeError, KeyError):
            continue
        seen: list[Seen] = []
        if type(first) is int:
            stop, _ = Walk(first, None, size_max).over(content, start, seen)
        if seen:
            return start, seen, stop
    return len(content), [], len(content)


def _unverified(content: bytes, start: int, stop: int, segment: int, saved: Salvage) -> Iterator[dict[str, Any]]:
    """The lines between whole batches that can be read at least."""
    position = start
    for line in content[start:stop].split(b"\n"):
        fields = _of(line)
        if isinstance(fields.get("record"), dict) and not line.startswith(_HEADERS):
            saved.unverified += 1
            yield {"verified": False, "segment": segment, "byte": position, **fields}
        elif not line.startswith(_HEADERS):
            saved.unreadable_bytes += len(line)
        position += len(line) + 1


def _of(line: bytes) -> dict[str, Any]:
    try:
        return {"record": orjson.loads(line)}
    except orjson.JSONDecodeError:
        return {"base64": base64.b64encode(line).decode("ascii")}
