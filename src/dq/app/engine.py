"""What an app needs of a broker: three small protocols. Whoever fills them can run an `App` over a broker of their own.

`dq.app.dq_engine` fills them with dq's own broker; an app that is given another engine imports nothing of it. They are made so
that Redis Streams can fill them honestly, with what Redis itself keeps:

=====================================  ===============================================================================
here                                   Redis Streams
=====================================  ===============================================================================
`subscribe(sink, streams)`             `XGROUP CREATE stream sink 0 MKSTREAM` for each stream: a sink is a consumer group of
                                       that name. A consumer name of its own for each subscription.
`fetch(limit, timeout)`                first the due ones: a Lua script moves from the sorted set `stream:sink:later` (score:
                                       due time) with `ZRANGEBYSCORE -inf now`; every `reclaim_interval` seconds
                                       `XAUTOCLAIM stream sink consumer min-idle=ack_grace`; then
                                       `XREADGROUP GROUP sink consumer COUNT limit BLOCK timeout STREAMS … >`.
`Delivery.attempt`                     the count of deliveries that `XPENDING stream sink - + n` gives for claimed ones; 1 for
                                       new ones; for a retried one, that of its entry in the sorted set. So attempts survive a
                                       crash.
a topic or a pattern                   the subscription looks at the field `topic` of what it read, and `XACK`s what does not
                                       match.
settle `Ack`, `Drop`                   `XACK`, pipelined.
settle `Retry(after)`                  a Lua script: `ZADD stream:sink:later due (entry, attempt + 1, error)` and `XACK`, at
                                       once, so that a crash in between loses nothing. At the last attempt, as `DeadLetter`.
settle `DeadLetter(reason)`            a Lua script: `XADD stream-dlq *` (payload, id, sink, attempts, reason, error) and
                                       `XACK`.
settle `Release`                       `XCLAIM stream sink consumer 0 id IDLE ack_grace RETRYCOUNT attempt-1 JUSTID`: the next
                                       `XAUTOCLAIM` of anybody takes it, and no attempt is burned.
`extend`, signs of life                `XCLAIM … IDLE 0 JUSTID` for what is in hand, every `ack_grace / 4` seconds, by a thread.
`publish(delay=)`                      `ZADD stream:later`; `once=`: `SET NX PX` of the key and `XADD` in one script.
`backlog()`                            `lag` and `pending` of `XINFO GROUPS`, and `ZCARD` of the sorted set.
`flush`                                waits until the pipelined commands are answered; `WAIT` or AOF says what that is worth.
=====================================  ===============================================================================

What Redis cannot give: an `fdatasync` before `XADD` answers (only `appendfsync always` does), and a dead consumer's tasks at
once rather than after `ack_grace`. An engine says in its documentation what its settles and receipts are worth.

**Threads.** An app fetches a subscription from one thread at a time, and settles from many, also while another one fetches.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol, runtime_checkable

from dq.app.outcomes import Verdict
from dq.model.outcome import Outcome

When = float | timedelta | datetime


class Delivery(Protocol):
    """One task in hand: what a handler may see of it. dq's own `Task` is one. It is not made by users."""

    @property
    def id(self) -> str:
        """Names the record for ever, for people and for `once`."""

    @property
    def stream(self) -> str:
        """Name of the stream."""

    @property
    def sink(self) -> str:
        """Name of the sink."""

    @property
    def key(self) -> str | None:
        """What kept it in order with others, or None."""

    @property
    def topic(self) -> str | None:
        """The label, or None."""

    @property
    def name(self) -> str:
        """The name of what happened, or ""."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Text by name."""

    @property
    def created_at(self) -> datetime:
        """When it was published, in UTC."""

    @property
    def payload(self) -> Any:
        """What was published, as JSON has it, or bytes."""

    @property
    def attempt(self) -> int:
        """1 at the first delivery; counts those that burned an attempt, also by a process that died."""

    @property
    def last_error(self) -> str | None:
        """Why it comes again, or None."""

    @property
    def outcome(self) -> Outcome | None:
        """What the handler decided by a verb of the task (`task.ack()`, …), where the engine's tasks have verbs; else None.
        What a handler returns is then passed over."""

    def extend(self, seconds: float, note: str | None = None) -> None:
        """A sign of life from within a long task, where the engine's own are not enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionSettings:
    """What an app asks of a subscription.

    Attributes:
        max_attempts: deliveries of one record; a `Retry` of the last one is a dead letter with the reason "max_attempts", and
            so is a record whose consumers died so often. The engine sees to it, since it alone counts across crashes.
        ack_grace: seconds without a sign of life after which others get what is in hand.
        prefetch: records to hold in hand at most, fetched and not fetched.
        reclaim_interval: seconds between two looks for what dead consumers left, where the engine has to look.
    """

    max_attempts: int
    ack_grace: float
    prefetch: int
    reclaim_interval: float


class Subscription(Protocol):
    """One handler's hold on its sink."""

    @property
    def settle_waits(self) -> bool:
        """Whether `settle` waits for the network. It is then not called on an event loop, but in a thread."""

    def fetch(self, limit: int, timeout: float) -> Sequence[Delivery]:
        """The next tasks: at most `limit`, and at least one where there is any; waits up to `timeout` seconds for the first.

        They are this consumer's until they are settled, in any order and from any thread; the engine gives the signs of life.
        An error that it raises ends the app: an engine that can connect again does so by itself.
        """

    def settle(self, delivery: Delivery, verdict: Verdict) -> None:
        """Ends a task. What it raises has the app try again later, with the same verdict; so twice must do no harm."""

    def backlog(self) -> int:
        """Records of the sink that are not settled: waiting, in anybody's hand, or to be tried again. Seldom asked for."""

    def stop(self) -> None:
        """Fetches no more: one that waits returns soon, and what this consumer holds without having given it out goes back.
        What was given out can still be settled."""

    def flush(self, timeout: float) -> None:
        """Waits until all that was settled is confirmed. Raises an error when it is not within `timeout` seconds."""

    def close(self) -> None:
        """Leaves. What is still in hand goes back, no attempt burned. Safe twice."""


@runtime_checkable
class Expiring(Protocol):
    """A subscription that can end a task whose time is over when it is to be begun. An engine's need not be one."""

    @property
    def expiring(self) -> bool:
        """Whether it has ever fetched a task that expires. As long as it has not, `expire` is not called."""

    def expire(self, delivery: Delivery) -> bool:
        """Settles a task as expired if its time is over; returns whether it did. Never waits."""


@runtime_checkable
class Engine(Protocol):
    """A broker, as an app sees it."""

    def subscribe(
        self,
        sink: str,
        streams: Sequence[str],
        *,
        topic: str | None,
        pattern: str | re.Pattern[str] | None,
        settings: SubscriptionSettings,
    ) -> Subscription:
        """Joins a sink over streams; what is missing is made. `topic` and `pattern` choose; the rest is settled unseen."""

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
        """Publishes one record; returns its id once it is as safe as the engine makes it.

        Args:
            options: `delay`, `once`, `priority`, `expires` where the engine has them; it refuses what it does not know.
        """

    def close(self) -> None:
        """Lets go of the broker; safe twice."""
