"""From an intent in a sink's log to the dead letter that is published: in order, few at a time, again until it is stored."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable
from itertools import groupby
from typing import Any

import orjson

from dq.broker.in_order import InOrder
from dq.clock import Clock
from dq.config import Limits
from dq.core.sink import SinkCore
from dq.errors import Damaged, LogError, NewerFormat, RecordsTrimmed
from dq.log.backend import StorageReader
from dq.model.about import ERROR_CHARS_MAX
from dq.model.dead_letter import DeadLetter
from dq.model.event import Event, EventOwner, EventType
from dq.model.told import about, words_of

log = logging.getLogger("dq")
_NOBODY = "_nobody"
_DISPENSABLE = ("dq-history", "dq-traceback", "dq-error")
"""Headers that a dead letter does without, in this order, where it would be too large to be stored with them."""


def _fields_of(raw: bytes) -> dict[str, Any]:
    """What a record's line says; one that is no record is kept as the bytes that it is."""
    try:
        fields = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return _as_bytes(raw)
    return fields if isinstance(fields, dict) and ("payload" in fields or "base64" in fields) else _as_bytes(raw)


def _as_bytes(raw: bytes) -> dict[str, Any]:
    return {"base64": base64.b64encode(raw).decode("ascii")}


class DeadLetters:
    """The dead letters of one sink that are on their way.

    Args:
        name: of the sink.
        publisher: as whom it publishes them.
        core: its state.
        reader_of: reads a shard; None while nobody has said how far it is committed.
        clock: for the time at which they are published.
        limits: `task_bytes` counts here.

    Attributes:
        publisher: as above.
    """

    def __init__(
        self,
        name: str,
        publisher: str,
        core: SinkCore,
        reader_of: Callable[[tuple[str, int]], StorageReader | None],
        clock: Clock,
        limits: Limits,
    ) -> None:
        self._name, self.publisher = name, publisher
        self._core, self._reader_of, self._clock, self._limits = core, reader_of, clock, limits
        self._order: InOrder[str] = InOrder()

    def due(self) -> list[DeadLetter]:
        """Intents to be published now: in the order of their numbers, and few at a time."""
        due: list[DeadLetter] = []
        for lane, waiting in groupby(self._core.dead_letters(), lambda letter: letter.lane):
            letters = list(waiting)
            now = self._order.due(lane, [letter.intent for letter in letters])
            due += [letter for letter in letters if letter.intent in now]
        return due

    def again(self) -> list[DeadLetter]:
        """As `due`, with those that are under way: the other broker is a new one, or did not take one of them."""
        self._order.again()
        return self.due()

    def writes(self, intents: list[DeadLetter]) -> list[Event]:
        """The WRITE events of these intents, whose notes must be synced already.

        One whose record cannot be read now is due again, and the later ones of its stream with it.
        """
        events: list[Event] = []
        waiting: set[str] = set()
        for intent in intents:
            line = self._line(intent) if intent.lane not in waiting else None
            if line is not None:
                fields = {"stream": intent.target, "publisher": self.publisher, "sequence": intent.intent}
                events.append(Event(EventType.WRITE, EventOwner.CONSUMER_BROKER, fields, line))
            elif intent.lane not in waiting:
                waiting.add(intent.lane)
                self._order.unsent(intent.lane, intent.intent)
        return events

    def _record_of(self, intent: DeadLetter) -> bytes | None:
        """The line of its record without the newline; `null` if it is gone, None if it cannot be read now."""
        place = (intent.stream, intent.bucket, intent.offset)
        extra = about(stream=intent.stream, bucket=intent.bucket, sink=self._core.name)
        if self._core.is_stray(intent):
            log.error("the record of dead letter %s/%d/%d is gone: its stream lost it, or was made anew", *place, extra=extra)
            return b"null"
        reader = self._reader_of((intent.stream, intent.bucket))
        if reader is None:
            return None  # nobody has said yet how far the stream is committed
        try:
            found = reader.read(intent.offset, 1, self._limits.task_bytes)
        except (RecordsTrimmed, Damaged, NewerFormat) as error:
            log.error("the record of dead letter %s/%d/%d is gone: %s", *place, words_of(error), extra=extra)
            return b"null"
        except (LogError, OSError) as error:
            log.error("the record of dead letter %s/%d/%d cannot be read: %s", *place, words_of(error), extra=extra)
            return None
        return b"".join(found.parts)[:-1] if found.count else None

    def _line(self, intent: DeadLetter) -> bytes | None:
        """The record as it was, with its past in its headers; a line that is not JSON as the raw bytes it is."""
        raw = self._record_of(intent)
        if raw is None:
            return None
        try:
            line = self._line_of(intent, _fields_of(raw), gone=raw == b"null")
        except TypeError:  # what is nested so deeply can be read, but not be written
            line = b""
        if not 0 < len(line) <= self._limits.kept_bytes_max:  # or where numbers are longer when dq writes them
            line = self._line_of(intent, _as_bytes(raw), gone=False)
        return line

    def _line_of(self, intent: DeadLetter, fields: dict[str, Any], *, gone: bool) -> bytes:
        if intent.due:
            return self._retried(intent, fields, gone=gone)
        past = intent.headers(self._name, fields.get("at", ""))
        headers = fields.get("headers")
        fields["headers"] = {**(headers if isinstance(headers, dict) else {}), **past}
        fields["at"] = self._clock.wall()
        line = orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)
        for name in _DISPENSABLE:
            if len(line) > self._limits.kept_bytes_max and fields["headers"].pop(name, None) is not None:
                line = orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)
        return line

    def _retried(self, intent: DeadLetter, fields: dict[str, Any], *, gone: bool) -> bytes:
        """The record as it waits to come again: for this sink alone, with the attempts that it has burned. One that is gone
        only fills its number, and comes to nobody."""
        own = {
            "due": intent.due,
            "for": _NOBODY if gone else self._name,
            "of": f"{intent.stream}/{intent.bucket}/{intent.offset}",
            "attempts": intent.attempts,
            "error": intent.error.partition("\n")[0][:ERROR_CHARS_MAX],
        }
        kept = {name: value for name, value in fields.items() if name not in ("at", "due", "from", *own)}
        wall, at = self._clock.wall(), fields.get("at")
        # What waits waits no longer than from `at` to `due`: where the clock was set back since, that would be not at all.
        begin = {"at": min(at, wall) if isinstance(at, int | float) else wall, "due": intent.due}
        return orjson.dumps({**begin, **own, "bucket": intent.bucket, **kept}, option=orjson.OPT_APPEND_NEWLINE)
