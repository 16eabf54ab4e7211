"""A task on its way into a handler's worker process, and its verdict on the way back: one line of JSON, then the payload."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from dq.app.engine import Delivery
from dq.app.outcomes import ACK, RELEASE, Ack, DeadLetter, Drop, Release, Retry, Verdict
from dq.errors import AlreadySettled
from dq.model.outcome import Outcome

_OUTCOMES = {
    Ack: Outcome.ACK,
    Drop: Outcome.DROP,
    Retry: Outcome.RETRY,
    DeadLetter: Outcome.DEAD_LETTER,
    Release: Outcome.RELEASE,
}
_DROP = Drop()
# What dq's own tasks have beside what every engine's have.
_MORE = ("bucket", "offset", "publisher", "consumer")


def line_of(number: int, delivery: Delivery) -> tuple[bytes, Any]:
    """(line, payload) of a task; both are bytes. `number` comes back with its verdict.

    Raises:
        TypeError: its payload or a field of it is no JSON, as another engine may have it.
    """
    fields: dict[str, Any] = {
        "n": number,
        "id": delivery.id,
        "stream": delivery.stream,
        "sink": delivery.sink,
        "key": delivery.key,
        "topic": delivery.topic,
        "name": delivery.name,
        "headers": dict(delivery.headers),
        "at": delivery.created_at.timestamp(),
        "attempt": delivery.attempt,
        "last_error": delivery.last_error,
    }
    for more in _MORE:
        value = getattr(delivery, more, None)
        if value is not None:
            fields[more] = value
    payload = delivery.payload
    if isinstance(payload, bytes):
        fields["raw"] = True
    else:
        payload = orjson.dumps(payload)
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE), payload


class WorkerTask:
    """A task in the hand of a handler that runs in a process of its own. It has what a `Task` has, and its verbs.

    Args:
        frame: what `line_of` made, in one.
        say: sends a line to the process that has the task.

    Attributes:
        payload: a JSON value, or bytes.
        outcome: what was decided by a verb, or None.
    """

    def __init__(self, frame: bytes, say: Callable[[dict[str, Any]], None]) -> None:
        line, _, body = frame.partition(b"\n")
        self._fields = orjson.loads(line)
        self._say = say
        self.number: int = self._fields["n"]
        self.payload: Any = body if self._fields.get("raw") else orjson.loads(body)
        self.outcome: Outcome | None = None

    def __getattr__(self, name: str) -> Any:
        """Most of it stands in the line as it is asked for."""
        try:
            return self.__dict__["_fields"][name]
        except KeyError:
            raise AttributeError(f"a task in a worker process has no {name!r}") from None

    @property
    def created_at(self) -> datetime:
        """When it was published, in UTC."""
        return datetime.fromtimestamp(self._fields["at"], UTC)

    def ack(self, *, wait: bool = False) -> None:
        """It is done. With `wait` too it returns at once: the process that has the task does not tell of confirmations."""
        self._settle("ack", ACK)

    def drop(self) -> None:
        """It is not wanted."""
        self._settle("drop", Drop())

    def retry(self, after: float | timedelta | None = None, error: str = "", traceback: str = "") -> None:
        """It is to come again."""
        self._settle("retry", Retry(after, error, traceback))

    def dead_letter(self, reason: str, error: str = "", traceback: str = "") -> None:
        """It can never be done."""
        self._settle("dead_letter", DeadLetter(str(reason), error, traceback))

    def release(self) -> None:
        """It goes back as it was."""
        self._settle("release", RELEASE)

    def extend(self, seconds: float | timedelta, note: str | None = None) -> None:
        """Asks for more time from now."""
        amount = seconds.total_seconds() if isinstance(seconds, timedelta) else float(seconds)
        self._say({"n": self.number, "extend": amount, "note": note})

    def _settle(self, verb: str, verdict: Verdict) -> None:
        if self.outcome is not None:
            raise AlreadySettled(f"task {self.id} cannot take {verb}: it was settled by {self.outcome} already")
        self.outcome = _OUTCOMES[type(verdict)]
        self._say({"n": self.number, "early": True, **verdict_fields(verdict)})

    def __repr__(self) -> str:
        return f"<Task {self.id}>"


def verdict_fields(verdict: Verdict) -> dict[str, Any]:
    """What travels of a verdict."""
    fields: dict[str, Any] = {"v": type(verdict).__name__}
    if isinstance(verdict, Retry):
        fields |= {"after": verdict.seconds, "error": sayable(verdict.error), "traceback": sayable(verdict.traceback)}
    elif isinstance(verdict, DeadLetter):
        fields |= {"reason": sayable(verdict.reason), "error": sayable(verdict.error), "traceback": sayable(verdict.traceback)}
    return fields


def sayable(text: object) -> str:
    """As text that can be written as JSON: lone surrogates, as in the names of files, cannot."""
    return str(text).encode("utf-8", "backslashreplace").decode()


def verdict_from(fields: dict[str, Any]) -> Verdict:
    """The verdict that `verdict_fields` made. Raises KeyError or TypeError for what it did not make."""
    kind = fields["v"]
    if kind == "Ack":
        return ACK
    if kind == "Retry":
        return Retry(fields["after"], fields["error"], fields["traceback"])
    if kind == "DeadLetter":
        return DeadLetter(fields["reason"], fields["error"], fields["traceback"])
    return RELEASE if kind == "Release" else _DROP
