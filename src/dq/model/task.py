"""`TaskIn`: what a publisher hands in."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple


class TaskIn(NamedTuple):
    """A payload with what else a record may carry; `publish_many` takes these beside bare payloads.

    Attributes:
        payload: a JSON value, or bytes.
        key: chooses the bucket; records of one key keep their order.
        topic: an optional label.
        name: an optional name of what happened.
        headers: text by name.
        delay: not before: seconds or a timedelta from now on, or an aware datetime.
        once: a key under which the record is stored no second time within the stream's `once_seconds`.
        priority: 0 to 9; higher ones come first. The stream must have been made with so many `priorities`.
        expires: not after: seconds or a timedelta from now on, or an aware datetime; the record is not handed out then.
    """

    payload: Any
    key: str | None = None
    topic: str | None = None
    name: str = ""
    headers: Mapping[str, str] | None = None
    delay: float | timedelta | datetime | None = None
    once: str | None = None
    priority: int = 0
    expires: float | timedelta | datetime | None = None
