"""A task made by hand, for the test of a function that takes one; no broker is needed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import orjson

from dq.client.hand import Hand, Sleeper
from dq.client.held_lease import HeldLease
from dq.client.task import Task
from dq.config import LIMITS
from dq.errors import InvalidPayload
from dq.model.event import Event, EventOwner, EventType
from dq.model.outcome import Outcome
from dq.model.record import encode


class HandMadeTask(Task):
    """A real `Task` that no broker gave out: all its verbs work, and what they said can be read.

    Attributes:
        outcome: what was decided (`Outcome`), or None while it is open.
        after: what `retry(after=)` asked for, in seconds, or None.
        reason: what `dead_letter(reason)` said, or "".
        error: what `retry(error=)` said, or what the exception said that left `with task:`; else "".
        extensions: (seconds, note) of each `extend()`.
    """

    __slots__ = ("after", "error", "extensions", "reason")

    def __init__(self, lease: HeldLease, offset: int, fields: dict[str, Any]) -> None:
        super().__init__(lease, offset, fields)
        self.after: float | None = None
        self.reason = self.error = ""
        self.extensions: list[tuple[float, str | None]] = []

    @property
    def notes(self) -> list[str]:
        """The notes that `extend(note=)` left, in their order."""
        return [note for _, note in self.extensions if note is not None]


class _Desk(Sleeper):
    """In place of a consumer: keeps with the task what its verbs say."""

    sleeping = False
    max_attempts = 1 << 31  # of a task made by hand none is the last attempt

    def __init__(self, sink: str, consumer: str) -> None:
        self.sink, self.consumer_id = sink, consumer

    def settle(self, task: Task, outcome: Outcome, *, after: float | None = None, reason: str = "", error: str = "") -> None:
        if isinstance(task, HandMadeTask):
            task.after, task.reason, task.error = after, reason, error

    def extend(self, task: Task, seconds: float, note: str | None) -> None:
        task.lease.extended[task.offset] = time.time() + seconds
        if isinstance(task, HandMadeTask):
            task.extensions.append((seconds, note))

    def confirm(self) -> None:
        """There is nobody to wait for."""


def task(
    payload: Any,
    attempt: int = 1,
    key: str | None = None,
    topic: str | None = None,
    headers: Mapping[str, str] | None = None,
    stream: str = "test",
    *,
    name: str = "",
    bucket: int = 0,
    offset: int = 0,
    sink: str = "test",
    consumer: str = "c-test",
    publisher: str = "p-test",
    last_error: str | None = None,
    ack_grace: float | timedelta = LIMITS.ack_grace_seconds,
) -> HandMadeTask:
    """Makes a task by hand, for the test of a handler; no broker is needed.

    The payload goes through JSON on its way, as it does through the log: a tuple comes out as a list, a dataclass as a dict,
    bytes as bytes.

    Args:
        payload: what was published.
        attempt: which delivery this is, from 1.
        key, topic, name, headers: what else the record carries.
        stream, bucket, offset: its place; its id is `stream/bucket/offset`.
        sink, consumer, publisher: by whom it came.
        last_error: why it comes again.
        ack_grace: seconds from now to its deadline.

    Raises:
        InvalidPayload: it could not be published either.
        ValueError: `attempt`, `bucket` or `offset` is no such number.
    """
    for number, least in ((attempt, 1), (bucket, 0), (offset, 0)):
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise ValueError(f"attempt counts from 1, bucket and offset from 0: not {number!r}")
    if key is not None and not isinstance(key, str):
        raise InvalidPayload(f"a key is a str, not {type(key).__name__}: convert it first")
    line = encode(payload, time.time(), key, topic, name, headers)
    fields: dict[str, Any] = {
        "lease": 0, "stream": stream, "bucket": bucket, "first": offset, "count": 1, "publishers": [[1, publisher]],
        "attempts": {str(offset): attempt - 1} if attempt > 1 else {},
        "errors": {} if last_error is None else {str(offset): last_error},
    }  # fmt: skip
    desk = _Desk(sink, consumer)
    grace = ack_grace.total_seconds() if isinstance(ack_grace, timedelta) else float(ack_grace)
    given = Event(EventType.TASK, EventOwner.CONSUMER_BROKER, fields, line)
    lease = HeldLease(given, Hand(desk, desk, 1), desk, grace)
    return HandMadeTask(lease, offset, orjson.loads(line))
