"""`DeadLetters`: what was given up of a stream; looked at, handed out once more, or thrown away."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

import orjson

from dq.client.drafts import DraftFuture
from dq.client.publisher import Publisher
from dq.client.reader import Reader
from dq.client.ways import Way
from dq.config import LIMITS
from dq.errors import InvalidSetting, RecordsTrimmed, UnknownRecord, UnknownSink, UnknownStream
from dq.model.names import check_name, dead_letter_stream
from dq.model.record import Record, encode
from dq.model.settings import StreamSettings
from dq.model.shown import shown
from dq.model.start import parse_start

if TYPE_CHECKING:
    from dq.client.broker import Broker

_HISTORY = "dq-history"
_OWN = {
    *("dq-id", "dq-sink", "dq-attempts", "dq-reason", "dq-error", "dq-consumer", "dq-published-at"),
    *("dq-error-type", "dq-traceback", _HISTORY),
}
"""Headers that tell of deaths; others whose names begin so are the record's own."""
_REMOVED_AT_ONCE = 1_000
_ANSWER_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Death:
    """Once that a record was given up.

    Attributes:
        sink: whose it was.
        attempts: deliveries it had there.
        reason: "max_attempts", "consumer_died", or what `task.dead_letter(reason)` said.
        error: the last error of a handler, in one line; "" where there was none.
        error_type: its exception's name, "" where there was none.
        traceback: the end of its traceback, where it was told; else "".
        consumer: id of the consumer that had it last.
        at: when it was given up, in UTC.
    """

    sink: str
    attempts: int
    reason: str
    error: str
    error_type: str
    traceback: str
    consumer: str
    at: datetime


@dataclass(frozen=True, slots=True)
class DeadRecord:
    """A record that a sink gave up.

    Attributes:
        id: of the dead letter, in `<stream>-dlq`.
        original_id: of the record.
        stream: where the record came from.
        death: why, by whom and when it was given up.
        history: earlier times that it was given up, the oldest first; it was replayed after each.
        published_at: when it was published, in UTC; None where its line had no time.
        key, topic, name, headers, payload: as they were published.
    """

    id: str
    original_id: str
    stream: str
    death: Death
    history: tuple[Death, ...]
    published_at: datetime | None
    key: str | None
    topic: str | None
    name: str
    headers: Mapping[str, str]
    payload: Any

    @classmethod
    def of(cls, stream: str, record: Record) -> DeadRecord:
        """From what stands in the stream of dead letters."""
        told = record.headers
        return cls(
            id=record.id,
            original_id=told.get("dq-id", ""),
            stream=stream,
            death=_death(told, record.created_at),
            history=_history(told.get(_HISTORY)),
            published_at=_published(told.get("dq-published-at", "")),
            key=record.key,
            topic=record.topic,
            name=record.name,
            headers={name: value for name, value in told.items() if name not in _OWN},
            payload=record.payload,
        )


def _given_up(record: Record) -> bool:
    """Whether a sink gave it up. Others can publish to the stream of dead letters too."""
    return "dq-sink" in record.headers


def _death(told: Mapping[str, str], at: datetime) -> Death:
    return Death(
        sink=told.get("dq-sink", ""),
        attempts=int(attempts) if (attempts := told.get("dq-attempts", "")).isdecimal() else 0,
        reason=told.get("dq-reason", ""),
        error=told.get("dq-error", ""),
        error_type=told.get("dq-error-type", ""),
        traceback=told.get("dq-traceback", ""),
        consumer=told.get("dq-consumer", ""),
        at=at,
    )


def _history(told: str | None) -> tuple[Death, ...]:
    """Earlier deaths. A publisher can give a record a header of that name: what tells of no deaths is none."""
    try:
        return tuple(_death(each, _moment(each["at"])) for each in orjson.loads(told or "[]"))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, OSError):
        return ()


def _published(at: str) -> datetime | None:
    """What the record's line had as its time, which another program may have written."""
    try:
        return _moment(at)
    except (ValueError, OverflowError, OSError):
        return None


def _moment(seconds: float | str) -> datetime:
    return datetime.fromtimestamp(float(seconds), UTC)


class DeadLetters:
    """The dead letters of one stream; what `broker.dlq(stream)` returns. It holds nothing open.

    They stand in the stream `<stream>-dlq`, in the order in which they were given up, until they are replayed or discarded.

    Attributes:
        stream: whose they are.
    """

    def __init__(self, broker: Broker, stream: str) -> None:
        self._broker, self.stream = broker, check_name("stream", stream)
        self._name = dead_letter_stream(stream)

    def list(
        self,
        limit: int | None = None,
        *,
        sink: str | None = None,
        reason: str | None = None,
        error: str | None = None,
        since: datetime | timedelta | None = None,
        match: Callable[[DeadRecord], object] | None = None,
    ) -> Iterator[DeadRecord]:
        """The dead letters, the oldest first, read as they are asked for.

        Args:
            limit: so many at most.
            sink: only those of this sink.
            reason: only those whose reason begins so.
            error: only those in whose error this text stands.
            since: only those that were given up then or later: an aware datetime, or a timedelta ago.
            match: only those for which this function is true.
        """
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
            raise InvalidSetting(f"limit is a whole number from 0, not {shown(limit)}")
        if match is not None and not callable(match):
            raise InvalidSetting(f"match is a function of a DeadRecord, not {shown(match)}")

        def wanted(letter: DeadRecord) -> bool:
            death = letter.death
            return (
                (sink is None or death.sink == sink)
                and (reason is None or death.reason.startswith(reason))
                and (error is None or error in death.error)
                and (match is None or bool(match(letter)))
            )

        return islice(filter(wanted, self._all(since)), limit)

    def _all(self, since: datetime | timedelta | None) -> Iterator[DeadRecord]:
        if self._name not in self._broker.streams():  # nothing was ever given up
            return
        with Reader(self._broker, self._name, start="oldest" if since is None else since, follow=False) as reader:
            for record in reader:
                if _given_up(record):
                    yield DeadRecord.of(self.stream, record)

    def show(self, letter: str) -> DeadRecord:
        """One of them, by the id of the dead letter.

        Raises:
            UnknownRecord: there is none of that id, or it was replayed or discarded.
        """
        place = self._place(letter)
        if self._name in self._broker.streams():
            start = f"{self._name}={place}"
            with Reader(self._broker, self._name, start=start, follow=False) as reader, suppress(RecordsTrimmed):
                found = next(iter(reader), None)
                if found is not None and found.id == letter and _given_up(found):
                    return DeadRecord.of(self.stream, found)
        raise UnknownRecord(f"there is no dead letter {letter!r}: it was replayed or discarded, or never was")

    def _place(self, letter: str) -> int:
        """The offset that an id names. Raises UnknownRecord."""
        try:
            after = parse_start(letter).after
        except InvalidSetting:
            after = None
        if after is None or after[:2] != (self._name, 0):
            raise UnknownRecord(f"{letter!r} is no id of a dead letter of {self.stream!r}: they are like {self._name}/0/17")
        return after[2]

    def count(self, **filters: Any) -> int:
        """How many there are; `filters` as of `list`."""
        return sum(1 for _ in self.list(**filters))

    def replay(self, *letters: str, **filters: Any) -> int:
        """Publishes records once more, each for the sink that gave it up: no other sink or reader gets it. Returns how many.

        They come as new records, behind what is there, with their key, priority, topic, name, headers and payload, and with no
        attempt burned; what became of them before is kept in the header `dq-history`. Each is taken out of the dead letters
        once it is published. Where that is interrupted in between and done again within the stream's `once_seconds` (five
        minutes), it is published no second time.

        Args:
            letters: ids of dead letters; without any, all that `filters` let through.
            filters: as of `list`.

        Raises:
            UnknownRecord, UnknownStream, UnknownSink: one of them cannot be replayed; nothing was done.
            DiskFull: of those that are left none was.
        """
        chosen = self._chosen(letters, filters)
        self._check_reachable(chosen)
        if not chosen:
            return 0
        settings = self._broker.stream(self.stream).settings
        with Publisher(self._broker, self.stream, create=False) as publisher:
            for begin in range(0, len(chosen), _REMOVED_AT_ONCE):
                some = chosen[begin : begin + _REMOVED_AT_ONCE]
                for future in [_again(publisher, letter, settings) for letter in some]:
                    future.result(_ANSWER_SECONDS)
                self._remove(some)
        return len(chosen)

    def discard(self, *letters: str, **filters: Any) -> int:
        """Throws dead letters away, for good. Returns how many.

        Args:
            letters: their ids; without any, all that `filters` let through.
            filters: as of `list`.

        Raises:
            UnknownRecord: one of them is not there; nothing was done.
        """
        chosen = self._chosen(letters, filters)
        for begin in range(0, len(chosen), _REMOVED_AT_ONCE):
            self._remove(chosen[begin : begin + _REMOVED_AT_ONCE])
        return len(chosen)

    def _chosen(self, letters: tuple[str, ...], filters: Mapping[str, Any]) -> Sequence[DeadRecord]:
        if letters and filters:
            raise InvalidSetting("choose dead letters by their ids or by filters, not by both")
        return [self.show(letter) for letter in dict.fromkeys(letters)] if letters else [*self.list(**filters)]

    def _check_reachable(self, chosen: Sequence[DeadRecord]) -> None:
        streams, sinks = self._broker.streams(), self._broker.sinks()
        if chosen and self.stream not in streams:
            raise UnknownStream(f"stream {self.stream!r} is no more, so that nothing can be replayed into it; nothing was done")
        for name in sorted({letter.death.sink for letter in chosen}.difference(sinks)):
            raise UnknownSink(f"sink {name!r}, which gave it up, is no more; nothing was done: make it again, or discard them")
        for name in sorted({letter.death.sink for letter in chosen}):
            if self.stream not in self._broker.sink(name, create=False).stats().streams:
                raise UnknownSink(
                    f"sink {name!r}, which gave it up, is over stream {self.stream!r} no more, so that nobody would get it; "
                    f"nothing was done: broker.sink({name!r}).add_stream({self.stream!r}, start='newest'), or discard them"
                )

    def _remove(self, letters: Sequence[DeadRecord]) -> None:
        self._broker.change("stream", self._name, "remove", ids=[letter.id for letter in letters])

    def __len__(self) -> int:
        return self.count()

    def __iter__(self) -> Iterator[DeadRecord]:
        return self.list()

    def __repr__(self) -> str:
        return f"<DeadLetters of {self.stream!r}>"


def _again(publisher: Publisher, letter: DeadRecord, settings: StreamSettings) -> DraftFuture:
    """Publishes a record for the sink that gave it up."""
    line = _line_of(letter, (*letter.history, letter.death))
    if len(line) > LIMITS.kept_bytes_max:  # what became of it before is left out where there is no room for it
        line = _line_of(letter, (letter.death,))
    # The time too: a stream of dead letters that was destroyed and made anew gives the same ids to others.
    once = f"replay:{letter.id}@{letter.death.at.timestamp()}"
    way = Way(once=once, sink=letter.death.sink, priority=_priority(letter, settings))
    return DraftFuture(*publisher.begin(line, letter.key, letter.topic, way, urgent=True))


def _line_of(letter: DeadRecord, deaths: Sequence[Death]) -> bytes:
    headers = {**letter.headers, _HISTORY: orjson.dumps([_told(death) for death in deaths]).decode()}
    return encode(letter.payload, time.time(), letter.key, letter.topic, letter.name, headers)


def _priority(letter: DeadRecord, settings: StreamSettings) -> int:
    """That of the bucket in which the record stood, as far as the stream still has it."""
    after = parse_start(letter.original_id).after
    bucket = 0 if after is None else after[1]
    return min(bucket // settings.buckets, settings.priorities - 1)


def _told(death: Death) -> dict[str, Any]:
    return {
        "dq-sink": death.sink, "dq-attempts": str(death.attempts), "dq-reason": death.reason, "dq-error": death.error,
        "dq-error-type": death.error_type, "dq-consumer": death.consumer, "at": death.at.timestamp(),
    }  # fmt: skip
