"""`Stream`: a stream as a thing that one holds in the hand, and what there is of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from dq.errors import InvalidSetting, SettingsMismatch, UnknownStream
from dq.model.event import EventType
from dq.model.names import check_name
from dq.model.settings import StreamSettings
from dq.model.shown import shown
from dq.model.start import start_of

if TYPE_CHECKING:
    from dq.client.broker import Broker

_IDS_AT_ONCE = 10_000


@dataclass(frozen=True, slots=True)
class Pinned:
    """What keeps the oldest segment of a bucket on disk.

    Attributes:
        record: the id of the first record that a sink has not settled.
        sink: that sink.
        state: what the record is doing there.
        consumer: who has it in hand; None: nobody.
    """

    record: str
    sink: str
    state: str
    consumer: str | None = None


@dataclass(frozen=True, slots=True)
class StreamStats:
    """What there is of a stream, at one moment.

    Attributes:
        name, settings: of the stream.
        records: that can be read.
        bytes: on disk, with what can not be read any more and waits for the rest of its segment.
        segments: files.
        firsts, ends: by bucket, the first offset that can be read, and the next one to be written.
        publishers: connected now.
        trimmed: records that were given up by a limit or a `trim`, read or not.
        removed: records that `remove` took out.
        pinned: by bucket, what keeps its oldest segment; None where no sink does.
    """

    name: str
    settings: StreamSettings
    records: int
    bytes: int
    segments: int
    firsts: tuple[int, ...]
    ends: tuple[int, ...]
    publishers: int
    trimmed: int
    removed: int
    pinned: tuple[Pinned | None, ...] = ()


def _pinned(pin: Mapping[str, Any] | None) -> Pinned | None:
    return None if pin is None else Pinned(pin["record"], pin["sink"], pin["state"], pin["consumer"])


class Stream:
    """A stream of one broker; what `broker.stream(...)` returns. Safe to share between threads.

    Attributes:
        name: of the stream.
        settings: those it has.
    """

    def __init__(self, broker: Broker, name: str, settings: StreamSettings) -> None:
        self._broker, self.name, self.settings = broker, name, settings

    @property
    def buckets(self) -> int:
        """How many it has for each of its priorities: among so many the keys are shared out."""
        return self.settings.buckets

    # --- records -----------------------------------------------------------------------------------------------------

    def add(
        self,
        name: str,
        payload: Any,
        topic: str | None = None,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        delay: float | timedelta | datetime | None = None,
        once: str | None = None,
        priority: int = 0,
        expires: float | timedelta | datetime | None = None,
        only_if_exists: bool = False,
        timeout: float | None = None,
    ) -> str | None:
        """Adds one record and returns its id once it is committed. A stream that was destroyed is made anew, as it was.

        Args:
            name: of what happened, as "paid"; "" for none.
            payload: as of `Publisher.publish`, and so are all others but `only_if_exists`.
            only_if_exists: add nothing, and make nothing, where the stream is not there (any more); returns None then.

        Raises:
            As `Publisher.publish`.
        """
        wish: dict[str, Any] = {
            "key": key, "topic": topic, "name": name, "headers": headers, "delay": delay, "once": once, "priority": priority,
            "expires": expires, "timeout": timeout,
        }  # fmt: skip
        try:
            return self._broker.publish(self.name, payload, create=False, **wish).id
        except UnknownStream:
            if only_if_exists:
                return None
        with contextlib.suppress(SettingsMismatch):  # somebody else has made it meanwhile
            settings = self.settings.to_dict()
            self._broker.ask(EventType.OPEN, {"stream": self.name, "create": True, "settings": settings})
        return self._broker.publish(self.name, payload, create=False, **wish).id

    def topic(self, topic: str) -> Topic:
        """The same stream, for records of one topic. Raises InvalidName."""
        return Topic(self, check_name("topic", topic))

    def trim(self, before: str | datetime | timedelta | None = None, *, max_records: int | None = None) -> int:
        """Gives up the oldest records, for good, whether they were read or not; returns how many.

        Args:
            before: the first to stay: an id (in its bucket), an aware datetime, a timedelta ago, a saved position, or
                "newest": all go.
            max_records: so many of the newest stay; of several buckets, an equal share each, rounded up.

        Raises:
            InvalidSetting: neither or both are given, or they mean nothing here. UnknownStream: it is gone.
            DiskFull: nothing was trimmed.
        """
        wish: dict[str, Any] = {}
        if before is not None:
            wish["before"] = start_of(before, time.time()).text
        if max_records is not None:
            _check_whole("max_records", max_records)
            wish["max_records"] = max_records
        trimmed: int = self._broker.change("stream", self.name, "trim", wish=wish)["trimmed"]
        return trimmed

    def remove(self, *ids: str) -> int:
        """Takes single records out, for good: no reader and no sink sees them from now on. Returns how many were there.

        Raises:
            InvalidSetting: one is no id of this stream; or there would be more than 100,000 gaps. UnknownStream: it is gone.
            DiskFull: of the last 10,000 nothing was removed.
        """
        for each in ids:
            if not isinstance(each, str):
                raise InvalidSetting(f"a record is removed by its id, a text, not by {shown(each)}")
        removed = 0
        for begin in range(0, len(ids), _IDS_AT_ONCE):
            some = list(ids[begin : begin + _IDS_AT_ONCE])
            removed += self._broker.change("stream", self.name, "remove", ids=some)["removed"]
        return removed

    def sync(self) -> None:
        """Returns once all that is stored is flushed. With durability "sync" it was when its receipts came; with "interval"
        and "os" it is on disk then, and with "backend" its class has been asked to flush.

        Raises:
            SyncFailed: the disk did not confirm it. BackendFailed: the class failed. UnknownStream: the stream is gone.
        """
        self._broker.change("stream", self.name, "sync")

    # --- the whole ---------------------------------------------------------------------------------------------------

    def destroy(self) -> None:
        """Deletes the stream and all its records, for good; its dead letters stay. One that is not there is no error.

        Publishers that are alive, and `add`, make it anew with their next record.

        Raises:
            LogError: it cannot be deleted.
        """
        self._broker.change("stream", self.name, "destroy")

    def stats(self) -> StreamStats:
        """What there is of it now. Raises UnknownStream: it is gone."""
        told = self._broker.change("stream", self.name, "stats")
        pins = self._broker.stats()["consumer_broker"].get("pins", {}).get(self.name, ())
        numbers = {name: told[name] for name in ("records", "bytes", "segments", "publishers", "trimmed", "removed")}
        return StreamStats(
            name=self.name,
            settings=StreamSettings.from_dict(told["settings"]),
            firsts=tuple(told["firsts"]),
            ends=tuple(told["ends"]),
            pinned=tuple(map(_pinned, pins)),
            **numbers,
        )

    def __repr__(self) -> str:
        return f"<Stream {self.name!r} of {self.buckets} bucket(s)>"


class Topic:
    """A stream, for records of one topic; what `stream.topic(...)` returns.

    Attributes:
        stream, name: the stream, and the topic.
    """

    def __init__(self, stream: Stream, name: str) -> None:
        self.stream, self.name = stream, name

    def add(
        self,
        name: str,
        payload: Any,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        delay: float | timedelta | datetime | None = None,
        once: str | None = None,
        priority: int = 0,
        expires: float | timedelta | datetime | None = None,
        only_if_exists: bool = False,
        timeout: float | None = None,
    ) -> str | None:
        """As `Stream.add`, with this topic."""
        options: dict[str, Any] = {
            "key": key, "headers": headers, "delay": delay, "once": once, "priority": priority, "expires": expires,
            "only_if_exists": only_if_exists, "timeout": timeout,
        }  # fmt: skip
        return self.stream.add(name, payload, self.name, **options)

    def __repr__(self) -> str:
        return f"<Topic {self.name!r} of {self.stream.name!r}>"


def _check_whole(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 62:
        raise InvalidSetting(f"{name} must be a whole number from 0, not {shown(value)}")
