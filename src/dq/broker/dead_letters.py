"""From an intent in a sink's log to the dead letter that is published: in order, few at a time, again until it is stored."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable
from itertools import groupby

import orjson

from dq.clock import Clock
from dq.config import LIMITS, Limits
from dq.core.sink import SinkCore
from dq.errors import Damaged, LogError, NewerFormat, RecordsTrimmed
from dq.log.backend import StorageReader
from dq.model.dead_letter import DeadLetter
from dq.model.event import Event, EventOwner, EventType
from dq.model.names import dead_letter_stream

log = logging.getLogger("dq")
_IN_FLIGHT = LIMITS.dedupe_batches // 2


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
        self._from: dict[str, int] = {}
        self._sent: dict[str, int] = {}

    def due(self) -> list[DeadLetter]:
        """Intents to be published now: in the order of their numbers, and few at a time.

        The other broker knows the last batches of a publisher, so that one that comes again must be among them; and it knows
        no publisher of whom nothing is stored, so that the first one goes alone: a later one would be taken for the first.
        """
        due: list[DeadLetter] = []
        for stream, waiting in groupby(self._core.dead_letters(), lambda letter: letter.stream):
            letters = list(waiting)
            number = letters[0].intent
            alone = self._from.setdefault(stream, number) == number
            after = self._sent.get(stream, -1)
            end = number + (1 if alone else _IN_FLIGHT)
            due += [letter for letter in letters if after < letter.intent < end]
            self._sent[stream] = max(after, min(end - 1, letters[-1].intent))
        return due

    def again(self) -> list[DeadLetter]:
        """As `due`, with those that are under way: the other broker is a new one, or did not take one of them."""
        self._sent.clear()
        return self.due()

    def writes(self, intents: list[DeadLetter]) -> list[Event]:
        """The WRITE events of these intents, whose notes must be synced already.

        One whose record cannot be read now is due again, and the later ones of its stream with it.
        """
        events: list[Event] = []
        waiting: set[str] = set()
        for intent in intents:
            line = self._line(intent) if intent.stream not in waiting else None
            if line is not None:
                stream = dead_letter_stream(intent.stream)
                fields = {"stream": stream, "publisher": self.publisher, "sequence": intent.intent}
                events.append(Event(EventType.WRITE, EventOwner.CONSUMER_BROKER, fields, line))
            elif intent.stream not in waiting:
                waiting.add(intent.stream)
                self._sent[intent.stream] = intent.intent - 1
        return events

    def _record_of(self, intent: DeadLetter) -> bytes | None:
        """The line of its record without the newline; `null` if it is gone, None if it cannot be read now."""
        place = (intent.stream, intent.bucket, intent.offset)
        if self._core.is_stray(intent):
            log.error("the record of dead letter %s/%d/%d is gone: its stream lost it, or was made anew", *place)
            return b"null"
        reader = self._reader_of((intent.stream, intent.bucket))
        if reader is None:
            return None  # nobody has said yet how far the stream is committed
        try:
            found = reader.read(intent.offset, 1, self._limits.task_bytes)
        except (RecordsTrimmed, Damaged, NewerFormat) as error:
            log.error("the record of dead letter %s/%d/%d is gone: %s", *place, error)
            return b"null"
        except (LogError, OSError) as error:
            log.error("the record of dead letter %s/%d/%d cannot be read: %s", *place, error)
            return None
        return b"".join(found.parts)[:-1] if found.count else None

    def _line(self, intent: DeadLetter) -> bytes | None:
        """The record as it was, with its past in its headers; a line that is not JSON as the raw bytes it is."""
        raw = self._record_of(intent)
        if raw is None:
            return None
        try:
            fields = orjson.loads(raw)
            if not isinstance(fields, dict) or not ("payload" in fields or "base64" in fields):
                raise ValueError
        except ValueError:
            fields = {"base64": base64.b64encode(raw).decode("ascii")}
        past = {
            "dq-id": f"{intent.stream}/{intent.bucket}/{intent.offset}",
            "dq-sink": self._name,
            "dq-attempts": str(intent.attempts),
            "dq-reason": intent.reason,
            "dq-error": intent.error,
            "dq-consumer": intent.consumer,
            "dq-published-at": str(fields.get("at", "")),
        }
        headers = fields.get("headers")
        fields["headers"] = {**(headers if isinstance(headers, dict) else {}), **past}
        fields["at"] = self._clock.wall()
        return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)
