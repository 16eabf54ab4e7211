"""`MemoryEngine`: an engine for tests, in one process, without a disk. Its sinks are dq's own (`core.sink`); time comes in.

What it does as dq's broker does: leases, attempts, backoff, dead letters and their headers, delays, `once=` keys and their
window, priorities, expiry, filters. What it does not: it keeps nothing, has one bucket for each stream and priority, writes no
file, and of several priorities the highest always goes first.
"""

from __future__ import annotations

import heapq
import itertools
import re
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import orjson

from dq.app.engine import SubscriptionSettings
from dq.app.ticks import MemoryTicks
from dq.clock import Clock
from dq.errors import InvalidPayload, InvalidSetting, SettingsMismatch, UnknownStream
from dq.model.names import base_stream, check_name, check_new_stream, dead_letter_stream, later_stream, near_names
from dq.model.record import Record, encode, record_of
from dq.model.settings import SinkSettings
from dq.testing.hand_clock import HandClock
from dq.testing.memory_sink import MemorySink, MemorySubscription

ONCE_WINDOW_SECONDS: Final = 300.0
PRIORITIES_MAX: Final = 10
_WISHES = frozenset({"delay", "once", "priority", "expires"})


class MemoryStream:
    """One stream: for each priority the lines of its records, the lowest first."""

    def __init__(self, name: str, priorities: int) -> None:
        self.name = name
        self.lanes: list[list[bytes]] = [[] for _ in range(priorities)]
        self.once: dict[str, tuple[str, float]] = {}

    def records(self) -> list[Record]:
        """What was published, those of the lowest priority first."""
        return [
            record_of(self.name, lane, offset, orjson.loads(line))
            for lane, lines in enumerate(self.lanes)
            for offset, line in enumerate(lines)
        ]


class MemoryEngine:
    """A broker for tests.

    Args:
        clock: its time; default a `HandClock`. With a real `Clock`, an app can `run()` over it.
        seed: of the jitter of retries; the same seed, the same delays.

    Attributes:
        clock: as above.
        sinks: by name.
    """

    def __init__(self, clock: Clock | None = None, seed: int = 1) -> None:
        self.clock = HandClock() if clock is None else clock
        self.seed = seed
        self.streams: dict[str, MemoryStream] = {}
        self.sinks: dict[str, MemorySink] = {}
        self.subscriptions: set[MemorySubscription] = set()
        self.changed = threading.Condition(threading.RLock())
        self._ticks = MemoryTicks()
        self._later: list[tuple[float, int, str, int, bytes]] = []
        self._later_count: dict[str, int] = {}
        self._numbers = itertools.count()
        if isinstance(self.clock, HandClock):
            self.clock.on_move(self.move)

    # --- streams -----------------------------------------------------------------------------------------------------

    def stream(self, name: str, priorities: int = 1) -> MemoryStream:
        """Makes a stream, or finds it.

        Raises:
            InvalidName, InvalidSetting. SettingsMismatch: it is there with another number of priorities.
        """
        if isinstance(priorities, bool) or not isinstance(priorities, int) or not 1 <= priorities <= PRIORITIES_MAX:
            raise InvalidSetting(f"priorities must be a whole number from 1 to {PRIORITIES_MAX}, not {priorities!r}")
        found = self.streams.get(name)
        if found is None:
            return self._make(check_new_stream(name), priorities)
        if len(found.lanes) != priorities:
            raise SettingsMismatch(f"stream {name!r} has priorities={len(found.lanes)} (asked for: {priorities})")
        return found

    def _make(self, name: str, priorities: int = 1) -> MemoryStream:
        made = self.streams[name] = MemoryStream(name, priorities)
        for sink in self.sinks.values():
            if name in sink.streams:
                sink.follow(made)
        return made

    def _stream_of(self, name: str) -> MemoryStream:
        found = self.streams.get(name)
        if found is None:
            found = self._make(name) if base_stream(name) is not None else self.stream(name)
        return found

    def records(self, stream: str) -> list[Record]:
        """All records that a stream ever got, settled or not.

        Raises:
            UnknownStream: with near names.
        """
        if stream not in self.streams:
            raise UnknownStream(f"there is no stream {stream!r}; {near_names(stream, self.streams, 'streams')}")
        return self.streams[stream].records()

    # --- publishing --------------------------------------------------------------------------------------------------

    def publish(
        self,
        stream: str,
        payload: Any,
        *,
        key: str | None = None,
        topic: str | None = None,
        name: str = "",
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> str:
        """As `Engine.publish`, with `delay`, `once`, `priority`, `expires`.

        Raises:
            InvalidName, InvalidPayload, InvalidSetting.
        """
        unknown = sorted(set(options) - _WISHES)
        if unknown:
            raise InvalidSetting(f"publish knows no {', '.join(unknown)}")
        if key is not None and not isinstance(key, str):
            raise InvalidPayload(f"a key is a str, not {type(key).__name__}: convert it first")
        if topic is not None:
            check_name("topic", topic)
        wall, times = self.clock.wall(), {}
        due, expires = self._instant("delay", options.get("delay")), self._instant("expires", options.get("expires"))
        if due is not None and due > wall:
            times["due"] = due
        if expires is not None:
            times["expires"] = expires
        with self.changed:
            kept = self._stream_of(stream if base_stream(stream) else check_new_stream(stream))
            priority = self._priority(kept, options.get("priority", 0))
            line = encode(payload, wall, key, topic, name, headers, times)
            return self._once(kept, options.get("once"), priority, line, times.get("due"))

    def _once(self, stream: MemoryStream, once: str | None, priority: int, line: bytes, due: float | None) -> str:
        """Stores a record, if its key was not seen within its window; returns its id, or that of the first one."""
        if once is None:
            return self._store(stream, priority, line, due)
        if not isinstance(once, str) or not 1 <= len(once) <= 256:
            raise InvalidSetting(f"once is a key of 1 to 256 characters, not {once!r:.100}")
        key = once if due is None else f"later:{once}"
        known, until = stream.once.get(key, ("", 0.0))
        if until > self.clock.monotonic():
            return known
        stored = self._store(stream, priority, line, due)
        stream.once[key] = (stored, self.clock.monotonic() + ONCE_WINDOW_SECONDS)
        return stored

    def _store(self, stream: MemoryStream, priority: int, line: bytes, due: float | None) -> str:
        if due is None:
            return self.append(stream, priority, line)
        number = self._later_count.get(stream.name, 0)
        self._later_count[stream.name] = number + 1
        heapq.heappush(self._later, (due, next(self._numbers), stream.name, priority, line))
        return f"{later_stream(stream.name)}/0/{number}"

    def append(self, stream: MemoryStream, lane: int, line: bytes) -> str:
        """Puts a line at the end of a stream, and tells its sinks; returns the id."""
        lines = stream.lanes[lane]
        lines.append(line)
        for sink in self.sinks.values():
            if stream.name in sink.streams:
                sink.core.committed((stream.name, lane), len(lines))
        self.changed.notify_all()
        return f"{stream.name}/{lane}/{len(lines) - 1}"

    def _instant(self, wish: str, value: Any) -> float | None:
        if isinstance(value, datetime):
            if value.tzinfo is None:
                raise InvalidSetting(f"{wish} is {value!r}, which has no time zone: datetime(..., tzinfo=UTC)")
            return value.timestamp()
        if isinstance(value, timedelta):
            value = value.total_seconds()
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
            raise InvalidSetting(f"{wish} is seconds from 0 on, a timedelta, or an aware datetime, not {value!r}")
        return self.clock.wall() + value

    @staticmethod
    def _priority(stream: MemoryStream, priority: Any) -> int:
        if isinstance(priority, bool) or not isinstance(priority, int) or not 0 <= priority < PRIORITIES_MAX:
            raise InvalidSetting(f"priority is a whole number from 0 to {PRIORITIES_MAX - 1}, not {priority!r}")
        if priority >= len(stream.lanes):
            raise InvalidSetting(
                f"stream {stream.name!r} has priorities up to {len(stream.lanes) - 1}: "
                f"broker.stream({stream.name!r}, priorities=10) makes it with more"
            )
        return priority

    # --- sinks ---------------------------------------------------------------------------------------------------------

    def subscribe(
        self,
        sink: str,
        streams: Sequence[str],
        *,
        topic: str | None,
        pattern: str | re.Pattern[str] | None,
        settings: SubscriptionSettings,
    ) -> MemorySubscription:
        """As `Engine.subscribe`.

        Raises:
            SettingsMismatch: the sink is there with others.
        """
        text = pattern.pattern if isinstance(pattern, re.Pattern) else pattern
        wish = SinkSettings(ack_grace=settings.ack_grace, max_attempts=settings.max_attempts, topic=topic, pattern=text)
        with self.changed:
            found = self.sinks.get(check_name("sink", sink))
            if found is None:
                found = self.sinks[sink] = MemorySink(self, sink, wish, pattern)
            elif found.settings != wish:
                raise SettingsMismatch(f"sink {sink!r} has {found.settings} (asked for: {wish})")
            for stream in streams:
                if stream not in found.streams:
                    found.streams.add(stream)
                    found.follow(self._stream_of(stream))
            subscription = MemorySubscription(found, f"c-{next(self._numbers)}")
            self.subscriptions.add(subscription)
            return subscription

    def ticks(self) -> MemoryTicks:
        """The states of schedules."""
        return self._ticks

    def close(self) -> None:
        """There is nothing to let go of."""

    # --- time -----------------------------------------------------------------------------------------------------------

    def move(self) -> None:
        """Does what is due by the clock: delayed records come to their streams, and retries are ready."""
        with self.changed:
            wall, now = self.clock.wall(), self.clock.monotonic()
            while self._later and self._later[0][0] <= wall:
                _, _, stream, priority, line = heapq.heappop(self._later)
                self.append(self._stream_of(stream), priority, line)
            for subscription in self.subscriptions:
                subscription.renew(now)
            for sink in self.sinks.values():
                sink.core.expire(now)
            self.changed.notify_all()

    def next_due(self) -> float | None:
        """When the next delayed record or retry is due, by the wall clock."""
        with self.changed:
            wall, now = self.clock.wall(), self.clock.monotonic()
            retries = [wall + at - now for sink in self.sinks.values() if (at := sink.next_retry()) is not None]
            return min([*retries, *(due for due, *_ in self._later[:1])], default=None)

    @property
    def delayed(self) -> list[tuple[str, Any, float]]:
        """What waits for its time, delays and retries: (stream, payload, due), the first to come first."""
        wall, now = self.clock.wall(), self.clock.monotonic()
        with self.changed:
            found = [(due, stream, line) for due, _, stream, _, line in self._later]
            for sink in self.sinks.values():
                for (name, lane), offset, when in sink.core.delays():
                    found.append((wall + when - now, name, self.streams[name].lanes[lane][offset]))
        found.sort(key=lambda each: each[0])
        return [(stream, record_of(stream, 0, 0, orjson.loads(line)).payload, due) for due, stream, line in found]

    def dead_letter(self, sink: MemorySink) -> None:
        """Publishes what a sink has given up, with its past in its headers, as dq does."""
        for letter in sink.core.dead_letters():
            fields = orjson.loads(self.streams[letter.stream].lanes[letter.bucket][letter.offset])
            past = letter.headers(sink.name, fields.get("at", ""))
            fields["headers"] = {**fields.get("headers", {}), **past}
            fields["at"] = self.clock.wall()
            self.append(self._stream_of(dead_letter_stream(letter.stream)), 0, orjson.dumps(fields) + b"\n")
            sink.core.dead_letter_stored(letter.stream, letter.intent)
