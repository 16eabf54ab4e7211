"""`Publisher`: hands records to the broker and gets receipts for them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from dq import tracing
from dq.client.batcher import Batcher
from dq.client.drafts import Draft, DraftFuture
from dq.client.flight import Flight, Key, too_large
from dq.client.later import Later
from dq.client.lifetime import watch
from dq.client.place import Place, root_of
from dq.client.publisher_session import PublisherSession
from dq.client.ways import PLAIN_PRIORITY, Way, check_lane, way_of
from dq.client.wishes import reconnect_of, seconds_of
from dq.config import LIMITS
from dq.errors import DqError, Forked, InvalidPayload, InvalidSetting, OutcomeUnknown, PublishTimeout
from dq.model.event import Event, EventOwner, EventType
from dq.model.names import check_name
from dq.model.receipt import Receipt, Receipts
from dq.model.record import encode
from dq.model.told import about, words_of
from dq.settings.values import settings_of
from dq.tracing import Carried, CarriedItems

log = logging.getLogger("dq")


class Publisher:
    """Publishes to one stream. Safe to share between threads; a context manager.

    Args:
        broker: a `BrokerManager`, what `dq.connect` returns, or the path of a data directory.
        stream: its name; a missing stream is made with its defaults.
        batch_size: records of a full batch; default 500.
        linger: seconds for which a batch waits for more records; default 0: it leaves as soon as the last one was answered.
        create: False refuses to make a missing stream.
        reconnect_timeout: seconds for which a broker that went away is looked for; default None: as the settings say, else 30.

    Raises:
        BrokerNotRunning, UnknownStream, InvalidName, InvalidSetting.
    """

    def __init__(
        self,
        broker: Place,
        stream: str,
        batch_size: int = LIMITS.batch_records,
        linger: float | timedelta = 0.0,
        *,
        create: bool = True,
        reconnect_timeout: float | timedelta | None = None,
        _base: Callable[[], dict[str, Any] | None] | None = None,
    ) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or not 1 <= batch_size <= LIMITS.batch_records_max:
            raise InvalidSetting(f"batch_size must be a whole number from 1 to {LIMITS.batch_records_max}, not {batch_size!r}")
        linger = seconds_of("linger", linger, 0, 60)
        root = root_of(broker)
        reconnect_timeout = reconnect_of(root, reconnect_timeout)
        self.publish_timeout: float = settings_of(root)["publish_timeout"]
        tracing.look()
        self.stream = check_name("stream", stream)
        self.batch_size, self._linger = batch_size, linger
        self._session = PublisherSession(root, stream, batch_size, linger, reconnect_timeout, create=create, base=_base)
        again = partial(Publisher, batch_size=batch_size, linger=linger, reconnect_timeout=reconnect_timeout)
        self._later = Later(stream, lambda name: again(root, name, _base=self._session.wish))
        self._link = self._session.link
        self._link.open()
        self._batcher: Batcher = self._session.batcher
        watch(self)

    @property
    def usable(self) -> bool:
        """Whether it was not closed, or refused for good."""
        return self._link.usable

    @property
    def id(self) -> str:
        """Under which its records stand in the log."""
        return self._session.id

    # --- publishing ------------------------------------------------------------------------------------------------

    def publish(
        self,
        payload: Any,
        *,
        key: str | None = None,
        topic: str | None = None,
        name: str = "",
        headers: Mapping[str, str] | None = None,
        delay: float | timedelta | datetime | None = None,
        once: str | None = None,
        priority: int = PLAIN_PRIORITY,
        expires: float | timedelta | datetime | None = None,
        timeout: float | None = None,
    ) -> Receipt:
        """Publishes one record and returns once it is committed.

        Args:
            payload: a JSON value or bytes; dataclasses, datetimes, UUIDs and tuples become dict, str, str and list.
            key: chooses the bucket; records of one key keep their order.
            topic: an optional label.
            name: an optional name of what happened.
            headers: text by name.
            delay: not before: seconds or a timedelta from now on, or an aware datetime, by the wall clock. Until then it waits
                in the stream `<stream>-later`, and its receipt has the id that it has there.
            once: a key of 1 to 256 characters: where a record was published under it within the stream's `once_seconds` (five
                minutes), nothing is stored, and the receipt has the id of that one.
            priority: 0 (default) to 9; higher ones come first. The stream must have been made with so many `priorities`.
            expires: not after: seconds or a timedelta from now on, or an aware datetime. It is not handed out after that.
            timeout: seconds to wait for the answer; default None: as the settings say, else 10.

        Raises:
            InvalidPayload, InvalidSetting, RecordTooLarge: nothing was sent.
            PublishTimeout: no answer in time; the outcome is unknown, and the error's `.future` still ends with it.
            DiskFull, StreamReadOnly: nothing was stored.
            OutcomeUnknown, BrokerLost: it may or may not have been stored.
        """
        if tracing.tracer is not None and type(headers) is not Carried:
            call = partial(self.publish, payload, key=key, topic=topic, name=name, delay=delay, once=once, timeout=timeout)
            return tracing.tracer.publish(self.stream, headers, partial(call, priority=priority, expires=expires))
        way, taker, timeout = None, self, self.publish_timeout if timeout is None else timeout
        if delay is not None or once is not None or expires is not None or priority is not PLAIN_PRIORITY:
            way = self.way(delay, once, priority, expires)
            taker = self.taker(way)
        line = self.line_of(payload, key, topic, name, headers, way)
        draft, place = taker._add(line, key, topic, way if taker is self or way is None else way.waiting, urgent=True)
        if not taker._link.wait(lambda: draft.outcome is not None, time.monotonic() + timeout, draft.follow):
            error = PublishTimeout(
                f"no answer from the broker within {timeout:g} s: the record may still be stored; "
                "wait for the error's .future, or publish again and handle it twice"
            )
            error.future = DraftFuture(draft, place)
            raise error
        return DraftFuture(draft, place).result(0)

    def submit(
        self,
        payload: Any,
        *,
        key: str | None = None,
        topic: str | None = None,
        name: str = "",
        headers: Mapping[str, str] | None = None,
        delay: float | timedelta | datetime | None = None,
        once: str | None = None,
        priority: int = PLAIN_PRIORITY,
        expires: float | timedelta | datetime | None = None,
    ) -> Future[Receipt]:
        """Hands in one record and returns at once; the future ends with its receipt. Blocks only while 64 MiB wait,
        and at the first delayed record, for which a connection is made.

        Args:
            As of `publish`.

        Raises:
            InvalidPayload, InvalidSetting, RecordTooLarge: nothing was sent.
        """
        if tracing.tracer is not None and type(headers) is not Carried:
            call = partial(self.submit, payload, key=key, topic=topic, name=name, delay=delay, once=once)
            return tracing.tracer.submit(self.stream, headers, partial(call, priority=priority, expires=expires))
        way = None
        if delay is not None or once is not None or expires is not None or priority is not PLAIN_PRIORITY:
            way = self.way(delay, once, priority, expires)
        line = self.line_of(payload, key, topic, name, headers, way)
        return DraftFuture(*self.begin(line, key, topic, way, urgent=not self._linger))

    def publish_many(self, items: Iterable[Any], *, key: Key = None) -> Receipts:
        """Publishes many records, pipelined, and returns once all are committed.

        Args:
            items: payloads or `TaskIn`; any iterable, also an endless generator's slice.
            key: one for all, or a function of the payload; that of a `TaskIn` goes first.

        Returns the receipts, those of delayed records last.

        Raises:
            As `publish`, and whatever `items` raises. What was handed over before is committed first, as far as it can be; the
            error's `.receipts` say what is.
        """
        if tracing.tracer is not None and type(items) is not CarriedItems:
            return tracing.tracer.publish_many(self.stream, items, partial(self.publish_many, key=key))
        flight = self.flight()
        try:
            flight.take(items, key)
        except BaseException as error:
            flight.finish()
            if isinstance(error, DqError):
                error.receipts = flight.receipts
            raise
        flight.finish()
        if flight.error is not None:
            flight.error.receipts = flight.receipts
            raise flight.error
        return flight.receipts

    def flush(self, timeout: float | None = None) -> None:
        """Sends what waits and returns once all that was handed in is answered.

        Raises:
            PublishTimeout: not all was within `timeout` seconds.
        """
        self._link.check()
        takers = [self] if self._later.made is None else [self, self._later.made]
        for taker in takers:
            with taker._batcher.lock:
                taker._batcher.push_all()
        deadline = None if timeout is None else time.monotonic() + timeout
        for taker in takers:
            batcher = taker._batcher
            if not taker._link.wait(lambda batcher=batcher: batcher.idle, deadline, taker._follow_space):  # type: ignore[misc]
                raise PublishTimeout(f"records still wait for their answer after {timeout:g} s")

    def close(self, timeout: float | None = None) -> None:
        """Flushes and closes; safe twice. What cannot be answered within `reconnect_timeout` fails in its futures.

        Args:
            timeout: seconds after which it does not wait any longer for a broker that is there and does not answer; what it
                did not answer fails in its futures. Default None: it waits.
        """
        try:
            self._link.check()
        except DqError:
            return
        try:
            self.flush(timeout)
        except DqError as error:
            log.warning("publisher %s leaves: %s", self.id, words_of(error), extra=about(error, stream=self.stream))
        self._link.close(Event(EventType.CLOSE, EventOwner.PUBLISHER))
        self._session.failed(
            OutcomeUnknown("the publisher was closed before the broker had answered: it may or may not be stored")
        )
        self._later.close(None if timeout is None else 0.0)  # it was flushed above, as far as it can be in that time

    def after_fork(self, refusal: Forked) -> None:
        """In a forked child: this object is the parent's."""
        self._link.after_fork(refusal)
        self._later.forget()

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Publisher {self.id} of {self.stream!r}>"

    # --- inside ----------------------------------------------------------------------------------------------------

    def _add(self, line: bytes, key: str | None, topic: str | None, way: Way | None, *, urgent: bool) -> tuple[Draft, int]:
        batcher = self._batcher
        self._link.check()
        if batcher.waiting_bytes > LIMITS.waiting_bytes_max:
            self.wait_for_space()
        with batcher.lock:
            return batcher.add(line, key, topic, way, urgent=urgent, now=0.0 if urgent else time.monotonic())

    # --- for other parts of the client -----------------------------------------------------------------------------

    def way(
        self,
        delay: float | timedelta | datetime | None,
        once: str | None,
        priority: int,
        expires: float | timedelta | datetime | None,
    ) -> Way | None:
        """The options of a publish, checked; None where it is a plain one."""
        way = way_of(delay, once, priority, expires, time.time())
        if way is not None:
            check_lane(self.stream, way.priority, self._batcher.priorities)
            if way.due is not None:
                self._later.check()
        return way

    def taker(self, way: Way | None) -> Publisher:
        """The publisher that takes such a record; for a delayed one, that of the stream in which it waits."""
        if way is None or way.due is None:
            return self
        self._link.check()
        return self._later.publisher()

    def takes_at_once(self, way: Way | None) -> bool:
        """Whether `begin` need not make a connection first."""
        return way is None or way.due is None or self._later.made is not None

    def begin(
        self, line: bytes, key: str | None, topic: str | None, way: Way | None = None, *, urgent: bool
    ) -> tuple[Draft, int]:
        """Hands in a record's line for which nobody waits here; returns its batch and its place in it."""
        if way is not None and way.due is not None:
            return self.taker(way).begin(line, key, topic, way.waiting, urgent=urgent)
        draft, place = self._add(line, key, topic, way, urgent=urgent)
        if self._link.sleeping:
            self._link.wake()
        if not place and self._batcher.in_flight > 1:  # once a batch
            self._link.read_ready()
            self._link.leave()
        return draft, place

    def begin_batches(self, drafts: Iterable[Draft]) -> None:
        """Hands in whole batches for which nobody waits here, as one."""
        batcher = self._batcher
        self._link.check()
        with batcher.lock:
            for draft in drafts:
                batcher.add_draft(draft)
        if self._link.sleeping:
            self._link.wake()

    def flight(self) -> Flight:
        """Begins a call of `publish_many`."""
        self._link.check()
        return Flight(self, self._batcher)

    def outstanding(self) -> list[Draft]:
        """Sends what waits; returns the batches whose answers are still to come."""
        self._link.check()
        batcher, later = self._batcher, self._later.made
        with batcher.lock:
            batcher.push_all()
            found = list(batcher.unanswered())
        if self._link.sleeping:
            self._link.wake()
        return found if later is None else found + later.outstanding()

    @property
    def waiting_bytes(self) -> int:
        """Of records whose answers are still to come."""
        later = self._later.made
        return self._batcher.waiting_bytes + (0 if later is None else later.waiting_bytes)

    def line_of(
        self,
        payload: Any,
        key: str | None,
        topic: str | None,
        name: str,
        headers: Mapping[str, str] | None,
        way: Way | None = None,
    ) -> bytes:
        """The record's line, checked."""
        if key is not None and type(key) is not str:
            raise InvalidPayload(f"a key is a str, not {type(key).__name__}: convert it first")
        if topic is not None:
            check_name("topic", topic)
        if way is None:
            line = encode(payload, time.time(), key, topic, name, headers)
        else:
            line = encode(payload, time.time(), key, topic, name, headers, way.facts())
        if len(line) > LIMITS.record_bytes_max:
            raise too_large(line)
        return line

    def wait_for_space(self) -> None:
        """Blocks as long as too much waits."""
        batcher = self._batcher
        with batcher.lock:
            batcher.push_all()
        self._link.wait(lambda: batcher.waiting_bytes <= LIMITS.waiting_bytes_max, None, self._follow_space)

    def _follow_space(self, timeout: float | None) -> None:
        """Waits until another thread has read answers."""
        batcher = self._batcher
        with batcher.lock:
            batcher.space.wait(0.05 if timeout is None else min(timeout, 0.05))

    def wait_for_window(self, draft: Draft, bucket: int) -> None:
        """Blocks until the batch before this one could be sent."""
        batcher = self._batcher
        self._link.wait(lambda: not batcher.window_full(bucket) or draft.done, None, self._follow_space, returns=True)
        self._mind_others()

    def read_answers(self) -> None:
        """Takes in the answers that have come; for a thread that will be here again, or calls `leave`."""
        self._link.read_ready()
        self._mind_others()

    def _mind_others(self) -> None:
        """This thread means to read again soon, but nobody knows when: others are not to wait for its next item."""
        if self._link.sleeping and self._batcher.watched:
            self._link.wake()

    def leave(self) -> None:
        """This thread reads no more answers for now."""
        self._link.leave()

    def wait_for(self, draft: Draft) -> None:
        """Blocks until the outcome of a batch is known."""
        self._link.wait(lambda: draft.outcome is not None, None, draft.follow)
