"""`DqEngine`: dq's own broker behind the protocol of an engine. Each subscription is one consumer of its sink.

Signs of life, reconnection and the resending of what was not confirmed are the consumer's own; a settle never waits and never
fails. Attempts are counted in the sink's log, so they survive every crash, and a dead consumer's tasks come back at once.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from dq.app.dq_report import read_report
from dq.app.dq_ticks import FileTicks
from dq.app.engine import Delivery, SubscriptionSettings
from dq.app.outcomes import Ack, DeadLetter, Drop, Retry, Verdict
from dq.app.report import Report, Wanted
from dq.client.attach import connect
from dq.client.broker import Broker
from dq.client.place import Place, root_of
from dq.client.sink import Sink
from dq.client.taker import Taker
from dq.client.task import Task
from dq.errors import Closed


class DqSubscription:
    """One handler's consumer."""

    settle_waits = False

    def __init__(self, taker: Taker, sink: Sink) -> None:
        self._taker, self._sink = taker, sink
        taker.begin()
        self._begun = True

    def fetch(self, limit: int, timeout: float) -> Sequence[Delivery]:
        """The next tasks."""
        return self._taker.take(limit, timeout)

    def settle(self, delivery: Delivery, verdict: Verdict) -> None:
        """By the verbs of the task."""
        if not isinstance(delivery, Task):
            raise TypeError(f"dq's engine settles its own tasks, not {delivery!r}")
        if type(verdict) is Ack:
            delivery.ack()
        elif isinstance(verdict, Retry):
            delivery.retry(verdict.after, verdict.error, verdict.traceback)
        elif isinstance(verdict, DeadLetter):
            delivery.dead_letter(verdict.reason, verdict.error, verdict.traceback)
        elif isinstance(verdict, Drop):
            delivery.drop()
        else:
            delivery.release()

    @property
    def expiring(self) -> bool:
        """Whether tasks came that expire."""
        return self._taker.expiring

    def expire(self, delivery: Delivery) -> bool:
        """Settles a task as expired if its time is over; returns whether it did."""
        return isinstance(delivery, Task) and delivery.expire()

    def backlog(self) -> int:
        """What the sink has not settled."""
        stats = self._sink.stats()
        return stats.waiting + stats.in_hand + stats.delayed

    def stop(self) -> None:
        """Takes the credit back and gives back what is in hand."""
        self._taker.stop()
        if self._begun:
            self._begun = False
            self._taker.end()

    def flush(self, timeout: float) -> None:
        """Waits for the confirmations."""
        self._taker.flush(timeout)

    def close(self) -> None:
        """Leaves the sink."""
        self.stop()
        self._taker.close()


class DqEngine:
    """dq's broker, as an app sees it. It connects at the first need.

    Args:
        place: a broker's handle, or the path of a data directory, for which a broker is started if none runs; it leaves 10 s
            after its last client.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._broker: Broker | None = place if isinstance(place, Broker) else None
        self._own = self._broker is None
        self._closed = False
        self._lock = threading.Lock()

    @property
    def broker(self) -> Broker:
        """The handle that it works by.

        Raises:
            Closed: the engine was closed.
        """
        with self._lock:
            if self._closed:
                raise Closed("this app's engine was closed: make a new App")
            if self._broker is None:
                place = self._place
                self._broker = connect(getattr(place, "root", place), start=True)  # type: ignore[arg-type]
            return self._broker

    def subscribe(
        self,
        sink: str,
        streams: Sequence[str],
        *,
        topic: str | None,
        pattern: str | re.Pattern[str] | None,
        settings: SubscriptionSettings,
    ) -> DqSubscription:
        """Makes the sink, or finds it, and joins it.

        Raises:
            SettingsMismatch: it exists with another topic, pattern, `ack_grace` or `max_attempts`.
            BrokerNotRunning, InvalidName.
        """
        broker = self.broker
        taker = Taker(
            broker,
            *streams,
            sink=sink,
            topic=topic,
            pattern=pattern,
            ack_grace=settings.ack_grace,
            max_attempts=settings.max_attempts,
            most=settings.prefetch,
        )
        return DqSubscription(taker, Sink(broker, sink))

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
        """As `Broker.publish`; returns the id."""
        receipt = self.broker.publish(stream, payload, key=key, topic=topic, name=name, headers=headers, **options)
        return receipt.id

    def ticks(self) -> FileTicks:
        """The states of schedules, in the data directory."""
        return FileTicks(self.broker)

    def report(self, wanted: Wanted) -> Report:
        """What became of what was sent, from the logs; whether a broker runs or not."""
        return read_report(root_of(self._place), wanted)

    def close(self) -> None:
        """Closes the handle, if it is its own."""
        with self._lock:
            self._closed = True
            if self._own and self._broker is not None:
                self._broker.close()
