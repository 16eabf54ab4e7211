"""A record as it stands in the log: one line of JSON with `at`, `payload`, and `key`, `name`, `topic`, `headers` where given.

A delayed record has `due`, when it is to come, and in the stream it came to also `from`, its id while it waited; one that is of
no use after a time has `expires`. Both are wall times, seconds since 1970.

Bytes that are not JSON travel as base64 in the field `base64` in place of `payload`.
"""

from __future__ import annotations

import base64
import dataclasses
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, Final

import orjson

from dq.errors import InvalidPayload

LINE: Final = orjson.OPT_APPEND_NEWLINE
_RAW = frozenset({bytes, bytearray, memoryview})
# A search for one byte costs a tenth of one for four, and most lines without a null have no u at all.
_U: Final = ord("u")


def encode(
    payload: object,
    at: float,
    key: str | None = None,
    topic: str | None = None,
    name: str = "",
    headers: Mapping[str, str] | None = None,
    times: Mapping[str, float] | None = None,
) -> bytes:
    """One record line, with its newline.

    Args:
        times: `due` and `expires`, wall times, where the record has them.

    Raises:
        InvalidPayload: JSON cannot carry the payload.
    """
    if key is None and topic is None and not name and not headers and not times and type(payload) not in _RAW:
        fields: dict[str, object] = {"at": at, "payload": payload}
    else:
        fields = _fields(payload, at, key, topic, name, headers, times)
    try:
        line = orjson.dumps(fields, None, LINE)
    except TypeError as error:  # orjson.JSONEncodeError is a TypeError
        raise refusal(payload, error) from error
    if _U in line and b"null" in line:
        check_finite(payload)
    return line


def _fields(
    payload: object,
    at: float,
    key: str | None,
    topic: str | None,
    name: str,
    headers: Mapping[str, str] | None,
    times: Mapping[str, float] | None,
) -> dict[str, object]:
    fields: dict[str, object] = {"at": at, **(times or {})}
    if key is not None:
        fields["key"] = key
    if topic is not None:
        fields["topic"] = topic
    if name:
        fields["name"] = name
    if headers:
        fields["headers"] = dict(headers)
    if isinstance(payload, (bytes, bytearray, memoryview)):
        fields["base64"] = base64.b64encode(payload).decode("ascii")
    else:
        fields["payload"] = payload
    return fields


def refusal(payload: object, error: Exception) -> InvalidPayload:
    """The error for a payload that orjson refused, with what to do about it."""
    return InvalidPayload(
        f"a payload of type {type(payload).__name__} cannot be written as JSON ({error}): publish dict, list, str, numbers, "
        "True, False, None, dataclasses, datetimes or UUIDs with str keys, or bytes"
    )


def check_finite(value: object, path: str = "payload") -> None:
    """Refuses NaN and infinity, which orjson writes as null. Called only for lines that have `null` in them.

    Raises:
        InvalidPayload: there is one; the message says where.
    """
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidPayload(f"{path} is {value!r}, which JSON cannot carry: publish None or a str in its place")
    elif isinstance(value, dict):
        for key, part in value.items():
            check_finite(part, f"{path}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for place, part in enumerate(value):
            check_finite(part, f"{path}[{place}]")
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for part in dataclasses.fields(value):
            check_finite(getattr(value, part.name), f"{path}.{part.name}")


def payload_of(fields: dict[str, Any]) -> Any:
    """The payload of a decoded record line: a JSON value, or bytes."""
    if "payload" in fields:
        return fields["payload"]
    return base64.b64decode(fields["base64"])


class View:
    """What is looked up in a decoded line when it is asked for, so that what is not looked at costs nothing."""

    __slots__ = ()

    stream: str
    bucket: int
    offset: int
    _fields: dict[str, Any]

    @property
    def id(self) -> str:
        """`stream/bucket/offset`."""
        return f"{self.stream}/{self.bucket}/{self.offset}"

    @property
    def key(self) -> str | None:
        """What chose the bucket, or None."""
        return self._fields.get("key")

    @property
    def topic(self) -> str | None:
        """The label, or None."""
        return self._fields.get("topic")

    @property
    def name(self) -> str:
        """The name of what happened, or ""."""
        return str(self._fields.get("name", ""))

    @property
    def headers(self) -> dict[str, str]:
        """Text by name; empty where there is none."""
        return dict(self._fields.get("headers", ()))

    @property
    def created_at(self) -> datetime:
        """When it was published, by the publisher's wall clock, in UTC."""
        return datetime.fromtimestamp(self._fields["at"], UTC)

    @property
    def due_at(self) -> datetime | None:
        """When it was to come, of a record that was published with a delay, in UTC; else None."""
        due = self._fields.get("due")
        return None if due is None else datetime.fromtimestamp(due, UTC)

    @property
    def expires_at(self) -> datetime | None:
        """When it is of no use any more, in UTC; None: never."""
        expires = self._fields.get("expires")
        return None if expires is None else datetime.fromtimestamp(expires, UTC)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"


class Record(View, tuple[str, int, int, Any, dict[str, Any]]):
    """A record that was read. Two are equal only if they are one and the same.

    A tuple within: made in C, in two thirds of the time that three assignments in Python take, and a reader makes millions.
    (`Record((stream, bucket, offset, payload, fields))`; `record_of` makes one from its line.)

    Attributes:
        stream, bucket, offset: its place.
        payload: a JSON value, or bytes.
    """

    __slots__ = ()

    stream: str = property(itemgetter(0))  # type: ignore[assignment]
    bucket: int = property(itemgetter(1))  # type: ignore[assignment]
    offset: int = property(itemgetter(2))  # type: ignore[assignment]
    payload: Any = property(itemgetter(3))
    _fields: dict[str, Any] = property(itemgetter(4))  # type: ignore[assignment]
    __eq__ = object.__eq__
    __hash__ = object.__hash__


def record_of(stream: str, bucket: int, offset: int, fields: dict[str, Any]) -> Record:
    """The record of a decoded line. Raises KeyError, TypeError or ValueError where that has no payload."""
    return Record((stream, bucket, offset, payload_of(fields), fields))
