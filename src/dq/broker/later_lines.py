"""The lines of delayed records: when each is due, and what becomes of them in the batch by which they come."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import orjson

from dq.config import LIMITS
from dq.core.buckets import bucket_of
from dq.model.about import ERROR_CHARS_MAX

_TIMES = re.compile(rb'^\{"at":([0-9]{1,12}(?:\.[0-9]{1,9})?),"due":([0-9]{1,12}(?:\.[0-9]{1,9})?)[,}]', re.MULTILINE)
Address = tuple[int, str, int, str]
"""Bucket; and the sink that a record is for, with its burned attempts and last error: those of "" are for all."""


class Coming(NamedTuple):
    """A record whose time has come."""

    offset: int
    line: bytes
    fields: dict[str, Any]


def times_of(lines: bytes | memoryview, count: int) -> list[tuple[float, float]]:
    """When each of so many lines was published and when it is due; (0, 0) where a line does not say: it is due at once."""
    found = _TIMES.findall(lines)
    if len(found) == count:
        return [(float(at), float(due)) for at, due in found]
    return [_times(fields_of(line)) for line in bytes(lines).split(b"\n")[:count]]


def _times(fields: dict[str, Any]) -> tuple[float, float]:
    at, due = fields.get("at"), fields.get("due")
    if isinstance(at, int | float) and isinstance(due, int | float):
        return at, due
    return 0.0, 0.0


def fields_of(line: bytes) -> dict[str, Any]:
    """What a line says; nothing, where it is no object: it comes as it is, and is a dead letter of whoever reads it."""
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError:
        return {}
    return fields if isinstance(fields, dict) else {}


def address_of(fields: dict[str, Any], buckets: int, priorities: int, offset: int) -> Address:
    """Where a record is to stand. Records without a key are spread evenly.

    Args:
        buckets, priorities: of its stream: buckets of each lane, and lanes.
    """
    key, wish, known = fields.get("key"), fields.get("priority", 0), fields.get("bucket")
    lane = min(wish, priorities - 1) if type(wish) is int and wish > 0 else 0
    bucket = lane * buckets + (offset % buckets if key is None else bucket_of(key, buckets))
    if type(known) is int and 0 <= known < buckets * priorities:
        bucket = known  # it stood there before
    sink, attempts, error = fields.get("for"), fields.get("attempts", 0), fields.get("error", "")
    if type(sink) is str and sink and type(attempts) is int and type(error) is str:
        return bucket, sink, attempts, error[:ERROR_CHARS_MAX]
    return bucket, "", 0, ""


def line_with_origin(coming: Coming, stream: str) -> bytes:
    """The line as it is to stand in its stream: with the id that it had while it waited."""
    line = coming.line
    if not coming.fields or len(line) + len(stream) + 64 > LIMITS.kept_bytes_max:
        return line
    return b'%s,"from":"%s/0/%d"}\n' % (line.rstrip()[:-1], stream.encode(), coming.offset)


def batch_fields(batch: Sequence[Coming], address: Address) -> dict[str, Any]:
    """What the batch of these records says of them."""
    fields: dict[str, Any] = {"bucket": address[0], "count": len(batch)}
    about: dict[str, Any] = {}
    if address[1]:
        about = {"for": address[1], "attempts": address[2], "error": address[3]}
    expiries = [each.fields["expires"] for each in batch if type(each.fields.get("expires")) in (int, float)]
    if expiries:
        about["expires"] = min(expiries)
        if len(expiries) == len(batch):
            about["expired"] = max(expiries)
    if about:
        fields["about"] = about
    topics = topics_of(each.fields.get("topic") for each in batch)
    return {**fields, "topics": topics} if topics else fields


def topics_of(topics: Iterable[Any]) -> list[str]:
    """The topics of a batch as its header names them: each once, "" for records without one, none where no record has one."""
    found = {topic if type(topic) is str else "" for topic in topics}
    return sorted(found)[: LIMITS.batch_topics_max + 1] if found - {""} else []
