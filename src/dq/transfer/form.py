"""What an export looks like: JSON lines that `jq` reads and `dq import` takes. The only code that makes one.

::

    {"dq-export":1,"dq":"0.1.0","at":1763000000.5,"streams":[{"name":"orders","uuid":"…","settings":{…}}]}
    {"id":"orders/0/17","stream":"orders","at":1763000000.1,"key":"ada","topic":"eu","headers":{…},"payload":{…}}
    {"id":"orders/10/4","stream":"orders","priority":9,"at":…,"expires":…,"base64":"AP8="}
    {"id":"orders-later/0/3","stream":"orders","at":…,"due":…,"payload":…}

The first line tells of all streams. Then come records: what stands in the log, with `id`, `stream` and, above 0, `priority`
before it. A payload of bytes is `base64` in place of `payload`, as in the log. A delayed record that had not come to its stream
yet has the id under which it waits.

**The rule for changing this:** a field that older versions may skip needs nothing; anything else raises `EXPORT_FORMAT`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

import orjson

from dq.model.settings import StreamSettings

EXPORT_FORMAT: Final = 1
HEADER: Final = "dq-export"
"""The field by which the first line is known, with the version of this form."""
_BEFORE: Final = frozenset({"id", "stream", "priority"})
_KEPT: Final = ("at", "due", "expires", "key", "topic", "name", "headers", "payload", "base64", "from")
_RECORD: Final = b'{"at":'


@dataclass(frozen=True, slots=True)
class ExportedStream:
    """What the first line says of a stream.

    Attributes:
        name, uuid, settings: of the stream. By its uuid another stream of that name is told from it.
    """

    name: str
    uuid: str
    settings: StreamSettings

    def told(self) -> dict[str, Any]:
        """As the first line has it."""
        return {"name": self.name, "uuid": self.uuid, "settings": self.settings.to_dict()}


def header_line(version: str, at: float, streams: Sequence[ExportedStream], sinks: Sequence[Mapping[str, Any]] | None) -> bytes:
    """The first line.

    Args:
        version: of dq.
        at: wall time, seconds since 1970.
        sinks: what is told of them; None leaves them out.
    """
    fields: dict[str, Any] = {HEADER: EXPORT_FORMAT, "dq": version, "at": round(at, 3)}
    fields["streams"] = [stream.told() for stream in streams]
    if sinks is not None:
        fields["sinks"] = list(sinks)
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)


def record_lines(lines: bytes, first: int, place: str, stream: str, priority: int = 0) -> list[bytes]:
    """Lines of a log as lines of an export.

    What dq's own publishers wrote is taken as it stands, byte by byte; it is decoded only to see that it is a record.

    Args:
        lines: each with its newline.
        first: the offset of the first of them.
        place: what stands before an offset in an id: `stream/bucket`.
        stream: to which they belong.
    """
    head = f'{{"id":"{place}/%d","stream":"{stream}",' + (f'"priority":{priority},' if priority else "")
    found = []
    parts = BytesIO(lines).readlines()
    for offset, (line, fields) in enumerate(zip(parts, _decoded(lines, len(parts)), strict=True), first):
        begin = (head % offset).encode()
        if type(fields) is dict and line.startswith(_RECORD) and _BEFORE.isdisjoint(fields) and _has_payload(fields):
            found.append(begin + line[1:])
        else:
            found.append(begin + _other(line, fields))
    return found


class _NoJson:
    """In place of what a line says that is not JSON."""


def _decoded(lines: bytes, count: int) -> list[Any]:
    """All lines decoded at once as one JSON array; line by line where one of them is no JSON, or more than one value."""
    try:
        fields: list[Any] = orjson.loads(b"[%b]" % lines[:-1].replace(b"\n", b","))
    except orjson.JSONDecodeError:
        fields = []
    return fields if len(fields) == count else [_fields_of(line) for line in lines[:-1].split(b"\n")]


def _fields_of(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return _NoJson


def _has_payload(fields: Mapping[str, Any]) -> bool:
    return ("payload" in fields) != ("base64" in fields)


def _other(line: bytes, fields: Any) -> bytes:
    """The rest of the line of what another program wrote, or of a record with names that an export uses itself."""
    if fields is _NoJson:
        kept: dict[str, Any] = {"at": 0.0, "base64": base64.b64encode(line.rstrip(b"\n")).decode("ascii")}
    elif type(fields) is dict and _has_payload(fields):
        kept = {name: fields[name] for name in _KEPT if name in fields}
    else:
        kept = {"at": 0.0, "payload": fields}
    return orjson.dumps(kept, option=orjson.OPT_APPEND_NEWLINE)[1:]
