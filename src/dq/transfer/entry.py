"""A line that is to be imported, looked at: what `dq export` writes, `dq tail --json` prints or `dq repair --salvage` saved."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import orjson

from dq.config import LIMITS
from dq.errors import DqError, InvalidPayload, InvalidSetting, NewerFormat
from dq.model.names import LATER_SUFFIX, check_name
from dq.model.record import encode
from dq.model.settings import PRIORITIES_MAX, StreamSettings
from dq.model.shown import shown
from dq.transfer.form import EXPORT_FORMAT, HEADER, ExportedStream

IMPORT_ID: Final = "dq-import-id"
IMPORT_TIME: Final = "dq-import-time"
IMPORT_UUID: Final = "dq-import-uuid"
IMPORT_BEFORE: Final = "dq-import-before"
_OURS: Final = (IMPORT_ID, IMPORT_TIME, IMPORT_UUID, IMPORT_BEFORE)
_PLACE: Final = re.compile(r"[^/]+/[0-9]{1,4}")
_OFFSET_CHARS_MAX: Final = 19
_MOMENT_MAX: Final = 1e12
_UUID: Final = re.compile(r"[0-9A-Za-z-]{1,64}")
_PLAIN_BYTES: Final = 65_536
"""A line that is no longer is no record that is too large, with its headers or without."""
_PLAIN_BRACKETS: Final = 100
"""With no more, it is not nested too deeply to be written again."""


class BadLine(InvalidPayload):
    """A line that cannot be imported. The message begins with its number."""


class Entry(NamedTuple):
    """One record to be published.

    Attributes:
        number: of its line.
        stream: into which it goes.
        source: the uuid of the stream it was exported from, "" where that is not known, and that stream's part of its id.
        offset: the rest of its id; -1 where it has none, so that nobody can say whether it is there already.
        payload, key, topic, name, headers, priority: to be published; among the headers those that tell where it comes from.
        due, expires: wall times, or None.
    """

    number: int
    stream: str
    source: tuple[str, str]
    offset: int
    payload: Any
    key: str | None
    topic: str | None
    name: str
    headers: dict[str, str]
    priority: int
    due: float | None
    expires: float | None


@dataclass(slots=True)
class Entries:
    """The records of lines, in their order.

    Args:
        into: the stream into which all go; None: each into that of its name.

    Attributes:
        streams: what headers told of streams, by name; with `into`, that of the first one by that name.
        sinks: how many sinks they told of.
    """

    into: str | None = None
    streams: dict[str, ExportedStream] = field(default_factory=dict)
    sinks: int = 0
    _uuids: dict[str, str] = field(default_factory=dict)
    _known: dict[tuple[Any, str], tuple[str, tuple[str, str]]] = field(default_factory=dict)

    def of(self, lines: Iterable[bytes]) -> Iterator[Entry]:
        """Looks at one line after the other.

        Raises:
            BadLine: it cannot be imported. NewerFormat: a newer version of dq wrote it.
        """
        self.sinks = 0
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                fields = orjson.loads(line)
                if type(fields) is not dict:
                    raise InvalidPayload(f"it is no JSON object, but {shown(fields)}")
                if HEADER in fields:
                    self._header(fields)
                else:
                    yield self._entry(number, fields, line)
            except NewerFormat:
                raise
            except orjson.JSONDecodeError as error:
                raise BadLine(f"line {number} is not JSON: {error}") from None
            except (DqError, TypeError, ValueError) as error:
                raise BadLine(f"line {number} cannot be imported: {error}") from None

    def _header(self, fields: dict[str, Any]) -> None:
        form = fields[HEADER]
        if type(form) is not int or form < 1:
            raise InvalidPayload(f"its {HEADER!r} is {shown(form)}, and there is no such form of an export")
        if form > EXPORT_FORMAT:
            raise NewerFormat(
                f"it is an export of form {form}; this version of dq reads up to {EXPORT_FORMAT}: use the newer one"
            )
        streams, sinks = fields.get("streams", []), fields.get("sinks", [])
        if type(streams) is not list or type(sinks) is not list:
            raise InvalidPayload("its streams or sinks are no list")
        self.sinks += len(sinks)
        for told in streams:
            stream = _stream_of(told)
            self._uuids[stream.name] = stream.uuid
            self.streams.setdefault(self.into or stream.name, stream)
        self._known.clear()

    def _entry(self, number: int, fields: dict[str, Any], line: bytes) -> Entry:
        """The hot loop of an import: what is the same for many records is looked at once."""
        if "verified" in fields:
            fields = _salvaged(fields)
        get, payload = fields.get, _payload(fields)
        origin, offset = get("from") or get("id"), -1
        place = ""
        if origin is not None:
            place, offset = _place(origin)
        named = (get("stream"), place)
        known = self._known.get(named)
        if known is None:
            known = self._known[named] = self._target(*named)
        key, topic, name = get("key"), get("topic"), get("name", "")
        if (key is not None and type(key) is not str) or type(name) is not str:
            raise InvalidPayload(f"its key is {shown(key)} and its name {shown(name)}: both are texts")
        if topic is not None:
            check_name("topic", topic)
        at = _moment("at", get("at"))
        headers = _headers(get("headers"), origin, at, known[1][0])
        due, expires, priority = get("due"), get("expires"), get("priority", 0)
        if due is not None or expires is not None or priority:
            due, expires, priority = _moment("due", due), _moment("expires", expires), _priority(priority)
        entry = Entry(number, known[0], known[1], offset, payload, key, topic, name, headers, priority, due, expires)
        if len(line) > _PLAIN_BYTES or line.count(b"[") + line.count(b"{") > _PLAIN_BRACKETS:
            _check_size(entry)
        return entry

    def _target(self, named: Any, place: str) -> tuple[str, tuple[str, str]]:
        """Where records of a stream and a bucket go, and where they come from."""
        if named is not None and type(named) is not str:
            raise InvalidPayload(f"its stream is {shown(named)}, not a name")
        # A delayed record is published to the stream that it is for, and waits again.
        from_stream = (named or place.rpartition("/")[0]).removesuffix(LATER_SUFFIX)
        stream = self.into or from_stream
        if not stream:
            raise InvalidPayload("it says neither its stream nor its id: say --stream")
        if stream.endswith(LATER_SUFFIX):
            raise InvalidPayload(f"dq keeps {stream!r} itself: say --stream {stream.removesuffix(LATER_SUFFIX)}")
        return check_name("stream", stream), (self._uuids.get(from_stream, ""), place)


def _stream_of(told: Any) -> ExportedStream:
    if type(told) is not dict or type(told.get("settings")) is not dict or not _UUID.fullmatch(str(told.get("uuid"))):
        raise InvalidPayload(f"it tells of a stream {shown(told)}")
    try:
        settings = StreamSettings.from_dict(told["settings"])
    except InvalidSetting as error:
        raise NewerFormat(f"it has settings that this version of dq does not know: {error}") from error
    return ExportedStream(check_name("stream", told.get("name")), told["uuid"], settings)


def _salvaged(fields: dict[str, Any]) -> dict[str, Any]:
    """A line of `dq repair --salvage`."""
    if fields["verified"] is not True:
        raise InvalidPayload("its checksum was not right when it was saved: look at it, and take it out or make it true")
    record = fields.get("record")
    if type(record) is not dict:
        raise InvalidPayload("it was saved as no record: take it out")
    return {**record, "id": fields.get("id")}


def _payload(fields: Mapping[str, Any]) -> Any:
    if ("payload" in fields) == ("base64" in fields):
        raise InvalidPayload("a record has either a payload or base64")
    if "payload" in fields:
        return fields["payload"]
    try:
        return base64.b64decode(fields["base64"], validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise InvalidPayload(f"its base64 is none: {error}") from None


def _place(origin: Any) -> tuple[str, int]:
    """Of an id what stands before the offset, and that. A record that was delayed counts by the id that it had first."""
    if type(origin) is str:
        place, _, offset = origin.rpartition("/")
        if len(offset) < _OFFSET_CHARS_MAX and offset.isdecimal() and offset.isascii() and _PLACE.fullmatch(place):
            return place, int(offset)
    raise InvalidPayload(f"its id is {shown(origin)}, not STREAM/BUCKET/OFFSET")


def _moment(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 <= value < _MOMENT_MAX:
        raise InvalidPayload(f"its {name} is {shown(value)}, not seconds since 1970")
    return float(value)


def _priority(value: Any) -> int:
    if type(value) is not int or not 0 <= value < PRIORITIES_MAX:
        raise InvalidPayload(f"its priority is {shown(value)}, not a whole number from 0 to {PRIORITIES_MAX - 1}")
    return value


def _headers(value: Any, origin: str | None, at: float | None, uuid: str) -> dict[str, str]:
    """Its own ones, and where it comes from. What has one of our names already is kept in `dq-import-before`."""
    own: dict[str, str] = {} if value is None else value
    if own:
        if type(own) is not dict or not all(type(each) is str for each in own.values()):
            raise InvalidPayload(f"its headers are {shown(value)}, not texts by name")
        own = _renamed(own)
    if origin:
        own[IMPORT_ID] = origin
    if at is not None:
        own[IMPORT_TIME] = str(at)
    if uuid:
        own[IMPORT_UUID] = uuid
    return own


def _renamed(own: dict[str, str]) -> dict[str, str]:
    before = {name: own[name] for name in _OURS if name in own}
    if not before:
        return own
    own = {name: text for name, text in own.items() if name not in _OURS}
    return {**own, IMPORT_BEFORE: orjson.dumps(before).decode()}


def _check_size(entry: Entry) -> None:
    """Raises InvalidPayload: it cannot be written as one record."""
    times = {"due": 0.0, "expires": 0.0}
    line = encode(entry.payload, 1e9 + 0.123456, entry.key, entry.topic, entry.name, entry.headers, times)
    if len(line) > LIMITS.record_bytes_max - _PLAIN_BRACKETS:
        raise InvalidPayload(f"it is a record of {len(line):,} bytes, and {LIMITS.record_bytes_max:,} are the most")
