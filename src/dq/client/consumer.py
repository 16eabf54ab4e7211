"""`Consumer`: is pushed tasks of a sink, hands them to the user's code, and tells the broker how each ended."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any, Literal

from dq import tracing
from dq.client.hand import Hand
from dq.client.lifetime import watch
from dq.client.link import Link
from dq.client.place import Place, root_of
from dq.client.quitting import quit_if_asked
from dq.client.task import Task
from dq.client.wishes import reconnect_of, seconds_of, sink_wish
from dq.config import LIMITS
from dq.errors import BrokerLost, DqError, Forked, InvalidSetting
from dq.model.event import Event, EventOwner, EventType
from dq.model.names import check_name
from dq.model.outcome import Outcome
from dq.model.told import about, words_of

log = logging.getLogger("dq")
_LOOK_SECONDS = 0.25
# How long `close()` looks for a broker that is gone: one that was killed is back by then, one that was stopped is not.
_LAST_LOOK_SECONDS = 1.0


class Consumer:
    """Consumes one sink; several consumers of a sink share its records. Safe to share between threads; a context manager.

    Iterate over it: each task is to be settled before the next one is asked for, best by `with task:`.

    Args:
        broker: a `BrokerManager`, what `dq.connect` returns, or the path of a data directory.
        streams: the streams the sink is over; a missing one is made with its defaults. None: those that the sink has.
        sink: the sink's name; it is made when it is new.
        prefetch: records to hold in hand; "auto" (default) keeps about 50 ms of work.
        idle_timeout: seconds without work after which the iteration ends; default None: never.
        start, ack_grace, max_attempts, ordered, no_ack, topic, pattern: settings of the sink, see `SinkSettings`; what is left
            out is as the sink has it, or the default. `start` counts only while the sink is new: "oldest", "newest", an id, a
            position, an aware datetime, or a timedelta ago.
        match: a function of the task; those for which it returns False are dropped: settled for the sink, without having been
            handed out. Default None: all are handed out.
        create: False refuses to make a missing stream or sink.
        reconnect_timeout: seconds for which a broker that went away is looked for; default None: as the settings say, else 30.

    Raises:
        BrokerNotRunning, UnknownStream, UnknownSink, SettingsMismatch, InvalidName, InvalidSetting.
    """

    def __init__(
        self,
        broker: Place,
        *streams: str,
        sink: str,
        prefetch: int | Literal["auto"] = "auto",
        idle_timeout: float | timedelta | None = None,
        start: str | datetime | timedelta | None = None,
        ack_grace: float | timedelta | None = None,
        max_attempts: int | None = None,
        ordered: bool | None = None,
        no_ack: bool | None = None,
        topic: str | None = None,
        pattern: str | re.Pattern[str] | None = None,
        match: Callable[[Task], object] | None = None,
        create: bool = True,
        reconnect_timeout: float | timedelta | None = None,
    ) -> None:
        if prefetch != "auto" and (
            isinstance(prefetch, bool) or not isinstance(prefetch, int) or not 1 <= prefetch <= LIMITS.prefetch_records_max
        ):
            raise InvalidSetting(f'prefetch must be "auto" or from 1 to {LIMITS.prefetch_records_max}, not {prefetch!r}')
        root = root_of(broker)
        reconnect_timeout = reconnect_of(root, reconnect_timeout)
        tracing.look()
        self.sink = check_name("sink", sink)
        self.streams = tuple(check_name("stream", stream) for stream in streams)
        self.consumer_id = f"c-{os.urandom(6).hex()}"
        self._wish = sink_wish(
            start=start,
            ack_grace=ack_grace,
            max_attempts=max_attempts,
            ordered=ordered,
            no_ack=no_ack,
            topic=topic,
            pattern=pattern,
        )
        self._match = match
        self._ordered, self.max_attempts = False, 0
        self._create = create and bool(streams)  # a sink over nothing is none
        self._idle_timeout = None if idle_timeout is None else seconds_of("idle_timeout", idle_timeout)
        self._stopped = False
        self._iterating = 0
        self._changed = threading.Event()
        self._warned = False
        self._refilling = threading.Lock()
        self._seen = (0, 0.0)
        self._renew_at = self._look_at = 0.0
        self._flushes = self._flushes_seen = 0
        self._failure: DqError | None = None
        self._link = Link(root, self, reconnect_timeout)
        self._hand = Hand(self, self._link, None if prefetch == "auto" else prefetch)
        self._link.open()
        watch(self)

    # --- iteration -------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Task]:
        """The tasks, as they come. Leaving the loop by an exception or `break` gives back what was not started.

        Raises:
            BrokerLost: the broker did not come back within `reconnect_timeout`.
        """
        self.begin()
        try:
            while not self._stopped:
                yield from self.in_hand()
                if not self.next_lease():
                    return
        finally:
            self.end()

    def begin(self) -> None:
        """Somebody iterates; `end` must follow."""
        self._link.check()
        self._iterating += 1

    def in_hand(self) -> Iterator[Task]:
        """The tasks that need not be waited for."""
        for fields, lease, offset in self._hand.ready:
            try:
                task = Task(lease, offset, fields)
            except (KeyError, TypeError, ValueError):
                self._hand.decide(lease, (offset, offset + 1), Outcome.DEAD_LETTER, reason="the record has no payload")
                continue
            if self._match is not None and not self._match(task):
                task.drop()
                continue
            yield task
            if task.outcome is None and not lease.settled:
                self._left_unsettled(task)
            if self._stopped:
                return

    def end(self) -> None:
        """Who iterated does so no more."""
        self._iterating -= 1
        if not self._iterating:
            self._pause()

    def _pause(self) -> None:
        """Nobody iterates any more: takes the credit back, and gives back what came and was not started."""
        if self._failure is not None or not self._link.whole:
            return
        withdrawal = self._withdraw()
        self._link.wait(
            lambda: self._failure is not None or not self._hand.awaits(withdrawal), time.monotonic() + 1.0, self._follow
        )
        self._hand.give_back()
        self._flush()

    def _withdraw(self) -> Event:
        """Takes back the credit that the broker has not used."""
        with self._hand.lock:
            withdrawal = self._hand.withdraw()
            if not self._hand.resuming:
                self._link.send(withdrawal.line())
        return withdrawal

    def next_lease(self, timeout: float | None = None) -> bool:
        """Brings the next lease into the hand; False when the iteration is to end, or none came in `timeout` seconds."""
        patience = self._idle_timeout if timeout is None else timeout
        idle_until = None if patience is None else time.monotonic() + patience
        while not self._stopped:
            quit_if_asked()
            if not self._refilling.acquire(timeout=0.05):
                if self._hand.ready_count:
                    return True
                continue
            try:
                if self._hand.ready_count:
                    return True
                refilled = self._hand.refill(time.monotonic())
                if self._hand.between_leases:
                    self._flush()
                if refilled:
                    return True
                arrived = self._link.wait(self._something_came, idle_until, self._follow)
            finally:
                self._refilling.release()
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            if not arrived:
                return False
        return False

    def _something_came(self) -> bool:
        return self._stopped or self._failure is not None or self._hand.waiting > 0

    def _follow(self, timeout: float | None) -> None:
        """Another thread reads, or the connection is being made again."""
        self._changed.wait(0.05 if timeout is None else min(timeout, 0.05))
        self._changed.clear()

    def _left_unsettled(self, task: Task) -> None:
        """The next one is asked for and this one is open: it is not renewed any more, and comes again after its grace."""
        self._link.send(self._hand.abandon(task).line())
        if not self._warned and not task.lease.is_extended(task.offset):
            self._warned = True
            log.warning(
                "task %s was left unsettled when the next one was asked for: it comes again after %g s. "
                "Use `with task:`, or call ack(), retry(), release() or extend() first",
                task.id,
                self._hand.grace,
                extra=about(task=task.id, sink=self.sink),
            )

    # --- what tasks call ---------------------------------------------------------------------------------------------

    def settle(self, task: Task, outcome: Outcome, *, after: float | None = None, reason: str = "", error: str = "") -> None:
        """For tasks: notes an outcome other than an ack."""
        self._link.check()
        self._hand.decide(task.lease, (task.offset, task.offset + 1), outcome, after=after, reason=reason, error=error)
        if self._ordered and outcome in (Outcome.RETRY, Outcome.RELEASE):
            self._hand.hold_back(task.lease)

    def extend(self, task: Task, seconds: float, note: str | None) -> None:
        """For tasks: sends a sign of life for one record."""
        if task.lease.settled:
            return
        fields: dict[str, Any] = {"lease": task.lease.number, "offset": task.offset, "seconds": seconds}
        if note:
            fields["note"] = note
        task.lease.extended[task.offset] = time.time() + seconds
        self._link.send(Event(EventType.EXTEND, EventOwner.CONSUMER, fields).line())

    def confirm(self) -> None:
        """For tasks: waits until all that was decided is confirmed."""
        self.flush()

    # --- what users call ---------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Ends the iterations after the task at hand; safe from other threads and from signal handlers."""
        self._stopped = True
        self._link.interrupt()

    def flush(self, timeout: float | None = None) -> None:
        """Sends what was decided and waits until the broker has confirmed it.

        Raises:
            BrokerLost: it did not within `timeout` seconds, or did not come back.
        """
        self._link.check()
        self._flush(now=True)
        deadline = None if timeout is None else time.monotonic() + timeout
        done = self._link.wait(self._settled, deadline, self._follow)
        if not done or self._failure is not None:
            raise BrokerLost("the broker did not confirm what was settled: those records may be delivered again")

    def _settled(self) -> bool:
        return self._failure is not None or not (self._hand.unsent or self._hand.unconfirmed)

    def close(self) -> None:
        """Gives back what is in hand, waits for the confirmations, and leaves; safe twice."""
        try:
            self._link.check()
        except DqError:
            return
        self._stopped = True
        self._hand.give_back()
        try:
            self.flush(LIMITS.stop_seconds if self._link.whole else _LAST_LOOK_SECONDS)
        except DqError as error:
            log.warning("consumer %s leaves: %s", self.consumer_id, words_of(error), extra=about(error, sink=self.sink))
        self._link.close(Event(EventType.CLOSE, EventOwner.CONSUMER))

    def after_fork(self, refusal: Forked) -> None:
        """In a forked child: this object is the parent's."""
        self._link.after_fork(refusal)

    def __enter__(self) -> Consumer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Consumer {self.consumer_id} of sink {self.sink!r}>"

    # --- the session of the link -------------------------------------------------------------------------------------

    def _flush(self, *, now: bool = False) -> None:
        """Sends what was decided, and asks for more."""
        hand = self._hand
        with hand.lock:  # one thread at a time, so that numbers are sent in order
            if hand.resuming:
                return
            self._flushes += 1
            for event in hand.take_events(now=now):
                self._link.send(event.line())
            if self._iterating and not self._stopped and self._link.whole:
                credit = hand.credit()
                if credit:
                    self._link.send(Event(EventType.READ, EventOwner.CONSUMER, {"credit": credit}).line())

    def hello(self, *, again: bool) -> Event:
        fields: dict[str, Any] = {
            "id": self.consumer_id, "pid": os.getpid(), "sink": self.sink, "streams": list(self.streams),
            "create": self._create, "settings": self._wish,
        }  # fmt: skip
        if again:
            with self._hand.lock:
                self._hand.resuming = True
                fields["again"], fields["leases"] = True, self._hand.lease_numbers
        return Event(EventType.REGISTER, EventOwner.CONSUMER, fields)

    def welcomed(self, answer: Event, *, again: bool) -> None:
        settings = answer["settings"]
        self._hand.grace, self._hand.no_ack, self._ordered = settings["ack_grace"], settings["no_ack"], settings["ordered"]
        self.max_attempts = settings["max_attempts"]
        if again:
            with self._hand.lock:
                for event in self._hand.resume(answer["leases"]):
                    self._link.send(event.line())
                self._flush(now=True)
            self._changed.set()

    def handle(self, event: Event) -> None:
        if event.type is EventType.TASK:
            self._hand.take(event)
        elif event.type is EventType.ACK and "number" in event.fields:
            self._hand.confirmed(event["number"])
        elif event.type is EventType.READ:
            self._hand.forget_credit()
            self._flush()
        self._changed.set()

    def busy(self) -> bool:
        return False

    def tick(self) -> float | None:
        """Called by the link's own thread: sends what nobody else has sent within 5 ms, and looks around now and then."""
        hand, now = self._hand, time.monotonic()
        if now >= self._look_at:
            self._look_at = now + min(_LOOK_SECONDS, hand.grace / 4)
            self._look(now)
        if hand.unsent:
            if self._flushes == self._flushes_seen:
                self._flush()
            self._flushes_seen = self._flushes
            return LIMITS.flush_seconds
        return None if hand.empty else self._look_at - now

    def pending(self) -> bool:
        return self._hand.unsent

    def _look(self, now: float) -> None:
        """What the user's thread does not see to while it works on a task: the connection, a task that runs long, renewals."""
        hand = self._hand
        if hand.empty:
            return
        self._link.read_ready()
        if hand.waiting != self._seen[0]:
            self._seen = (hand.waiting, now)
        elif hand.waiting and now - self._seen[1] > LIMITS.slow_task_seconds:
            self._withdraw()  # else the broker goes on filling the hand that is emptied here
            hand.slow()
            self._flush()
        if now >= self._renew_at:
            self._renew_at = now + hand.grace / 4
            renewal = hand.renewals(now)
            if renewal is not None:
                self._link.send(renewal.line())

    def failed(self, error: DqError) -> None:
        self._failure = error
        self._changed.set()
