"""`Event`: the envelope of all that passes between processes, and the one table of what each kind may carry.

An event travels as one line of JSON and, after it, opaque bytes (the record lines of a batch or a lease)::

    {"type":"WRITE","owner":"PUBLISHER","bucket":0,"sequence":7,"count":2}\n
    {"at":1763797000.1,"payload":{"n":1}}\n
    {"at":1763797000.1,"payload":{"n":2}}\n

The envelope is strict: an unknown type, owner or field, a missing field, a wrong type, also of what a list or a dict holds, and
a number below 0 is a `ProtocolError` that names it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import orjson

from dq.errors import ProtocolError
from dq.model.shown import outlined, shown


class EventType(StrEnum):
    """What an event asks or tells."""

    REGISTER = "REGISTER"
    """A client says who it is; the manager hands it on to the broker that serves it."""
    OPEN = "OPEN"
    """The manager asks the publisher broker to make or find a stream."""
    WRITE = "WRITE"
    """A batch of records to be stored."""
    READ = "READ"
    """Credit: so many more may be sent."""
    TASK = "TASK"
    """A lease and its records."""
    ACK = "ACK"
    """Yes: stored, settled, confirmed, done."""
    NACK = "NACK"
    """No: refused, failed, given back."""
    EXTEND = "EXTEND"
    """A sign of life for leases."""
    COMMITTED = "COMMITTED"
    """How far buckets are committed."""
    TRIM = "TRIM"
    """Records are gone, or may go."""
    CHANGE = "CHANGE"
    """Something is to be done with a stream or a sink as a whole."""
    SEEN = "SEEN"
    """An envelope passed a process, as those who watch it are told: without its payload."""
    STATUS = "STATUS"
    """A question for figures."""
    CLOSE = "CLOSE"
    """A client left."""
    SHUTDOWN = "SHUTDOWN"
    """Finish what is under way, then leave."""


class EventOwner(StrEnum):
    """Who speaks."""

    CLIENT = "CLIENT"
    PUBLISHER = "PUBLISHER"
    CONSUMER = "CONSUMER"
    READER = "READER"
    LISTENER = "LISTENER"
    """Who broadcasts, or listens to broadcasts."""
    WATCHER = "WATCHER"
    """Who watches the envelopes that pass a process."""
    MANAGER = "MANAGER"
    PUBLISHER_BROKER = "PUBLISHER_BROKER"
    CONSUMER_BROKER = "CONSUMER_BROKER"


@dataclass(frozen=True, slots=True)
class Event:
    """One envelope.

    Attributes:
        type, owner: what is said, and by whom.
        fields: what it carries, by name; see the table below.
        body: opaque bytes after the line.
    """

    type: EventType
    owner: EventOwner
    fields: dict[str, Any] = field(default_factory=dict)
    body: bytes | bytearray = b""

    def line(self) -> bytes:
        """The envelope without its body, with its newline."""
        return orjson.dumps({"type": self.type, "owner": self.owner, **self.fields}, option=_LINE)

    def encode(self) -> bytes:
        """The whole event as bytes."""
        return self.line() + self.body

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def get(self, name: str, default: Any = None) -> Any:
        """A field that may be absent."""
        return self.fields.get(name, default)


_LINE: Final = orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS
_T, _O = EventType, EventOwner
_Kinds = tuple[type, ...]
_WHOLE: Final[_Kinds] = (int,)
_NUMBER: Final[_Kinds] = (int, float)
_TEXT: Final[_Kinds] = (str,)
_LIST: Final[_Kinds] = (list,)
_DICT: Final[_Kinds] = (dict,)
_FLAG: Final[_Kinds] = (bool,)
_NONE: Final = type(None)
_WORD: Final = re.compile("[A-Za-z_]{0,16}")

# What a process tells of an envelope that passed it; scalars all.
_SEEN: Final[tuple[dict[str, _Kinds], dict[str, _Kinds]]] = (
    {
        "number": _WHOLE, "at": _NUMBER, "direction": _TEXT, "peer": _TEXT, "kind": _TEXT, "speaker": _TEXT, "bytes": _WHOLE,
        "body": _WHOLE,
    },
    {
        "client": _TEXT, "stream": _TEXT, "sink": _TEXT, "channel": _TEXT, "topic": _TEXT, "mode": _TEXT, "outcome": _TEXT,
        "error": _TEXT, "of": _TEXT, "what": _TEXT, "bucket": _WHOLE, "sequence": _WHOLE, "first": _WHOLE, "count": _WHOLE,
        "lease": _WHOLE, "request": _WHOLE, "credit": _WHOLE, "offset": _WHOLE, "ranges": _WHOLE, "said": _WHOLE,
    },
)  # fmt: skip
# (type, owner) -> (fields that must be there, fields that may be there)
_FORMS: Final[dict[tuple[EventType, EventOwner], tuple[dict[str, _Kinds], dict[str, _Kinds]]]] = {
    (_T.REGISTER, _O.CLIENT): ({"id": _TEXT, "pid": _WHOLE}, {}),
    (_T.REGISTER, _O.PUBLISHER): (
        {"id": _TEXT, "pid": _WHOLE, "stream": _TEXT},
        {"create": _FLAG, "settings": _DICT, "again": _FLAG, "base": _DICT},
    ),
    (_T.REGISTER, _O.CONSUMER): (
        {"id": _TEXT, "pid": _WHOLE, "sink": _TEXT, "streams": _LIST},
        {"create": _FLAG, "settings": _DICT, "again": _FLAG, "leases": _LIST, "opened": _LIST},
    ),
    (_T.REGISTER, _O.READER): ({"id": _TEXT, "pid": _WHOLE, "streams": _LIST}, {"again": _FLAG, "request": _WHOLE}),
    (_T.REGISTER, _O.LISTENER): ({"id": _TEXT, "pid": _WHOLE, "channels": _LIST}, {"topic": _TEXT, "again": _FLAG}),
    (_T.REGISTER, _O.WATCHER): ({"id": _TEXT, "pid": _WHOLE, "process": _TEXT}, {}),
    (_T.SEEN, _O.MANAGER): _SEEN,
    (_T.SEEN, _O.PUBLISHER_BROKER): _SEEN,
    (_T.SEEN, _O.CONSUMER_BROKER): _SEEN,
    (_T.REGISTER, _O.PUBLISHER_BROKER): ({"pid": _WHOLE, "status": _DICT}, {}),
    (_T.REGISTER, _O.CONSUMER_BROKER): ({"pid": _WHOLE, "status": _DICT}, {}),
    (_T.REGISTER, _O.MANAGER): ({}, {}),
    (_T.CLOSE, _O.PUBLISHER_BROKER): ({"id": _TEXT}, {}),
    (_T.CLOSE, _O.CONSUMER_BROKER): ({"id": _TEXT}, {}),
    (_T.CLOSE, _O.CONSUMER): ({}, {}),
    (_T.CLOSE, _O.PUBLISHER): ({}, {}),
    (_T.CLOSE, _O.READER): ({}, {}),
    (_T.CLOSE, _O.LISTENER): ({}, {}),
    (_T.CHANGE, _O.CLIENT): (
        {"request": _WHOLE, "kind": _TEXT, "name": _TEXT, "what": _TEXT},
        {"wish": _DICT, "streams": _LIST, "ids": _LIST, "create": _FLAG},
    ),
    (_T.CHANGE, _O.MANAGER): (
        {"request": _WHOLE, "kind": _TEXT, "name": _TEXT, "what": _TEXT},
        {"wish": _DICT, "streams": _LIST, "ids": _LIST, "create": _FLAG, "opened": _LIST},
    ),
    (_T.OPEN, _O.CLIENT): ({"request": _WHOLE, "stream": _TEXT, "create": _FLAG, "settings": _DICT}, {}),
    (_T.OPEN, _O.MANAGER): ({"request": _WHOLE, "stream": _TEXT, "create": _FLAG, "settings": _DICT}, {}),
    (_T.WRITE, _O.PUBLISHER): (
        {"bucket": _WHOLE, "sequence": _WHOLE, "count": _WHOLE},
        {"again": _FLAG, "topics": _LIST, "about": _DICT},
    ),
    (_T.WRITE, _O.CONSUMER_BROKER): (
        {"stream": _TEXT, "publisher": _TEXT, "sequence": _WHOLE},
        {"again": _FLAG, "topics": _LIST, "bucket": _WHOLE, "count": _WHOLE, "about": _DICT, "uuid": _TEXT},
    ),
    (_T.WRITE, _O.LISTENER): ({"number": _WHOLE, "channel": _TEXT}, {"topic": _TEXT, "mode": _TEXT}),
    (_T.READ, _O.CONSUMER): ({"credit": _WHOLE}, {"number": _WHOLE, "now": _FLAG}),
    (_T.READ, _O.CONSUMER_BROKER): ({"credit": _WHOLE}, {}),
    (_T.READ, _O.READER): (
        {"credit": _WHOLE},
        {
            "number": _WHOLE, "request": _WHOLE, "stream": _TEXT, "bucket": _WHOLE, "first": _WHOLE, "count": _WHOLE,
            "size": _WHOLE,
        },
    ),
    (_T.TASK, _O.CONSUMER_BROKER): (
        {"lease": _WHOLE, "stream": _TEXT, "bucket": _WHOLE, "first": _WHOLE, "count": _WHOLE, "publishers": _LIST},
        {"attempts": _DICT, "errors": _DICT, "without": _LIST, "expires": _FLAG},
    ),
    (_T.ACK, _O.PUBLISHER_BROKER): (
        {},
        {
            "bucket": _WHOLE, "sequence": _WHOLE, "first": _WHOLE, "count": _WHOLE, "request": _WHOLE,
            "stream": _TEXT, "publisher": _TEXT, "opened": _DICT, "status": _DICT, "result": _DICT, "once": _FLAG,
            "stored_bucket": _WHOLE,
        },
    ),
    (_T.ACK, _O.CONSUMER_BROKER): (
        {},
        {"number": _WHOLE, "request": _WHOLE, "status": _DICT, "leases": _LIST, "settings": _DICT, "result": _DICT},
    ),
    (_T.ACK, _O.MANAGER): ({}, {"request": _WHOLE, "status": _DICT, "opened": _DICT, "result": _DICT}),
    (_T.ACK, _O.CONSUMER): ({"number": _WHOLE, "ranges": _LIST}, {"now": _FLAG, "expired": _FLAG}),
    (_T.NACK, _O.PUBLISHER_BROKER): (
        {"error": _TEXT, "message": _TEXT},
        {"bucket": _WHOLE, "sequence": _WHOLE, "request": _WHOLE, "stream": _TEXT, "publisher": _TEXT, "once": _FLAG},
    ),
    (_T.NACK, _O.CONSUMER_BROKER): ({"error": _TEXT, "message": _TEXT}, {"number": _WHOLE, "request": _WHOLE}),
    (_T.NACK, _O.MANAGER): ({"error": _TEXT, "message": _TEXT}, {"request": _WHOLE}),
    (_T.NACK, _O.CONSUMER): (
        {"number": _WHOLE, "outcome": _TEXT, "ranges": _LIST},
        {"after": (int, float, _NONE), "reason": _TEXT, "error": _TEXT, "now": _FLAG},
    ),
    (_T.ACK, _O.LISTENER): ({"number": _WHOLE}, {"skipped": _FLAG}),
    (_T.NACK, _O.LISTENER): ({"number": _WHOLE, "reason": _TEXT}, {}),
    (_T.EXTEND, _O.CONSUMER): (
        {},
        {"leases": _LIST, "lease": _WHOLE, "offset": _WHOLE, "seconds": _NUMBER, "note": _TEXT, "abandoned": _LIST},
    ),
    (_T.COMMITTED, _O.PUBLISHER_BROKER): ({"ends": _LIST}, {"opened": _LIST, "number": _WHOLE}),
    (_T.TRIM, _O.CONSUMER_BROKER): ({"stream": _TEXT, "bucket": _WHOLE, "offset": _WHOLE}, {"uuid": _TEXT}),
    (_T.TRIM, _O.MANAGER): ({"stream": _TEXT, "bucket": _WHOLE, "offset": _WHOLE}, {"uuid": _TEXT}),
    (_T.TRIM, _O.PUBLISHER_BROKER): (
        {"stream": _TEXT, "uuid": _TEXT},
        {"marks": _LIST, "removed": _LIST, "destroyed": _FLAG, "epoch": _WHOLE},
    ),
    (_T.STATUS, _O.CLIENT): ({"request": _WHOLE}, {}),
    (_T.STATUS, _O.LISTENER): ({"number": _WHOLE}, {}),
    (_T.STATUS, _O.MANAGER): ({"request": _WHOLE}, {}),
    (_T.SHUTDOWN, _O.CLIENT): ({"request": _WHOLE}, {"seconds": _NUMBER}),
    (_T.SHUTDOWN, _O.MANAGER): ({}, {}),
}  # fmt: skip
# What a list or a dict of these names holds, and nothing nested: it is written again by others, who would meet their own limit
# of depth, and stands in names and headers. What other lists hold is looked at by who reads them.
_PARTS: Final[dict[str, _Kinds]] = {
    "streams": _TEXT,
    "topics": _TEXT,
    "channels": _TEXT,
    "leases": _WHOLE,
    "settings": (str, int, float, bool, _NONE),
    "base": (str, int, float, bool, _NONE),
    "wish": (str, int, float, bool, _NONE),
    "ids": _TEXT,
    "about": (str, int, float),
}
# Looked up by the plain strings of an envelope, so that no enum is built before it is known to be one.
_BY_TEXT: Final = {(str(kind), str(owner)): (kind, owner, *form) for (kind, owner), form in _FORMS.items()}


def decode(frame: bytes | bytearray) -> Event:
    """Reads one event. A bytearray becomes the event's body: its line is cut off, which moves no byte.

    Raises:
        ProtocolError: it is not one; the message names what is wrong.
    """
    end = frame.find(b"\n")
    if end < 0:
        raise ProtocolError("an event is one line of JSON, and this frame has no line end")
    try:
        fields = orjson.loads(frame[:end])
    except orjson.JSONDecodeError as error:
        raise ProtocolError(f"the line of an event is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ProtocolError(f"the line of an event is a JSON object, not {type(fields).__name__}")
    kind, owner = fields.pop("type", None), fields.pop("owner", None)
    try:
        form = _BY_TEXT.get((kind, owner))
    except TypeError:
        form = None
    if form is None:
        raise ProtocolError(f"no event has type {_word(kind)} and owner {_word(owner)}")
    _check(fields, form[2], form[3], kind)
    if type(frame) is bytearray:
        del frame[: end + 1]
    else:
        frame = frame[end + 1 :]
    return Event(form[0], form[1], fields, frame)


def _word(value: object) -> str:
    """A type or an owner that this version does not know, as it is; what can be neither is not quoted: it ends in a log."""
    return shown(value) if isinstance(value, str) and _WORD.fullmatch(value) else outlined(value)


def _check(fields: dict[str, Any], required: dict[str, _Kinds], optional: dict[str, _Kinds], kind: object) -> None:
    left = len(required)
    for name, value in fields.items():
        kinds = required.get(name)
        if kinds is not None:
            left -= 1
        else:
            kinds = optional.get(name)
            if kinds is None:
                raise ProtocolError(f"{kind} has no field {shown(name)}")
        found = type(value)
        if found not in kinds:  # exact, so that true is no number
            raise ProtocolError(f"{kind}: field {name!r} cannot be {found.__name__}")
        if found is int or found is float:
            if value < 0:
                raise ProtocolError(f"{kind}: field {name!r} cannot be negative")
        elif name in _PARTS:
            _check_parts(value, name, kind)
    if left:
        missing = next(name for name in required if name not in fields)
        raise ProtocolError(f"{kind} lacks its field {missing!r}")


def _check_parts(value: list[Any] | dict[str, Any], name: str, kind: object) -> None:
    kinds = _PARTS[name]
    for part in value.values() if isinstance(value, dict) else value:
        if type(part) not in kinds:
            raise ProtocolError(f"{kind}: field {name!r} cannot hold {type(part).__name__}")
