"""`Publisher`: hands records to the broker and gets receipts for them."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from datetime import timedelta
from typing import Any

from dq.client.batcher import Batcher, Settled
from dq.client.drafts import Draft, DraftFuture
from dq.client.flight import Flight, Key, too_large
from dq.client.lifetime import watch
from dq.client.link import Link, error_of
from dq.client.place import Place, root_of
from dq.client.wishes import seconds_of
from dq.config import LIMITS
from dq.errors import Closed, DqError, Forked, InvalidPayload, InvalidSetting, OutcomeUnknown, PublishTimeout, SequenceError
from dq.model.event import Event, EventOwner, EventType
from dq.model.names import check_name
from dq.model.receipt import Receipt, Receipts
from dq.model.record import encode

log = logging.getLogger("dq")


class Publisher:
    """Publishes to one stream. Safe to share between threads; a context manager.

    Args:
        broker: a `BrokerManager`, what `dq.connect` returns, or the path of a data directory.
        stream: its name; a missing stream is made with its defaults.
        batch_size: records of a full batch; default 500.
        linger: seconds for which a batch waits for more records; default 0: it leaves as soon as the last one was answered.
        create: False refuses to make a missing stream.
        reconnect_timeout: seconds for which a broker that went away is looked for; default 30.

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
        reconnect_timeout: float | timedelta = LIMITS.reconnect_timeout_seconds,
    ) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or not 1 <= batch_size <= LIMITS.batch_records_max:
            raise InvalidSetting(f"batch_size must be a whole number from 1 to {LIMITS.batch_records_max}, not {batch_size!r}")
        linger = seconds_of("linger", linger, 0, 60)
        reconnect_timeout = seconds_of("reconnect_timeout", reconnect_timeout)
        self.stream = check_name("stream", stream)
        self.id = _new_id()
        self._create, self.batch_size, self._linger = create, batch_size, linger
        self._batcher: Batcher | None = None
        self._nothing_lingered = False
        self._uuid, self._settings = "", dict[str, Any]()
        self._link = Link(root_of(broker), self, reconnect_timeout)
        self._link.open()
        watch(self)

    # --- publishing ------------------------------------------------------------------------------------------------

    def publish(
        self,
        payload: Any,
        *,
        key: str | None = None,
        topic: str | None = None,
        name: str = "",
        headers: Mapping[str, str] | None = None,
        timeout: float = LIMITS.publish_timeout_seconds,
    ) -> Receipt:
        """Publishes one record and returns once it is committed.

        Args:
            payload: a JSON value or bytes; dataclasses, datetimes, UUIDs and tuples become dict, str, str and list.
            key: chooses the bucket; records of one key keep their order.
            topic: an optional label.
            name: an optional name of what happened.
            headers: text by name.
            timeout: seconds to wait for the answer; default 10.

        Raises:
            InvalidPayload, RecordTooLarge: nothing was sent.
            PublishTimeout: no answer in time; the outcome is unknown, and the error's `.future` still ends with it.
            DiskFull, StreamReadOnly: nothing was stored.
            OutcomeUnknown, BrokerLost: it may or may not have been stored.
        """
        draft, place = self._add(self.line_of(payload, key, topic, name, headers), key, topic, urgent=True)
        if not self._link.wait(lambda: draft.outcome is not None, time.monotonic() + timeout, draft.follow):
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
    ) -> Future[Receipt]:
        """Hands in one record and returns at once; the future ends with its receipt. Blocks only while 64 MiB wait.

        Raises:
            InvalidPayload, RecordTooLarge: nothing was sent.
        """
        line = self.line_of(payload, key, topic, name, headers)
        return DraftFuture(*self.begin(line, key, topic, urgent=not self._linger))

    def publish_many(self, items: Iterable[Any], *, key: Key = None) -> Receipts:
        """Publishes many records, pipelined, and returns once all are committed.

        Args:
            items: payloads or `TaskIn`; any iterable, also an endless generator's slice.
            key: one for all, or a function of the payload; that of a `TaskIn` goes first.

        Raises:
            As `publish`, and whatever `items` raises. What was handed over before is committed first, as far as it can be; the
            error's `.receipts` say what is.
        """
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
        batcher = self._ready()
        with batcher.lock:
            batcher.push_all()
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self._link.wait(lambda: batcher.idle, deadline, self._follow_space):
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
            log.warning("publisher %s leaves: %s", self.id, error)
        self._link.close(Event(EventType.CLOSE, EventOwner.PUBLISHER))
        self.failed(OutcomeUnknown("the publisher was closed before the broker had answered: it may or may not be stored"))

    def after_fork(self, refusal: Forked) -> None:
        """In a forked child: this object is the parent's."""
        self._link.after_fork(refusal)

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Publisher {self.id} of {self.stream!r}>"

    # --- inside ----------------------------------------------------------------------------------------------------

    def _ready(self) -> Batcher:
        if self._batcher is None:
            raise RuntimeError("the publisher is not registered yet")
        return self._batcher

    def _add(
        self,
        line: bytes,
        key: str | None,
        topic: str | None,
        *,
        urgent: bool,
    ) -> tuple[Draft, int]:
        batcher = self._batcher or self._ready()
        self._link.check()
        if batcher.waiting_bytes > LIMITS.waiting_bytes_max:
            self.wait_for_space()
        with batcher.lock:
            return batcher.add(line, key, topic, urgent=urgent, now=0.0 if urgent else time.monotonic())

    # --- for other parts of the client -----------------------------------------------------------------------------

    def begin(self, line: bytes, key: str | None, topic: str | None, *, urgent: bool) -> tuple[Draft, int]:
        """Hands in a record's line for which nobody waits here; returns its batch and its place in it."""
        draft, place = self._add(line, key, topic, urgent=urgent)
        if self._link.sleeping:
            self._link.wake()
        if not place and self._ready().in_flight > 1:  # once a batch
            self._link.read_ready()
            self._link.leave()
        return draft, place

    def begin_batches(self, drafts: Iterable[Draft]) -> None:
        """Hands in whole batches for which nobody waits here, as one."""
        batcher = self._ready()
        self._link.check()
        with batcher.lock:
            for draft in drafts:
                batcher.add_draft(draft)
        if self._link.sleeping:
            self._link.wake()

    def flight(self) -> Flight:
        """Begins a call of `publish_many`."""
        self._link.check()
        return Flight(self, self._ready())

    def outstanding(self) -> list[Draft]:
        """Sends what waits; returns the batches whose answers are still to come."""
        self._link.check()
        batcher = self._ready()
        with batcher.lock:
            batcher.push_all()
            found = list(batcher.unanswered())
        if self._link.sleeping:
            self._link.wake()
        return found

    @property
    def waiting_bytes(self) -> int:
        """Of records whose answers are still to come."""
        return self._ready().waiting_bytes

    def line_of(self, payload: Any, key: str | None, topic: str | None, name: str, headers: Mapping[str, str] | None) -> bytes:
        """The record's line, checked."""
        if key is not None and type(key) is not str:
            raise InvalidPayload(f"a key is a str, not {type(key).__name__}: convert it first")
        if topic is not None:
            check_name("topic", topic)
        line = encode(payload, time.time(), key, topic, name, headers)
        if len(line) > LIMITS.record_bytes_max:
            raise too_large(line)
        return line

    def wait_for_space(self) -> None:
        """Blocks as long as too much waits."""
        batcher = self._ready()
        with batcher.lock:
            batcher.push_all()
        self._link.wait(lambda: batcher.waiting_bytes <= LIMITS.waiting_bytes_max, None, self._follow_space)

    def _follow_space(self, timeout: float | None) -> None:
        """Waits until another thread has read answers."""
        batcher = self._ready()
        with batcher.lock:
            batcher.space.wait(0.05 if timeout is None else min(timeout, 0.05))

    def wait_for_window(self, draft: Draft, bucket: int) -> None:
        """Blocks until the batch before this one could be sent."""
        batcher = self._ready()
        self._link.wait(lambda: not batcher.window_full(bucket) or draft.done, None, self._follow_space, returns=True)
        self._mind_others()

    def read_answers(self) -> None:
        """Takes in the answers that have come; for a thread that will be here again, or calls `leave`."""
        self._link.read_ready()
        self._mind_others()

    def _mind_others(self) -> None:
        """This thread means to read again soon, but nobody knows when: others are not to wait for its next item."""
        if self._link.sleeping and self._ready().watched:
            self._link.wake()

    def leave(self) -> None:
        """This thread reads no more answers for now."""
        self._link.leave()

    def wait_for(self, draft: Draft) -> None:
        """Blocks until the outcome of a batch is known."""
        self._link.wait(lambda: draft.outcome is not None, None, draft.follow)

    # --- the session of the link -----------------------------------------------------------------------------------

    def hello(self, *, again: bool) -> Event:
        if self._batcher is not None:
            with self._batcher.lock:
                self._batcher.resuming = True
        fields = {"id": self.id, "pid": os.getpid(), "stream": self.stream, "create": self._create, "again": again}
        if again:  # should the stream have been destroyed, it is made anew as it was
            fields["settings"] = self._settings
        return Event(EventType.REGISTER, EventOwner.PUBLISHER, fields)

    def welcomed(self, answer: Event, *, again: bool) -> None:
        opened, known = answer["opened"], self._uuid
        settings = self._settings = opened["settings"]
        self._uuid = opened["uuid"]
        if self._batcher is None:
            buckets, durability, start = settings["buckets"], settings["durability"], os.getpid()
            self._batcher = Batcher(
                self.stream,
                buckets,
                durability,
                self.batch_size,
                self._linger,
                start % buckets,
                self._link.send,
                self._link.nudge,
            )
            return
        if len(self._batcher.lanes) != settings["buckets"]:  # keys have other buckets now, and what waits is sorted by them
            error = Closed(
                f"stream {self.stream!r} was destroyed, and is there anew with {settings['buckets']} bucket(s) in place of "
                f"{len(self._batcher.lanes)}: make a new Publisher; what it had not answered is not stored"
            )
            self._link.refuse(error)
            self.failed(error)
            return
        with self._batcher.lock:
            if self._uuid != known:
                self._batcher.begin_anew()
            refused = self._batcher.resend()
        for draft, outcome in refused:
            draft.settle(outcome)

    def handle(self, event: Event) -> None:
        batcher, fields = self._ready(), event.fields
        settled: Settled | None = None
        if event.type is EventType.ACK:
            with batcher.lock:
                settled = batcher.stored(fields["bucket"], fields["sequence"], fields["first"], fields["count"])
        elif event.type is EventType.NACK and "sequence" in fields:
            error = error_of(event)
            with batcher.lock:
                settled = batcher.refused(fields["bucket"], fields["sequence"], error)
            if isinstance(error, SequenceError):
                # The log lost batches that were confirmed, as its durability allows: their numbers are gone, and others follow.
                self._link.renew()
                self.failed(error)
        if settled is not None:
            draft, outcome = settled
            draft.settle(outcome)

    def busy(self) -> bool:
        return self._batcher is not None and self._batcher.in_flight > 0

    def pending(self) -> bool:
        return self.busy() or (self._nothing_lingered and self._ready().draft_open)

    def tick(self) -> float | None:
        batcher = self._batcher
        if batcher is None or not self._linger:
            return None
        with batcher.lock:
            left = batcher.push_lingering(time.monotonic())
        self._nothing_lingered = left is None
        return left

    def failed(self, error: DqError) -> None:
        batcher = self._ready()
        with batcher.lock:
            settled = batcher.fail_all(error)
            # What was given up may have been stored under its number, so the numbers begin anew under another id.
            self.id = _new_id()
        for draft, outcome in settled:
            draft.settle(outcome)


def _new_id() -> str:
    return f"p-{os.urandom(6).hex()}"
